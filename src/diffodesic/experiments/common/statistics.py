r"""Statistics of experiments: means, paired differences, correlations and distances between sets.

Intervals hold 95 % and come from resampling the N units (digits, pairs) with replacement, R times.
A resample says how often each unit is drawn, weights (R, N); measures that share the weights
are compared on the same draws.  Pairs that share pictures are no units, for a picture that is far
from one is far from others: there pictures are drawn, and a pair counts as often as the product of
its two.

Quantiles of a mean are taken about the mean of its resamples and moved to the value: FID is biased
upwards in every resample, which would shift its interval.  Draws are torch's, so that a seed gives
one result everywhere; ``scipy.stats.bootstrap`` has draws of its own, and no weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from diffodesic.experiments.experiment import Number
from diffodesic.images.evaluation import cubic_kernel, frechet, square_root

__all__ = [
    "Estimate",
    "SetDistances",
    "correlation",
    "draws",
    "mean_of",
    "pair_draws",
    "resampled_mean",
    "standard_error",
]


@dataclass(frozen=True)
class Estimate:
    """A number, its 95 % interval and its resamples (R,)."""

    value: float
    low: float
    high: float
    resamples: Tensor

    @classmethod
    def of(cls, value: float, resamples: Tensor) -> Estimate:
        """The interval of the resamples as they are; those that are not a number do not count."""
        # KID has no value where one unit was drawn every time
        share = torch.tensor([0.025, 0.975]).to(resamples)
        low, high = torch.nanquantile(resamples, share).tolist()
        return cls(value, low, high, resamples)

    @classmethod
    def about(cls, value: float, resamples: Tensor) -> Estimate:
        """The interval of the resamples moved to have their mean at the value."""
        return cls.of(value, resamples - resamples.nanmean() + value)

    @property
    def error(self) -> float:
        """Standard error: the standard deviation of the resamples."""
        return float(self.resamples.std())

    def minus(self, other: Estimate) -> Estimate:
        """The difference on the same draws."""
        return Estimate.about(self.value - other.value, self.resamples - other.resamples)


def draws(count: int, resamples: int, seed: int) -> Tensor:
    """How often each of ``count`` units is drawn, (R, N)."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(count, (resamples, count), generator=generator)
    return torch.stack([torch.bincount(drawn, minlength=count) for drawn in chosen]).double()


def pair_draws(pairs: Tensor, resamples: int, seed: int) -> Tensor:
    """How often each pair of things is drawn, where things are the units.

    Args:
        pairs: indices of the two things of each pair, (P, 2).
        resamples: number R of draws.
        seed: of the draws.

    Returns:
        weights (R, P): the product of how often the two were drawn (the pigeonhole bootstrap of
        Owen 2007), which gives intervals that are right or too wide; of pairs that share nothing,
        how often the pair was drawn.
    """
    things, place = pairs.unique(return_inverse=True)
    if len(things) == 2 * len(pairs):
        return draws(len(pairs), resamples, seed)
    return draws(len(things), resamples, seed)[:, place].prod(-1)


def resampled_mean(values: Tensor, weights: Tensor) -> Estimate:
    """The mean of values (N,), resampled with weights (R, N)."""
    return Estimate.about(float(values.mean()), weights @ values / weights.sum(1))


def standard_error(values: Tensor) -> Tensor:
    """Standard error of the mean of independent values (N, ...), (...)."""
    return values.std(0) / math.sqrt(len(values))


def mean_of(quantity: str, values: Tensor, expected: float | None = None) -> Number:
    """Mean of values (N,) with its standard error."""
    error = float(standard_error(values))
    return Number(quantity, float(values.mean()), expected=expected, error=error)


def correlation(x: Sequence[float], y: Sequence[float], kind: str, weights: Tensor) -> Estimate:
    """A correlation with its bootstrap interval.

    Args:
        x: N values.
        y: N values.
        kind: ``Pearson`` or ``Spearman``.
        weights: how often each is drawn in R resamples, (R, N); those in which x or y is constant
            do not count.

    Returns:
        the correlation.
    """
    weights = torch.cat([torch.ones_like(weights[:1]), weights])
    weights = weights / weights.sum(1, keepdim=True)
    centred = []
    for values in (x, y):
        drawn = torch.tensor(values, dtype=torch.float64).expand_as(weights)
        if kind == "Spearman":
            drawn = _ranks(drawn[0], weights)
        centred.append(drawn - (weights * drawn).sum(1, keepdim=True))
    p, q = centred
    squares = (weights * p.square()).sum(1) * (weights * q.square()).sum(1)
    found = (weights * p * q).sum(1) / squares.sqrt()
    return Estimate.of(float(found[0]), found[1:][found[1:].isfinite()])


def _ranks(x: Tensor, weights: Tensor) -> Tensor:
    """Ranks of values (N,) in resamples with weights (R, N), ties at their mean, (R, N)."""
    values, place = x.unique(return_inverse=True)
    mass = weights.new_zeros(len(weights), len(values)).index_add_(1, place, weights)
    return (mass.cumsum(1) - mass / 2)[:, place]


class SetDistances:
    """FID and KID of frames' features against a reference with pictures of every digit.

    Args:
        reference: features (N, G, F); a resample draws a digit's frames and its part together.
        weights: resamples (R, N).
    """

    def __init__(self, reference: Tensor, weights: Tensor) -> None:
        self.unit = float(reference.double().square().mean().sqrt())
        self.reference = reference.double() / self.unit
        # the set itself is the first resample
        self.weights = torch.cat([torch.ones(1, len(reference)).double(), weights])
        self.within = self._mean_kernel(self.reference, self.reference)

    @cached_property
    def _moments(self) -> tuple[Tensor, list[Tensor]]:
        """Means of the reference, and roots of its covariances, per resample."""
        means, covariances = _moments(self.reference, self.weights)
        return means, [square_root(covariance) for covariance in covariances]

    def fid(self, pooled: Tensor) -> Estimate:
        """FID of features (N, K, F)."""
        moments = _moments(pooled.double() / self.unit, self.weights)
        pairs = zip(*moments, *self._moments, strict=True)
        distances = self.unit**2 * torch.stack([frechet(*pair) for pair in pairs])
        return Estimate.about(float(distances[0]), distances[1:])

    def kid(self, pooled: Tensor) -> Estimate:
        """KID times 1000 of features (N, K, F)."""
        x = pooled.double() / self.unit
        within, across = self._mean_kernel(x, x), self._mean_kernel(x, self.reference)
        distances = 1000 * (within + self.within - 2 * across)
        return Estimate.about(float(distances[0]), distances[1:])

    def _mean_kernel(self, x: Tensor, y: Tensor) -> Tensor:
        """Means of the kernel over pairs of different digits, per resample, (1 + R,)."""
        kernel = cubic_kernel(x.flatten(0, 1), y.flatten(0, 1))
        blocks = kernel.reshape(*x.shape[:2], *y.shape[:2]).mean((1, 3)).fill_diagonal_(0)
        w = self.weights
        return (w @ blocks * w).sum(1) / (w.sum(1).square() - w.square().sum(1))


def _moments(pooled: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Means (R, F) and covariances (R, F, F) of features (N, K, F), weighted."""
    frames, size = pooled.shape[1:]
    total = frames * weights.sum(1, keepdim=True)
    means = weights @ pooled.sum(1) / total
    squares = (pooled.mT @ pooled).flatten(1)
    second = (weights @ squares).unflatten(1, (size, size))
    centre = total.unsqueeze(-1) * means.unsqueeze(-1) * means.unsqueeze(-2)
    return means, (second - centre) / (total.unsqueeze(-1) - 1)
