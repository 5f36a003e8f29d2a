r"""Curves on [0, 1] with exact ends: polylines, interpolating C2 splines, a spline basis.

All curves are immutable and batched: nodes (..., n+1, d) at knots 0 = t_0 < ... < t_n = 1.
:class:`Spline` is the cubic with continuous second derivative through its nodes; at the ends the
third derivative is continuous too (not-a-knot), so smooth curves are met to order n^-4.
:func:`spline_basis` spans all C2 cubics that vanish at both ends by an orthonormal basis of the
null space of the matching conditions: ends need no penalty (as in stochman, Detlefsen et al. 2021).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["Charted", "Polyline", "Spline", "arc", "constant_speed", "spline_basis"]

Map = Callable[[Tensor], Tensor]


class Polyline:
    """Straight segments between nodes.

    Args:
        nodes: (..., n+1, d), n >= 1.
        knots: increasing parameters (..., n+1) from 0 to 1; default equally spaced.

    Raises:
        ValueError: for fewer than two nodes or knots of another shape.
    """

    def __init__(self, nodes: Tensor, knots: Tensor | None = None) -> None:
        if nodes.ndim < 2 or nodes.shape[-2] < 2:
            raise ValueError(
                f"a curve needs nodes of shape (..., n+1, d) with n >= 1, got {tuple(nodes.shape)}"
            )
        if knots is None:
            knots = torch.linspace(0, 1, nodes.shape[-2], dtype=nodes.dtype, device=nodes.device)
            knots = knots.expand(nodes.shape[:-1])
        if knots.shape != nodes.shape[:-1]:
            raise ValueError(
                f"knots have shape {tuple(knots.shape)}; the nodes need {tuple(nodes.shape[:-1])}"
            )
        self.nodes, self.knots = nodes, knots

    def with_knots(self, knots: Tensor) -> Polyline:
        """The same nodes at other parameters."""
        return type(self)(self.nodes, knots)

    def __call__(self, s: Tensor | float) -> Tensor:
        """Points (..., d) at a number ``s`` in [0, 1]; (..., S, d) at (S,) or (..., S)."""
        return self._at(s, self._value)

    def velocity(self, s: Tensor | float) -> Tensor:
        """Derivative by ``s``; shapes as for a call."""
        return self._at(s, self._slope)

    def _at(self, s: Tensor | float, formula) -> Tensor:  # noqa: ANN001
        s = torch.as_tensor(s, dtype=self.nodes.dtype, device=self.nodes.device)
        if not bool(((s >= 0) & (s <= 1)).all()):
            raise ValueError("a curve is defined for s between 0 and 1")
        grid = s.reshape(1) if s.ndim == 0 else s
        grid = grid.expand(*self.knots.shape[:-1], grid.shape[-1]).contiguous()
        index = torch.searchsorted(self.knots.contiguous(), grid, right=True) - 1
        index = index.clamp(0, self.knots.shape[-1] - 2)
        out = formula(index, grid)
        return out[..., 0, :] if s.ndim == 0 else out

    def _pick(self, values: Tensor, index: Tensor) -> Tensor:
        return values.gather(-2, index.unsqueeze(-1).expand(*index.shape, values.shape[-1]))

    def _local(self, index: Tensor, grid: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Fraction and width of the segment, and its two nodes; (..., S, 1) and (..., S, d)."""
        left, right = self.knots.gather(-1, index), self.knots.gather(-1, index + 1)
        width = (right - left).unsqueeze(-1)
        return (
            (grid - left).unsqueeze(-1) / width,
            width,
            self._pick(self.nodes, index),
            self._pick(self.nodes, index + 1),
        )

    def _value(self, index: Tensor, grid: Tensor) -> Tensor:
        u, _, p, q = self._local(index, grid)
        return (1 - u) * p + u * q

    def _slope(self, index: Tensor, grid: Tensor) -> Tensor:
        _, width, p, q = self._local(index, grid)
        return (q - p) / width


