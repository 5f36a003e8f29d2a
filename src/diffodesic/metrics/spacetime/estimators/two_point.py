r"""The two-point estimator of spacetime: the exact energy of lines in the natural parameters.

With eta = (k z, -k/2), mu = (m, E|x0|^2), k = e^lam and G = d mu / d eta  (2505.17517),

    (eta_2 - eta_1).(mu_2 - mu_1) = KL + reverse KL,  exactly,

and the gradient of the sum of steps at node i needs no derivative of a divergence,

    (2 mu_i - mu_{i-1} - mu_{i+1}) + G_i (2 eta_i - eta_{i-1} - eta_{i+1});

G_i v is one product with the posterior covariance of the statistic.

Gradients are taken in reverse mode, or ``forward``: from evaluations alone, by central differences
in the directions that the formulas name, with no memory for a backward pass.  Forward gradients use
that the Jacobian J = dm/dz and its derivatives are symmetric, which a network is only nearly.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffodesic.denoisers.denoiser import Denoiser, HasLogPartition
from diffodesic.metrics.spacetime.estimators.base import (
    Gradient,
    SpacetimeEnergy,
    relative_step,
    reverse,
)
from diffodesic.metrics.spacetime.lines import natural_curve, natural_segments
from diffodesic.metrics.spacetime.points import (
    natural,
    natural_velocity,
    pack,
)
from diffodesic.numerics import derivatives
from diffodesic.numerics.cost import record
from diffodesic.numerics.curves import Polyline
from diffodesic.numerics.hessians import BlockTridiagonal, PathHessian, bend

__all__ = ["TwoPoint"]


class TwoPoint(SpacetimeEnergy):
    """The exact form, with E|x0|^2 as the denoiser gives it, or by fixed random probes.

    Args:
        denoiser: posterior mean.
        probes: (P, D) directions of unit second moment for the divergence; None: the denoiser's
            own ``moments``, exact.
        gradient: see :class:`SpacetimeEnergy`; a closed form uses none of them.
        log_snr_range: see :class:`SpacetimeEnergy`.
    """

    exact_segments = True

    def __init__(
        self,
        denoiser: Denoiser,
        probes: Tensor | None = None,
        *,
        gradient: Gradient = "reverse",
        log_snr_range: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(denoiser, gradient=gradient, log_snr_range=log_snr_range)
        self.probes, self.name = probes, "exact" if probes is None else "hutchinson"

    @property
    def _closed(self) -> bool:
        return self.probes is None and self.denoiser.closed_form

    def hessian(self, x: Tensor, squared_steps: Tensor) -> PathHessian:
        """For exact denoisers, the full metric tensor of every segment.

        Args:
            x: paths (B, n+1, D + 1).
            squared_steps: their squared segment lengths (B, n).

        Returns:
            the Hessian.

        Cost per node: D + 1 evaluations, and O(D^3) to solve with: for D up to about 100.
        """
        if not self._closed:
            return super().hessian(x, squared_steps)
        with torch.no_grad():
            tensor = self.matrix(x)
        return BlockTridiagonal.of((tensor[:, 1:] + tensor[:, :-1]) / 2)

    def curve(self, nodes: Tensor) -> Polyline:
        """The C2 spline through nodes in the posterior of Gaussian data with this variance.

        Its coordinates are the mean, and the logarithm of the precision, 1/v + k: they stay of
        order one where the noise grows without limit, and are (z, log SNR) where there is little.

        Args:
            nodes: packed points (..., n+1, D + 1).

        Returns:
            the curve.
        """
        return natural_curve(self.gaussian, nodes)

    def segments(self, nodes: Tensor) -> Polyline:
        """The straight lines in eta whose energies :meth:`steps` are."""
        return natural_segments(nodes)

    def lower_bound(self, a: Tensor, b: Tensor) -> Tensor:
        """``2 arccos BC``, BC the Bhattacharyya coefficient of the two posteriors.

        Posteriors are unit vectors sqrt(p), and spacetime is part of that sphere. Never above pi:
        it says something of close pairs only.

        Args:
            a: packed points (..., D + 1).
            b: packed points (..., D + 1).

        Returns:
            (...), zero where the log-partition has no closed form, or is a network's: this one is
            not that of any law, and need not even be convex.

        Cost: three values of the log-partition per pair.
        """
        unknown = self.probes is not None or self.denoiser.learned
        if unknown or not isinstance(self.denoiser, HasLogPartition):
            return super().lower_bound(a, b)
        first, last = natural(a), natural(b)
        ends, middle = torch.stack([first, last]), (first + last) / 2
        psi = self.denoiser.log_partition
        outer = psi(ends[..., :-1], -2 * ends[..., -1])
        inner = psi(middle[..., :-1], -2 * middle[..., -1])
        # -log BC, less what the difference of large numbers loses
        lost = 64 * torch.finfo(a.dtype).eps * (outer.abs().sum(0) + inner.abs())
        gap = (outer.mean(0) - inner - lost).clamp(min=0)
        return 2 * torch.atan2((-torch.expm1(-2 * gap)).sqrt(), (-gap).exp())

    def mu(self, x: Tensor) -> Tensor:
        """Mean parameters ``(m, E|x0|^2)``, (..., D+1)."""
        z, sigma = x[..., :-1], (-x[..., -1] / 2).exp()
        if self.probes is None:
            return pack(*self.denoiser.moments(z, sigma))
        m = self.denoiser(z, sigma)
        probes = self.probes.to(z)
        _, pushed = self.jvp(z.unsqueeze(-2), sigma.unsqueeze(-1), probes)
        divergence = (probes * pushed).sum(-1).mean(-1)
        return pack(m, m.square().sum(-1) + sigma**2 * divergence)

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """``d_eta(u) . d_mu(v)``, symmetric."""
        x, u, v = torch.broadcast_tensors(x, u, v)
        eta_u, eta_v = natural_velocity(x, u), natural_velocity(x, v)
        if self.probes is None:
            return (eta_u * self._covariance(x, eta_v)).sum(-1)
        if v is u:
            return (eta_v * self._d_mu(x, v)).sum(-1)
        # an estimated mu need not have a symmetric derivative; its symmetric part is the metric
        return ((eta_u * self._d_mu(x, v)) + (eta_v * self._d_mu(x, u))).sum(-1) / 2

    def matrix(self, x: Tensor) -> Tensor:
        """The metric tensor (..., D+1, D+1) of an exact denoiser, D + 1 evaluations per point."""
        basis = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
        point = x.unsqueeze(-2).expand(*x.shape, x.shape[-1])
        columns = self._covariance(point, basis.expand_as(point))
        turn = natural_velocity(point, basis)
        return turn @ columns @ turn.mT

    def steps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``d_eta . d_mu``, and where it is negative; one ``mu`` per node."""
        steps = (natural(x).diff(dim=-2) * self.mu(x).diff(dim=-2)).sum(-1)
        return steps, steps < 0

    def steps_and_slope(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """By the formula above; one ``mu`` with a product with the covariance per node."""
        if self.gradient != "forward" and not self._closed:
            return reverse(self.steps, x)
        with torch.no_grad():
            d_eta = natural(x).diff(dim=-2)
            mu, pulled = self._mu_and_covariance(x, bend(d_eta))
            d_mu = mu.diff(dim=-2)
            steps, pulled = (d_eta * d_mu).sum(-1), pulled + bend(d_mu)
            # chain rule through eta: dh = k (dz + z dlam), d(-k/2) = -k/2 dlam
            z, k = x[..., :-1], x[..., -1:].exp()
            first, second = pulled[..., :-1], pulled[..., -1:]
            slope = k * (z * first).sum(-1, keepdim=True) - k / 2 * second
            return steps, torch.cat([k * first, slope], -1), steps < 0

    def _mu_and_covariance(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        if self.probes is not None:
            return self.mu(x), self._covariance(x, v)
        z, sigma = x[..., :-1], (-x[..., -1] / 2).exp()
        found = self.denoiser.moments_and_covariance(z, sigma, v[..., :-1], v[..., -1])
        return pack(*found[:2]), pack(*found[2:])

    def _covariance(self, x: Tensor, v: Tensor) -> Tensor:
        """Posterior covariance of the statistic applied to ``v``, both (..., D+1)."""
        z, sigma = x[..., :-1], (-x[..., -1] / 2).exp()
        if self.probes is None:
            return pack(*self.denoiser.statistic_covariance(z, sigma, v[..., :-1], v[..., -1]))
        # d mu_2 / d eta_1 = d mu_1 / d eta_2: the cross block without a derivative of a divergence
        up = torch.cat([torch.zeros_like(z), torch.ones_like(x[..., -1:])], -1)
        rise, across = self._difference(x, up), self._difference(x, v, mean_only=True)
        second = (rise[..., :-1] * v[..., :-1]).sum(-1) + rise[..., -1] * v[..., -1]
        return pack(across[..., :-1], second)

    def _difference(self, x: Tensor, v: Tensor, *, mean_only: bool = False) -> Tensor:
        """Derivative of ``mu`` along ``v`` in the natural parameters by a central difference."""
        z, k = x[..., :-1], x[..., -1:].exp()
        velocity = torch.cat([v[..., :-1] + 2 * z * v[..., -1:], -2 * v[..., -1:]], -1) / k
        squares = velocity.square()
        size = (squares[..., :-1].sum(-1, keepdim=True) * k + squares[..., -1:]).sqrt()
        h = relative_step(self.denoiser, x).unsqueeze(-1) / torch.where(size > 0, size, 1.0)
        points = torch.stack([x + h * velocity, x - h * velocity])
        if mean_only:
            m = self.denoiser(points[..., :-1], (-points[..., -1] / 2).exp())
            return torch.nn.functional.pad((m[0] - m[1]) / (2 * h), (0, 1))
        ahead, behind = self.mu(points)
        return (ahead - behind) / (2 * h)

    def _d_mu(self, x: Tensor, u: Tensor) -> Tensor:
        point, direction = (t.contiguous() for t in torch.broadcast_tensors(x, u))
        record(derivatives=point[..., 0].numel())
        return derivatives.jvp(self.mu, (point,), (direction,))[1]
