r"""The spaces in which images are joined: one class each, and their names for ``metric=``.

A space says at which noise level the images are placed, which metric joins them there, and what a
reader of the result should be told.  With s the score at that level and J its Jacobian:

    spacetime         Fisher-Rao metric over all levels            2505.17517
    score             I + w s s^T                                  2505.11128
    score-published   the same, by the published recipe
    jacobian          J^T J + eps I                                2510.05509
    conformal         (1 + w |s|^2) I
    euclidean         I

A new space is a class here and an entry in :data:`SPACES`; its options are flags of the command
line then.  :class:`Fixed` is the space of a metric that exists already.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import MISSING, dataclass, replace
from typing import Any, ClassVar, Literal, cast, overload

import torch
from torch import Tensor

from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.denoisers.flow import clean_log_snr
from diffodesic.denoisers.schedules import Tabulated
from diffodesic.geometry.metric import Metric
from diffodesic.images.lifting import Lifting
from diffodesic.metrics.density import ScoreSize
from diffodesic.metrics.elementary import Euclidean
from diffodesic.metrics.one_level import weight_unit
from diffodesic.metrics.score import ScoreMetric
from diffodesic.metrics.score_jacobian import ScoreJacobian
from diffodesic.metrics.score_published import FrozenScore
from diffodesic.metrics.spacetime.flow_arches import even_means, flow_arches
from diffodesic.metrics.spacetime.metric import Spacetime
from diffodesic.metrics.spacetime.points import NoisyPoints
from diffodesic.models.model import Model
from diffodesic.numerics import checks
from diffodesic.numerics.curves import Polyline, Spline
from diffodesic.output.options import Options, option

__all__ = [
    "SPACES",
    "ConformalSpace",
    "EuclideanSpace",
    "Fixed",
    "JacobianSpace",
    "PublishedScoreSpace",
    "ScoreSpace",
    "Space",
    "SpacetimeSpace",
    "choose_space",
]

# the setting of 2505.11128: time 400 of DDPM's table
PUBLISHED_ALPHA = float(Tabulated.ddpm_linear().alpha_sigma(400)[0])
PUBLISHED_LOG_SNR = 2 * math.log(PUBLISHED_ALPHA) - math.log1p(-(PUBLISHED_ALPHA**2))


@dataclass(frozen=True, kw_only=True)
class Space(Options, ABC):
    """A geometry for images: at which noise level, and by which metric.

    A subclass writes :meth:`metric`; all else has a default.

    Args:
        log_snr: noise level of the ends, as log SNR; auto is 2 in spacetime, where a path chooses
            its own level in between, and 1 at one level.
    """

    name: ClassVar[str]
    """What ``metric=`` and ``--metric`` call it."""
    auto_log_snr: ClassVar[float] = 1.0
    """The level under ``auto``."""
    rule: ClassVar[str] = "midpoint rule"
    """How a squared length is measured."""
    keeps_norm: ClassVar[bool] = False
    """Whether frames get back the norm of noisy images, which short paths at one level lose."""
    shared_noise: ClassVar[bool] = False
    """See :class:`Lifting`."""

    log_snr: float | Literal["auto"] = "auto"

    @abstractmethod
    def metric(self, denoiser: Denoiser, ends: Tensor, log_snr: float, *, seed: int = 0) -> Metric:
        """The metric.

        Args:
            denoiser: of the model.
            ends: points (..., D) at the level, by which a weight has its unit.
            log_snr: the level.
            seed: of whatever is random in the metric.

        Returns:
            a metric on the points that :meth:`pack` makes.
        """

    def lifting(self, model: Model, *, flow_steps: int = 24, seed: int = 0) -> Lifting:
        """The way of images to the level of this space.

        Args:
            model: the model.
            flow_steps: steps of the probability-flow ODE each way.
            seed: of the noise that is added.

        Returns:
            the lifting.

        Raises:
            TypeError: for anything but a model.
            ValueError: for a level outside the model's range.
        """
        checks.of_kind(model, "model", Model)
        level = self.auto_log_snr if self.log_snr == "auto" else float(self.log_snr)
        low, high = model.denoiser.log_snr_range[0], clean_log_snr(model.denoiser)
        if not low < level < high:
            raise ValueError(
                f"log_snr = {level:g} is outside the noise levels of model "
                f"{model.name!r}; choose a value between {low:.3g} and {high:.3g}"
            )
        return Lifting(model, level, flow_steps, seed, self.shared_noise)

    def pack(self, metric: Metric, z: Tensor, log_snr: float) -> Tensor:
        """Points (..., d) of the metric for points z (..., D) at the level."""
        return metric.point(z, log_snr) if isinstance(metric, NoisyPoints) else z

    def unpack(self, metric: Metric, points: Tensor, log_snr: float) -> tuple[Tensor, Tensor]:
        """Points (..., d) of the metric as z (..., D) and their levels (...)."""
        if isinstance(metric, NoisyPoints):
            return metric.split(points)
        return points, points.new_full(points.shape[:-1], log_snr)

    def energy_floor(self, metric: Metric, points: Tensor) -> float | None:
        """The least energy that a path with this one's ends can have, where that is known."""
        return None

    def arch(self, metric: Metric, a: Tensor, b: Tensor) -> Polyline | None:
        """A path to look at beside the geodesic; None, the default, where that is the one.

        Args:
            metric: the metric.
            a: start (d,), as :meth:`pack` makes it.
            b: end (d,).

        Returns:
            points (S, d) by parameters (S,).
        """
        return None

    def described(self, metric: Metric) -> dict[str, Any]:
        """What a result says of the metric that was used, for JSON."""
        return {"metric": self.name, "estimator": self.rule}


