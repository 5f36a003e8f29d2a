"""The table of metrics that the laws run over, each on a small exact problem in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffodesic import (
    Conformal,
    Euclidean,
    GaussianMixture,
    Metric,
    Pullback,
    ScoreJacobian,
    ScoreMetric,
    Spacetime,
)
from diffodesic.metrics.density import DensityMetric, ScoreSize
from diffodesic.metrics.spacetime.gaussian import Hyperbolic

LOG_SNR = 0.5  # noise level of the metrics that live at one level


def mixture(rotation: Tensor, spread: float = 1.5) -> GaussianMixture:
    """Three overlapping components in D dimensions, turned by ``rotation`` (D, D)."""
    dim = len(rotation)
    index = torch.arange(3 * dim, dtype=torch.float64).reshape(3, dim)
    means = spread * torch.sin(1.0 + 2.3 * index)
    std = torch.tensor([0.5, 0.7, 0.6], dtype=torch.float64)
    return GaussianMixture(means @ rotation.T, torch.tensor([0.5, 0.2, 0.3]), std=std)


def _conformal(rotation: Tensor) -> Metric:
    axis = torch.arange(1.0, 1.0 + len(rotation), dtype=torch.float64)
    return Conformal(lambda x: 1 + torch.sin((x @ rotation) @ (axis / axis.norm())) ** 2, len(axis))


def _pullback(rotation: Tensor) -> Metric:
    def graph(x: Tensor) -> Tensor:  # an immersion of R^D in R^2D
        y = x @ rotation
        return torch.cat([y, 0.5 * torch.sin(y + y.roll(1, -1))], -1)

    return Pullback(graph, len(rotation))


def _density(rotation: Tensor) -> Metric:
    origin = torch.zeros(len(rotation), dtype=torch.float64)
    return DensityMetric(mixture(rotation), log_snr=LOG_SNR, power=0.2, reference=origin)


def _hutchinson(rotation: Tensor) -> Metric:
    generator = torch.Generator().manual_seed(5)
    probes = torch.randint(0, 2, (4, len(rotation)), generator=generator) * 2.0 - 1.0
    return Spacetime(mixture(rotation), estimator="hutchinson", probes=probes.double() @ rotation.T)


def _closure(rotation: Tensor) -> Metric:
    # sqrt(D) times an orthonormal basis: the mean over probes is the trace, without error.
    # Components that overlap: between modes far apart a posterior covariance exceeds 2 sigma^2,
    # and the steps are then bounded from below instead of equal to the closure.
    probes = math.sqrt(len(rotation)) * rotation.T
    return Spacetime(mixture(rotation, spread=0.5), estimator="closure", probes=probes)


def _secant(rotation: Tensor) -> Metric:
    probes = math.sqrt(len(rotation)) * rotation.T
    return Spacetime(mixture(rotation, spread=0.5), estimator="secant", probes=probes)


@dataclass(frozen=True)
class Family:
    """A way to build a metric from a rotation of R^D.

    Attributes:
        build: metric of the problem turned by a rotation (D, D).
        has_noise: True where points are (z, log SNR).
        positive: False for an estimator that may be negative by its nature.
        exact: True where the metric is what its formula says, without probes or a closure.
    """

    build: Callable[[Tensor], Metric]
    has_noise: bool = False
    positive: bool = True
    exact: bool = True


FAMILIES = {
    "euclidean": Family(lambda r: Euclidean(len(r))),
    "conformal": Family(_conformal),
    "score": Family(lambda r: ScoreMetric(mixture(r), log_snr=LOG_SNR, weight=2.0)),
    "score-jacobian": Family(lambda r: ScoreJacobian(mixture(r), log_snr=LOG_SNR, eps=0.5)),
    "density": Family(_density),
    "score-size": Family(lambda r: ScoreSize(mixture(r), log_snr=LOG_SNR, weight=0.5)),
    "pullback": Family(_pullback),
    "hyperbolic": Family(lambda r: Hyperbolic(len(r), variance=1.5), has_noise=True),
    "spacetime": Family(lambda r: Spacetime(mixture(r)), has_noise=True),
    # four probes estimate a trace: its sign is theirs
    "hutchinson": Family(_hutchinson, has_noise=True, positive=False, exact=False),
    "closure": Family(_closure, has_noise=True, exact=False),
    # the change of a covariance's trace is closed: where it matters, a step may be negative
    "secant": Family(_secant, has_noise=True, positive=False, exact=False),
}


@dataclass(frozen=True)
class Case:
    """One metric of the table in one dimension of the data."""

    name: str
    family: Family
    dim: int

    @property
    def metric(self) -> Metric:
        return self.family.build(torch.eye(self.dim, dtype=torch.float64))

    def points(self, *shape: int, rng: torch.Generator) -> Tensor:
        """Random points (*shape, d): data of unit size, log SNR about 0.5."""
        x = torch.randn(*shape, self.metric.dim, generator=rng, dtype=torch.float64)
        if self.family.has_noise:
            x[..., -1] = LOG_SNR + 0.5 * x[..., -1]
        return x

    def turned(self, x: Tensor, rotation: Tensor) -> Tensor:
        """Points or vectors in the coordinates of the turned problem."""
        if not self.family.has_noise:
            return x @ rotation.T
        return torch.cat([x[..., :-1] @ rotation.T, x[..., -1:]], -1)


CASES = [
    Case(f"{name}-{dim}", family, dim) for name, family in FAMILIES.items() for dim in (1, 2, 5)
]


def random_rotation(dim: int, rng: torch.Generator) -> Tensor:
    """A random orthogonal matrix (D, D)."""
    return torch.linalg.qr(torch.randn(dim, dim, generator=rng, dtype=torch.float64)).Q
