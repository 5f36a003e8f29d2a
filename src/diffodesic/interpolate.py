r"""Two images, one model: the geodesic between them, its frames, and how good it is.

    image -> codec -> lift to the anchor noise level (probability flow) -> geodesic in the chosen
    metric -> points at constant speed -> drop to clean data (probability flow) -> codec -> frames

Baselines between the same two lifted ends (:mod:`rival`) are brought back the same way, and
measured in the same metric.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from diffodesic.bridge import (
    REFINE,
    Bridge,
    MetricName,
    Mode,
    as_images,
    image_geodesic,
    image_metric,
    noise_level,
)
from diffodesic.conformal import ScoreSize
from diffodesic.geodesic import Geodesic
from diffodesic.metric import Metric
from diffodesic.model import Model
from diffodesic.recheck import no_worse_than_start, second_opinion
from diffodesic.rival import Rival, rival_curve
from diffodesic.score import ScoreMetric
from diffodesic.solver import Solver

__all__ = ["Interpolation", "Row", "interpolate"]


@dataclass(frozen=True)
class Row:
    """One path between the two images.

    Attributes:
        frames: images (F, C, H, W) in [0, 1].
        length: refined length under the metric of the interpolation.
        energy: refined energy under it.
        floor: for the score metric, the least energy that a path with the same ends and the same
            change of log-density can have, else None; see :meth:`ScoreMetric.energy_floor`.
        check: for spacetime, the length by :func:`mismatch_length`, which shares no formula with
            the metric's own, and its standard error; else None.
        log_snr: noise level at the frames, (F,).
        curve_s: parameters of the two curves below, (S,).
        curve_log_snr: noise level along the path, (S,).
        curve_speed: speed ``|c'(s)|`` under the metric, (S,).
    """

    frames: Tensor
    length: float
    energy: float
    floor: float | None
    check: tuple[float, float] | None
    log_snr: Tensor
    curve_s: Tensor
    curve_log_snr: Tensor
    curve_speed: Tensor


@dataclass(frozen=True, repr=False)
class Interpolation:
    """What :func:`interpolate` returns.

    Attributes:
        geodesic: the solved path with its certificate and cost.
        rows: the paths by name, the geodesic first, then the baselines.
        inputs: the two images (2, C, H, W).
        end_error: root-mean-square error of the first and the last frame, pixels in [0, 1].
        seconds: wall-clock time.
        settings: what was asked for and what was chosen.
        notices: what was changed or is doubtful, one sentence each.
    """

    geodesic: Geodesic
    rows: dict[str, Row]
    inputs: Tensor
    end_error: tuple[float, float]
    seconds: float
    settings: dict[str, object]
    notices: tuple[str, ...]

    def __repr__(self) -> str:
        """One line: what it is of, how long, and how it ended."""
        lengths = ", ".join(f"{name} {row.length:.4g}" for name, row in self.rows.items())
        return (
            f"Interpolation({self.settings['model']}, {self.settings['metric']}, "
            f"{len(self.frames)} frames, {self.geodesic.status.name}, lengths: {lengths})"
        )

    @property
    def frames(self) -> Tensor:
        """Images along the geodesic, (F, C, H, W) in [0, 1]."""
        return next(iter(self.rows.values())).frames

    @property
    def end_psnr(self) -> tuple[float, float]:
        """Peak signal-to-noise ratio of the two end frames, in dB."""
        first, last = (-20 * math.log10(max(error, 1e-9)) for error in self.end_error)
        return first, last

    def save(self, outdir: str | os.PathLike[str]) -> Path:
        """Write frames, filmstrip, GIF, path, result and report into a folder.

        Args:
            outdir: the folder, made if needed; files of an earlier run are replaced.

        Returns:
            the folder.

        Raises:
            OSError: if it cannot be written; nothing is left half-written.
        """
        from diffodesic.output import save_interpolation

        return save_interpolation(self, outdir)


def interpolate(
    model: Model,
    image_a: Tensor,
    image_b: Tensor,
    *,
    metric: MetricName = "spacetime",
    mode: Mode = "sound",
    frames: int = 16,
    nodes: int = 32,
    log_snr: float | Literal["auto"] = "auto",
    weight: float = 10.0,
    rank: int = 1,
    flow_steps: int = 24,
    seed: int = 0,
    solver: Solver | None = None,
    baselines: Sequence[Rival] = ("LERP", "SLERP"),
    progress: Callable[[str], None] | None = None,
) -> Interpolation:
    """Interpolate between two images along a geodesic of the model.

    Args:
        model: see ``load``.
        image_a: first image (C, H, W) in [0, 1].
        image_b: second image, likewise.
        metric: ``spacetime`` (2505.17517), ``score`` (2505.11128), ``jacobian`` (2510.05509),
            ``conformal`` or ``euclidean``; see :func:`diffodesic.bridge.image_metric`.
        mode: ``sound``; or ``paper``, for the score metric only: the recipe of 2505.11128 with one
            noise for both images, time 400 of 1000, weight 1000, and a score that is not
            differentiated. Its ends are not the images, which ``end_error`` shows.
        frames: number F >= 2 of images, ends included.
        nodes: segments of the path, >= 2.
        log_snr: noise level to which the ends are lifted; ``"auto"`` is 2 for spacetime (the
            path chooses its own level in between) and 0 for metrics at one level.
        weight: weight of the score or conformal metric in units of 1 / mean |score|^2 at the ends.
        rank: number of scores of the score metric.
        flow_steps: steps of the probability-flow ODE each way.
        seed: seed of the probes.
        solver: default :data:`diffodesic.bridge.NETWORK_SOLVER`.
        baselines: other curves between the same ends, rows of the result: any of ``LERP``,
            ``SLERP``, ``NAO``, ``NoiseDiffusion`` and ``likely path``.
        progress: called with a short line on every step.

    Returns:
        frames, path, certificate and the baselines.

    Raises:
        ValueError: for images that do not fit the model, an unknown metric or mode, frames or
            nodes < 2, a weight, rank or noise level out of range, or a score without size.

    Cost: ``2 flow_steps`` evaluations per end and per frame of every row; the geodesic (see
    ``geodesic``); for the length of every row ``4 nodes`` steps, and for spacetime
    ``71 nodes`` evaluations more for its check, and as many for that of its start.
    """
    began = time.monotonic()
    say = progress or (lambda _: None)
    if frames < 2:
        raise ValueError(f"frames must be at least 2, got {frames}")
    if unknown := set(baselines) - set(get_args(Rival)):
        known = ", ".join(get_args(Rival))
        raise ValueError(f"unknown baselines {', '.join(sorted(unknown))}; choose from {known}")
    level = noise_level(model, metric, log_snr, mode)
    bridge = Bridge(model, level, flow_steps, seed, mode)
    inputs = as_images(image_a, image_b)
    say("lifting the images to the anchor noise level")
    ends = bridge.lift(inputs)
    space = image_metric(bridge, metric, ends, weight=weight, rank=rank)
    a, b = bridge.pack(space, ends)
    path = image_geodesic(space, a, b, nodes=nodes, solver=solver, progress=say)
    path, worse = no_worse_than_start(path, seed, refine=REFINE)
    rows, unlike = _rows(bridge, space, path, inputs, ends, frames, baselines, say)
    first = next(iter(rows.values())).frames
    errors = _error(first[[0, -1]], inputs)
    lost = [0.0, 0.0]
    if not model.codec.lossless:
        lost = _error(model.codec.decode(model.codec.encode(inputs)), inputs)
    settings = {
        "model": model.name,
        **model.words,
        "metric": metric,
        "mode": mode,
        "frames": frames,
        "nodes": nodes,
        "log_snr": bridge.log_snr,
        "flow_steps": flow_steps,
        "seed": seed,
        "estimator": getattr(space, "estimator", "midpoint rule"),
    }
    if isinstance(space, ScoreMetric | ScoreSize):
        settings["weight"] = space.weight
    if isinstance(space, ScoreMetric):
        settings["rank"] = space.rank
    return Interpolation(
        path,
        rows,
        inputs,
        (errors[0], errors[1]),
        time.monotonic() - began,
        settings,
        (*worse, *unlike, *_notices(model, path, errors, lost)),
    )


def _rows(
    bridge: Bridge,
    space: Metric,
    path: Geodesic,
    inputs: Tensor,
    ends: Tensor,
    frames: int,
    baselines: Sequence[str],
    say: Callable[[str], None],
) -> tuple[dict[str, Row], list[str]]:
    """The paths by name, and a notice for each that does not exist between these ends."""
    fine = torch.linspace(
        0, 1, REFINE * (path.nodes.shape[-2] - 1) + 1, dtype=ends.dtype, device=ends.device
    )
    s = torch.linspace(0, 1, frames, dtype=ends.dtype, device=ends.device)
    rows, notices = {}, []
    with torch.no_grad():
        for name in ("geodesic", *baselines):
            say(f"bringing {name} back to clean images")
            try:
                curve = _curve(name, bridge, space, path, inputs, ends)
                points = curve(s)
            except ValueError as error:  # SLERP between opposite ends: the solve is not lost for it
                notices.append(f"no {name} row: {error}")
                continue
            z, level = bridge.unpack(space, points)
            images = bridge.images(z, level)
            on_fine = curve(fine)
            steps = space.steps(on_fine)
            speed = steps.clamp(min=0).sqrt() * steps.shape[-1]
            rows[name] = Row(
                images,
                float(speed.mean()),
                float(steps.sum()) * len(steps) / 2,
                float(space.energy_floor(on_fine)) if isinstance(space, ScoreMetric) else None,
                second_opinion(space, on_fine[::REFINE], bridge.seed),
                level,
                (fine[1:] + fine[:-1]) / 2,
                bridge.unpack(space, (on_fine[1:] + on_fine[:-1]) / 2)[1],
                speed,
            )
    return rows, notices


def _curve(
    name: str, bridge: Bridge, space: Metric, path: Geodesic, inputs: Tensor, ends: Tensor
) -> Callable[[Tensor], Tensor]:
    """Points (S, d) of the metric by parameters (S,)."""
    if name == "geodesic":
        return path
    rival = rival_curve(name, bridge, (inputs[0], inputs[1]), (ends[0], ends[1]))
    return lambda s: bridge.pack(space, rival(s))


def _error(images: Tensor, inputs: Tensor) -> list[float]:
    """Root-mean-square error of each image."""
    return (images - inputs).square().flatten(1).mean(-1).sqrt().tolist()


def _notices(model: Model, path: Geodesic, errors: list[float], lost: list[float]) -> list[str]:
    notices = []
    wrong = float(path.certificate.negative_fraction)
    if wrong > 0:
        notices.append(
            f"along {wrong:.1%} of the path the model's Jacobian is not that of a posterior mean "
            "(not positive), and the length there is less certain"
        )
    notices += model.caveats()
    if max(lost) > 0:
        first, last = (-20 * math.log10(max(error, 1e-9)) for error in lost)
        notices.append(
            f"the autoencoder alone gives back the images with PSNR {first:.1f} and {last:.1f} dB, "
            "which no path can better"
        )
    made = max(error - least for error, least in zip(errors, lost, strict=True))
    if made > 0.05:
        notices.append(
            f"the end frames differ from the images by {max(errors):.3f} (root mean "
            "square, pixels in [0, 1]): raise flow_steps, or lower the anchor noise "
            "(a higher log_snr)"
        )
    return notices
