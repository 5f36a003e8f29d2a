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
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from torch import Tensor

from diffodesic.geometry.energy import Solver
from diffodesic.geometry.metric import Metric
from diffodesic.geometry.path import Geodesic
from diffodesic.images.baselines.between import Rival, rival_curve
from diffodesic.images.baselines.latent import with_norm
from diffodesic.images.features import Features, load_features
from diffodesic.images.lifting import Bridge, Mode, as_images
from diffodesic.images.result import Interpolation
from diffodesic.images.second_opinion import no_worse_than_start
from diffodesic.images.shown_path import Pace, Row, make_row
from diffodesic.images.spaces import REFINE, MetricName, image_geodesic, image_metric, noise_level
from diffodesic.metrics.density import ScoreSize
from diffodesic.metrics.score import ScoreMetric
from diffodesic.models.model import Model
from diffodesic.output.stages import Store, fingerprint

__all__ = ["Plan", "interpolate"]


def interpolate(
    model: Model,
    image_a: Tensor,
    image_b: Tensor,
    *,
    frames: int = 16,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Callable[[str], None] | None = None,
    **options: Any,
) -> Interpolation:
    """Interpolate between two images along a geodesic of the model.

    Args:
        model: see ``load``.
        image_a: first image (C, H, W) in [0, 1].
        image_b: second image, likewise.
        frames: number F >= 2 of images, ends included.
        checkpoint: folder of finished stages; a run that was interrupted goes on from them.
        progress: called with a short line on every step.
        **options: ``metric``, ``mode``, ``nodes``, ``log_snr``, ``weight``, ``rank``,
            ``flow_steps``, ``seed``, ``solver``, ``baselines``, ``pace`` and ``features``, as
            :class:`Plan` describes them.

    Returns:
        frames, path, certificate and the baselines.

    Raises:
        ValueError: for images that do not fit the model, an unknown metric or mode, frames or
            nodes < 2, a weight, rank or noise level out of range, a score without size, or a
            checkpoint of other settings.

    Cost: ``2 flow_steps`` evaluations per end and per frame of every row; the geodesic (see
    ``geodesic``); for the length of every row ``4 nodes`` steps, and for spacetime
    ``71 nodes`` evaluations more for its check, and as many for that of its start.
    """
    if frames < 2:
        raise ValueError(f"frames must be at least 2, got {frames}")
    plan, inputs = Plan(model, **options), as_images(image_a, image_b)
    store = Store(
        None if checkpoint is None else Path(checkpoint),
        {**plan.words(), "frames": frames, "inputs": fingerprint(inputs)},
    )
    return plan.solve(inputs, store, progress).finish(frames)


@dataclass(frozen=True)
class Plan:
    """What is asked of every pair of images: the options of :func:`interpolate`.

    Attributes:
        model: the model.
        metric: ``spacetime`` (2505.17517), ``score`` (2505.11128), ``jacobian`` (2510.05509),
            ``conformal`` or ``euclidean``; see :func:`diffodesic.images.spaces.image_metric`.
        mode: ``sound``; or ``paper``, for the score metric only: the recipe of 2505.11128 with one
            noise for both images, time 400 of 1000, weight 1000, and a score that is not
            differentiated. Its ends are not the images, which ``end_error`` shows.
        nodes: segments of the path, >= 2.
        log_snr: noise level to which the ends are lifted; ``"auto"`` is 2 for spacetime (the
            path chooses its own level in between) and 1 for metrics at one level.
        weight: of the score or conformal metric in units of 1 / mean |score|^2 at the ends; default
            10 and 100.
        rank: number of scores of the score metric.
        flow_steps: steps of the probability-flow ODE each way.
        seed: seed of the probes.
        solver: default :data:`diffodesic.images.spaces.NETWORK_SOLVER`.
        baselines: other curves between the same ends, rows of the result: any of ``LERP``,
            ``SLERP``, ``NAO``, ``NoiseDiffusion`` and ``likely path``.
        pace: frames at equal steps of the ``metric``, or ``perceptual``: of the distance under
            ``features``.
        features: name of the extractor of a perceptual pace; see
            :func:`diffodesic.images.features.load_features`.
    """

    model: Model
    metric: MetricName = "spacetime"
    mode: Mode = "sound"
    nodes: int = 32
    log_snr: float | Literal["auto"] = "auto"
    weight: float | None = None
    rank: int = 1
    flow_steps: int = 24
    seed: int = 0
    solver: Solver | None = None
    baselines: Sequence[Rival] = ("LERP", "SLERP")
    pace: Pace = "metric"
    features: str = "digit-classifier-1"

    def __post_init__(self) -> None:
        if unknown := set(self.baselines) - set(get_args(Rival)):
            known = ", ".join(get_args(Rival))
            raise ValueError(f"unknown baselines {', '.join(sorted(unknown))}; choose from {known}")
        if self.nodes < 2:
            raise ValueError(f"nodes must be at least 2, got {self.nodes}")
        if self.weight is not None and not 0 <= self.weight < math.inf:
            raise ValueError(f"weight must be >= 0 and finite, got {self.weight}")
        if self.flow_steps < 1:
            raise ValueError(f"the flow takes at least 1 step, got {self.flow_steps}")
        if self.pace not in get_args(Pace):
            raise ValueError(f"unknown pace {self.pace!r}; choose {' or '.join(get_args(Pace))}")

    @property
    def keeps_norm(self) -> bool:
        """Whether frames get the norm of noisy data back, which short paths lose."""
        return self.mode == "sound" and self.metric in ("score", "jacobian", "conformal")

    def words(self) -> dict[str, Any]:
        """Everything that a result depends on but the images."""
        options = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "model"}
        options |= {"solver": repr(self.solver), "baselines": list(self.baselines)}
        return {"model": self.model.name, **self.model.words, **options}

    def solve(
        self, inputs: Tensor, store: Store, progress: Callable[[str], None] | None = None
    ) -> _Solved:
        """Lift a pair (2, C, H, W) and join it."""
        began, say = time.monotonic(), progress or (lambda _: None)
        features = load_features(self.features) if self.pace == "perceptual" else None
        level = noise_level(self.model, self.metric, self.log_snr, self.mode)
        bridge = Bridge(self.model, level, self.flow_steps, self.seed, self.mode)

        def lifted() -> tuple[dict[str, Tensor], dict[str, Any]]:
            say("lifting the images to the anchor noise level")
            return {"ends": bridge.lift(inputs)}, {}

        ends = store.stage("ends", lifted, inputs.device)[0]["ends"]
        space = image_metric(bridge, self.metric, ends, weight=self.weight, rank=self.rank)
        a, b = bridge.pack(space, ends)

        def joined() -> tuple[dict[str, Tensor], dict[str, Any]]:
            path = image_geodesic(space, a, b, nodes=self.nodes, solver=self.solver, progress=say)
            path, worse = no_worse_than_start(path, self.seed, refine=REFINE)
            tensors, words = path.split()
            return tensors, {**words, "worse": worse}

        tensors, words = store.stage("path", joined, inputs.device)
        worse = words.pop("worse")
        path = Geodesic.joined(space, tensors, words)
        return _Solved(self, bridge, space, path, inputs, ends, features, worse, store, say, began)


