r"""The secant estimator of spacetime: mean posteriors compared, their spread closed.

With d = m_2 - m_1 the exact step
(:class:`diffodesic.metrics.spacetime.estimators.two_point.TwoPoint`) is

    (eta_2 - eta_1).(mu_2 - mu_1) = q.d - (k_2 - k_1) (T_2 - T_1) / 2,
    q = k_2 z_2 - k_1 z_1 - (k_2 - k_1) (m_1 + m_2) / 2,

T the trace of the posterior covariance.  The first term holds what a network knows best: its means,
compared over steps of any size; a path that passes from mode to mode between two nodes is charged
for it.  Traces of a network are not to be believed.  The change of T is closed at second order, dT
= -|J|_F^2 dlam / k with J = dm/dz, which leaves (F_1 + F_2) (lam_2 - lam_1)^2 / 4, with F = |J|_F^2
by random probes.  Unlike the closure of the whole posterior
(:class:`diffodesic.metrics.spacetime.estimators.closure.Closure`) it follows the mean's true way,
third cumulants included, and it needs half the derivatives.

Where the data do not reach, J is next to nothing and a path costs next to nothing: a search wanders
off into inputs that no network has seen.  A floor holds it: the exact steps of Gaussian data with a
small share of the variance are added (as of one more, independent, observation of such data).
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.metrics.spacetime.estimators.base import (
    Gradient,
    SpacetimeEnergy,
    frobenius,
    relative_step,
)
from diffodesic.metrics.spacetime.gaussian import Hyperbolic
from diffodesic.numerics import derivatives

FLOOR = 3e-3  # of the data's variance; chosen on the shipped 1 -> 7 and 0 -> 6

__all__ = ["FLOOR", "Secant"]


class Secant(SpacetimeEnergy):
    """Means compared by differences, covariances closed at second order.

    Args:
        denoiser: posterior mean.
        probes: (P, D) directions of unit second moment for |J|_F^2.
        gradient: see :class:`SpacetimeEnergy`.
        floor: share of the data's variance whose Gaussian steps are added; 0 for none.
        log_snr_range: see :class:`SpacetimeEnergy`.

    Raises:
        ValueError: for a negative floor.
    """

    name = "secant"
    probes: Tensor
    coarsest = 16
    largest_step = 2.0  # the trapezoidal rule for |J|_F^2, which changes by a factor e or two

    def __init__(
        self,
        denoiser: Denoiser,
        probes: Tensor,
        *,
        gradient: Gradient = "reverse",
        floor: float = FLOOR,
        log_snr_range: tuple[float, float] | None = None,
    ) -> None:
        if not floor >= 0:
            raise ValueError(f"floor is {floor:g}; it must be 0 or more")
        super().__init__(denoiser, gradient=gradient, log_snr_range=log_snr_range)
        self.probes, self.floor = probes, floor
        variance = floor * denoiser.variance
        self.ground = Hyperbolic(denoiser.dim, variance, denoiser.mean) if floor else None

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """``q_u.dm(v)`` made symmetric, ``+ |J|_F^2 u_lam v_lam / 2``, and the floor's."""
        x, u, v = torch.broadcast_tensors(x, u, v)
        m, square = self._values(x)
        change_u = self._along(x, u)
        change_v = change_u if v is u else self._along(x, v)
        k, gap = x[..., -1:].exp(), x[..., :-1] - m
        pull_u, pull_v = (k * (w[..., :-1] + gap * w[..., -1:]) for w in (u, v))
        found = ((pull_u * change_v).sum(-1) + (pull_v * change_u).sum(-1)) / 2
        found = found + square / 2 * u[..., -1] * v[..., -1]
        return found if self.ground is None else found + self.ground.inner(x, u, v)

    def steps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Steps, and where they are negative but for the floor; an evaluation and P JVPs a node."""
        steps, wrong = self._steps(x, *self._values(x))
        return steps + self._floor_steps(x), wrong

    def steps_and_slope(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Steps, gradient of their sum, and wrong steps; pieces of nodes keep memory bounded."""
        paths = x.detach().reshape(-1, *x.shape[-2:])
        limit = self._limit()
        fits = limit and max(1, limit // paths.shape[1])
        # whole paths have no neighbour in another piece, and need no second evaluation
        groups = paths.split(derivatives.piece(len(paths), fits))
        found = [torch.cat(part) for part in zip(*map(self._together, groups), strict=True)]
        steps, grad, wrong = (part.reshape(*x.shape[:-2], *part.shape[1:]) for part in found)
        return steps, grad, wrong

    def _together(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """:meth:`steps_and_slope` of paths (B, n+1, D+1) that share their evaluations."""
        parts = self._pieces(x.reshape(-1, x.shape[-1]))
        backward = self.gradient != "forward"
        if backward and len(parts) == 1:
            with torch.enable_grad():
                leaf = parts[0].clone().requires_grad_()
                values = self._values(leaf)
            steps, wrong, at_x, pulls = self._pulls(x, *values)
            (grad,) = torch.autograd.grad(values, leaf, pulls)
        else:  # once for the values, and again for what is pulled at them
            known = [self._known(part) for part in parts]
            m, square = (torch.cat(part) for part in zip(*known, strict=True))
            steps, wrong, at_x, pulls = self._pulls(x, m, square)
            sizes = [len(part) for part in parts]
            back = self._reversed if backward else self._forward
            pieces = zip(parts, *(pull.split(sizes) for pull in pulls), strict=True)
            grad = torch.cat([back(*piece) for piece in pieces])
        return steps, at_x + grad.reshape(x.shape), wrong

    def _pulls(
        self, x: Tensor, m: Tensor, square: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Steps, wrong ones, and the gradient of their sum by nodes, and by means and |J|^2."""
        m, square = m.reshape(*x.shape[:-1], -1), square.reshape(x.shape[:-1])
        with torch.enable_grad():
            own = [t.detach().clone().requires_grad_() for t in (x, m, square)]
            steps, wrong = self._steps(*own)
            steps = steps + self._floor_steps(own[0])
            at_x, at_m, at_square = torch.autograd.grad(steps.sum(), own)
        return steps.detach(), wrong, at_x, (at_m.flatten(0, -2), at_square.flatten())

    def _known(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """:meth:`_values` without a graph, to the bit what they are with one."""
        # some of torch's layers round otherwise where no graph is kept
        graph = self.gradient != "forward"
        with torch.set_grad_enabled(graph):
            m, square = self._values(x.clone().requires_grad_(graph))
        return m.detach(), square.detach()

    def _pieces(self, x: Tensor) -> tuple[Tensor, ...]:
        """Nodes (N, D+1) whose evaluations, one and two for every probe, fit in a chunk."""
        return x.split(derivatives.piece(len(x), self._limit()))

    def _limit(self) -> int | None:
        chunk = self.denoiser.chunk
        return max(1, chunk // (1 + 2 * len(self.probes))) if chunk else None

    def _values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean m (..., D) and |J|_F^2 (...)."""
        z, sigma = x[..., :-1], (-x[..., -1] / 2).exp()
        probes = self.probes.to(z).expand(*z.shape[:-1], *self.probes.shape)
        pushed = self.jvp(z.unsqueeze(-2), sigma.unsqueeze(-1), probes)[1]
        return self.denoiser(z, sigma), frobenius(pushed)

    @staticmethod
    def _steps(x: Tensor, m: Tensor, square: Tensor) -> tuple[Tensor, Tensor]:
        between = _between(x[..., :-1], x[..., -1:].exp(), m)
        within = (square[..., 1:] + square[..., :-1]) / 4 * x[..., -1].diff(dim=-1) ** 2
        steps = between + within
        return steps, steps.detach() < 0

    def _reversed(self, x: Tensor, at_m: Tensor, at_square: Tensor) -> Tensor:
        """What means and |J|^2 of nodes (N, D+1) pull at them, (N, D+1)."""
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            (grad,) = torch.autograd.grad(self._values(leaf), leaf, (at_m, at_square))
        return grad

    def _forward(self, x: Tensor, at_m: Tensor, at_square: Tensor) -> Tensor:
        """The same from evaluations alone, with J and its derivative taken as symmetric."""
        with torch.no_grad():
            z, sigma = x[..., :-1], (-x[..., -1] / 2).exp()
            here, level = z.unsqueeze(-2), sigma.unsqueeze(-1)
            probes = self.probes.to(z).expand(len(z), *self.probes.shape)
            pushed = self.denoiser.difference(here, level, probes)[1]
            bends = self.denoiser.second_difference(here, level, probes, pushed).mean(-2)
            at_z = self.denoiser.difference(z, sigma, at_m)[1] + 2 * at_square[:, None] * bends
            step = relative_step(self.denoiser, x).unsqueeze(-1)
            shift = torch.nn.functional.pad(step, (z.shape[-1], 0))
            (m, square), (n, other) = (self._values(x + sign * shift) for sign in (1, -1))
            rise = ((m - n) * at_m).sum(-1) + (square - other) * at_square
            return torch.cat([at_z, rise.unsqueeze(-1) / (2 * step)], -1)

    def _along(self, x: Tensor, u: Tensor) -> Tensor:
        """Derivative of the mean along ``u`` (..., D+1)."""
        if self.gradient != "forward" and self.denoiser.closed_form:
            point, direction = (t.contiguous() for t in torch.broadcast_tensors(x, u))
            return derivatives.jvp(self._mean, (point,), (direction,))[1]
        # |dz| / sigma and dlam are of one size
        size = (u[..., :-1].square().sum(-1) * x[..., -1].exp() + u[..., -1].square()).sqrt()
        h = relative_step(self.denoiser, x) / torch.where(size > 0, size, 1.0)
        reach = h.unsqueeze(-1) * u
        return (self._mean(x + reach) - self._mean(x - reach)) / (2 * h.unsqueeze(-1))

    def _mean(self, x: Tensor) -> Tensor:
        return self.denoiser(x[..., :-1], (-x[..., -1] / 2).exp())

    def _floor_steps(self, x: Tensor) -> Tensor:
        """Exact squared steps of the floor's Gaussian data."""
        if self.ground is None:
            return x.new_zeros(())
        k, (m, deviation) = x[..., -1:].exp(), self.ground.posterior(x)
        traces = self.denoiser.dim * deviation.square().diff(dim=-1)
        return _between(x[..., :-1], k, m) - k[..., 0].diff(dim=-1) * traces / 2


def _between(z: Tensor, k: Tensor, m: Tensor) -> Tensor:
    """``q.d`` of neighbours, for k (..., n+1, 1)."""
    middle = (m[..., 1:, :] + m[..., :-1, :]) / 2
    # k_2 (z_2 - middle) - k_1 (z_1 - middle): nothing large is subtracted from its like
    pull = k[..., 1:, :] * (z[..., 1:, :] - middle) - k[..., :-1, :] * (z[..., :-1, :] - middle)
    return (pull * m.diff(dim=-2)).sum(-1)
