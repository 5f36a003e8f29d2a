r"""Distances of images by what a model makes of them under noise that all images share.

    iem            the information-estimation metric (2510.02514): errors of the denoiser, summed
                   over all noise levels up to an SNR; :mod:`diffodesic.metrics.information`
    mean           |E[x0 | z_a] - E[x0 | z_b]| at one level, root mean square over the noise

Both are distances between vectors that belong to one image each, so that N images cost N times the
evaluations of one, and no geodesic is solved.  Images are compared in the model's own units: pixels
in [-1, 1], or latents.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.images.door import Data, as_data
from diffodesic.images.lifting import as_floats
from diffodesic.metrics.information import (
    MOST,
    Features,
    Reduce,
    each_pair,
    every_pair,
    settle,
)
from diffodesic.models.model import Model
from diffodesic.numerics import checks
from diffodesic.numerics.cost import expect, stage
from diffodesic.numerics.words import brief
from diffodesic.output.options import Options, option, suggests

__all__ = [
    "NOISY",
    "IemOptions",
    "MeanOptions",
    "NoisyDistance",
    "NoisyOptions",
    "denoiser_of",
    "iem",
    "points_of",
]

Say = Callable[[str], None]
COMPARING = "comparing"  # name of the stage of work
PROBES = 16  # images that settle the levels of a matrix


def _silent(_: str) -> None:
    """Show no progress."""


@dataclass(frozen=True, repr=False)
class NoisyDistance:
    """Distances with their errors; what :func:`iem` returns.

    Attributes:
        distance: per pair, (...).
        error: its standard error, of the noise, (...); NaN for one noise.
        levels: log SNR of the levels, (n,).
        change: of the distance from the rule of half as many levels, (...); None for one rule.
        profile: where pairs differ, d distance^2 / d log SNR at the levels, (n, ...); None for one
            level.
        evaluations: of the denoiser, per image.
    """

    distance: Tensor
    error: Tensor
    levels: Tensor
    change: Tensor | None
    profile: Tensor | None
    evaluations: int

    def __repr__(self) -> str:
        """One line: distances, their errors, and the cost."""
        names = ("distance", "error", "evaluations")
        return f"NoisyDistance({brief({name: getattr(self, name) for name in names})})"

    @property
    def log_snr(self) -> float:
        """Log SNR of the cleanest level: the scale; other scales do not compare."""
        return float(self.levels[-1])


@dataclass(frozen=True, kw_only=True)
class NoisyOptions(Options, ABC):
    """Options of distances under shared noise.

    Args:
        noises: noises per level; each is taken with both signs.
        seed: seed of the noises.
        recall: of nearest neighbours alone, the expected share of the true ones at which noises are
            no longer doubled, 16 at most; 0 doubles none; default .95.
    """

    name: ClassVar[str]
    noises: int = option(2, least=1, most=10_000)
    seed: int = option(0, least=0, most=2**40)
    recall: float | None = option(None, least=0, most=1)

    @property
    def usual(self) -> int:
        """Evaluations that an image usually takes."""
        return 2 * self.noises

    @abstractmethod
    def measured(
        self, denoiser: Denoiser, points: Tensor, reduce: Reduce, say: Say = _silent
    ) -> NoisyDistance:
        """Distances of points (N, D), pair by pair or of all pairs as ``reduce`` says, (P,)."""

    def between(self, source: Model | Denoiser, x: Tensor, y: Tensor) -> NoisyDistance:
        """Distances of images (..., C, H, W) of a model, or points (..., D), pair by pair."""
        a, b = checks.pair(points_of(source, x, "x"), points_of(source, y, "y"), ("x", "y"))
        both = torch.stack([a, b], -2).flatten(0, -2)
        expect({COMPARING: self.usual * len(both)})
        with stage(COMPARING):
            found = self.measured(denoiser_of(source), both, each_pair)
        batch = a.shape[:-1]
        return NoisyDistance(
            found.distance.reshape(batch),
            found.error.reshape(batch),
            found.levels,
            None if found.change is None else found.change.reshape(batch),
            None if found.profile is None else found.profile.reshape(-1, *batch),
            found.evaluations,
        )

    def among(
        self, source: Model | Denoiser, data: Tensor, *, progress: Say | None = None
    ) -> NoisyDistance:
        """Distances of all pairs of data (N, ...), in the order of ``torch.triu_indices``."""
        points = points_of(source, data, "data")
        if points.ndim != 2 or len(points) < 2:
            raise ValueError(f"all pairs need 2 points or more, got {tuple(points.shape)}")
        expect({COMPARING: self.usual * len(points)})
        with stage(COMPARING):
            return self.measured(denoiser_of(source), points, every_pair, progress or _silent)


@dataclass(frozen=True, kw_only=True)
class IemOptions(NoisyOptions):
    """Options of :func:`iem`.

    Args:
        snr: Gamma, the largest SNR 1/sigma^2 that counts, in the model's units: a scale, for finer
            details than its noise do not count; default the model's last level.
        noises: noises per level; each is taken with both signs.
        rtol: relative change of a distance at which levels are no longer refined.
        levels: number of levels, 2^j + 1 from 9 to 129; default chosen by rtol.
    """

    name: ClassVar[str] = "iem"
    snr: float | None = option(None, above=0)
    noises: int = option(2, least=2, most=10_000)
    rtol: float = option(0.02, above=0)
    levels: int | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        allowed = [2**j + 1 for j in range(3, MOST.bit_length())]
        if self.levels not in (None, *allowed):
            raise ValueError(f"levels must be one of {allowed}, got {self.levels}")

    @property
    def usual(self) -> int:
        """Evaluations that an image usually takes: 17 levels suffice on the shipped models."""
        return 2 * self.noises * (self.levels or 17)

    def measured(
        self, denoiser: Denoiser, points: Tensor, reduce: Reduce, say: Say = _silent
    ) -> NoisyDistance:
        """As :meth:`NoisyOptions.measured`; of many points a few settle the levels."""
        features = Features(denoiser, self.noises, self.seed)
        few = points
        if reduce is every_pair and len(points) > PROBES:
            few = points[torch.linspace(0, len(points) - 1, PROBES).round().long()]
        found = settle(
            features,
            few,
            reduce,
            log_snr=_log_snr(self.snr, denoiser),
            rtol=self.rtol,
            levels=self.levels,
        )
        if few is points:
            square, variance, change = found.square, found.variance, found.change
        else:
            square, variance = found.rule.integral(features, points, reduce, say)
            change = None
        distance, error = _roots(square, variance)
        return NoisyDistance(
            distance,
            error,
            found.rule.levels,
            None if change is None else _divided(change, 2 * distance),
            found.profile if few is points else None,
            found.evaluations,
        )


@dataclass(frozen=True, kw_only=True)
class MeanOptions(NoisyOptions):
    """Options of the distance of posterior means.

    Args:
        log_snr: level at which images are denoised: a scale.
    """

    name: ClassVar[str] = "mean"
    log_snr: float = 2.0

    def measured(
        self, denoiser: Denoiser, points: Tensor, reduce: Reduce, say: Say = _silent
    ) -> NoisyDistance:
        """As :meth:`NoisyOptions.measured`."""
        _within(self.log_snr, denoiser, "log_snr")
        features = Features(denoiser, self.noises, self.seed, "mean")
        squares = features.squares(points, self.log_snr, 0, reduce)
        distance, error = _roots(squares.mean(0), squares.var(0) / self.noises)
        levels = torch.tensor([self.log_snr], dtype=torch.float64)
        return NoisyDistance(distance, error, levels, None, None, 2 * self.noises)


NOISY: dict[str, type[NoisyOptions]] = {kind.name: kind for kind in (IemOptions, MeanOptions)}


@suggests(options=(IemOptions,))
def iem(
    source: Model | Denoiser,
    x: Data,
    y: Data,
    *,
    snr: float | None = None,
    options: IemOptions | None = None,
) -> NoisyDistance:
    """The information-estimation metric between images, or points, pair by pair  (2510.02514).

    All pairs of a call share levels and noises, which are refined until the last pair has met
    ``rtol``: the triangle inequality holds to the last digit in a call, and between calls that
    give ``levels``.

    Args:
        source: a model, or a denoiser.
        x: images (..., C, H, W) in [0, 1] for a model, clean points (..., D) for a denoiser.
        y: others, broadcast against ``x``.
        snr: Gamma, in place of ``options.snr``.
        options: everything else; default ``IemOptions()``.

    Returns:
        distances (...) in units of standard deviations of the data, with standard errors.

    Raises:
        ValueError: for data that do not fit, or an SNR outside the levels that the model knows.

    Cost: 68 evaluations per image with 17 levels, which suffice on the shipped models;
    ``4 levels`` with others, and 82 more for a denoiser without a last level.
    """
    return (
        (options or IemOptions())
        .but(snr=snr)
        .between(source, as_data(source, x), as_data(source, y))
    )


def points_of(source: Model | Denoiser, x: Tensor, name: str) -> Tensor:
    """Images (..., C, H, W) of a model, or points, as points (..., D) in float64.

    Args:
        source: a model, or a denoiser.
        x: the data.
        name: of the argument, for an error.

    Returns:
        the points.

    Raises:
        ValueError: for data that do not fit.
    """
    if isinstance(source, Denoiser):
        return checks.points(x, name, source.dim, "the dimension of the denoiser").double()
    return source.codec.encode(as_floats(x)).double()


def denoiser_of(source: Model | Denoiser) -> Denoiser:
    """The denoiser of a model, or the denoiser itself."""
    return source if isinstance(source, Denoiser) else source.denoiser


def _log_snr(snr: float | None, denoiser: Denoiser) -> float:
    """Log Gamma, default the last level of the denoiser."""
    if snr is None:
        return denoiser.log_snr_range[1]
    _within(math.log(snr), denoiser, "log of snr")
    return math.log(snr)


def _within(level: float, denoiser: Denoiser, name: str) -> None:
    low, high = denoiser.log_snr_range
    if not low < level <= high:
        raise ValueError(
            f"{name} is {level:.4g}, outside the noise levels that this model knows, log SNR "
            f"{low:.4g} to {high:.4g}; choose one inside"
        )


def _roots(square: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """A distance and its standard error, from its square and the variance of that."""
    distance = square.sqrt()
    return distance, _divided(variance.sqrt(), 2 * distance)


def _divided(x: Tensor, y: Tensor) -> Tensor:
    """``x / y``; zero between equal points, where both are."""
    return x / torch.where(y > 0, y, 1.0)
