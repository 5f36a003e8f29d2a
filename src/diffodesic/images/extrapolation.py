"""Past the second of two images: the geodesic between them, continued.

    images -> points of a space (:mod:`diffodesic.images.placement`) -> geodesic -> continuation
    (:mod:`diffodesic.metrics.continuation`) -> drop to clean data (probability flow) -> codec ->
    frames

A model knows nothing of where it can be believed: the alarms say where the path leaves what was
seen between the ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from diffodesic.geometry.metric import Metric
from diffodesic.images.door import Picture, as_data
from diffodesic.images.lifting import as_images
from diffodesic.images.own_kind import PICTURES, strange, tell
from diffodesic.images.placement import JoinOptions, doubts, path_record, place, run_of
from diffodesic.images.saved import SavedFrames
from diffodesic.images.spaces import SPACES, ScoreSpace, Space, choose_space
from diffodesic.images.work import frames_work, join_work
from diffodesic.metrics.continuation import Alarm, Continuation, Method, continue_path
from diffodesic.models.identity import identity, short
from diffodesic.models.model import Model
from diffodesic.numerics import checks
from diffodesic.numerics.cost import expect, total
from diffodesic.output.animation import AnimationOptions
from diffodesic.output.folder import write_pictures
from diffodesic.output.images import to_uint8
from diffodesic.output.manifest import Run
from diffodesic.output.notebook import fragment
from diffodesic.output.options import option, suggests
from diffodesic.output.records import versions, write_json

__all__ = ["ExtrapolateOptions", "Extrapolation", "extrapolate"]

NETWORK_RTOL = 1e-3  # of the exponential map: a network's gradients are no better


@dataclass(frozen=True, kw_only=True)
class ExtrapolateOptions(JoinOptions):
    """Options of :func:`extrapolate`.

    Args:
        space: the space in which the images are joined.
        nodes: segments of the path.
        amount: how far beyond the second image, as a share of the path.
        method: the geodesic itself, or the stepper of arXiv 2505.11128.
        points: number of images beyond the second.
        frames: number of images between the two, ends included.
        gain: share of the stepper's correction that is made.
        alarm: when to stop; default Alarm().
    """

    space: Space = option(ScoreSpace(), flag=False)
    nodes: int = option(32, least=2, most=10_000)
    amount: float = option(0.5, above=0)
    method: Method = "exponential"
    points: int = option(8, least=1, most=10_000)
    frames: int = option(9, least=2, most=10_000)
    gain: float = option(1.0, above=0, most=1)
    alarm: Alarm | None = option(None, flag=False)


@dataclass(frozen=True, repr=False)
class Extrapolation(SavedFrames):
    """What :func:`extrapolate` returns.

    Attributes:
        continuation: the path beyond the end, and why it stopped.
        between: images along the geodesic, (F, C, H, W) in [0, 1].
        beyond: images past the second end, (S, C, H, W); none where nothing was reached.
        inputs: the two images (2, C, H, W).
        seconds: wall-clock time.
        settings: what was asked for and what was chosen.
        notices: what is doubtful, one sentence each.
    """

    continuation: Continuation
    between: Tensor
    beyond: Tensor
    inputs: Tensor
    seconds: float
    settings: dict[str, object]
    notices: tuple[str, ...]

    @property
    def frames(self) -> Tensor:
        """All images, through the second end and beyond, (F + S, C, H, W)."""
        return torch.cat([self.between, self.beyond])

    def __repr__(self) -> str:
        """One line: of what, how far, and why it ended."""
        return (
            f"Extrapolation({self.settings['model']}, {self.settings['metric']}, "
            f"{self.continuation!r})"
        )

    def _repr_html_(self) -> str:
        """The strip, why it stopped and how far it came, for a notebook."""
        done = self.continuation
        return fragment(
            f"{self.settings['metric']} geodesic of {self.settings['model']}, continued",
            f"{done.stop.name}: {done.stop.value}",
            {
                "beyond the second image": f"{done.reached:.3g} of the path",
                "length between": f"{float(done.path.length):.4g}, {done.path.status.name}",
            },
            ok=not self.notices,
            notices=self.notices,
            strip={"path and beyond": to_uint8(self.frames)},
        )

    def _run(self, inputs: tuple[tuple[str, str], ...]) -> Run:
        return run_of("extrapolate", self.settings, self.inputs, inputs)

    def _write(self, folder: Path, run: Run, animation: AnimationOptions) -> None:
        from diffodesic.images.page import write_extrapolation_page

        continuation, last = self.continuation, len(self.between) - 1
        rows = {"geodesic": to_uint8(self.frames)}
        marks = {0: "A", last: "B"}
        if len(self.beyond):
            marks[len(self.frames) - 1] = "beyond"
        write_pictures(rows, folder, animation, marks)
        content = {
            "stop": continuation.stop.name,
            "stop_text": continuation.stop.value,
            "reached": continuation.reached,
            "method": continuation.method,
            "watched": continuation.watched,
            "first_frame_beyond": len(self.between),
            **path_record(continuation.path, continuation.cost),
            "settings": self.settings,
            "notices": self.notices,
            "seconds": round(self.seconds, 2),
            "versions": versions(),
        }
        write_json(folder / "result.json", content)
        write_extrapolation_page(folder / "report.html", rows, marks, content, run.origin)


@suggests(options=(ExtrapolateOptions,), space=SPACES.values())
def extrapolate(
    model: Model,
    image_a: Picture,
    image_b: Picture,
    *,
    amount: float | None = None,
    metric: str | None = None,
    space: Space | Metric | None = None,
    options: ExtrapolateOptions | None = None,
    progress: Callable[[str], None] | None = None,
) -> Extrapolation:
    """Continue the geodesic from one image to another beyond the second.

    Between points of a metric this is :func:`geodesic` and then
    :func:`diffodesic.metrics.continue_path`.

    Args:
        model: see ``load``.
        image_a: first image: (C, H, W) in [0, 1], an array, a PIL image, or the path of a file.
        image_b: second image.
        amount: how far, as a share of the path, in place of ``options.amount``.
        metric: name of a space, in place of ``options.space``; see :func:`interpolate`.
        space: a space, or a metric of yours, in place of ``options.space``.
        options: everything else; default ``ExtrapolateOptions()``.
        progress: called with a short line on every step.

    Returns:
        the continuation and its images.

    Raises:
        ValueError: for images or a metric that do not fit the model, or options out of range.

    Cost: that of ``geodesic`` and of ``continue_path``, ``2 flow_steps`` evaluations per end
    and frame, and 12 per end.
    """
    checks.of_kind(model, "model", Model)
    asked = (options or ExtrapolateOptions()).but(space=choose_space(metric, space), amount=amount)
    began, say = time.monotonic(), progress or (lambda _: None)
    inputs = as_images(as_data(model, image_a), as_data(model, image_b))
    frames = asked.frames + asked.points
    expect(
        total(
            join_work(asked.space, asked, asked.nodes),
            frames_work(asked.space, asked, frames, nodes=0, paths=1),
        )
    )
    say("lifting the images to their noise level")
    there = place(model, asked.space, inputs, asked)
    alarms = tell(strange(model, inputs, PICTURES), say)
    a, b = there.points
    solver = asked.search(there.metric)
    path = there.geodesic(a, b, nodes=asked.nodes, solver=solver, progress=say)
    say("continuing beyond the second image")
    continuation = continue_path(
        path,
        asked.amount,
        method=asked.method,
        points=asked.points,
        gain=asked.gain,
        alarm=asked.alarm,
        rtol=NETWORK_RTOL,
        seed=asked.seed,
    )
    say("bringing the path back to clean images")
    s = torch.linspace(0, 1, asked.frames, dtype=a.dtype, device=a.device)
    images = there.images(torch.cat([path(s), continuation.points[1:]]))
    return Extrapolation(
        continuation=continuation,
        between=images[: asked.frames],
        beyond=images[asked.frames :],
        inputs=inputs,
        seconds=time.monotonic() - began,
        settings={
            **there.described(),
            "fingerprint": short(identity(model)),
            **asked.settings(),
        },
        notices=(*alarms, *model.caveats(), *_notices(continuation)),
    )


def _notices(continuation: Continuation) -> tuple[str, ...]:
    notices = [
        f"{doubt}; the path beyond begins with its last velocity"
        for doubt in doubts(continuation.path)
    ]
    if len(continuation.points) == 1:
        notices.append(f"nothing beyond the second image was reached: {continuation.stop.value}")
    return tuple(notices)