@dataclass(frozen=True, kw_only=True)
class SpacetimeSpace(Space):
    """Noisy images at all levels: the Fisher-Rao metric of their posteriors (2505.17517)."""

    name = "spacetime"
    auto_log_snr = 2.0

    def metric(self, denoiser: Denoiser, ends: Tensor, log_snr: float, *, seed: int = 0) -> Metric:
        """:class:`Spacetime`, down to where nothing is left of an image."""
        # five e-folds of SNR below one, per coordinate
        low, high = denoiser.log_snr_range[0], clean_log_snr(denoiser)
        noisiest = max(low, min(log_snr, -math.log(denoiser.variance) - 5))
        return Spacetime(denoiser, seed=seed, log_snr_range=(noisiest, high))

    def arch(self, metric: Metric, a: Tensor, b: Tensor) -> Polyline | None:
        """The flow arch of depth 4 for a network, at equal steps of its posterior means.

        Depth, noise and pace were chosen by measure, on photographs that turn and on digits
        (docs/turning-fruit.md).

        Args:
            metric: the metric.
            a: start (d,).
            b: end (d,).

        Returns:
            the arch.

        Cost: that of :func:`flow_arches` and :func:`even_means` with 32 segments.
        """
        # the shortest path passes through posteriors that mix the two images, and its frames are
        # double exposures; every point of the arch is a typical noisy image
        space = cast(Spacetime, metric)
        if not space.denoiser.learned or torch.equal(a, b):
            return None
        lowest = space.log_snr_range[0]
        found = flow_arches(space.denoiser, a, b, 32, lowest, depths=(4.0,), crossings={"": 0.0})
        return Spline(even_means(space.denoiser, found["flow arch 4"]))

    def described(self, metric: Metric) -> dict[str, Any]:
        """The name and the estimator of the squared lengths."""
        return {**super().described(metric), "estimator": cast(Spacetime, metric).estimator}


@dataclass(frozen=True, kw_only=True)
class ScoreSpace(Space):
    """One level under ``I + w s s^T``, which charges changes of log-density (2505.11128).

    Args:
        weight: weight w of the score, in units of 1 / mean |score|^2 at the ends.
        rank: number of scores that the metric is made of, up to D.
    """

    name = "score"
    rule = "trapezoidal rule"
    keeps_norm = True

    # chosen, as the levels, on validation digits (docs/rotated-digits.md)
    weight: float = option(10.0, least=0)
    rank: int = option(1, least=1, most=10_000)

    def metric(self, denoiser: Denoiser, ends: Tensor, log_snr: float, *, seed: int = 0) -> Metric:
        """:class:`ScoreMetric`; one evaluation per end."""
        weight = self.weight * weight_unit(denoiser, ends, log_snr)
        return ScoreMetric(denoiser, log_snr=log_snr, weight=weight, rank=self.rank, seed=seed)

    def energy_floor(self, metric: Metric, points: Tensor) -> float | None:
        """See :meth:`ScoreMetric.energy_floor`."""
        return float(cast(ScoreMetric, metric).energy_floor(points))

    def described(self, metric: Metric) -> dict[str, Any]:
        """The name, the weight in absolute units, and the rank."""
        used = cast(ScoreMetric, metric)
        return {**super().described(metric), "weight": used.weight, "rank": used.rank}


@dataclass(frozen=True, kw_only=True)
class PublishedScoreSpace(ScoreSpace):
    """The score metric by the recipe of 2505.11128, for comparison.

    Both images get one noise of time 400 of DDPM's 1000, and the score is not differentiated. The
    ends of a path are not the images, which ``end_error`` shows.

    Args:
        weight: weight of the score in x = alpha z, as published.
    """

    name = "score-published"
    auto_log_snr = PUBLISHED_LOG_SNR
    rule = "midpoint rule"
    keeps_norm = False
    shared_noise = True

    weight: float = option(1000.0, least=0)

    def metric(self, denoiser: Denoiser, ends: Tensor, log_snr: float, *, seed: int = 0) -> Metric:
        """:class:`FrozenScore`; no evaluation."""
        weight = self.weight / PUBLISHED_ALPHA**2
        return FrozenScore(denoiser, log_snr=log_snr, weight=weight, rank=self.rank, seed=seed)


@dataclass(frozen=True, kw_only=True)
class JacobianSpace(Space):
    """One level under ``J^T J + eps I``, J the Jacobian of the score (2510.05509)."""

    name = "jacobian"
    keeps_norm = True

    def metric(self, denoiser: Denoiser, ends: Tensor, log_snr: float, *, seed: int = 0) -> Metric:
        """:class:`ScoreJacobian`, eps a hundredth of the square of J's largest eigenvalue."""
        # which is about 1/sigma^2
        return ScoreJacobian(denoiser, log_snr=log_snr, eps=1e-2 * math.exp(2 * log_snr))


