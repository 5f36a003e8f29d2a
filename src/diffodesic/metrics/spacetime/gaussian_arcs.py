r"""Geodesics of spacetime for Gaussian data N(m0, diag 1/p_i), one Newton solve per pair of ends.

    ds^2 = sum_i q_i dm_i^2 + 1/2 S dk^2,     q_i = k + p_i,     S = sum_i q_i^-2

has cyclic m_i, so P_i = q_i dm_i/dl is conserved.  A geodesic falls in k to the turning point k_t,
where sum P_i^2/(k_t + p_i) = 1, and rises again.  With R(k) = sum P_i^2 / (q_i (k_t + p_i)),
c = 1/R(k_t) and k = k_t + c sinh^2 tau,

    dl/dtau = sqrt(2 c S/R) cosh tau,      dm_i/dl = P_i/q_i,

analytic through the turning point (constant for equal p_i), so Gauss's rule in tau converges fast.
The unknown is the direction at the noisier end, k1: the stereographic projection y of the unit
sphere from the direction straight towards less noise.  |y| < 1 never turns, |y| > 1 first gains
noise, and nothing is singular at |y| = 1.

Where k_t < 0 the arc would pass sigma = infinity.  The infimum then falls to k = 0 with k_t = 0,
runs there, where the metric is sum p_i dm_i^2, and rises: the unknown is w, P_i = sqrt(p_i) w_i/|w|
and (|w| - 1) times the gap, measured at k = 0, is the length of the run.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from diffodesic.numerics.quadrature import legendre

__all__ = ["Arcs", "Ends", "solve"]


@dataclass(frozen=True)
class Arcs:
    """N arcs as functions of tau."""

    momentum: Tensor  # P (N, D)
    depth: Tensor  # ``k_t + p`` (N, D)
    turn: Tensor  # k_t (N,)
    scale: Tensor  # c (N,)
    first: Tensor  # tau at the noisier end (N,)
    last: Tensor  # tau at the other end (N,)
    flat: Tensor  # length of the run along k = 0 (N,); positive where no shortest path exists
    panels: int  # number of panels of the quadrature

    def level(self, tau: Tensor) -> Tensor:
        """Precision k of the noise at ``tau`` (N, S)."""
        return self.turn[:, None] + self.scale[:, None] * tau.sinh() ** 2

    def speed(self, tau: Tensor) -> tuple[Tensor, Tensor]:
        """``dl/dtau`` (N, S) and ``k + p`` (N, S, D)."""
        q = self.depth[:, None] + (self.scale[:, None] * tau.sinh() ** 2).unsqueeze(-1)
        size = (q**-2).sum(-1)
        pull = (self.momentum[:, None] ** 2 / (q * self.depth[:, None])).sum(-1)
        return (2 * self.scale[:, None] * size / pull).sqrt() * tau.cosh(), q

    def covered(self, tau: Tensor) -> tuple[Tensor, Tensor]:
        """Length (N, S) and change of the posterior mean (N, S, D) up to ``tau`` (N, S)."""
        nodes, weights = legendre(16, tau)
        start = torch.arange(self.panels, dtype=tau.dtype, device=tau.device).unsqueeze(-1)
        s, weights = ((start + nodes) / self.panels).reshape(-1), weights.repeat(self.panels)
        width = (tau - self.first[:, None]).unsqueeze(-1)
        grid = self.first[:, None, None] + width * s  # (N, S, Q)
        speed, q = self.speed(grid.flatten(1))
        speed = speed.view_as(grid) * weights * width / self.panels
        rate = (speed.unsqueeze(-1) / q.unflatten(1, grid.shape[1:])).sum(-2)
        return speed.sum(-1), self.momentum[:, None] * rate

    @property
    def total(self) -> Tensor:
        """Length of the arc and of the run along k = 0, (N,)."""
        return self.covered(self.last[:, None])[0][:, 0] + self.flat

    @property
    def gap(self) -> Tensor:
        """Change of the posterior mean from end to end, for precisions ``depth - turn``; (N, D)."""
        p = self.depth - self.turn[:, None]
        return self.covered(self.last[:, None])[1][:, 0] + self.momentum / p * self.flat[:, None]

    def at(self, share: Tensor) -> Tensor:
        """``tau`` where a share (N, S) of the length is covered, by Newton's method."""
        goal = share * self.total[:, None]
        tau = torch.lerp(self.first[:, None], self.last[:, None], share)
        for _ in range(12):
            tau = tau - (self.covered(tau)[0] - goal) / self.speed(tau)[0]
            tau = torch.maximum(torch.minimum(tau, self.last[:, None]), self.first[:, None])
        return tau


