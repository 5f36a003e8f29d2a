"""Adam's best settings on the C-shaped data: what first comes within 1 % of the best length.

    python -m benchmarks.tune

prints evaluations of the denoiser for every setting; the winners are the recipes of ``c-D``.
"""

from __future__ import annotations

import contextvars
import math

import torch
from torch import Tensor

from benchmarks.measure import common_energy
from benchmarks.problems import Problem, c_shape
from diffodesic import Relax, counting
from diffodesic.geometry.boundary_value import search
from diffodesic.geometry.energy import Solver
from diffodesic.geometry.solvers.reference.adam_spline import AdamSpline
from diffodesic.geometry.solvers.reference.first_order import AdamNodes

RATES = (1e-2, 3e-2, 1e-1, 3e-1, 3e-3, 1e-3)
STEPS = 1500


class _Reached(Exception):
    """Ends a solve that has come close enough."""


class _Missed(Exception):
    """Ends a solve that is no better than others before it."""


def candidates() -> dict[str, Solver]:
    """Adam on nodes and on splines of 7 and 15 pieces, at every learning rate."""
    solvers: dict[str, Solver] = {}
    for rate in RATES:
        solvers[f"nodes {rate:g}"] = AdamNodes(rate, STEPS)
        for edges in (7, 15):
            schedule = ((65, STEPS),)
            solvers[f"spline {edges} {rate:g}"] = AdamSpline(
                edges, schedule, learning_rate=rate, weight_decay=0.0
            )
    return solvers


def evaluations(problem: Problem, solver: Solver, target: float, limit: float) -> int | None:
    """Evaluations until the refined length is ``target``; None if there are more than ``limit``."""
    rounds = 0

    def look(_: str, x: Tensor) -> None:
        nonlocal rounds
        rounds += 1
        if cost.evaluations > limit:
            raise _Missed
        if rounds % 5 == 0:
            energy = contextvars.Context().run(common_energy, problem.space, x, problem.grid)
            if float(energy) ** 0.5 <= target:
                raise _Reached

    with counting() as cost:
        try:
            search(problem.space, problem.a, problem.b, solver=solver, progress=look)
        except _Reached:
            return cost.evaluations
        except _Missed:
            return None
    return None


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    for dim in (2, 64):
        problem = c_shape(dim)
        best = search(problem.space, problem.a, problem.b, nodes=256, solver=Relax(rtol=1e-9))
        length = float(best.length)
        print(f"c-{dim}: best length {length:.4f}")
        least = math.inf
        for name, solver in candidates().items():
            spent = evaluations(problem, solver, 1.01 * length, least)
            least = min(least, spent or math.inf)
            print(f"  {name}: {spent or 'no sooner'}", flush=True)


if __name__ == "__main__":
    main()