class Spline(Polyline):
    """The C2 cubic spline through nodes, not-a-knot at the ends; arguments as for Polyline.

    With two nodes it is the chord, with three the parabola.
    """

    def __init__(self, nodes: Tensor, knots: Tensor | None = None) -> None:
        super().__init__(nodes, knots)
        self.slopes = _spline_slopes(self.nodes, self.knots)

    def _value(self, index: Tensor, grid: Tensor) -> Tensor:
        u, h, p, q = self._local(index, grid)
        a, b = self._pick(self.slopes, index), self._pick(self.slopes, index + 1)
        bump = u * (1 - u)
        return (1 - u) * p + u * q + bump * ((1 - u) * (h * a - q + p) - u * (h * b - q + p))

    def _slope(self, index: Tensor, grid: Tensor) -> Tensor:
        u, h, p, q = self._local(index, grid)
        a, b = self._pick(self.slopes, index), self._pick(self.slopes, index + 1)
        chord = (q - p) / h
        return chord + (1 - u) * (1 - 3 * u) * (a - chord) - u * (2 - 3 * u) * (b - chord)


class Charted(Polyline):
    """A curve through nodes that is a spline, or straight between them, in other coordinates.

    Args:
        nodes: (..., n+1, d).
        chart: map to those coordinates, (..., d) -> (..., d).
        back: its inverse, differentiable.
        kind: ``Spline`` or ``Polyline``.
        knots: as for Polyline.
    """

    def __init__(
        self,
        nodes: Tensor,
        chart: Map,
        back: Map,
        kind: type[Polyline] = Spline,
        knots: Tensor | None = None,
    ) -> None:
        super().__init__(nodes, knots)
        self.chart, self.back, self.kind = chart, back, kind
        self.inside = kind(chart(nodes), self.knots)

    def with_knots(self, knots: Tensor) -> Charted:
        """The same nodes at other parameters."""
        return Charted(self.nodes, self.chart, self.back, self.kind, knots)

    def __call__(self, s: Tensor | float) -> Tensor:
        """Points of the curve, its ends exact; see Polyline."""
        s = torch.as_tensor(s, dtype=self.nodes.dtype, device=self.nodes.device)
        points = self.back(self.inside(s))
        for end, place in ((0.0, 0), (1.0, -1)):
            node = self.nodes[..., place, :]
            node = node if s.ndim == 0 else node.unsqueeze(-2)
            points = torch.where((s == end).unsqueeze(-1), node, points)
        return points

    def velocity(self, s: Tensor | float) -> Tensor:
        """Derivative by ``s``; shapes as for a call."""
        at, speed = self.inside(s), self.inside.velocity(s)
        return torch.func.jvp(self.back, (at.contiguous(),), (speed.contiguous(),))[1]


def _spline_slopes(nodes: Tensor, knots: Tensor) -> Tensor:
    """First derivatives at the nodes that make the piecewise cubic C2 (de Boor, IV)."""
    h = knots.diff(dim=-1)
    chord = nodes.diff(dim=-2) / h.unsqueeze(-1)
    n = h.shape[-1]
    if n == 1:
        return chord.expand_as(nodes)
    matrix = nodes.new_zeros(*h.shape[:-1], n + 1, n + 1)
    i = torch.arange(1, n, device=nodes.device)
    matrix[..., i, i - 1], matrix[..., i, i + 1] = h[..., 1:], h[..., :-1]
    matrix[..., i, i] = 2 * (h[..., 1:] + h[..., :-1])
    rhs = torch.empty_like(nodes)
    left, right = h[..., :-1, None], h[..., 1:, None]
    rhs[..., 1:-1, :] = 3 * (right * chord[..., :-1, :] + left * chord[..., 1:, :])
    if n == 2:
        matrix[..., 0, :2] = 1
        matrix[..., -1, -2:] = 1
        rhs[..., 0, :], rhs[..., -1, :] = 2 * chord[..., 0, :], 2 * chord[..., 1, :]
    else:
        for end, inner, near, far in ((0, 1, 0, 1), (n, n - 1, -1, -2)):
            both = h[..., near] + h[..., far]
            matrix[..., end, end], matrix[..., end, inner] = h[..., far], both
            h0, h1, total = (w.unsqueeze(-1) for w in (h[..., near], h[..., far], both))
            rhs[..., end, :] = (
                (h0 + 2 * total) * h1 * chord[..., near, :] + h0**2 * chord[..., far, :]
            ) / total
    return torch.linalg.solve(matrix, rhs)


