r"""Estimators of squared lengths in spacetime: what they ask of a denoiser, and their gradients.

With eta = (k z, -k/2), mu = (m, E|x0|^2), k = e^lam and J = dm/dz  (2505.17517):

- :class:`TwoPoint`: ``(eta_2 - eta_1).(mu_2 - mu_1)`` = KL + reverse KL, exactly.  The gradient of
  the sum of steps at node i needs no derivative of a divergence,

      (2 mu_i - mu_{i-1} - mu_{i+1}) + G_i (2 eta_i - eta_{i-1} - eta_{i+1}),     G = d mu / d eta,

  G_i v is one product with the posterior covariance of the statistic.
- :class:`Closure`: the posterior closed at second order, C = sigma^2 J.  With
  w = dz - (m - z) dlam,    ds^2 = k w.Jw + |J|_F^2 dlam^2 / 2.   Exact for Gaussian laws, positive
  where J is, and free of traces of J, which networks get wrong.  A covariance with no eigenvalue
  above 2 sigma^2 obeys w.Jw >= |Jw|^2 / 2; steps take that bound where a network's J falls below
  it, or a solver would move the posterior mean for nothing along directions where J is not
  positive.  Such steps are counted.

Gradients are taken in reverse mode, or ``forward``: from evaluations alone, by central differences
in the directions that the formulas name, with no memory for a backward pass.  Forward gradients use
that J and its derivatives are symmetric, which a network is only nearly.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from diffodesic import calculus
from diffodesic.curvature import bend
from diffodesic.denoiser import Denoiser
from diffodesic.hyperbolic import natural, natural_velocity, pack

__all__ = ["Closure", "Estimator", "Gradient", "TwoPoint"]

Gradient = Literal["reverse", "forward"]


class Estimator(ABC):
    """Squared lengths of polylines in spacetime, nodes packed (..., n+1, D+1).

    Attributes:
        name: what results call it.
        along_natural_lines: True where ``steps`` are the exact energies of segments that are
            straight in the natural parameters.
        coarsest: number of segments below which steps say little about the path.
        largest_step: largest change of log SNR along one segment for steps to be believed.
    """

    name = "estimator"
    along_natural_lines = False
    coarsest = 6
    largest_step = math.inf

    def __init__(self, denoiser: Denoiser, *, gradient: Gradient = "reverse") -> None:
        self.denoiser, self.gradient = denoiser, gradient
        # a denoiser known by its evaluations alone has no other derivatives either
        self.jvp = denoiser.jvp if gradient == "reverse" else denoiser.difference

    @abstractmethod
    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Inner product at ``x``; all (..., D+1), result (...)."""

    @abstractmethod
    def judged_steps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Squared lengths (..., n), and where the denoiser is no posterior mean, (..., n)."""

    @abstractmethod
    def steps_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``judged_steps(x)`` with the gradient of the sum of steps, (..., n+1, D+1), between."""


