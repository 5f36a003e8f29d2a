r"""Boundary-value solvers: paths of least energy between fixed ends, batched over pairs.

:class:`Relax` runs a preconditioned quasi-Newton descent (:mod:`diffodesic.descent`) on a few nodes
first, then on more, respacing the nodes at constant speed between levels.
A solver is a value; anything with the same ``solve`` method is one (:class:`Solver`): those of
others are in :mod:`diffodesic.reference`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from diffodesic import calculus
from diffodesic.curve import Polyline, constant_speed
from diffodesic.descent import (
    Descent,
    Status,
    energy,
    guarded_steps,
)
from diffodesic.metric import Metric
from diffodesic.smooth import Smooth

__all__ = ["Progress", "Relax", "Solution", "Solver"]

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
        coarsest: number of segments of the first level; default the metric's.
        refine: growth of the number of segments from level to level, at most.
        coarse_rtol: tolerance of all levels but the last; default 3e-3, and 1e-3 with Newton's
            curvature, whose predictions are small on a plateau that a few rounds would leave.
        starts: number of first paths per pair that are relaxed at the first level, the shortest
            of ``metric.starts``; the best result goes on.
        newton: use the Gauss-Newton curvature of every path (``metric.newton_steps``); default
            where the metric says that it is cheap.
        splines: (nodes, pieces, iterations) of a search among splines that comes first
            (:class:`diffodesic.smooth.Smooth`), for learned metrics; without effect where segments
            are bent or Newton's curvature is cheap.
        polish: whether points of the spline that was found are then relaxed as free nodes.
    """

    rtol: float = 1e-6
    iterations: int = 2000
    memory: int = 12
    coarsest: int | None = None
    refine: float = 3.5
    coarse_rtol: float | None = None
    starts: int = 1
    newton: bool | None = None
    splines: tuple[int, int, int] | None = None
    polish: bool = True

    def __post_init__(self) -> None:
        coarse = 1.0 if self.coarse_rtol is None else self.coarse_rtol
        if not (self.rtol > 0 and coarse > 0 and self.refine > 1):
            raise ValueError(
                f"rtol and coarse_rtol must be positive and refine above 1, got {self.rtol:g}, "
                f"{self.coarse_rtol} and {self.refine:g}"
            )
        coarsest = 1 if self.coarsest is None else self.coarsest
        if min(self.starts, self.iterations, self.memory + 1, coarsest, *(self.splines or ())) < 1:
            raise ValueError(
                "starts, iterations, coarsest and splines must be at least 1, memory 0 or more"
            )

    def levels(self, nodes: int, coarsest: int) -> list[int]:
        """Numbers of segments from ``coarsest`` to ``nodes``, growing evenly."""
        count = max(0, round(math.log(nodes / coarsest, self.refine)))
        growth = (nodes / coarsest) ** (1 / count) if count else 1.0
        return [round(nodes / growth**i) for i in range(count, -1, -1)]

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
        if self.splines and not (metric.bent_segments or metric.newton):
            return self._after_splines(metric, a, b, nodes, init, progress)
        coarsest = metric.coarsest if self.coarsest is None else self.coarsest
        levels = self.levels(nodes, coarsest)
        if init is None:
            x, names = self._best_starts(metric, a, b, levels[0])
        else:  # what it knows is not thrown away on coarser levels
            levels = [level for level in levels if level >= init.shape[1] - 1] or [nodes]
            x, names = _respace(metric, init, levels[0]), ["given"] * len(a)
        total = torch.zeros(len(a), dtype=torch.long)
        first, *harder = (*metric.easier(), metric)
        # coarse to fine in the easiest metric, then from metric to metric on the finest level
        stages = [(first, level) for level in levels] + [(each, nodes) for each in harder]
        for i, (space, level) in enumerate(stages):
            if x.shape[1] != level + 1:
                x = _respace(space, x, level, self._rival(space, x, level, names))
            rtol = self.rtol if i == len(stages) - 1 else max(self.rtol, self._coarse_rtol(metric))
            descent = self._descend(space, x, rtol, progress)
            x, total = descent.result, total + descent.iterations
        return Solution(x, descent.gradient_norm, descent.statuses, total, names)

    def _by_newton(self, metric: Metric) -> bool:
        return metric.newton if self.newton is None else self.newton

    def _coarse_rtol(self, metric: Metric) -> float:
        if self.coarse_rtol is not None:
            return self.coarse_rtol
        return 1e-3 if self._by_newton(metric) else 3e-3

    def _after_splines(
        self,
        metric: Metric,
        a: Tensor,
        b: Tensor,
        nodes: int,
        init: Tensor | None,
        progress: Progress | None,
    ) -> Solution:
        """Search among splines, then relax the points of what was found, if at all."""
        assert self.splines is not None
        few, pieces, iterations = self.splines
        few = min(few, nodes)
        curves = Smooth(metric, pieces)
        search = replace(self, splines=None, coarsest=few, iterations=iterations)
        if init is not None:
            init = _respace(metric, init, few)
        first = search.solve(curves, a, b, few, init=init, progress=progress)
        if not self.polish:
            return replace(first, nodes=_respace(metric, curves.fine(first.nodes), nodes))
        rest = replace(self, splines=None, coarsest=nodes)
        last = rest.solve(metric, a, b, nodes, init=curves.fine(first.nodes), progress=progress)
        total = first.iterations + last.iterations
        return replace(last, iterations=total, start=first.start)

    @staticmethod
    def _rival(metric: Metric, x: Tensor, nodes: int, names: list[str]) -> Tensor | None:
        """The start again: a level that is no bound may lose its way where nodes see too little."""
        if metric.bent_segments or names[0] == "given":
            return None
        starts = metric.starts(x[:, 0], x[:, -1], nodes)
        return torch.stack([starts[name][i] for i, name in enumerate(names)])

    def _descend(
        self, metric: Metric, x: Tensor, rtol: float, progress: Progress | None
    ) -> Descent:
        descent = Descent(
            metric,
            x,
            rtol=rtol,
            iterations=self.iterations,
            memory=self.memory,
            newton=self._by_newton(metric),
        )
        while descent.active:
            descent.round()
            if progress:
                left = f"{descent.active} of {len(x)} paths active"
                line = f"{x.shape[1] - 1} nodes, round {descent.rounds}: {left}"
                progress(line, descent.current())
        return descent

    def _best_starts(
        self, metric: Metric, a: Tensor, b: Tensor, nodes: int
    ) -> tuple[Tensor, list[str]]:
        """The shortest candidate start of every pair, at constant speed, and its name."""
        named = metric.starts(a, b, nodes)
        if len(named) == 1:
            ((name, path),) = named.items()
            return path, [name] * len(a)
        paths = torch.stack(list(named.values()), 1)  # (B, starts, n+1, d)
        count = min(self.starts, paths.shape[1])
        found = _measure(metric, paths)
        # a start that cannot be believed only if there is no other
        among = found.sound | ~found.sound.any(1, keepdim=True)
        chosen = torch.where(among, found.length, torch.inf).argsort(1)[:, :count]
        row = torch.arange(len(a), device=a.device).unsqueeze(1)
        x = _respace(metric, paths[row, chosen].flatten(0, 1), nodes)
        if count > 1:
            # the shortest path need not begin at the shortest start
            x = self._descend(metric, x, self._coarse_rtol(metric), None).result
            x = x.unflatten(0, (len(a), count))
            best = _pick(_measure(metric, x))
            x, chosen = x[row[:, 0], best], chosen[row[:, 0], best].unsqueeze(1)
        return x, [list(named)[i] for i in chosen[:, 0].tolist()]