def arc(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Points on great circles about the origin, whose norm changes linearly (SLERP).

    Args:
        a: starts (..., d).
        b: ends (..., d).
        t: shares of the way (...), broadcast against the points.

    Returns:
        points (..., d); NaN where no circle is singled out: from a zero vector, or between opposite
        directions.
    """
    norm_a, norm_b, t = a.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True), t.unsqueeze(-1)
    u, v = a / norm_a, b / norm_b
    # half-angle formula: accurate for nearly parallel and nearly opposite vectors alike
    angle = 2 * torch.atan2((u - v).norm(dim=-1), (u + v).norm(dim=-1)).unsqueeze(-1)
    near = angle < 1e-6
    sine = torch.where(near, 1.0, angle.sin())
    left = torch.where(near, 1 - t, ((1 - t) * angle).sin() / sine)
    right = torch.where(near, t, (t * angle).sin() / sine)
    along = (left * u + right * v) * torch.lerp(norm_a, norm_b, t)
    return torch.where(torch.pi - angle < 1e-6, torch.nan, along)


def constant_speed(
    curve: Polyline, lengths: Tensor, nodes: int, *, estimated: bool = False
) -> Tensor:
    """Points of a curve at equal arc length.

    Args:
        curve: the curve (..., d).
        lengths: lengths of the curve's segments between its knots, (..., n), all >= 0.
        nodes: number of segments of the result.
        estimated: whether lengths may be wrong by much.  The curve's parameter then stays as it is:
            a spline whose knots nearly coincide swings out, and a step that is far and seems short
            would make them so.

    Returns:
        (..., nodes + 1, d), with exact ends. A segment of length zero keeps a small share of the
        parameter.
    """
    least = 1e-3 * lengths.mean(-1, keepdim=True) + torch.finfo(lengths.dtype).tiny
    share = torch.maximum(lengths, least)
    arc = torch.cat([torch.zeros_like(share[..., :1]), share.cumsum(-1)], -1)
    knots = arc / arc[..., -1:]
    knots[..., -1] = 1
    s = torch.linspace(0, 1, nodes + 1, dtype=lengths.dtype, device=lengths.device)
    if estimated:
        own = Polyline(curve.knots.expand_as(knots).unsqueeze(-1), knots)
        points = curve(own(s).squeeze(-1))
    else:
        points = curve.with_knots(knots)(s)
    inside = points[..., 1:-1, :]
    return torch.cat([curve.nodes[..., :1, :], inside, curve.nodes[..., -1:, :]], -2)


def spline_basis(edges: int, s: Tensor) -> Tensor:
    """The basis, at (S,), of C2 cubics on ``edges`` equal pieces that vanish at the ends.

    Returns:
        (S, edges + 1): one column per degree of freedom, orthonormal as coefficients.
    """
    rows = torch.zeros(2 + 3 * (edges - 1), 4 * edges, dtype=torch.float64)
    rows[0, 0] = 1
    rows[1, -4:] = 1
    powers = torch.arange(4, dtype=torch.float64)
    for joint in range(1, edges):
        t = joint / edges
        for order, row in enumerate(rows[2 + 3 * (joint - 1) : 2 + 3 * joint]):
            # d^order/dt^order of t^p is p!/(p-order)! t^(p-order)
            factor = torch.ones(4, dtype=torch.float64)
            for j in range(order):
                factor = factor * (powers - j)
            value = factor * t ** (powers - order).clamp(min=0)
            row[4 * (joint - 1) : 4 * joint], row[4 * joint : 4 * joint + 4] = value, -value
    null = torch.linalg.svd(rows).Vh[rows.shape[0] :].T
    piece = (s.double().cpu() * edges).long().clamp(0, edges - 1)
    design = torch.zeros(len(s), edges, 4, dtype=torch.float64)
    design[torch.arange(len(s)), piece] = s.double().cpu().unsqueeze(-1) ** powers
    return (design.reshape(len(s), -1) @ null).to(s)
