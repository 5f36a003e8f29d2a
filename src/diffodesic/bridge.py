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
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from diffodesic.conformal import ScoreSize
from diffodesic.flow import clean_log_snr, drop, lift
from diffodesic.frozen import FrozenScore
from diffodesic.geodesic import Geodesic, geodesic
from diffodesic.metric import Euclidean, Metric
from diffodesic.model import Model
from diffodesic.reference import AdamNodes
from diffodesic.schedule import Tabulated
from diffodesic.score import ScoreJacobian, ScoreMetric, weight_unit
from diffodesic.solver import Relax, Solver
from diffodesic.spacetime import Spacetime

__all__ = [
    "NETWORK_SOLVER",
    "REFINE",
    "Bridge",
    "MetricName",
    "Mode",
    "as_images",
    "image_geodesic",
    "image_metric",
    "noise_level",
]

MetricName = Literal["spacetime", "score", "jacobian", "conformal", "euclidean"]
Mode = Literal["sound", "paper"]
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


def as_images(*images: Tensor) -> Tensor:
    """Images of one shape in one tensor, in float64: sums over pixels cancel.

    Args:
        images: each (C, H, W) or (H, W), floating point in [0, 1] or integers up to 255.

    Returns:
        (N, C, H, W).

    Raises:
        ValueError: for another number of axes, or images that differ in shape.
    """
    found = []
    for image in map(torch.as_tensor, images):
        if image.ndim not in (2, 3):
            raise ValueError(f"an image must be (C, H, W) or (H, W), got {tuple(image.shape)}")
        scaled = image.double() if image.is_floating_point() else image.double() / 255
        found.append(scaled if image.ndim == 3 else scaled.unsqueeze(0))
    if len({image.shape for image in found}) > 1:
        shapes = ", ".join(str(tuple(image.shape)) for image in found)
        raise ValueError(f"the images differ in shape: {shapes}; bring them to one")
    return torch.stack(found)


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


@dataclass(frozen=True)
class Bridge:
    """From images to points at one noise level, and from points at any level to images.

    Attributes:
        model: the model.
        log_snr: the level of the ends; see :func:`noise_level`.
        flow_steps: steps of the probability-flow ODE each way.
        seed: seed of the grain of noise, drawn on the CPU.
        mode: ``sound`` lifts by the probability flow, which :meth:`images` undoes; ``paper``
            (2505.11128) adds one noise to all images, which nothing undoes.
    """

    model: Model
    log_snr: float
    flow_steps: int = 24
    seed: int = 0
    mode: Mode = "sound"

    def lift(self, images: Tensor) -> Tensor:
        """Points (..., D) at the level, in float64, of images (..., C, H, W) in [0, 1].

        Args:
            images: what the codec takes.

        Returns:
            the points.

        Cost: ``2 flow_steps`` evaluations per image; none in paper mode.
        """
        denoiser, codes = self.model.denoiser, self.model.codec.encode(images).double()
        generator = torch.Generator().manual_seed(self.seed)
        grain = torch.randn(codes.shape[-1], generator=generator, dtype=codes.dtype)
        if self.mode == "paper":
            return codes + math.exp(-self.log_snr / 2) * grain.to(codes.device)
        sigma = math.exp(-clean_log_snr(denoiser) / 2)
        with torch.no_grad():
            noisy = codes + sigma * grain.to(codes.device)
            return lift(denoiser, noisy, self.log_snr, steps=self.flow_steps)

    def images(self, z: Tensor, log_snr: Tensor) -> Tensor:
        """Images (..., C, H, W) of points (..., D) at levels (...): the flow, and the last mean.

        Args:
            z: the points.
            log_snr: their levels.

        Returns:
            images in [0, 1].

        Cost: ``2 flow_steps + 1`` evaluations per point.
        """
        denoiser = self.model.denoiser
        sigma = z.new_tensor(math.exp(-clean_log_snr(denoiser) / 2))
        with torch.no_grad():
            lowest = drop(denoiser, z, log_snr, steps=self.flow_steps)
            return self.model.codec.decode(denoiser(lowest, sigma))

    def pack(self, space: Metric, z: Tensor) -> Tensor:
        """Points (..., D) at the level as points (..., d) of a metric."""
        return space.point(z, self.log_snr) if isinstance(space, Spacetime) else z

    def unpack(self, space: Metric, points: Tensor) -> tuple[Tensor, Tensor]:
        """Points (..., d) of a metric as ``z`` (..., D) and its log SNR (...)."""
        if isinstance(space, Spacetime):
            return space.split(points)
        return points, points.new_full(points.shape[:-1], self.log_snr)


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
    return geodesic(
        space,
        a,
        b,
        nodes=nodes,
        solver=solver or default,
        init=init,
        refine=REFINE,
        progress=lambda text, _: say(text),
    )
