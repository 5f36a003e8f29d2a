"""Laws, denoisers and metrics that several tests share."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffodesic import Denoiser, GaussianMixture, Metric, Pullback, ScoreMetric
from support.checks import Draw


class Opaque(Denoiser):
    """A mixture seen through evaluations only: no closed form, no derivatives, float32 inside."""

    def __init__(self, law: GaussianMixture, dtype: torch.dtype = torch.float64) -> None:
        self.law, self.dim, self.dtype = law, law.dim, dtype
        self.mean, self.variance = law.mean, law.variance

    def posterior_mean(self, z: Tensor, sigma: Tensor) -> Tensor:
        with torch.inference_mode():
            rounded = self.law.posterior_mean(z, sigma).to(self.dtype).to(z)
        return rounded.clone()

    def rounding_unit(self, dtype: torch.dtype) -> float:
        return torch.finfo(self.dtype).eps


def three_modes(draw: Draw, dim: int, std: float) -> GaussianMixture:
    """Overlapping modes for a wide ``std``; else modes far apart."""
    return GaussianMixture(
        draw(3, dim) * (1 if std > 0.5 else 3), torch.tensor([0.5, 0.2, 0.3]), std=std
    )


def two_paths(draw: Draw, law: GaussianMixture) -> Tensor:
    """Two paths of seven nodes about the middle between two modes."""
    x = 0.4 * draw(2, 7, law.dim + 1)
    x[..., :-1] += (law.means[0] + law.means[1]) / 2
    return x


def relative(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


def bow(dim: int = 2) -> GaussianMixture:
    """Data along three quarters of a circle."""
    angle = torch.linspace(0.25 * math.pi, 1.75 * math.pi, 30, dtype=torch.float64)
    means = torch.zeros(30, dim, dtype=torch.float64)
    means[:, 0], means[:, 1] = angle.cos(), angle.sin()
    return GaussianMixture(means, std=0.3)


class ScoreGraph(Metric):
    """The graph of sqrt(weight) log p, whose changes are exact: what the steps tend to."""

    def __init__(self, metric: ScoreMetric) -> None:
        self.law, self.sigma, self.dim = metric.denoiser, metric.sigma, metric.dim
        self.graph = Pullback(self.lift, self.dim)
        self.weight = metric.weight

    def lift(self, x: Tensor) -> Tensor:
        height = self.law.log_density(x, x.new_tensor(self.sigma))  # type: ignore[attr-defined]
        return torch.cat([x, math.sqrt(self.weight) * height.unsqueeze(-1)], -1)

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return self.graph.inner(x, u, v)

    def squared_steps(self, x: Tensor) -> Tensor:
        return self.graph.squared_steps(x)


def bow_ends(law: GaussianMixture) -> Tensor:
    return torch.stack([law.means[1], law.means[-3]])


class Linear(Denoiser):
    """``m = A z``, no posterior mean where A is not symmetric."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix, self.dim = matrix, len(matrix)

    def posterior_mean(self, z: Tensor, sigma: Tensor) -> Tensor:
        return z @ self.matrix.T


class Product(Denoiser):
    """Independent laws side by side, turned into ``dim`` coordinates by an orthonormal basis."""

    def __init__(self, *laws: Denoiser, dim: int, draw: Draw) -> None:
        self.laws, self.sizes, self.dim = laws, [law.dim for law in laws], dim
        self.basis = torch.linalg.qr(draw(dim, sum(self.sizes))).Q.T
        spread = sum(law.dim * law.variance for law in laws)
        self.variance = spread / dim

    def posterior_mean(self, z: Tensor, sigma: Tensor) -> Tensor:
        parts = (z @ self.basis.T).split(self.sizes, -1)
        means = [
            law.posterior_mean(part, sigma) for law, part in zip(self.laws, parts, strict=True)
        ]
        return torch.cat(means, -1) @ self.basis
