"""Several key images, joined one after another: every pair by its own geodesic.

The frames are shared out by the lengths of the paths, so that the whole is at one metric speed;
every key image but the first and the last is the end of one path and the start of the next, and
appears once.
"""

from __future__ import annotations

import os
import reprlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffodesic.geometry.metric import Metric
from diffodesic.geometry.status import Status
from diffodesic.images.door import Picture, as_data
from diffodesic.images.interpolation import InterpolateOptions, expected_work, join, stages
from diffodesic.images.lifting import as_images
from diffodesic.images.placement import run_of
from diffodesic.images.result import Interpolation, result_dict
from diffodesic.images.saved import SavedFrames
from diffodesic.images.spaces import SPACES, Space, choose_space
from diffodesic.models.model import Model
from diffodesic.numerics import checks
from diffodesic.numerics.cost import expect, total
from diffodesic.output.animation import AnimationOptions
from diffodesic.output.folder import write_pictures
from diffodesic.output.images import to_pil, to_uint8
from diffodesic.output.manifest import Run
from diffodesic.output.notebook import fragment
from diffodesic.output.options import suggests
from diffodesic.output.records import write_json

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["InterpolationSequence", "interpolate_through"]


@dataclass(frozen=True, repr=False)
class InterpolationSequence(SavedFrames):
    """What :func:`interpolate_through` returns.

    Attributes:
        parts: the interpolations of neighbouring images.
    """

    parts: tuple[Interpolation, ...]

    @property
    def frames(self) -> Tensor:
        """All images along the way, every key once, (F, C, H, W) in [0, 1]."""
        return self.frames_of(next(iter(self.parts[0].paths)))

    @property
    def keys(self) -> tuple[int, ...]:
        """Which frames stand for the key images."""
        counts = torch.tensor([0, *(len(part.frames) - 1 for part in self.parts)])
        return tuple(counts.cumsum(0).tolist())

    @property
    def marks(self) -> dict[int, str]:
        """Letters of the key images by the number of their frame."""
        return {key: _letter(i) for i, key in enumerate(self.keys)}

    @property
    def length(self) -> float:
        """Sum of the lengths under the metric."""
        return sum(float(part.geodesic.length) for part in self.parts)

    def frames_of(self, name: str) -> Tensor:
        """Images along all paths of one name."""
        first, *rest = (part.paths[name].frames for part in self.parts)
        return torch.cat([first, *(frames[1:] for frames in rest)])

    def pictures(self, name: str | None = None) -> list[Image]:
        """The frames as PIL images: of the paths of that name, by default those of ``frames``."""
        return to_pil(self.frames if name is None else self.frames_of(name))

    def __repr__(self) -> str:
        """One line: how many images, how long, and how each path ended."""
        ends = ", ".join(part.geodesic.status.name for part in self.parts)
        return (
            f"InterpolationSequence({len(self.parts) + 1} images, length {self.length:.4g}, {ends})"
        )

    def _repr_html_(self) -> str:
        """The strip, how each path ended and the lengths, for a notebook."""
        ended = [part.geodesic.status for part in self.parts]
        names = ", ".join(status.name for status in ended)
        worst = max(ended, key=list(Status).index)
        return fragment(
            f"{len(self.parts) + 1} images joined",
            f"{names}: {worst.value}",
            {
                f"length of pair {i + 1}": f"{float(part.geodesic.length):.4g}"
                for i, part in enumerate(self.parts)
            },
            ok=worst.ok,
            notices=tuple(dict.fromkeys(n for part in self.parts for n in part.notices)),
            strip={next(iter(self.parts[0].paths)): to_uint8(self.frames)},
        )

    def _run(self, inputs: tuple[tuple[str, str], ...]) -> Run:
        images = [self.parts[0].inputs[0], *(part.inputs[1] for part in self.parts)]
        return run_of("interpolate", self.parts[0].settings, images, inputs)

    def _write(self, folder: Path, run: Run, animation: AnimationOptions) -> None:
        from diffodesic.images.page import write_sequence_page

        # a path that one pair lacks is no path of the whole
        shared = [name for name in self.parts[0].paths if all(name in p.paths for p in self.parts)]
        pairs = [result_dict(part) for part in self.parts]
        rows = {name: to_uint8(self.frames_of(name)) for name in shared}
        write_pictures(rows, folder, animation, self.marks)
        content = {"keys": self.keys, "length": self.length, "pairs": pairs}
        write_json(folder / "result.json", content)
        write_sequence_page(folder / "report.html", rows, self.marks, pairs, run.origin)
        for i, part in enumerate(self.parts):
            (folder / f"pair-{i + 1}").mkdir()
            part._write(folder / f"pair-{i + 1}", run, animation)


