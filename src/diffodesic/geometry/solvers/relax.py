r"""Boundary-value solvers: paths of least energy between fixed ends, batched over pairs.

:class:`Relax` runs a preconditioned quasi-Newton descent
(:mod:`diffodesic.geometry.solvers.descent`) on a few nodes first, then on more, respacing the nodes
at constant speed between levels. A solver is a value; anything with the same ``solve`` method is
one (:class:`Solver`): those of others are in :mod:`diffodesic.geometry.solvers.reference`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffodesic.geometry.energy import (
    Order,
    PathEnergy,
    Problem,
    Progress,
    Solution,
    even_knots,
)
from diffodesic.geometry.solvers.descent import Descent
from diffodesic.geometry.solvers.graded import Graded, by_turning, knots_of, saved
from diffodesic.geometry.solvers.second_order import lower_beside
from diffodesic.geometry.solvers.spline_search import SplineEnergy
from diffodesic.geometry.solvers.starts import (
    candidates,
    first_paths,
    measure,
    pick,
    respace,
)
from diffodesic.geometry.status import Status
from diffodesic.numerics.cost import stage

__all__ = ["Relax"]

DETOUR = 1.4  # where a half circle is shorter than the chord, starts longer by less are tried
WORTH = 1e-3  # share of its length that a path loses on uneven nodes, where they are taken
FEWEST = 8  # segments from which a path shows where it turns
SADDLES = 3  # times that a path may go on beside a saddle


Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Relax:
    """Preconditioned L-BFGS on nodes, coarse to fine; the default solver.

    Args:
        rtol: stop when the predicted decrease of the energy is below this share of it.
        iterations: limit on energy gradients per level and pair.
        memory: correction pairs kept.
        coarsest: number of segments of the first level; default the energy's.
        refine: growth of the number of segments from level to level, at most.
        coarse_rtol: tolerance of all levels but the last; default 3e-3, and 1e-3 with Newton's
            curvature, whose predictions are small on a plateau that a few rounds would leave.
        starts: number of first paths per pair that are relaxed at the first level, the shortest
            of the candidates; the best result goes on.
        newton: use the Gauss-Newton curvature of every path (``energy.evaluate``); default
            where the energy says that it is cheap.
        splines: (nodes, pieces, iterations) of a search among splines that comes first
            (:class:`diffodesic.geometry.solvers.spline_search.SplineEnergy`), for networks;
            without effect where segments are bent or Newton's curvature is cheap.
        polish: whether points of the spline that was found are then relaxed as free nodes.
        explore: look beyond the energy's own starts where that is the chord alone (half circles
            over it), and test the end for being a minimum: a path at a saddle goes on beside it.
        uneven: whether a path of long straight stretches and corners, which would be shorter by a
            thousandth, is searched on nodes that lie densely in the corners, where segments are
            exact (:mod:`diffodesic.geometry.solvers.graded`); not without ``explore``.
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
    explore: bool = True
    uneven: bool = True

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

    def solve(self, problem: Problem) -> Solution:
        """Minimise the energy, from ``init`` or the best start of every pair.

        Returns:
            the solution on n + 1 nodes.

        Cost: one energy gradient per round and active pair.
        """
        energy, nodes, init = problem.energy, problem.nodes, problem.init
        if self.splines and not (energy.exact_segments or energy.cheap_hessian):
            return self._after_splines(problem, self.splines)
        coarsest = energy.coarsest if self.coarsest is None else self.coarsest
        levels = self.levels(nodes, coarsest)
        if init is None:
            x, names = self._best_starts(problem, levels[0])
        else:  # what it knows is not thrown away on coarser levels
            levels = [level for level in levels if level >= init.shape[1] - 1] or [nodes]
            x, names = respace(energy, init, levels[0]), ["given"] * len(init)
        begin, total = x, torch.zeros(len(x), dtype=torch.long)
        uneven = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        first, *harder = energy.stages()
        # coarse to fine in the easiest stage, then from stage to stage on the finest level
        stages = [(first, level) for level in levels] + [(each, nodes) for each in harder]
        rough = max(self.rtol, self._coarse_rtol(energy))
        for i, (staged, level) in enumerate(stages):
            if i == len(stages) - 1:
                uneven = self._uneven(energy, x, nodes)
            if x.shape[1] != level + 1:
                x = respace(staged, x, level, self._start_again(staged, begin, level, names))
            last = x.new_full((len(x),), self.rtol).masked_fill(uneven, rough)
            rtol = last if i == len(stages) - 1 else rough
            descent = self._descend(staged, x, rtol, problem.progress)
            x, total = descent.result, total + descent.iterations
        if self.explore:
            total = total + self._off_saddles(problem, descent)
        knots = None
        if bool(uneven.any()):
            knots, more = self._grade(problem, descent, uneven)
            total = total + more
        norm, statuses = descent.gradient_norm, descent.statuses
        return Solution(descent.result, norm, statuses, total, names, knots=knots)

    def _uneven(self, energy: PathEnergy, x: Tensor, nodes: int) -> Tensor:
        """Which paths (B, k+1, d) are shorter by a thousandth on uneven nodes, (B,)."""
        able = self.uneven and self.explore and energy.exact_segments
        if not able or x.shape[1] <= FEWEST:
            return torch.zeros(len(x), dtype=torch.bool, device=x.device)
        return saved(energy, x, nodes) > WORTH

    def _grade(self, problem: Problem, done: Descent, uneven: Tensor) -> tuple[Tensor, Tensor]:
        """Go on, in place, on uneven nodes; the knots (B, n+1) and the rounds taken, (B,)."""
        x = done.result
        knots, taken = even_knots(x).clone(), torch.zeros_like(done.iterations)
        rough = max(self.rtol, self._coarse_rtol(problem.energy) / 10)
        for row in torch.nonzero(uneven).flatten().tolist():
            tell = _among(x, row, problem.progress)
            well = done.statuses[row] is Status.CONVERGED
            # each has shares of its own; a first rough search shows better where a path turns
            for rtol in (rough, self.rtol) if well else (self.rtol,):
                energy, first = problem.energy, x[row, None]
                if well:
                    first, shares = by_turning(energy, first, problem.nodes)
                    knots[row], energy = knots_of(shares[0]), Graded(energy, shares[0])
                again = self._descend(energy, first, rtol, tell)
                x[row], done.gradient_norm[row] = again.result[0], again.gradient_norm[0]
                taken[row] += int(again.iterations[0])
                done.statuses[row] = again.statuses[0]
        return knots, taken

    def _by_newton(self, energy: PathEnergy) -> bool:
        return energy.cheap_hessian if self.newton is None else self.newton

    def _coarse_rtol(self, energy: PathEnergy) -> float:
        if self.coarse_rtol is not None:
            return self.coarse_rtol
        return 1e-3 if self._by_newton(energy) else 3e-3

    def _after_splines(self, problem: Problem, splines: tuple[int, int, int]) -> Solution:
        """Search among splines, then relax the points of what was found, if at all."""
        energy, nodes, init = problem.energy, problem.nodes, problem.init
        few, pieces, iterations = splines
        few = min(few, nodes)
        curves = SplineEnergy(energy, pieces)
        plain = replace(self, splines=None, explore=False)
        search = replace(plain, coarsest=few, iterations=iterations)
        if init is not None:
            init = respace(energy, init, few)
        first = search.solve(replace(problem, energy=curves, nodes=few, init=init))
        if not self.polish:
            return replace(first, nodes=respace(energy, curves.fine(first.nodes), nodes))
        rest = replace(plain, coarsest=nodes)
        last = rest.solve(replace(problem, init=curves.fine(first.nodes)))
        total = first.iterations + last.iterations
        return replace(last, iterations=total, start=first.start)

    @staticmethod
    def _start_again(
        energy: PathEnergy, first: Tensor, nodes: int, names: list[str]
    ) -> Tensor | None:
        """The starts (B, k+1, d) again: a level that is no bound may lose its way on few nodes."""
        if names[0] == "given":
            return None
        named = first_paths(energy.starts, first[:, 0], first[:, -1], nodes)
        s = torch.linspace(0, 1, nodes + 1, dtype=first.dtype, device=first.device)
        others = energy.confine(energy.curve(first)(s))
        return torch.stack([named.get(name, others)[i] for i, name in enumerate(names)])

    def _descend(
        self, energy: PathEnergy, x: Tensor, rtol: float | Tensor, progress: Progress | None
    ) -> Descent:
        descent = Descent(
            energy,
            x,
            rtol=rtol,
            iterations=self.iterations,
            memory=self.memory,
            newton=self._by_newton(energy),
        )
        while descent.active:
            descent.round()
            if progress:
                left = f"{descent.active} of {len(x)} paths active"
                line = f"{x.shape[1] - 1} nodes, round {descent.rounds}: {left}"
                progress(line, descent.current())
        return descent

    def _off_saddles(self, problem: Problem, done: Descent) -> Tensor:
        """Go on, in place, from where a descent ended at a saddle; rounds taken per pair."""
        energy = problem.energy
        taken = torch.zeros_like(done.iterations)
        rows = torch.arange(len(done.result))
        order: Order = 2 if self._by_newton(energy) else 1
        for _ in range(SADDLES):
            well = torch.tensor([done.statuses[i] is Status.CONVERGED for i in rows.tolist()])
            rows = rows[well.bool()]
            if not len(rows):
                break
            x, lower = lower_beside(energy, done.result[rows], order=order)
            rows = rows[lower.cpu()]
            if not len(rows):
                break
            again = self._descend(energy, x, done.rtol[rows], problem.progress)
            done.result[rows], done.gradient_norm[rows] = again.result, again.gradient_norm
            taken[rows] += again.iterations
            for row, status in zip(rows.tolist(), again.statuses, strict=True):
                done.statuses[row] = status
        return taken

    @stage("starts")
    def _best_starts(self, problem: Problem, nodes: int) -> tuple[Tensor, list[str]]:
        """The best candidate start of every pair, at constant speed, and its name."""
        energy, a, b = problem.energy, problem.a, problem.b
        if self.explore:
            named = candidates(energy, a, b, nodes, 2 if self._by_newton(energy) else 1)
        else:
            named = first_paths(energy.starts, a, b, nodes)
        order, paths = list(named), torch.stack(list(named.values()), 1)  # (B, starts, n+1, d)
        if len(order) == 1:
            return paths[:, 0], order * len(a)
        # half the segments tell a half circle from a chord
        arcs = order[-1] == "arc back"
        found = measure(energy, paths[:, :, ::2] if arcs and nodes % 2 == 0 else paths)
        # a start that cannot be believed only if there is no other
        among = found.sound | ~found.sound.any(1, keepdim=True)
        length = torch.where(among, found.length, torch.inf)
        rank = length.argsort(stable=True, dim=1)
        tried = torch.zeros_like(among).scatter(1, rank[:, : self.starts], True)
        if arcs:  # a start that is longer by a little may still be the better one
            tried |= (length < DETOUR * length.amin(1, keepdim=True)) & (rank[:, :1] > 0)
        return self._best_of(energy, paths, tried, found.squared_steps, order)

    def _best_of(
        self, energy: PathEnergy, paths: Tensor, tried: Tensor, steps: Tensor, names: list[str]
    ) -> tuple[Tensor, list[str]]:
        """Of paths (B, C, n+1, d) the one of ``tried`` (B, C) with the best end, and its name."""
        pair, which = torch.nonzero(tried).unbind(1)
        nodes = paths.shape[2] - 1
        x = respace(energy, paths[pair, which], nodes, steps=steps[pair, which])
        if len(pair) > len(paths):  # the shortest path need not begin at the shortest start
            open_ = tried.sum(1)[pair] > 1
            x[open_] = self._descend(energy, x[open_], self._coarse_rtol(energy), None).result
            rated = measure(energy, x[open_][:, None])
            value = torch.full(tried.shape, torch.inf, dtype=x.dtype, device=x.device)
            value[pair[~open_], which[~open_]] = 0.0
            sound = torch.zeros_like(tried)
            sound[pair[open_], which[open_]] = rated.sound[:, 0]
            value[pair[open_], which[open_]] = rated.energy[:, 0]
            keep = which == pick(value, sound)[pair]
            x, which = x[keep], which[keep]
        return x, [names[i] for i in which.tolist()]


def _among(x: Tensor, row: int, progress: Progress | None) -> Progress | None:
    """Progress of one path, told as that of all paths (B, n+1, d)."""
    if progress is None:
        return None

    def tell(line: str, path: Tensor) -> None:
        every = x.clone()
        every[row] = path[0]
        progress(line, every)

    return tell
