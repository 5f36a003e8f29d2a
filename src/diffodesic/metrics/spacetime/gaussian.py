r"""Points of spacetime, (z, log SNR), and its closed form for Gaussian data: hyperbolic space.

A point is packed, ``x = (z, lam)`` of shape (..., D + 1).  Its natural parameters are

    eta = (h, -k/2),    h = k z,    k = e^lam = 1/sigma^2.

For data N(m0, c I) the posterior is N(m, s^2 I) with 1/s^2 = 1/c + k and m = s^2 (h + m0/c), and
ds^2 = (|dm|^2 + 2 D ds^2)/s^2: a hyperbolic space, whose distances and geodesics are in closed
form.  It scales and starts the solvers for every other law.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffodesic.geometry.energy import PathEnergy
from diffodesic.metrics.spacetime.points import NoisyEnergy, NoisyPoints, pack
from diffodesic.numerics import checks

__all__ = ["Hyperbolic"]


class Hyperbolic(NoisyPoints):
    """Spacetime of Gaussian data N(mean, variance I) in closed form: a hyperbolic space.

    Args:
        dim: number D of data coordinates.
        variance: variance c of the data, per coordinate.
        mean: mean of the data, a number or (D,).

    Raises:
        TypeError: for a variance that is no number.
        ValueError: for one that is not positive, or a ``dim`` that is no number of coordinates.
    """

    log_snr_range = (-math.inf, math.inf)

    def __init__(self, dim: int, variance: float = 1.0, mean: Tensor | float = 0.0) -> None:
        self.data_dim = checks.whole(dim, "dim", 1)
        self.variance, self.mean = checks.number(variance, "variance"), mean
        if not 0 < self.variance < math.inf:
            raise ValueError(f"variance must be positive and finite, got {variance}")

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior mean (..., D) and standard deviation (...) at packed points."""
        z, lam = self.split(x)
        k = lam.exp()
        s2 = 1 / (1 / self.variance + k)
        return s2[..., None] * (k[..., None] * z + self._centre(x) / self.variance), s2.sqrt()

    def _centre(self, x: Tensor) -> Tensor:
        """Mean of the data as points ``x`` are held: their dtype and device."""
        return torch.as_tensor(self.mean, dtype=x.dtype, device=x.device)

    def chart(self, x: Tensor) -> Tensor:
        """Posterior mean and logarithm of the posterior precision, (..., D + 1)."""
        mean, deviation = self.posterior(x)
        return pack(mean, -2 * deviation.log())

    def unchart(self, y: Tensor) -> Tensor:
        """Packed points of :meth:`chart`; a precision below the data's is raised to theirs."""
        mean, precision = y[..., :-1], y[..., -1:].exp()
        own = 1 / self.variance
        k = (precision - own).clamp(min=1e-9 * own)
        return torch.cat([(mean * (own + k) - self._centre(y) * own) / k, k.log()], -1)

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """``k^2 c w_u.w_v + D/2 k^2 c^2 u_lam v_lam`` with c the posterior variance."""
        z, lam = self.split(x)
        k = lam.exp()
        m, s = self.posterior(x)
        rate = m - z
        wu = u[..., :-1] - rate * u[..., -1:]
        wv = v[..., :-1] - rate * v[..., -1:]
        cross = k**2 * s**2 * (wu * wv).sum(-1)
        return cross + self.data_dim / 2 * (k * s**2) ** 2 * u[..., -1] * v[..., -1]

    def weights(self, x: Tensor) -> Tensor:
        """Diagonal of the metric: ``k^2 c`` on z and ``D/2 k^2 c^2`` on log SNR."""
        k = x[..., -1].exp()
        c = 1 / (1 / self.variance + k)
        return torch.stack([k**2 * c, self.data_dim / 2 * (k * c) ** 2], -1)

    def energy(self) -> PathEnergy:
        """The energy of ``squared_steps``, preconditioned by :meth:`weights`."""
        return _HyperbolicEnergy(self)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """Distance of packed points, (...); of pairs that escape, the infimum."""
        y, s1, s2 = self._half_space(a, b)
        apart, top1, top2 = y.square().sum(-1), *(self._top(s) for s in (s1, s2))
        # arccosh(1 + 2 q^2) without its cancellation between close points
        inside = 2 * torch.asinh(((apart + (s1 - s2) ** 2) / (s1 * s2)).sqrt() / 2)
        c = math.sqrt(self.variance)
        outside = (
            torch.acosh((c / s1).clamp(min=1))
            + torch.acosh((c / s2).clamp(min=1))
            + (apart.sqrt() - top1 - top2) / c
        )
        return math.sqrt(2 * self.data_dim) * torch.where(self.escapes(a, b), outside, inside)

    def escapes(self, a: Tensor, b: Tensor) -> Tensor:
        """Tell where no minimising path exists at finite noise, (...) boolean."""
        y, s1, s2 = self._half_space(a, b)
        return y.norm(dim=-1) > self._top(s1) + self._top(s2)

    def path(self, a: Tensor, b: Tensor, nodes: int, *, lowest: float = -math.inf) -> Tensor:
        """Geodesic at constant speed, (..., nodes + 1, D + 1), with exact ends.

        A pair that escapes has none; its path is the infimum's, up to ``lowest``: an arc up to the
        data's own variance, a straight line along it, and an arc down.

        Args:
            a: start (..., D + 1).
            b: end (..., D + 1).
            nodes: number n of segments.
            lowest: log SNR below which the path is cut flat; give it where a pair escapes.

        Returns:
            packed points.
        """
        (ma, s1), (mb, s2) = self.posterior(a), self.posterior(b)
        gap = (mb - ma).norm(dim=-1) / math.sqrt(2 * self.data_dim)
        width = torch.maximum(gap, 1e-6 * (s1 + s2))  # a vertical line is a very large circle
        centre = (width**2 + s2**2 - s1**2) / (2 * width)
        radius = (s1**2 + centre**2).sqrt()
        first, last = torch.asinh(-centre / s1), torch.asinh((width - centre) / s2)
        s = torch.linspace(0, 1, nodes + 1, dtype=a.dtype, device=a.device)
        tau = first[..., None] + s * (last - first)[..., None]
        along = (centre[..., None] + radius[..., None] * tau.tanh()) / width[..., None]
        precision = (tau.cosh() / radius[..., None]) ** 2 - 1 / self.variance
        far = self.escapes(a, b)[..., None]
        if bool(far.any()):
            over, above = self._over_the_top(s1, s2, width, s)
            along, precision = torch.where(far, over, along), torch.where(far, above, precision)
        m = torch.lerp(ma[..., None, :], mb[..., None, :], along[..., None])
        k = precision.clamp(min=math.exp(lowest) if lowest > -math.inf else 1e-300)
        z = m + (m - self._centre(a)) / (self.variance * k[..., None])
        inside = pack(z, k.log())[..., 1:-1, :]
        return torch.cat([a[..., None, :], inside, b[..., None, :]], -2)

    def _over_the_top(
        self, s1: Tensor, s2: Tensor, width: Tensor, s: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Place in [0, 1] between the means, and k, along the infimum of pairs that escape."""
        c = math.sqrt(self.variance)
        rise, fall = (torch.acosh((c / each).clamp(min=1))[..., None] for each in (s1, s2))
        left, right, wide = self._top(s1)[..., None], self._top(s2)[..., None], width[..., None]
        level = ((wide - left - right) / c).clamp(min=0)
        at = s * (rise + level + fall)
        # distance to the top along the arcs, negative on the first, zero on the level
        up, down = (at - rise).clamp(max=0), (at - rise - level).clamp(min=0)
        reach = left + c * (up.tanh() + down.tanh()) + (at - rise).clamp(min=0).minimum(level) * c
        return reach / wide, ((up.cosh() * down.cosh()) ** 2 - 1) / self.variance

    def _half_space(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (ma, s1), (mb, s2) = self.posterior(a), self.posterior(b)
        return (mb - ma) / math.sqrt(2 * self.data_dim), s1, s2

    def _top(self, s: Tensor) -> Tensor:
        return (self.variance - s**2).clamp(min=0).sqrt()


class _HyperbolicEnergy(NoisyEnergy):
    metric: Hyperbolic

    def weights(self, x: Tensor) -> Tensor:
        return self.metric.weights(x)
