r"""Boundary-value solvers: paths of least energy between fixed ends, batched over pairs.

:class:`Relax` runs a preconditioned quasi-Newton descent (:mod:`diffodesic.descent`) on a few nodes
first, then on more, respacing the nodes at constant speed between levels.  :class:`AdamSpline` is
the recipe of 2505.17517, Adam on the coefficients of one cubic spline, kept for comparison.
A solver is a value; anything with the same ``solve`` method is one (:class:`Solver`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from diffodesic import calculus
from diffodesic.curve import Spline, constant_speed, spline_basis
from diffodesic.descent import (
    Descent,
    Status,
    energy,
    evaluate,
    path_laplacian_inverse,
    relative_norm,
)
from diffodesic.metric import Metric

__all__ = ["AdamSpline", "Progress", "Relax", "Solution", "Solver"]

Progress = Callable[[str, Tensor], None]
Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Solution:
    """What a solver returns: nodes and how it ended, one entry per pair.

    Attributes:
        nodes: (B, n+1, d).
        gradient_norm: preconditioned gradient ``sqrt(g.H0 g / 2E)``, relative to the length, (B,).
        statuses: one per pair.
        iterations: accepted steps per pair, (B,).
        start: name of the first path chosen for each pair.
    """

    nodes: Tensor
    gradient_norm: Tensor
    statuses: list[Status]
    iterations: Tensor
    start: list[str]


class Solver(Protocol):
    """What :func:`diffodesic.geodesic` needs of a solver."""

    def solve(
        self,
        metric: Metric,
        a: Tensor,
        b: Tensor,
        nodes: int,
        *,
        init: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Solution:
        """Find paths of n = ``nodes`` segments from ``a`` to ``b``, both (B, d)."""
        ...


@dataclass(frozen=True)
class Relax:
    """Preconditioned L-BFGS on nodes, coarse to fine; the default solver.

    Args:
        rtol: stop when the predicted decrease of the energy is below this share of it.
        iterations: limit on energy gradients per level and pair.
        memory: correction pairs kept.
        coarsest: number of segments of the first level.
        refine: growth of the number of segments from level to level, at most.
        coarse_rtol: tolerance of all levels but the last.
    """

    rtol: float = 1e-6
    iterations: int = 500
    memory: int = 12
    coarsest: int = 10
    refine: float = 2.6
    coarse_rtol: float = 1e-3

    def levels(self, nodes: int) -> list[int]:
        """Numbers of segments, coarse to fine, ending at ``nodes``."""
        found = [nodes]
        while found[0] > self.coarsest:
            found.insert(0, max(self.coarsest, round(found[0] / self.refine)))
        return found

    def solve(
        self,
        metric: Metric,
        a: Tensor,
        b: Tensor,
        nodes: int,
        *,
        init: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Solution:
        """Minimise the energy between ``a`` and ``b`` (B, d).

        Args:
            metric: the geometry.
            a: starts (B, d).
            b: ends (B, d).
            nodes: number n of segments of the result.
            init: a first path (B, k+1, d) for any k; default the best of ``metric.starts``.
            progress: called after every round with a short line and the paths (B, k+1, d).

        Returns:
            the solution on n + 1 nodes.

        Cost: one energy gradient per round and active pair.
        """
        levels = self.levels(nodes)
        if init is None:
            x, names = _best_start(metric, a, b, levels[0])
        else:
            x, names = _respace(metric, init, levels[0]), ["given"] * len(a)
        total = torch.zeros(len(a), dtype=torch.long)
        for level in levels:
            if x.shape[1] != level + 1:
                x = _respace(metric, x, level)
                if init is None:  # a coarse level can lose its way where few nodes see too little
                    x = _better(metric, x, _named_start(metric, a, b, level, names))
            rtol = self.rtol if level == nodes else max(self.rtol, self.coarse_rtol)
            descent = Descent(metric, x, rtol=rtol, iterations=self.iterations, memory=self.memory)
            while descent.active:
                descent.round()
                if progress:
                    left = f"{descent.active} of {len(a)} paths active"
                    progress(f"{level} nodes, round {descent.rounds}: {left}", descent.current())
            x, total = descent.result, total + descent.iterations
        return Solution(x, descent.gradient_norm, descent.statuses, total, names)


def _best_start(metric: Metric, a: Tensor, b: Tensor, nodes: int) -> tuple[Tensor, list[str]]:
    """The candidate start of least energy for every pair, at constant speed."""
    starts = metric.starts(a, b, nodes)
    if len(starts) == 1:
        ((name, path),) = starts.items()
        return path, [name] * len(a)
    paths = torch.stack([_respace(metric, path, nodes) for path in starts.values()])
    calculus.record(node_gradients=paths.shape[0] * paths.shape[1] * paths.shape[2] / 3)
    with torch.no_grad():
        steps, wrong = metric.judged_steps(paths)
        sound = metric.resolves(paths) & ~wrong.any(-1)
        # NaN sorts last; a start that cannot be believed only if there is no other
        ranked = energy(steps).nan_to_num(nan=torch.inf)
        best = torch.where(sound | ~sound.any(0), ranked, torch.inf).argmin(0)
    chosen = paths[best, torch.arange(len(a), device=a.device)]
    return chosen, [list(starts)[i] for i in best.tolist()]


def _named_start(metric: Metric, a: Tensor, b: Tensor, nodes: int, names: list[str]) -> Tensor:
    """The start of the given name for every pair, at constant speed, (B, n+1, d)."""
    starts = metric.starts(a, b, nodes)
    picked = torch.stack([starts[name][i] for i, name in enumerate(names)])
    return _respace(metric, picked, nodes)


def _better(metric: Metric, x: Tensor, other: Tensor) -> Tensor:
    """For every pair the path of less energy; ``x`` unless ``other`` is sound."""
    calculus.record(node_gradients=2 * x[..., 0].numel() / 3)
    with torch.no_grad():
        (steps, _), (rival, wrong) = metric.judged_steps(x), metric.judged_steps(other)
    sound = metric.resolves(other) & ~wrong.any(-1)
    take = sound & ~(energy(steps) <= energy(rival))
    return torch.where(take[:, None, None], other, x)


def _respace(metric: Metric, x: Tensor, nodes: int) -> Tensor:
    """Move to ``nodes`` segments of equal length along the spline through ``x``.

    Where that would leave the nodes too far apart for the metric (long and nearly free stretches
    get few of them), they are spread halfway, or wholly, by their old parameter instead.

    Args:
        metric: the geometry.
        x: paths (..., k+1, d).
        nodes: number n of segments.

    Returns:
        paths (..., n+1, d).
    """
    calculus.record(node_gradients=x[..., 0].numel() / 3)
    with torch.no_grad():
        # negative steps are counted and reported where they are judged, not here
        lengths = metric.steps(x).abs().nan_to_num().sqrt()
    even = lengths.mean(-1, keepdim=True).expand_as(lengths)

    def spread(share: float) -> Tensor:
        path = constant_speed(Spline(x), torch.lerp(lengths, even, share), nodes)
        inside = metric.confine(path[..., 1:-1, :])
        return torch.cat([path[..., :1, :], inside, path[..., -1:, :]], -2)

    out = spread(0.0)
    for share in (0.5, 1.0):
        held = metric.resolves(out)[..., None, None]
        if not bool(held.all()):
            out = torch.where(held, out, spread(share))
    return out


@dataclass(frozen=True)
class AdamSpline:
    """The published recipe: Adam on the coefficients of one C2 cubic spline per pair.

    ``AdamSpline.toy()`` and ``AdamSpline.images()`` are the settings of 2505.17517. Adam depends
    on the coordinates of the spline; the published toy uses (x_t, t), see ``chart``.

    Args:
        edges: cubic pieces of the spline.
        schedule: ``(points, steps)`` phases; the energy is taken at ``points`` parameters.
        learning_rate: of Adam.
        weight_decay: of AdamW (0.01 is its default, which pulls towards the chord).
        chart: maps from the metric's points to the spline's coordinates, and back; default none.
    """

    edges: int = 7
    schedule: tuple[tuple[int, int], ...] = ((16, 350), (64, 250))
    learning_rate: float = 0.1
    weight_decay: float = 0.01
    chart: tuple[Map, Map] | None = None

    @classmethod
    def toy(cls, chart: tuple[Map, Map] | None = None) -> AdamSpline:
        """Fig. 1: two spline nodes (one cubic), 128 points, 1000 steps of Adam."""
        return cls(edges=1, schedule=((128, 1000),), weight_decay=0.0, chart=chart)

    @classmethod
    def images(cls) -> AdamSpline:
        """Images: eight spline nodes, AdamW, 350 steps at 16 points and 250 at 64."""
        return cls()

    def solve(
        self,
        metric: Metric,
        a: Tensor,
        b: Tensor,
        nodes: int,
        *,
        init: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Solution:
        """Minimise the energy between ``a`` and ``b`` (B, d); arguments as for Relax.

        Args:
            metric: the geometry.
            a: starts (B, d).
            b: ends (B, d).
            nodes: number n of segments of the result.
            init: not accepted.
            progress: called after every step with a short line and the paths.

        Returns:
            the spline at n + 1 equal parameters.

        Raises:
            ValueError: if ``init`` is given: the recipe starts at the chord.

        Cost: ``sum(points * steps)`` node gradients per pair.
        """
        if init is not None:
            raise ValueError("AdamSpline starts at the chord and takes no init; use Relax")
        coefficients = torch.zeros(
            len(a), self.edges + 1, a.shape[-1], dtype=a.dtype, device=a.device, requires_grad=True
        )
        optimiser = torch.optim.AdamW(
            [coefficients], lr=self.learning_rate, weight_decay=self.weight_decay
        )
        for points, rounds in self.schedule:
            for i in range(rounds):
                x = self._curve(a, b, coefficients, points)
                _, grad, _ = evaluate(metric, x)
                optimiser.zero_grad()
                x.backward(grad)
                optimiser.step()
                if progress:
                    progress(f"{points} points, step {i + 1} of {rounds}", x.detach())
        with torch.no_grad():
            x = metric.confine(self._curve(a, b, coefficients, nodes + 1))
        steps, grad, _ = evaluate(metric, x)
        h0 = path_laplacian_inverse(metric, x, steps)
        norm = relative_norm(h0, metric, grad, energy(steps))
        taken = torch.full((len(a),), sum(rounds for _, rounds in self.schedule))
        return Solution(x, norm, [_judge(row) for row in steps], taken, ["chord"] * len(a))

    def _curve(self, a: Tensor, b: Tensor, coefficients: Tensor, points: int) -> Tensor:
        s = torch.linspace(0, 1, points, dtype=a.dtype, device=a.device)
        to, back = self.chart or (lambda x: x, lambda x: x)
        chord = torch.lerp(to(a)[:, None], to(b)[:, None], s[:, None])
        inside = back(chord + spline_basis(self.edges, s) @ coefficients)[:, 1:-1]
        return torch.cat([a[:, None], inside, b[:, None]], 1)


def _judge(steps: Tensor) -> Status:
    """Status of a path that was not tested for convergence, from its squared lengths (n,)."""
    if not bool(torch.isfinite(steps).all()):
        return Status.NON_FINITE
    return Status.NEGATIVE_STEPS if bool((steps < 0).any()) else Status.FIXED_BUDGET
