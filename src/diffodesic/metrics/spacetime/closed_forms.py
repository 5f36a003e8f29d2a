r"""Spacetime in closed form beyond isotropic data: an anisotropic Gaussian, and two points.

**Gaussian data N(m0, diag 1/p_i)** have posteriors N(m, diag 1/(k + p_i)), and

    ds^2 = sum_i (k + p_i) dm_i^2 + 1/2 sum_i dk^2/(k + p_i)^2,

whose geodesics are quadratures (:mod:`diffodesic.metrics.spacetime.gaussian_arcs`).  For equal p_i
it is hyperbolic space (:class:`Hyperbolic`), and as there a pair far apart has no shortest path at
finite noise.

**Two-point data** ``w delta_0 + (1 - w) delta_1`` have posteriors with a single parameter,

    p = sigmoid(t),    t = logit w + eta.(T_0 - T_1),    T_i = (x_i, |x_i|^2),

so the metric ``p (1 - p) dt^2`` has rank one, and the distance is that of two coins,
``2 |arcsin sqrt p - arcsin sqrt p'|``: never above pi.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffodesic.metrics.spacetime.gaussian_arcs import Arcs, Ends, solve
from diffodesic.metrics.spacetime.points import NoisyPoints, natural, natural_velocity, pack

__all__ = ["AnisotropicGaussian", "TwoPointData"]


class AnisotropicGaussian(NoisyPoints):
    """Spacetime of Gaussian data N(mean, diag variances) by quadrature, to 1e-10 in float64.

    Args:
        variances: variances 1/p_i of the data, (D,), positive.
        mean: mean of the data, a number or (D,).

    Raises:
        ValueError: for variances that are not a positive vector.
    """

    log_snr_range = (-math.inf, math.inf)

    def __init__(self, variances: Tensor, mean: Tensor | float = 0.0) -> None:
        variances = torch.as_tensor(variances)
        if variances.ndim != 1 or not bool((variances > 0).all() and variances.isfinite().all()):
            raise ValueError("variances must be a vector (D,) of positive numbers")
        self.data_dim, self.mean, self.precisions = len(variances), mean, 1 / variances

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior means (..., D) and precisions ``k + p`` (..., D) at packed points."""
        z, lam = self.split(x)
        k = lam.exp().unsqueeze(-1)
        precision = k + self.precisions
        return (k * z + self.precisions * self.mean) / precision, precision

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """``sum (k + p) dm_u dm_v + 1/2 sum dk_u dk_v/(k + p)^2``; no network call."""
        m, q = self.posterior(x)
        k = x[..., -1:].exp()
        du, dv = (k / q * (t[..., :-1] + (x[..., :-1] - m) * t[..., -1:]) for t in (u, v))
        return (q * du * dv).sum(-1) + (k / q).square().sum(-1) / 2 * u[..., -1] * v[..., -1]

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """Distance of packed points, (...); of pairs that escape, the infimum."""
        batch = torch.broadcast_shapes(a.shape, b.shape)[:-1]
        return self._arcs(a, b)[0].total.reshape(batch)

    def escapes(self, a: Tensor, b: Tensor) -> Tensor:
        """Tell where no minimising path exists at finite noise, (...) boolean."""
        batch = torch.broadcast_shapes(a.shape, b.shape)[:-1]
        return (self._arcs(a, b)[0].flat > 0).reshape(batch)

    def path(self, a: Tensor, b: Tensor, nodes: int) -> Tensor:
        """Geodesic at constant speed with exact ends.

        Args:
            a: start (..., D + 1).
            b: end (..., D + 1).
            nodes: number n of segments.

        Returns:
            packed points (..., nodes + 1, D + 1).

        Raises:
            ValueError: if a pair escapes: it has no shortest path.
        """
        a, b = torch.broadcast_tensors(a, b)
        arcs, swapped = self._arcs(a, b)
        if bool((arcs.flat > 0).any()):
            raise ValueError(
                f"{int((arcs.flat > 0).sum())} pairs have no shortest path at finite noise; "
                "their `distance` is an infimum, and `escapes` tells which they are"
            )
        ends = [x.reshape(-1, 1, self.dim) for x in (a, b)]
        s = torch.linspace(0, 1, nodes + 1, dtype=a.dtype, device=a.device)[1:-1]
        tau = arcs.at(torch.where(swapped[:, None], 1 - s, s))
        noisier = torch.where(swapped[:, None, None], ends[1], ends[0])
        k = arcs.level(tau).unsqueeze(-1)
        m = self.posterior(noisier)[0] + arcs.covered(tau)[1]
        z = m + self.precisions * (m - self.mean) / k
        inside = pack(z, k[..., 0].log())
        return torch.cat([ends[0], inside, ends[1]], 1).reshape(*a.shape[:-1], nodes + 1, self.dim)

    def _arcs(self, a: Tensor, b: Tensor) -> tuple[Arcs, Tensor]:
        """Arcs (N of them) from the noisier end of every pair, and whether that is ``b``, (N,)."""
        a, b = (x.reshape(-1, self.dim) for x in torch.broadcast_tensors(a, b))
        swapped = a[:, -1] > b[:, -1]
        first, last = (torch.where(swapped[:, None], *pair) for pair in ((b, a), (a, b)))
        gap = self.posterior(last)[0] - self.posterior(first)[0]
        ends = Ends(self.precisions.to(a), first[:, -1].exp(), last[:, -1].exp(), gap)
        return solve(ends), swapped


class TwoPointData(NoisyPoints):
    """Spacetime of data that take two values: one way to go, and pi at most to go there.

    Args:
        points: the two values, (2, D).
        weight: probability of the first, between 0 and 1.

    Raises:
        ValueError: for other shapes, equal points, or a weight outside (0, 1).
    """

    log_snr_range = (-math.inf, math.inf)

    def __init__(self, points: Tensor, weight: float = 0.5) -> None:
        points = torch.as_tensor(points)
        if points.ndim != 2 or len(points) != 2 or bool((points[0] == points[1]).all()):
            raise ValueError(f"points must be two different rows (2, D), got {tuple(points.shape)}")
        if not 0 < weight < 1:
            raise ValueError(f"weight must lie between 0 and 1, got {weight}")
        self.data_dim, self.offset = points.shape[-1], math.log(weight) - math.log1p(-weight)
        statistic = pack(points, points.square().sum(-1))
        self.direction = statistic[0] - statistic[1]

    def logit(self, x: Tensor) -> Tensor:
        """Log odds ``t`` of the first value at packed points (..., D + 1), (...)."""
        return self.offset + natural(x) @ self.direction

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """``p (1 - p) dt_u dt_v``; zero along every direction but one."""
        t = self.logit(x)
        du, dv = (natural_velocity(x, w) @ self.direction for w in (u, v))
        return torch.sigmoid(t) * torch.sigmoid(-t) * du * dv

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """Distance between packed points (..., D + 1), (...)."""
        # arcsin sqrt sigmoid(t) = arctan e^(t/2), which does not overflow
        first, second = (torch.atan((self.logit(x) / 2).exp()) for x in (a, b))
        return 2 * (first - second).abs()
