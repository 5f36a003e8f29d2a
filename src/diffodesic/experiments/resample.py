r"""Intervals by resampling digits: of means, and of FID and KID, which are functions of sets.

A resample gives every digit a weight w_d, how often it was drawn; all methods and extractors get
the same draws, so that differences between methods are paired.  Frames of one digit go together.

    FID = |mu - mu'|^2 + tr(C + C' - 2 (C C')^1/2),     means and covariances weighted by w
    KID = E k(x, x') + E k(y, y') - 2 E k(x, y),        k(x, y) = (x.y / size + 1)^3

features in units of their root mean square over the reference: extractors differ by orders of
magnitude in size, and the constant 1 of the kernel means nothing without a unit.  The pairs of KID
are of different digits, weighted by w_d w_d': frames of one digit are not independent of each
other, nor of that digit's part of the reference.

FID is biased upwards for few frames, and more so for a resample, which holds fewer different
ones: intervals are the resamples' quantiles about their own mean, moved to the estimate.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Estimate", "SetDistances", "draws", "of_mean"]


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