@suggests(options=(InterpolateOptions,), space=SPACES.values())
def interpolate_through(
    model: Model,
    images: Sequence[Picture],
    *,
    metric: str | None = None,
    space: Space | Metric | None = None,
    frames: int | None = None,
    options: InterpolateOptions | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Callable[[str], None] | None = None,
) -> InterpolationSequence:
    """Interpolate through key images in their order.

    Args:
        model: see ``load``.
        images: K >= 2 images; see :func:`interpolate`.
        metric: see :func:`interpolate`.
        space: see :func:`interpolate`.
        frames: number F >= K of images in all, in place of ``options.frames``.
        options: those of every pair; a perceptual pace is kept within each pair.
        checkpoint: see :func:`interpolate`.
        progress: called with a short line on every step.

    Returns:
        the interpolations and their frames.

    Raises:
        TypeError: for what is no list, or what :func:`interpolate` raises.
        ValueError: for fewer than two images, fewer frames than images, or what
            :func:`interpolate` raises.

    Cost: that of :func:`interpolate` per pair.
    """
    checks.of_kind(model, "model", Model)
    if isinstance(images, str) or not isinstance(images, Sequence | Tensor):
        raise TypeError(
            f"images must be a list of two pictures or more, got {reprlib.repr(images)}"
        )
    asked = (options or InterpolateOptions()).but(space=choose_space(metric, space), frames=frames)
    if not 2 <= len(images) <= asked.frames:
        raise ValueError(
            f"give two images or more, and as many frames at least: got {len(images)} images and "
            f"{asked.frames} frames"
        )
    inputs = as_images(*(as_data(model, image) for image in images))
    say, count = progress or (lambda _: None), len(images) - 1
    pairs = []
    with stages(checkpoint, model, inputs, asked).held() as store:
        parts = [store.part(f"pair-{i + 1}") for i in range(count)]
        each = asked.but(frames=1 + round((asked.frames - 1) / count))
        for i, part in enumerate(parts):
            part.tell(say, f" of pair {i + 1}")
        if not any(part.finished() for part in parts):
            store.tell(say)
        expect(total(*(expected_work(each, part.finished()) for part in parts)))
        for i in range(count):

            def said(text: str, i: int = i) -> None:
                say(f"pair {i + 1} of {count}: {text}")

            pairs.append(join(model, inputs[i : i + 2], asked, parts[i], said))
        steps = _shares([float(pair.path.length) for pair in pairs], asked.frames - 1)
        return InterpolationSequence(
            tuple(pair.finish(n + 1) for pair, n in zip(pairs, steps, strict=True))
        )


def _letter(i: int) -> str:
    """A to Z, then A1, B1 and so on."""
    return chr(ord("A") + i % 26) + (str(i // 26) if i >= 26 else "")


def _shares(lengths: Sequence[float], steps: int) -> list[int]:
    """Whole numbers of steps, at least one each, in proportion to lengths (largest remainders)."""
    total = sum(lengths) or 1.0
    wanted = [max(1.0, steps * length / total) for length in lengths]
    counts = [int(w) for w in wanted]
    while sum(counts) != steps:
        change = 1 if sum(counts) < steps else -1
        free = [i for i, n in enumerate(counts) if change > 0 or n > 1]
        counts[max(free, key=lambda i: change * (wanted[i] - counts[i]))] += change
    return counts
