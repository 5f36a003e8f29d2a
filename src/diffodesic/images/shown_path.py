"""One path between two images: its frames, its length, and how it was paced.

Frames are at equal steps of the metric along a path, or at equal steps that an eye would see: of
the distance under a named feature extractor.  For the latter the path is looked at twice as
densely first, and parameters are taken where the sum of distances is a multiple of its share.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from diffodesic.geometry.metric import Metric
from diffodesic.images.features import Features
from diffodesic.images.lifting import Bridge
from diffodesic.images.result import Row
from diffodesic.images.second_opinion import second_opinion
from diffodesic.images.spaces import REFINE
from diffodesic.metrics.score import ScoreMetric

__all__ = ["Pace", "make_row"]


Pace = Literal["metric", "perceptual"]

Curve = Callable[[Tensor], Tensor]


def make_row(
    bridge: Bridge,
    space: Metric,
    curve: Curve,
    frames: int,
    nodes: int,
    like: Tensor,
    features: Features | None = None,
    restore: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Row:
    """Frames and lengths of a curve.

    Args:
        bridge: back to images.
        space: the metric.
        curve: points (S, d) of the metric by parameters (S,).
        frames: number of images.
        nodes: segments of the path; the length is taken on ``REFINE`` times as many.
        like: a tensor on the device and of the dtype of the points.
        features: the extractor of a perceptual pace; None paces by the parameter.
        restore: makes of points (S, D) and parameters (S,) what is brought back; lengths are those
            of the path itself.

    Returns:
        the row.

    Cost: that of :meth:`Bridge.images` per frame, three times with a perceptual pace; ``REFINE
    nodes`` steps; and that of :func:`second_opinion`.
    """
    s = torch.linspace(0, 1, frames, dtype=like.dtype, device=like.device)

    def shown(at: Tensor) -> tuple[Tensor, Tensor]:
        z, level = bridge.unpack(space, curve(at))
        return bridge.images(z if restore is None else restore(z, at), level), level

    if features is not None:
        s = _perceptual(shown, s, features)
    fine = torch.linspace(0, 1, REFINE * nodes + 1, dtype=like.dtype, device=like.device)
    with torch.no_grad():
        images, level = shown(s)
        on_fine = curve(fine)
        steps = space.steps(on_fine)
        speed = steps.clamp(min=0).sqrt() * steps.shape[-1]
        return Row(
            images,
            float(speed.mean()),
            float(steps.sum()) * len(steps) / 2,
            float(space.energy_floor(on_fine)) if isinstance(space, ScoreMetric) else None,
            second_opinion(space, on_fine[::REFINE], bridge.seed),
            s,
            level,
            (fine[1:] + fine[:-1]) / 2,
            bridge.unpack(space, (on_fine[1:] + on_fine[:-1]) / 2)[1],
            speed,
        )


def _perceptual(
    shown: Callable[[Tensor], tuple[Tensor, Tensor]], s: Tensor, features: Features
) -> Tensor:
    """Parameters (F,) between which the images change by the same distance."""
    dense = torch.linspace(0, 1, 2 * len(s) - 1, dtype=s.dtype, device=s.device)
    with torch.no_grad():
        images, _ = shown(dense)
    steps = features.distance(images[:-1].float(), images[1:].float()).to(s)
    # a little of the parameter's own pace keeps frames apart where nothing is seen to change
    steps = steps + 1e-3 * steps.mean() + torch.finfo(s.dtype).tiny
    reach = torch.nn.functional.pad(steps.cumsum(0), (1, 0))
    wanted = s * reach[-1]
    after = torch.searchsorted(reach, wanted).clamp(1, len(reach) - 1)
    share = (wanted - reach[after - 1]) / (reach[after] - reach[after - 1])
    found = torch.lerp(dense[after - 1], dense[after], share)
    return torch.cat([s[:1], found[1:-1], s[-1:]])