@dataclass(frozen=True)
class Ends:
    """N pairs of points, the noisier first."""

    p: Tensor  # precisions of the data (D,)
    k1: Tensor  # precision of the noise at the first end (N,)
    k2: Tensor  # precision of the noise at the second end (N,), not below ``k1``
    gap: Tensor  # difference of the posterior means (N, D)

    def rows(self, index: Tensor) -> Ends:
        """Some of the pairs, by index or mask."""
        return replace(self, k1=self.k1[index], k2=self.k2[index], gap=self.gap[index])

    def turning(self, y: Tensor, panels: int) -> Arcs:
        """Arcs that leave the noisier end in the direction ``y`` (N, D)."""
        square = y.square().sum(-1, keepdim=True)
        q1 = self.k1[:, None] + self.p
        momentum = 2 * y / (1 + square) * q1.sqrt()
        down = ((square - 1) / (square + 1))[:, 0]  # the share of the speed that gains noise
        depth = _depth(momentum, self.p)
        pull = (momentum**2 / (q1 * depth)).sum(-1)
        scale = 1 / (momentum / depth).square().sum(-1)
        # k1 - k_t = down^2 / pull: no difference of nearly equal numbers
        first = -torch.asinh(down / (scale * pull).sqrt())
        last = torch.asinh(((self.k2 - self.k1 + down**2 / pull) / scale).sqrt())
        turn = self.k1 - down**2 / pull
        return Arcs(momentum, depth, turn, scale, first, last, torch.zeros_like(turn), panels)

    def sunken(self, w: Tensor, panels: int) -> Arcs:
        """Arcs that run along k = 0, for ``w`` (N, D)."""
        size = w.norm(dim=-1)
        momentum = self.p.sqrt() * w / size[:, None]
        scale = 1 / (momentum / self.p).square().sum(-1)
        first, last = -torch.asinh((self.k1 / scale).sqrt()), torch.asinh((self.k2 / scale).sqrt())
        flat = (size - 1) * (self.p * self.gap**2).sum(-1).sqrt()
        depth, turn = self.p.expand_as(w), torch.zeros_like(size)
        return Arcs(momentum, depth, turn, scale, first, last, flat, panels)

    def first_turning(self) -> Tensor:
        """Directions ``y`` as for isotropic data of the mean precision."""
        p, count = self.p.mean(), len(self.p)
        s1, s2 = (self.k1 + p).rsqrt(), (self.k2 + p).rsqrt()
        width = self.gap.norm(dim=-1) / math.sqrt(2 * count)
        width = torch.maximum(width, 1e-20 * (s1 + s2))  # a vertical line is a very large circle
        centre = (width**2 + s2**2 - s1**2) / (2 * width)
        radius = (s1**2 + centre**2).sqrt()
        # the same number twice, each without the difference that cancels
        size = torch.where(centre > 0, (radius + centre) / s1, s1 / (radius - centre))
        way = self.gap * (self.k1[:, None] + self.p).sqrt()
        way = torch.where((self.gap == 0).all(-1, keepdim=True), torch.ones_like(way), way)
        way = way / way.norm(dim=-1, keepdim=True)
        for _ in range(60):  # a start must not pass sigma = infinity
            past = (self.turning(size[:, None] * way, 1).turn < 0) & (size > 1)
            if not bool(past.any()):
                break
            size = torch.where(past, 1 + 0.7 * (size - 1), size)
        return size[:, None] * way

    def first_sunken(self) -> Tensor:
        """``w`` along the gap, with a run of half of it."""
        w = self.p.sqrt() * self.gap
        return 1.5 * w / w.norm(dim=-1, keepdim=True)