@dataclass(frozen=True, kw_only=True)
class ConformalSpace(Space):
    """One level under ``(1 + w |s|^2) I``, which charges places of low density.

    Args:
        weight: weight w of |s|^2, in units of 1 / mean |score|^2 at the ends.
    """

    name = "conformal"
    rule = "trapezoidal rule"
    keeps_norm = True

    weight: float = option(100.0, least=0)

    def metric(self, denoiser: Denoiser, ends: Tensor, log_snr: float, *, seed: int = 0) -> Metric:
        """:class:`ScoreSize`; one evaluation per end."""
        weight = self.weight * weight_unit(denoiser, ends, log_snr)
        return ScoreSize(denoiser, log_snr=log_snr, weight=weight)

    def described(self, metric: Metric) -> dict[str, Any]:
        """The name, and the weight in absolute units."""
        return {**super().described(metric), "weight": cast(ScoreSize, metric).weight}


@dataclass(frozen=True, kw_only=True)
class EuclideanSpace(Space):
    """One level under the flat metric: geodesics are chords."""

    name = "euclidean"
    rule = "exact"

    def metric(self, denoiser: Denoiser, ends: Tensor, log_snr: float, *, seed: int = 0) -> Metric:
        """:class:`Euclidean`."""
        return Euclidean(denoiser.dim)


@dataclass(frozen=True, repr=False)
class Fixed(Space):
    """A metric that exists already: on the D coordinates of a model, or on its spacetime.

    Its level under ``auto`` is the metric's own ``log_snr`` where it has one.

    Args:
        own: the metric.
        source: where its code is, for the record of results.
    """

    name = "fixed"

    own: Metric = option(MISSING, flag=False)
    source: str | None = option(None, flag=False)

    def __post_init__(self) -> None:
        checks.of_kind(self.own, "own", Metric)

    def __repr__(self) -> str:
        """The class of the metric, and the level."""
        return f"Fixed({type(self.own).__name__}, log_snr={self.log_snr!r})"

    def lifting(self, model: Model, *, flow_steps: int = 24, seed: int = 0) -> Lifting:
        """As for any space; a metric of another dimension than the model is refused."""
        if self.log_snr == "auto":
            spacetime = SpacetimeSpace.auto_log_snr if isinstance(self.own, NoisyPoints) else 1.0
            level = getattr(self.own, "log_snr", spacetime)
            return replace(self, log_snr=float(level)).lifting(
                model, flow_steps=flow_steps, seed=seed
            )
        lifting = super().lifting(model, flow_steps=flow_steps, seed=seed)
        own, wanted = self.own.dim, model.denoiser.dim
        if own != wanted + isinstance(self.own, NoisyPoints):
            raise ValueError(
                f"the metric {type(self.own).__name__} has {own} coordinates and the points of "
                f"model {model.name!r} have {wanted}; give a metric of that dimension"
            )
        return lifting

    def metric(self, denoiser: Denoiser, ends: Tensor, log_snr: float, *, seed: int = 0) -> Metric:
        """The metric itself."""
        return self.own

    def described(self, metric: Metric) -> dict[str, Any]:
        """The class of the metric, and where its code is."""
        rule = getattr(metric, "estimator", "its own")
        about = {"metric": type(metric).__name__, "estimator": rule}
        return about if self.source is None else {**about, "metric_source": self.source}


SPACES: dict[str, type[Space]] = {
    space.name: space
    for space in (
        SpacetimeSpace,
        ScoreSpace,
        PublishedScoreSpace,
        JacobianSpace,
        ConformalSpace,
        EuclideanSpace,
    )
}


@overload
def choose_space(metric: str, space: None) -> Space: ...


@overload
def choose_space(metric: str | None, space: Space | Metric | None) -> Space | None: ...


def choose_space(metric: str | None, space: Space | Metric | None) -> Space | None:
    """The space that a verb was asked for.

    Args:
        metric: name of a space, which gets its default options.
        space: a space, or a metric of one's own, which becomes :class:`Fixed`.

    Returns:
        the space, or None where neither is given.

    Raises:
        ValueError: for both, or an unknown name.
        TypeError: for what is neither a name, a space nor a metric.
    """
    if metric is not None and space is not None:
        raise ValueError("give metric, the name of a space, or space, but not both")
    if isinstance(space, Metric):
        return Fixed(space)
    if space is not None and not isinstance(space, Space):
        name = f"; metric={space!r} takes a name" if isinstance(space, str) else ""
        raise TypeError(
            f"space must be a Space, such as ScoreSpace(), or a Metric, not {space!r}{name}"
        )
    if metric is None:
        return space
    if not isinstance(metric, str):
        raise TypeError("metric must be the name of a space; give a metric of your own as space=")
    if metric not in SPACES:
        raise ValueError(f"unknown metric {metric!r}; choose one of {', '.join(SPACES)}")
    return SPACES[metric]()