class _Measure(NamedTuple):
    """What is known of candidate paths (B, C, n+1, d): each (B, C)."""

    length: Tensor
    energy: Tensor
    sound: Tensor


def _measure(metric: Metric, paths: Tensor) -> _Measure:
    calculus.record(node_gradients=paths[..., 0].numel() / 3)
    with torch.no_grad():
        steps, wrong = guarded_steps(metric, paths)
    sound = metric.resolves(paths) & ~wrong.any(-1)
    # NaN sorts last
    length = steps.clamp(min=0).sqrt().sum(-1).nan_to_num(nan=torch.inf)
    return _Measure(length, energy(steps).nan_to_num(nan=torch.inf), sound)


def _pick(found: _Measure) -> Tensor:
    """Index of the candidate of least energy, of sound ones if there are any, (B,)."""
    among = found.sound | ~found.sound.any(1, keepdim=True)
    return torch.where(among, found.energy, torch.inf).argmin(1)


def _respace(metric: Metric, x: Tensor, nodes: int, other: Tensor | None = None) -> Tensor:
    """Move to ``nodes`` segments of equal length along the path through ``x``.

    Between the old nodes the path is a spline or, where the metric has segments of its own, runs
    along these, whichever has less energy: the spline is smoother, but where nodes are few it may
    leave the region that the segments found.  Where equal lengths would leave the nodes too far
    apart for the metric (long and nearly free stretches get few of them), they are spread halfway,
    or wholly, by their old parameter instead.

    Args:
        metric: the geometry.
        x: paths (B, k+1, d).
        nodes: number n of segments.
        other: a rival (B, n+1, d), taken where it has still less energy, or None.

    Returns:
        paths (B, n+1, d).
    """
    calculus.record(node_gradients=x[..., 0].numel() / 3)
    with torch.no_grad():
        # negative steps are counted and reported where they are judged, not here
        lengths = guarded_steps(metric, x)[0].abs().nan_to_num().sqrt()
    even = lengths.mean(-1, keepdim=True).expand_as(lengths)

    def held(path: Tensor) -> Tensor:
        return torch.cat([x[:, :1], metric.confine(path[:, 1:-1]), x[:, -1:]], 1)

    def spread(along: Callable[[Tensor], Tensor]) -> Tensor:
        out = held(along(lengths))
        for share in (0.5, 1.0):
            good = metric.resolves(out)[..., None, None]
            if not bool(good.all()):
                out = torch.where(good, out, held(along(torch.lerp(lengths, even, share))))
        return out

    rivals = [spread(lambda arc: constant_speed(metric.curve(x), arc, nodes))]
    if metric.bent_segments:
        rivals.append(spread(lambda arc: _along_segments(metric, x, arc, nodes)))
    if other is not None:
        rivals.append(other)
    if len(rivals) == 1:
        return rivals[0]
    paths = torch.stack(rivals, 1)
    return paths[torch.arange(len(x), device=x.device), _pick(_measure(metric, paths))]


def _along_segments(
    metric: Metric, x: Tensor, lengths: Tensor, nodes: int, pieces: int = 8
) -> Tensor:
    """Points at equal arc length along the metric's own segments between nodes (B, k+1, d)."""
    # within a segment the arc is shared out by ``metric.weights``, which costs nothing
    count = pieces * (x.shape[1] - 1)
    s = torch.linspace(0, 1, count + 1, dtype=x.dtype, device=x.device)
    fine = metric.segments(x)(s)
    size = metric.weights((fine[:, 1:] + fine[:, :-1]) / 2)
    parts = fine.diff(dim=1).square().split(metric.blocks, -1)
    arc = (size * torch.stack([part.sum(-1) for part in parts], -1)).sum(-1).sqrt()
    arc = arc.unflatten(1, (-1, pieces))
    total = arc.sum(-1, keepdim=True)
    share = torch.where(total > 0, arc / torch.where(total > 0, total, 1.0), 1 / pieces)
    return constant_speed(Polyline(fine), (share * lengths.unsqueeze(-1)).flatten(1), nodes)
