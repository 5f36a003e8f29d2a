"""Past the second of two images: the geodesic between them, continued.

    images -> codec -> lift to the noise level (probability flow) -> geodesic -> continuation
    (:mod:`diffodesic.metrics.continuation`) -> drop to clean data (probability flow) -> codec ->
    frames

Between two points of a metric it is the geodesic and the continuation alone.  How far a model can
be believed is its own affair: the alarms say where the path leaves what was seen between the ends.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

import torch
from torch import Tensor

from diffodesic.geometry.boundary_value import search
from diffodesic.geometry.energy import Solver
from diffodesic.geometry.metric import Metric
from diffodesic.images.lifting import Bridge, as_images
from diffodesic.images.spaces import MetricName, image_geodesic, image_metric, noise_level
from diffodesic.metrics.continuation import Alarm, Continuation, Method, continue_path
from diffodesic.models.model import Model
from diffodesic.output.folder import FRAMES, replace_files, write_frames
from diffodesic.output.images import to_uint8
from diffodesic.output.records import versions, write_json

__all__ = ["Extrapolation", "extrapolate"]

NETWORK_RTOL = 1e-3  # of the exponential map: a network's gradients are no better


@dataclass(frozen=True, repr=False)
class Extrapolation:
    """What :func:`extrapolate` returns for a model.

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

    def save(self, outdir: str | os.PathLike[str]) -> Path:
        """Write frames, filmstrip and ``result.json`` into a folder.

        Args:
            outdir: the folder, made if needed; files of an earlier run are replaced.

        Returns:
            the folder.

        Raises:
            OSError: if it cannot be written.
        """
        with replace_files(outdir, stale=(FRAMES,)) as folder:
            _write(self, folder)
        return Path(outdir)


@overload
def extrapolate(source: Metric, a: Tensor, b: Tensor, **options: Any) -> Continuation: ...


@overload
def extrapolate(source: Model, a: Tensor, b: Tensor, **options: Any) -> Extrapolation: ...


def extrapolate(
    source: Metric | Model, a: Tensor, b: Tensor, **options: Any
) -> Continuation | Extrapolation:
    """Continue the geodesic from ``a`` to ``b`` beyond ``b``.

    Args:
        source: a metric, or a model (see ``load``).
        a: a point (d,) for a metric, an image (C, H, W) in [0, 1] for a model.
        b: the other, likewise.
        **options: ``amount`` (.5: half the path again), ``method`` (``exponential``: the geodesic
            itself; ``score-guided``: the stepper of 2505.11128), ``points``, ``gain``, ``alarm``
            and ``seed`` of :func:`continue_path`; ``nodes`` and ``solver`` of :func:`geodesic`;
            for a metric ``rtol``; for a model ``metric``, ``log_snr``, ``weight``, ``rank``,
            ``flow_steps`` and ``progress`` of :func:`interpolate`, ``score`` the default metric,
            and ``frames``, the number of images between the ends.

    Returns:
        for a metric the :class:`Continuation`; for a model its images too.

    Cost: that of ``geodesic`` and of ``continue_path``; for a model ``2 flow_steps`` evaluations
    more per end and frame.
    """
    if isinstance(source, Model):
        return _of_images(source, a, b, **options)
    kept = {key: options.pop(key) for key in ("nodes", "solver") if key in options}
    return continue_path(search(source, a, b, **kept), **options)


def _of_images(
    model: Model,
    image_a: Tensor,
    image_b: Tensor,
    *,
    amount: float = 0.5,
    method: Method = "exponential",
    metric: MetricName = "score",
    points: int = 8,
    frames: int = 9,
    gain: float = 1.0,
    alarm: Alarm | None = None,
    nodes: int = 32,
    log_snr: float | Literal["auto"] = "auto",
    weight: float | None = None,
    rank: int = 1,
    flow_steps: int = 24,
    seed: int = 0,
    solver: Solver | None = None,
    progress: Callable[[str], None] | None = None,
) -> Extrapolation:
    """:func:`extrapolate` for a model and two images."""
    began, say = time.monotonic(), progress or (lambda _: None)
    if frames < 2:
        raise ValueError(f"frames must be at least 2, got {frames}")
    bridge = Bridge(model, noise_level(model, metric, log_snr), flow_steps, seed)
    inputs = as_images(image_a, image_b)
    say("lifting the images to the noise level")
    ends = bridge.lift(inputs)
    space = image_metric(bridge, metric, ends, weight=weight, rank=rank)
    a, b = bridge.pack(space, ends)
    path = image_geodesic(space, a, b, nodes=nodes, solver=solver, progress=say)
    say("continuing beyond the second image")
    found = continue_path(
        path,
        amount,
        method=method,
        points=points,
        gain=gain,
        alarm=alarm,
        rtol=NETWORK_RTOL,
        seed=seed,
    )
    say("bringing the path back to clean images")
    s = torch.linspace(0, 1, frames, dtype=ends.dtype)
    along = torch.cat([path(s.to(ends)), found.points[1:]])
    images = bridge.images(*bridge.unpack(space, along))
    settings: dict[str, object] = {
        "model": model.name,
        **model.words,
        "metric": metric,
        "method": method,
        "amount": amount,
        "points": points,
        "nodes": nodes,
        "log_snr": bridge.log_snr,
        "flow_steps": flow_steps,
        "seed": seed,
    }
    if hasattr(space, "weight"):
        settings["weight"] = space.weight
    seconds = time.monotonic() - began
    notices = (*model.caveats(), *_notices(found))
    return Extrapolation(
        found, images[:frames], images[frames:], inputs, seconds, settings, notices
    )


def _notices(found: Continuation) -> tuple[str, ...]:
    notices = []
    if not found.path.ok:
        notices.append(
            f"the geodesic between the images ended with {found.path.status.name}, and the path "
            f"beyond begins with its last velocity: {found.path.status.value}"
        )
    if len(found.points) == 1:
        notices.append(f"nothing beyond the second image was reached: {found.stop.value}")
    return tuple(notices)


def _strip(result: Extrapolation, zoom: int = 3, gap: int = 4) -> Tensor:
    """All frames in a row, (C, H, W), with a wide gap after the second image."""
    pad = torch.nn.functional.pad
    large = result.frames.repeat_interleave(zoom, -1).repeat_interleave(zoom, -2)
    last = len(result.between) - 1
    cells = [
        pad(frame, (0, 4 * gap if i == last else gap), value=1.0) for i, frame in enumerate(large)
    ]
    return torch.cat(cells, -1)


def _write(result: Extrapolation, folder: Path) -> None:
    from PIL import Image

    found = result.continuation
    write_frames(to_uint8(result.frames), folder)
    strip = to_uint8(_strip(result).unsqueeze(0))[0]
    Image.fromarray(strip).save(folder / "filmstrip.png")
    content = {
        "stop": found.stop.name,
        "stop_text": found.stop.value,
        "reached": found.reached,
        "method": found.method,
        "watched": found.watched,
        "first_frame_beyond": len(result.between),
        "status": found.path.status.name,
        "certificate": found.path.certificate.as_dict(),
        "cost": {
            "evaluations": found.path.evaluations + found.cost.evaluations,
            "derivatives": found.path.derivatives + found.cost.derivatives,
        },
        "settings": result.settings,
        "notices": list(result.notices),
        "seconds": round(result.seconds, 2),
        "versions": versions(),
    }
    write_json(folder / "result.json", content)
