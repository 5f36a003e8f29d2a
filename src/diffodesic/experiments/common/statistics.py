"""Statistics that experiments share: intervals by resampling, correlations, paired differences."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffodesic.experiments.experiment import Row

__all__ = [
    "Estimate",
    "SetDistances",
    "correlation",
    "difference_row",
    "draws",
    "mean_row",
    "of_mean",
]


@dataclass(frozen=True)
class Estimate:
    """A number, its 95 % interval and its resamples (R,), about the number itself."""

    value: float
    low: float
    high: float
    resamples: Tensor

    @classmethod
    def of(cls, value: float, resamples: Tensor) -> Estimate:
        """Quantiles about the resamples' own mean, moved to the value."""
        moved = resamples - resamples.mean() + value
        low, high = torch.quantile(moved, torch.tensor([0.025, 0.975]).to(moved)).tolist()
        return cls(value, low, high, moved)

    def minus(self, other: Estimate) -> Estimate:
        """The difference on the same draws."""
        return Estimate.of(self.value - other.value, self.resamples - other.resamples)


def draws(count: int, resamples: int, seed: int) -> Tensor:
    """How often each of ``count`` digits is drawn, (R, N)."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(count, (resamples, count), generator=generator)
    return torch.stack([torch.bincount(row, minlength=count) for row in chosen]).double()


def of_mean(values: Tensor, weights: Tensor) -> Estimate:
    """The mean of values (N,), resampled with weights (R, N)."""
    return Estimate.of(float(values.mean()), weights @ values / weights.sum(1))


class SetDistances:
    """FID and KID of frames' features against a reference that has its part for every digit.

    Args:
        reference: features (N, G, size); a resample draws a digit's frames and its part together.
        weights: resamples (R, N).
    """

    def __init__(self, reference: Tensor, weights: Tensor) -> None:
        self.unit = float(reference.double().square().mean().sqrt())
        self.reference = reference.double() / self.unit
        self.size = reference.shape[-1]
        # the set itself is the first resample
        self.weights = torch.cat([torch.ones(1, len(reference)).double(), weights])
        self.means, self.covariances = _laws(self.reference, self.weights)
        self.roots = [_root(c) for c in self.covariances]
        self.own = self._means(self.reference, self.reference)

    def fid(self, pooled: Tensor) -> Estimate:
        """FID of features (N, F, size)."""
        means, covariances = _laws(pooled.double() / self.unit, self.weights)
        # with C' = R R^T, C C' is similar to R^T C R
        shared = torch.stack(
            [
                torch.linalg.eigvalsh(root.T @ c @ root).clamp(min=0).sqrt().sum()
                for root, c in zip(self.roots, covariances, strict=True)
            ]
        )
        traces = torch.stack([_traces(c) for c in (covariances, self.covariances)]).sum(0)
        found = self.unit**2 * ((means - self.means).square().sum(-1) + traces - 2 * shared)
        return Estimate.of(float(found[0]), found[1:])

    def kid(self, pooled: Tensor) -> Estimate:
        """KID times 1000 of features (N, F, size)."""
        x = pooled.double() / self.unit
        within, across = self._means(x, x), self._means(x, self.reference)
        found = 1000 * (within + self.own - 2 * across)
        return Estimate.of(float(found[0]), found[1:])

    def _means(self, x: Tensor, y: Tensor) -> Tensor:
        """Means of the kernel over pairs of different digits, per resample, (1 + R,)."""
        kernel = (x.flatten(0, 1) @ y.flatten(0, 1).T / self.size + 1) ** 3
        blocks = kernel.reshape(*x.shape[:2], *y.shape[:2]).mean((1, 3)).fill_diagonal_(0)
        w = self.weights
        return (w @ blocks * w).sum(1) / (w.sum(1).square() - w.square().sum(1))


def _laws(pooled: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Means (R, size) and covariances (R, size, size) of features (N, F, size), weighted."""
    frames, size = pooled.shape[1:]
    total = frames * weights.sum(1, keepdim=True)
    means = weights @ pooled.sum(1) / total
    squares = (pooled.mT @ pooled).flatten(1)
    second = (weights @ squares).unflatten(1, (size, size))
    centre = total.unsqueeze(-1) * means.unsqueeze(-1) * means.unsqueeze(-2)
    return means, (second - centre) / (total.unsqueeze(-1) - 1)


def _root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp(min=0).sqrt()


def _traces(matrices: Tensor) -> Tensor:
    return matrices.diagonal(dim1=-2, dim2=-1).sum(-1)


def correlation(
    x: list[float], y: list[float], kind: str, resamples: int, seed: int
) -> tuple[float, float, float, float]:
    """A correlation, its bootstrap standard error, and a 95 % bootstrap interval.

    Args:
        x: N values.
        y: N values.
        kind: ``Pearson`` or ``Spearman``.
        resamples: of the pairs, with replacement.
        seed: of the resamples.

    Returns:
        value, standard error, lower and upper end of the interval.
    """
    values = torch.tensor([x, y], dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(0, len(x), (resamples, len(x)), generator=generator)
    drawn = torch.cat([values[:, None], values[:, index]], 1)  # (2, 1 + resamples, N)
    if kind == "Spearman":
        drawn = _ranks(drawn)
    centred = drawn - drawn.mean(-1, keepdim=True)
    found = (centred[0] * centred[1]).sum(-1) / centred.square().sum(-1).prod(0).sqrt()
    spread = found[1:][found[1:].isfinite()]
    low, high = torch.quantile(spread, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return float(found[0]), float(spread.std()), low, high


def _ranks(x: Tensor) -> Tensor:
    """Ranks along the last axis, ties at their mean."""
    ordered = x.sort(-1).values.contiguous()
    first = torch.searchsorted(ordered, x.contiguous())
    last = torch.searchsorted(ordered, x.contiguous(), right=True)
    return (first + last).to(x.dtype) / 2


def mean_row(title: str, errors: Tensor, expected: float | None = None) -> Row:
    """Mean of errors (P,) with its standard error."""
    spread = float(errors.std()) / math.sqrt(len(errors))
    return Row(title, float(errors.mean()), expected=expected, error=spread)


def difference_row(title: str, errors: Tensor, against: Tensor) -> Row:
    """Mean of ``errors - against`` (P,), pair by pair, with its standard error."""
    return mean_row(title, errors - against)