@dataclass(frozen=True)
class _Solved:
    """A pair that is joined, and what it takes to bring it back."""

    plan: Plan
    bridge: Bridge
    space: Metric
    path: Geodesic
    inputs: Tensor
    ends: Tensor
    features: Features | None
    worse: list[str]
    store: Store
    say: Callable[[str], None]
    began: float

    def finish(self, frames: int) -> Interpolation:
        """Frames and rows."""
        rows, unlike = self._rows(frames)
        model, path = self.plan.model, self.path
        errors = _error(next(iter(rows.values())).frames[[0, -1]], self.inputs)
        lost = [0.0, 0.0]
        if not model.codec.lossless:
            lost = _error(model.codec.decode(model.codec.encode(self.inputs)), self.inputs)
        return Interpolation(
            path,
            rows,
            self.inputs,
            (errors[0], errors[1]),
            time.monotonic() - self.began,
            self._settings(frames),
            (*self.worse, *unlike, *_notices(model, path, errors, lost)),
        )

    def _rows(self, frames: int) -> tuple[dict[str, Row], list[str]]:
        """The paths by name, and a notice for each that does not exist between these ends."""
        rows, notices = {}, []
        for name in ("geodesic", *self.plan.baselines):
            tensors, words = self.store.stage(
                name, partial(self._row, name, frames), self.inputs.device
            )
            if "missing" in words:
                notices.append(f"no {name} row: {words['missing']}")
            else:
                rows[name] = Row.joined(tensors, words)
        return rows, notices

    def _row(self, name: str, frames: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        self.say(f"bringing {name} back to clean images")
        try:
            curve = self._curve(name)
            curve(self.ends.new_zeros(1))
        except ValueError as error:  # SLERP between opposite ends: the solve is not lost for it
            return {}, {"missing": str(error)}
        nodes = self.path.nodes.shape[-2] - 1
        kept = name == "geodesic" and self.plan.keeps_norm
        a, b = self.ends
        return make_row(
            self.bridge,
            self.space,
            curve,
            frames,
            nodes,
            self.ends,
            self.features,
            (lambda z, s: with_norm(z, a, b, s)) if kept else None,
        ).split()

    def _curve(self, name: str) -> Callable[[Tensor], Tensor]:
        """Points (S, d) of the metric by parameters (S,)."""
        if name == "geodesic":
            return self.path
        images, ends = (self.inputs[0], self.inputs[1]), (self.ends[0], self.ends[1])
        rival = rival_curve(name, self.bridge, images, ends)
        return lambda s: self.bridge.pack(self.space, rival(s))

    def _settings(self, frames: int) -> dict[str, object]:
        plan, space = self.plan, self.space
        settings = {
            "model": plan.model.name,
            **plan.model.words,
            "metric": plan.metric,
            "mode": plan.mode,
            "frames": frames,
            "nodes": plan.nodes,
            "log_snr": self.bridge.log_snr,
            "flow_steps": plan.flow_steps,
            "seed": plan.seed,
            "pace": plan.pace,
            "norm": "kept" if plan.keeps_norm else "as found",
            "estimator": getattr(space, "estimator", "midpoint rule"),
        }
        if self.features is not None:
            settings["features"] = self.features.name
        if isinstance(space, ScoreMetric | ScoreSize):
            settings["weight"] = space.weight
        if isinstance(space, ScoreMetric):
            settings["rank"] = space.rank
        return settings


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
