r"""Data uniform on a sphere S^n of radius R in R^D: an exact denoiser with a curved manifold.

The sphere lies in the first n + 1 coordinates, y of z = (y, y').  Given z, x0/R follows von Mises
and Fisher's law (Mardia & Jupp 2000) with direction y/|y| and concentration kappa = R |y|/sigma^2,

    m = R A(kappa) y/|y| in the first n + 1 coordinates, 0 in the others,
    A(kappa) = I_{v+1}(kappa)/I_v(kappa),    v = (n - 1)/2,

on S^2 A = coth kappa - 1/kappa = kappa/3 - kappa^3/45 + ...; else by the recurrence of Bessel
functions, downwards from a bound of the ratio (Amos 1974) 256 orders above.

Inside these coordinates the score is radial, so great circles are geodesics of every metric that
is made of the score and keeps |y|: a method can be judged by its distance from them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffodesic.denoisers.denoiser import Denoiser

__all__ = ["SphereDenoiser", "great_circle_angle"]


class SphereDenoiser(Denoiser):
    """Posterior mean of data uniform on S^n in the first n + 1 of D coordinates.

    Args:
        dim: number D > n of coordinates.
        radius: radius R > 0.
        sphere: dimension n >= 1 of the sphere.

    Raises:
        ValueError: for a sphere that does not fit, or a radius that is not positive.
    """

    def __init__(self, dim: int = 3, radius: float = 1.0, *, sphere: int = 2) -> None:
        if not 1 <= sphere < dim or not radius > 0:
            raise ValueError(
                f"give dim > sphere >= 1 and radius > 0, got {dim}, {sphere} and {radius:g}"
            )
        self.dim, self.radius, self.sphere = dim, float(radius), sphere
        self.variance = radius**2 / dim

    def posterior_mean(self, z: Tensor, sigma: Tensor) -> Tensor:
        """E[x0 | z] for ``z`` (N, D), ``sigma`` (N,); smooth at the centre."""
        y = z[:, : self.sphere + 1]
        scale = self.radius / sigma.unsqueeze(-1) ** 2
        kappa = scale * torch.linalg.vector_norm(y, dim=-1, keepdim=True).clamp(min=1e-300)
        mean = self.radius * scale * _ratio(kappa, self.sphere) * y
        return torch.nn.functional.pad(mean, (0, self.dim - self.sphere - 1))

    def sample(self, count: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw ``count`` points of the sphere, (count, D), in float64."""
        y = torch.randn(count, self.sphere + 1, generator=generator, dtype=torch.float64)
        y = self.radius * y / y.norm(dim=-1, keepdim=True)
        return torch.nn.functional.pad(y, (0, self.dim - self.sphere - 1))


def great_circle_angle(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Angle between points and the plane of the great circle through two others.

    Args:
        x: points (..., D), not zero.
        a: one point of the circle (..., D).
        b: another, neither equal nor opposite.

    Returns:
        angles (...) in [0, pi/2], in radians.
    """
    first = a / a.norm(dim=-1, keepdim=True)
    second = b - (b * first).sum(-1, keepdim=True) * first
    second = second / second.norm(dim=-1, keepdim=True)
    inside = torch.stack([(x * first).sum(-1), (x * second).sum(-1)], -1)
    outside = x - inside[..., :1] * first - inside[..., 1:] * second
    return torch.atan2(outside.norm(dim=-1), inside.norm(dim=-1))


def _ratio(kappa: Tensor, sphere: int) -> Tensor:
    """A(kappa)/kappa of S^n."""
    if sphere == 2:
        return _langevin(kappa)
    order = (sphere - 1) / 2
    top = order + 256
    # of I_{v+1}/I_v over kappa: I_v/I_{v+1} = 2 (v + 1)/kappa + I_{v+2}/I_{v+1}
    ratio = 1 / (top + 0.5 + (kappa.square() + (top + 1.5) ** 2).sqrt())
    for step in range(256):
        ratio = 1 / (2 * (top - step) + kappa.square() * ratio)
    return ratio


def _langevin(kappa: Tensor) -> Tensor:
    """A(kappa)/kappa of S^2, by its series where the closed form cancels."""
    small = kappa < 0.3
    safe = torch.where(small, 1.0, kappa)
    t = torch.where(small, kappa, 0.0).square()
    # Taylor coefficients of A: the next is 1.2e-8 kappa^15, below rounding for kappa < .3
    series = (1 / 3, -1 / 45, 2 / 945, -1 / 4725, 2 / 93555, -1382 / 638512875, 4 / 18243225)
    near = torch.zeros_like(t)
    for coefficient in reversed(series):
        near = near * t + coefficient
    return torch.where(small, near, (1 / safe.tanh() - 1 / safe) / safe)