def solve(ends: Ends) -> Arcs:
    """Shortest arcs between the ends; the quadrature is refined until their length stands still.

    Args:
        ends: N pairs.

    Returns:
        the arcs.

    Raises:
        RuntimeError: if a pair is not solved: variances that differ by many orders of magnitude.
    """
    y = ends.first_turning()
    w, sunk = torch.ones_like(y), torch.zeros_like(ends.k1, dtype=torch.bool)
    before = torch.full_like(ends.k1, math.inf)
    for panels in (2, 4, 8, 16, 32, 64):
        y, inside = _newton(ends, Ends.turning, y, panels)
        arcs = ends.turning(y, panels)
        if not bool(inside.all()):
            rows = ~inside
            part = ends.rows(rows)
            w[rows] = torch.where(sunk[rows, None], w[rows], part.first_sunken())
            w[rows], outside = _newton(part, Ends.sunken, w[rows], panels)
            sunk[rows] = outside & (w[rows].norm(dim=-1) >= 1)
            arcs = _put(arcs, rows & sunk, ends.sunken(w, panels))
        total = arcs.total
        if bool((inside | sunk).all() & ((total - before).abs() <= 1e-11 * total).all()):
            return arcs
        before = total
    raise RuntimeError(
        f"{int((~(inside | sunk)).sum())} of {len(total)} geodesics of Gaussian data did not reach "
        "1e-11: the variances differ by too many orders of magnitude"
    )


def _newton(
    ends: Ends, family: Callable[[Ends, Tensor, int], Arcs], unknown: Tensor, panels: int
) -> tuple[Tensor, Tensor]:
    """Unknowns whose arcs span the gap, by damped Newton steps, and which rows are solved (N,)."""
    unknown = unknown.clone()
    rows = torch.arange(len(unknown), device=unknown.device)
    solved = torch.zeros_like(rows, dtype=torch.bool)
    for _ in range(60):
        part, here = ends.rows(rows), unknown[rows]
        with torch.enable_grad():
            leaf = here.requires_grad_()
            off = _miss(part, family(part, leaf, panels))
            columns = [
                torch.autograd.grad(column.sum(), leaf, retain_graph=True)[0]
                for column in off.unbind(-1)
            ]
        here, off = here.detach(), off.detach()
        size = off.norm(dim=-1)
        solved[rows] = size < 1e-11
        # a singular row gives a step that is not finite, and is not taken
        step = torch.linalg.solve_ex(torch.stack(columns, -2), off.unsqueeze(-1))[0][..., 0]
        moved = torch.zeros_like(size, dtype=torch.bool)
        for share in 3.0 ** -torch.arange(8.0):
            trial = torch.where(moved[:, None], here, here - share * step)
            better = ~moved & (_miss(part, family(part, trial, panels)).norm(dim=-1) < size)
            here, moved = torch.where(better[:, None], trial, here), moved | better
            if bool((moved | (size < 1e-13)).all()):
                break
        unknown[rows] = here
        # who cannot improve is at the rounding, or cannot reach the other end this way
        rows = rows[moved & (size > 1e-14)]
        if not len(rows):
            break
    return unknown, solved


def _miss(ends: Ends, arcs: Arcs) -> Tensor:
    """By how much the arcs miss the gap, relative; infinite past sigma = infinity; (N, D)."""
    unit = ends.gap.norm(dim=-1, keepdim=True) + 1e-3 * (ends.k1 + ends.p.min()).rsqrt()[:, None]
    passes = (arcs.turn < 0) & (arcs.first < 0)
    return torch.where(passes[:, None], math.inf, (arcs.gap - ends.gap) / unit)


def _depth(momentum: Tensor, p: Tensor) -> Tensor:
    """``k_t + p`` (N, D): Newton from the left on a convex function; differentiable in P."""
    square, fixed = momentum**2, (momentum**2).detach()
    moving = fixed > 0
    # the largest P_i^2 - p_i bounds k_t from below; measured from its p_i nothing cancels
    home = torch.where(moving, fixed - p, -math.inf).argmax(-1, keepdim=True)
    shift = torch.where(moving, p - p[home], math.inf)
    e = fixed.gather(-1, home)
    for _ in range(200):
        depth = e + shift
        rate = (fixed / depth**2).sum(-1, keepdim=True)
        step = ((fixed / depth).sum(-1, keepdim=True) - 1) / rate
        e = e + step
        if not bool((step > 1e-15 * e).any()):
            break
    depth = e + shift
    rate = (fixed / depth**2).sum(-1, keepdim=True)
    e = e + ((square / depth).sum(-1, keepdim=True) - 1) / rate
    return e + (p - p[home])


def _put(arcs: Arcs, rows: Tensor, other: Arcs) -> Arcs:
    """``other`` in some rows."""
    parts: dict[str, Any] = {
        name: torch.where(rows.view(-1, *[1] * (value.ndim - 1)), getattr(other, name), value)
        for name, value in vars(arcs).items()
        if isinstance(value, Tensor)
    }
    return replace(arcs, **parts)
