r"""Between images and geometry: what every verb on images shares.

    image --codec--> code --grain of noise, probability flow up--> z at one noise level
    z at any level --probability flow down, mean at the last level--> code --codec--> image

and the metrics that verbs know by name.  A network knows noisy images only: one without a trace of
noise stays outside what the network was trained on all the way up, since the flow multiplies the
noise that is there.  So every image gets a grain of the cleanest level, the same for all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from diffodesic.denoisers.flow import clean_log_snr
from diffodesic.denoisers.schedules import Tabulated
from diffodesic.geometry.boundary_value import search
from diffodesic.geometry.energy import Solver
from diffodesic.geometry.metric import Metric
from diffodesic.geometry.path import Geodesic
from diffodesic.geometry.solvers.reference.first_order import AdamNodes
from diffodesic.geometry.solvers.relax import Relax
from diffodesic.images.lifting import Bridge, Mode
from diffodesic.metrics.density import ScoreSize
from diffodesic.metrics.elementary import Euclidean
from diffodesic.metrics.one_level import weight_unit
from diffodesic.metrics.score import ScoreMetric
from diffodesic.metrics.score_jacobian import ScoreJacobian
from diffodesic.metrics.score_published import FrozenScore
from diffodesic.metrics.spacetime.metric import Spacetime
from diffodesic.models.model import Model

__all__ = [
    "NETWORK_SOLVER",
    "REFINE",
    "MetricName",
    "image_geodesic",
    "image_metric",
    "noise_level",
]


MetricName = Literal["spacetime", "score", "jacobian", "conformal", "euclidean"]

# A network's energy is known to about 1e-3.
# chosen on the shipped 1 -> 7 and 0 -> 6, by the path estimator
NETWORK_SOLVER = Relax(rtol=2e-3, coarse_rtol=5e-3, iterations=6, splines=(8, 2, 24), polish=False)

REFINE = 4  # of the certificate, and of the lengths of the baselines

# log SNR of the ends under "auto"
LEVEL = {"spacetime": 2.0, "score": 1.0, "jacobian": 1.0, "conformal": 1.0, "euclidean": 1.0}

# in units of 1/mean |score|^2; chosen, as the levels, on validation digits (docs/rotated-digits.md)
WEIGHT = {"score": 10.0, "conformal": 100.0}

PAPER_TIME, PAPER_WEIGHT = 400, 1000.0  # of 2505.11128: on DDPM's table, weight in x = alpha z

PAPER_SOLVER = AdamNodes(learning_rate=0.01, steps=200)


def noise_level(
    model: Model, metric: str, log_snr: float | str = "auto", mode: str = "sound"
) -> float:
    """The noise level that ends are lifted to.

    Args:
        model: the model.
        metric: name of a metric.
        log_snr: the level, or ``"auto"``: 2 for spacetime (a path chooses its own level in
            between) and 1 for metrics at one level; in paper mode time 400 of DDPM's 1000.
        mode: see :class:`Bridge`.

    Returns:
        log SNR.

    Raises:
        ValueError: for an unknown metric or mode, paper mode of another metric than the score's,
            or a level outside the model's range.
    """
    if metric not in LEVEL:
        raise ValueError(
            f"unknown metric {metric!r}; choose one of {', '.join(get_args(MetricName))}"
        )
    if mode not in get_args(Mode):
        raise ValueError(f"unknown mode {mode!r}; choose one of {', '.join(get_args(Mode))}")
    if mode == "paper" and metric != "score":
        raise ValueError(
            f'mode "paper" is a recipe for the metric "score", not {metric!r}; choose "sound"'
        )
    level = float(log_snr) if log_snr != "auto" else LEVEL[metric]
    if log_snr == "auto" and mode == "paper":
        level = float(torch.logit(_paper_alpha() ** 2))
    low, high = model.denoiser.log_snr_range[0], clean_log_snr(model.denoiser)
    if not low < level < high:
        raise ValueError(
            f"log_snr = {level:g} is outside the noise levels of model "
            f"{model.name!r}; choose a value between {low:.3g} and {high:.3g}"
        )
    return level


def image_metric(
    bridge: Bridge, name: str, ends: Tensor, *, weight: float | None = None, rank: int = 1
) -> Metric:
    """A metric by its name.

    Args:
        bridge: model, level and seed.
        name: one of :data:`MetricName`: Fisher-Rao over all levels (:class:`Spacetime`),
            ``I + w s s^T`` (:class:`ScoreMetric`), ``J^T J + eps I`` (:class:`ScoreJacobian`),
            ``(1 + w |s|^2) I`` (:class:`ScoreSize`), or flat.
        ends: points (..., D) at the level, by which the weight has its unit.
        weight: of the score and the conformal metric, in units of 1 / mean |score|^2 at the ends;
            default 10 and 100; not used in paper mode, which has its own.
        rank: number of scores of the score metric.

    Returns:
        the metric, on points made by :meth:`Bridge.pack`.

    Raises:
        ValueError: for a weight that is negative or not finite, a rank outside 1 ... D or other
            than 1 for another metric, or a score without size.

    Cost: one evaluation per end for the score and the conformal metric.
    """
    denoiser, level = bridge.model.denoiser, bridge.log_snr
    weight = WEIGHT.get(name, 0.0) if weight is None else weight
    if not 0 <= weight < math.inf:
        raise ValueError(f"weight must be >= 0 and finite, got {weight}")
    if rank != 1 and name != "score":
        raise ValueError(f'rank belongs to the metric "score"; leave it out for {name!r}')
    if name == "euclidean":
        return Euclidean(denoiser.dim)
    if name == "jacobian":
        # the largest eigenvalue of a score's Jacobian is about 1/sigma^2
        return ScoreJacobian(denoiser, log_snr=level, eps=1e-2 * math.exp(2 * level))
    if name in ("score", "conformal"):
        unit = weight_unit(denoiser, ends, level)
        if name == "conformal":
            return ScoreSize(denoiser, log_snr=level, weight=weight * unit)
        if bridge.mode == "paper":
            weight = PAPER_WEIGHT / float(_paper_alpha()) ** 2
            return FrozenScore(denoiser, log_snr=level, weight=weight, rank=rank, seed=bridge.seed)
        return ScoreMetric(
            denoiser, log_snr=level, weight=weight * unit, rank=rank, seed=bridge.seed
        )
    # five e-folds of SNR below one, per coordinate, nothing is left of an image
    low, high = denoiser.log_snr_range[0], clean_log_snr(denoiser)
    floor = max(low, min(level, -math.log(denoiser.variance) - 5))
    return Spacetime(denoiser, seed=bridge.seed, log_snr_range=(floor, high))


def _paper_alpha() -> Tensor:
    return Tabulated.ddpm_linear().alpha_sigma(PAPER_TIME)[0]


def image_geodesic(
    space: Metric,
    a: Tensor,
    b: Tensor,
    *,
    nodes: int = 32,
    solver: Solver | None = None,
    init: Tensor | None = None,
    progress: Callable[[str], None] | None = None,
) -> Geodesic:
    """The geodesic of a network's metric: :func:`geodesic` with this module's solver.

    Args:
        space: the metric.
        a: starts (..., d).
        b: ends (..., d).
        nodes: segments of the path, >= 2.
        solver: default :data:`NETWORK_SOLVER`; for a frozen score, on which line searches fail,
            :data:`PAPER_SOLVER`.
        init: see :func:`geodesic`.
        progress: called with a short line on every step.

    Returns:
        the path.

    Cost: as for :func:`geodesic`.
    """
    say = progress or (lambda _: None)
    default = PAPER_SOLVER if isinstance(space, FrozenScore) else NETWORK_SOLVER
    return search(
        space,
        a,
        b,
        nodes=nodes,
        solver=solver or default,
        init=init,
        refine=REFINE,
        progress=lambda text, _: say(text),
    )
