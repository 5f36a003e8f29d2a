"""The shortest way between two photographs through others: nearest neighbours, and no geometry.

Nodes are the photographs of ``fruits`` that models are trained on, at 32 x 32 pixels; those on the
way are lifted like the ends, and frames lie on SLERPs from one to the next.  The photographs of a
turning object, or frames a little off them, are among them: this is what the data know.  Without
the varieties of both ends the way leads through other fruit.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from diffodesic.experiments.common.archive import Archive
from diffodesic.experiments.turntable.judging import small
from diffodesic.geometry.graph_start import graph_path
from diffodesic.metrics.elementary import Euclidean
from diffodesic.numerics.curves import arc
from diffodesic.output.stages import Stage, Store

__all__ = ["Album", "chain"]

_SIDE = 32
_CLOSE = 1000  # photographs of least detour that make the graph
_NEIGHBOURS = 8


@dataclass(frozen=True)
class Album:
    """Photographs to go through.

    Attributes:
        archive: the files.
        rows: number of each photograph in the archive, (M,).
        points: its pixels at 32 x 32, scaled so that distances are RMS, (M, d).
    """

    archive: Archive
    rows: Tensor
    points: Tensor

    @classmethod
    def read(cls, data: Path, store: Store) -> Album:
        """The training photographs of ``fruits``; a quarter of a minute, once.

        Args:
            data: folder that holds ``fruits``.
            store: keeps the small pictures.

        Returns:
            the album.

        Raises:
            ValueError: without the file.
        """
        archive = Archive.read(data / "fruits" / "images.npz")
        rows = torch.from_numpy(~archive.arrays["is_test"]).nonzero()[:, 0]

        def reduced() -> Stage:
            return {"images": archive.pictures(rows.tolist(), _SIDE)}, {}

        images = store.stage("album", reduced)[0]["images"]
        return cls(archive, rows, _points(images.float() / 255))

    def between(self, ends: Tensor, without: Collection[str] = ()) -> Tensor:
        """Photographs on the shortest way between two others.

        Args:
            ends: the two, (2, 3, side, side) in [0, 1].
            without: varieties that are left out.

        Returns:
            the photographs in their order, (K, 3, side, side) in [0, 1]; K = 0 where the two are
            neighbours.

        Raises:
            ValueError: if no graph joins the two.

        Cost: no evaluation; half a second.
        """
        names = self.archive.arrays["label_names"][self.archive.arrays["label"]][self.rows]
        kept = torch.tensor([str(name) not in without for name in names]).nonzero()[:, 0]
        a, b = _points(small(ends, _SIDE))
        detours = torch.cdist(self.points[kept], torch.stack([a, b])).sum(-1)
        close = kept[detours.topk(min(_CLOSE, len(kept)), largest=False).indices]
        points, count = self.points[close], _NEIGHBOURS
        while True:
            try:
                way = graph_path(Euclidean(len(a)), points, a, b, neighbours=count)
                break
            except ValueError:  # the graph falls into parts
                if count >= len(points):
                    raise
                count *= 2
        on_way = [int((points - node).square().sum(-1).argmin()) for node in way[1:-1]]
        side = ends.shape[-1]
        if not on_way:
            return ends[:0]
        return self.archive.pictures(self.rows[close[on_way]].tolist(), side).to(ends) / 255


def _points(images: Tensor) -> Tensor:
    """Pictures (N, 3, H, W) in [0, 1] as vectors whose distances are RMS differences."""
    flat = images.flatten(1)
    return flat / flat.shape[1] ** 0.5


def chain(nodes: Tensor, s: Tensor) -> Tensor:
    """SLERPs from node to node, at equal shares of the length of the chords.

    Args:
        nodes: points (K, D), K >= 2.
        s: parameters (S,) in [0, 1].

    Returns:
        points (S, D).
    """
    steps = nodes.diff(dim=0).norm(dim=-1)
    knots = torch.nn.functional.pad(steps.cumsum(0) / steps.sum(), (1, 0)).to(s)
    at = (torch.searchsorted(knots, s, right=True) - 1).clamp(0, len(steps) - 1)
    return arc(nodes[at], nodes[at + 1], (s - knots[at]) / (knots[at + 1] - knots[at]))
