r"""The Gaussian closure: spacetime with every posterior closed at second order, C = sigma^2 J.

With J = dm/dz, k = e^lam and w = dz - (m - z) dlam,

    ds^2 = k w.Jw + |J|_F^2 dlam^2 / 2.

It is exact for Gaussian laws, positive where J is, and free of traces of J, which networks get
wrong.  A covariance with no eigenvalue above 2 sigma^2 obeys w.Jw >= |Jw|^2 / 2; steps take that
bound where a network's J falls below it, or a search would move the posterior mean for nothing
along directions where J is not positive.  Such segments are doubtful.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.metrics.spacetime.estimators.base import (
    Gradient,
    SpacetimeEnergy,
    either,
    frobenius,
    relative_step,
    sides_of,
    trapezoid,
)
from diffodesic.numerics import derivatives
from diffodesic.numerics.hessians import bend

__all__ = ["Closure"]


class Closure(SpacetimeEnergy):
    """The posterior closed at second order, by the trapezoidal rule.

    The closure metric falls steeply with noise. The midpoint rule would let one long segment jump
    over its steep part for nothing; the trapezoidal rule charges both ends.

    Args:
        denoiser: posterior mean.
        probes: (P, D) directions of unit second moment for |J|_F^2.
        gradient: see :class:`SpacetimeEnergy`.
        log_snr_range: see :class:`SpacetimeEnergy`.
    """

    name = "closure"
    probes: Tensor
    coarsest = 16
    largest_step = 1.0  # a factor e in the metric

    def __init__(
        self,
        denoiser: Denoiser,
        probes: Tensor,
        *,
        gradient: Gradient = "reverse",
        log_snr_range: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(denoiser, gradient=gradient, log_snr_range=log_snr_range)
        self.probes = probes

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """``k w_u.J w_v + |J|_F^2 u_lam v_lam / 2``, with the symmetric part of J."""
        x, u, v = torch.broadcast_tensors(x, u, v)
        _, w, jw, pushed = self._push(x, torch.stack([u, v], -2))
        along = (w[..., 0, :] * jw[..., 1, :] + w[..., 1, :] * jw[..., 0, :]).sum(-1) / 2
        return x[..., -1].exp() * along + frobenius(pushed) / 2 * u[..., -1] * v[..., -1]

    def steps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Steps, and where ``w.Jw < 0`` at one end of the segment."""
        squares, wrong = self._squares(x, sides_of(x))
        return trapezoid(squares), either(wrong)

    def steps_and_slope(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Steps, gradient of their sum, and wrong steps; pieces of nodes keep memory bounded."""
        flat, sides = x.reshape(-1, x.shape[-1]), sides_of(x)
        pieces = self._reversed if self.gradient != "forward" else self._forward
        # a node asks for its mean and, at twice that price, two sides and the probes
        chunk = self.denoiser.chunk
        limit = max(1, chunk // (1 + 2 * (2 + len(self.probes)))) if chunk else None
        size = derivatives.piece(len(flat), limit)
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
        return trapezoid(squares), grad / 2, either(wrong)

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