class TwoPoint(Estimator):
    """The exact form, with E|x0|^2 as the denoiser gives it, or by fixed random probes.

    Args:
        denoiser: posterior mean.
        probes: (P, D) directions of unit second moment for the divergence; None: the denoiser's
            own ``moments``, exact.
        gradient: ``reverse`` or ``forward``; a closed form uses neither.
    """

    along_natural_lines = True

    def __init__(
        self, denoiser: Denoiser, probes: Tensor | None = None, *, gradient: Gradient = "reverse"
    ) -> None:
        super().__init__(denoiser, gradient=gradient)
        self.probes, self.name = probes, "exact" if probes is None else "hutchinson"

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

    def judged_steps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``d_eta . d_mu``, and where it is negative; one ``mu`` per node."""
        steps = (natural(x).diff(dim=-2) * self.mu(x).diff(dim=-2)).sum(-1)
        return steps, steps < 0

    def steps_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """By the formula above; one ``mu`` with a product with the covariance per node."""
        if self.gradient == "reverse" and not (self.probes is None and self.denoiser.closed_form):
            return _reverse(self.judged_steps, x)
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
        calculus.record(derivatives=point[..., 0].numel())
        return calculus.jvp(self.mu, (point,), (direction,))[1]


class Closure(Estimator):
    """The posterior closed at second order, by the trapezoidal rule.

    The closure metric falls steeply with noise. The midpoint rule would let one long segment jump
    over its steep part for nothing; the trapezoidal rule charges both ends.

    Args:
        denoiser: posterior mean.
        probes: (P, D) directions of unit second moment for |J|_F^2.
        gradient: ``reverse`` or ``forward``.
    """

    name = "closure"
    coarsest = 16
    largest_step = 1.0  # a factor e in the metric

    def __init__(
        self, denoiser: Denoiser, probes: Tensor, *, gradient: Gradient = "reverse"
    ) -> None:
        super().__init__(denoiser, gradient=gradient)
        self.probes = probes

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """``k w_u.J w_v + |J|_F^2 u_lam v_lam / 2``, with the symmetric part of J."""
        x, u, v = torch.broadcast_tensors(x, u, v)
        _, w, jw, pushed = self._push(x, torch.stack([u, v], -2))
        along = (w[..., 0, :] * jw[..., 1, :] + w[..., 1, :] * jw[..., 0, :]).sum(-1) / 2
        return x[..., -1].exp() * along + frobenius(pushed) / 2 * u[..., -1] * v[..., -1]

    def judged_steps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Steps, and where ``w.Jw < 0`` at one end of the segment."""
        squares, wrong = self._squares(x, _sides(x))
        return _trapezoid(squares), _either(wrong)

    def steps_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Steps, gradient of their sum, and wrong steps; pieces of nodes keep memory bounded."""
        flat, sides = x.reshape(-1, x.shape[-1]), _sides(x)
        pieces = self._reversed if self.gradient == "reverse" else self._forward
        # a node asks for its mean and, at twice that price, two sides and the probes
        chunk = self.denoiser.chunk
        limit = max(1, chunk // (1 + 2 * (2 + len(self.probes)))) if chunk else None
        size = calculus.piece(len(flat), limit)
        found = [
            pieces(*part)
            for part in zip(
                flat.split(size), sides.reshape(-1, 2, x.shape[-1]).split(size), strict=True
            )
        ]
        squares, wrong, at_node, at_side = (torch.cat(part) for part in zip(*found, strict=True))
        squares, wrong = squares.reshape(sides.shape[:-1]), wrong.reshape(sides.shape[:-1])
        at_side = at_side.reshape(sides.shape)
        # before = x_i - x_{i-1}, after = x_{i+1} - x_i
        pull = at_side[..., :-1, 1, :] + at_side[..., 1:, 0, :]
        grad = at_node.reshape(x.shape) + bend(pull)
        return _trapezoid(squares), grad / 2, _either(wrong)

    def _push(self, x: Tensor, sides: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Parts of the metric at ``x`` (..., D+1) for M directions (..., M, D+1).

        Returns:
            m - z (..., 1, D), w (..., M, D), J w (..., M, D) and J of the probes (..., P, D).
        """
        z, sigma = x[..., :-1], (-x[..., -1] / 2).exp()
        rate = (self.denoiser(z, sigma) - z).unsqueeze(-2)
        w = sides[..., :-1] - rate * sides[..., -1:]
        probes = self.probes.to(z).expand(*z.shape[:-1], *self.probes.shape)
        _, pushed = self.jvp(z.unsqueeze(-2), sigma.unsqueeze(-1), torch.cat([w, probes], -2))
        count = w.shape[-2]
        return rate, w, pushed[..., :count, :], pushed[..., count:, :]

    def _squares(self, x: Tensor, sides: Tensor) -> tuple[Tensor, Tensor]:
        """Squared lengths of ``sides`` (..., M, D+1) at ``x``, and where w.Jw < 0; (..., M)."""
        _, w, jw, pushed = self._push(x, sides)
        closure = (w * jw).sum(-1)
        along = torch.maximum(closure, jw.square().sum(-1) / 2)
        k, square = x[..., -1:].exp(), frobenius(pushed).unsqueeze(-1)
        return k * along + square / 2 * sides[..., -1] ** 2, closure < 0

    def _reversed(self, x: Tensor, sides: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Squares (N, 2), wrong (N, 2), and gradients of their sum by nodes and by sides."""
        with torch.enable_grad():
            leaf, side = x.detach().requires_grad_(), sides.detach().requires_grad_()
            squares, wrong = self._squares(leaf, side)
            at_node, at_side = torch.autograd.grad(squares.sum(), (leaf, side))
        return squares.detach(), wrong, at_node, at_side

    def _forward(self, x: Tensor, sides: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The same from evaluations alone, with J and its derivative taken as symmetric."""
        # q = k w.Jw: at fixed w, dq/dz = k D^2m[w, w]; through w, 2 k Jw. Where the bound
        # k |Jw|^2 / 2 holds instead, D^2m[w, Jw] and J Jw take their places.
        with torch.no_grad():
            difference, second = self.denoiser.difference, self.denoiser.second_difference
            rate, w, jw, pushed = self._push(x, sides)
            closure, bound = (w * jw).sum(-1), jw.square().sum(-1) / 2
            floor = (bound > closure).unsqueeze(-1)
            z, sigma, k = x[:, :-1], (-x[:, -1] / 2).exp(), x[:, -1:].exp()
            here, level, rise = z.unsqueeze(-2), sigma.unsqueeze(-1), sides[..., -1:]
            probes = self.probes.to(z).expand(len(z), *self.probes.shape)
            bends = second(
                here,
                level,
                torch.cat([w, probes], 1),
                torch.cat([torch.where(floor, jw, w), pushed], 1),
            )
            # one product serves both: J of (what w is pulled by), and of that times d lam
            pull_w = 2 * jw
            if bool(floor.any()):
                pull_w = torch.where(floor, difference(here, level, jw)[1], pull_w)
            scaled = (rise * pull_w).sum(1)
            back = difference(z, sigma, scaled)[1]
            bent = bends[:, :2].sum(1) + scaled - back
            count = rise.square().sum(1) * pushed.shape[1] ** -1
            at_z = k * bent + count * bends[:, 2:].sum(1)
            square = frobenius(pushed).unsqueeze(-1)
            by_rise = -k * (rate * pull_w).sum(-1) + square * rise[..., 0]
            at_side = torch.cat([k.unsqueeze(-1) * pull_w, by_rise.unsqueeze(-1)], -1)
            squares = k * torch.maximum(closure, bound) + square / 2 * rise[..., 0] ** 2
            step = relative_step(self.denoiser, x).unsqueeze(-1)
            shift = torch.nn.functional.pad(step, (z.shape[-1], 0))
            ahead, behind = (self._squares(x + sign * shift, sides)[0].sum(-1) for sign in (1, -1))
            at_lam = (ahead - behind).unsqueeze(-1) / (2 * step)
        return squares, closure < 0, torch.cat([at_z, at_lam], -1), at_side


def _reverse(
    judged_steps: Callable[[Tensor], tuple[Tensor, Tensor]], x: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        steps, wrong = judged_steps(leaf)
        (grad,) = torch.autograd.grad(steps.sum(), leaf)
    return steps.detach(), grad, wrong


def _sides(x: Tensor) -> Tensor:
    """Differences to the node before and to the node after, zero beyond the ends: (..., 2, d)."""
    delta = x.diff(dim=-2)
    none = torch.zeros_like(delta[..., :1, :])
    return torch.stack([torch.cat([none, delta], -2), torch.cat([delta, none], -2)], -2)


def _trapezoid(squares: Tensor) -> Tensor:
    return (squares[..., :-1, 1] + squares[..., 1:, 0]) / 2


def _either(wrong: Tensor) -> Tensor:
    return wrong[..., :-1, 1] | wrong[..., 1:, 0]


def frobenius(pushed: Tensor) -> Tensor:
    """|J|_F^2 from J applied to probes (..., P, D)."""
    return pushed.square().sum(-1).mean(-1)


def relative_step(denoiser: Denoiser, x: Tensor) -> Tensor:
    """Step of a central difference in units of the noise: of z / sigma, and of log SNR; (...)."""
    sigma = (-x[..., -1] / 2).exp()
    return denoiser.displacement(sigma, x.dtype) / sigma
