"""The default solver against the published recipe, on problems with exact denoisers.

    python -m benchmarks.solvers [--quick]

prints two tables in Markdown and writes ``benchmarks/results/solvers.json``.  Solvers are compared
in node gradients (one node, one gradient of the energy; an energy alone counts a third), which do
not depend on the machine.  Paths of any solver are respaced to 64 segments of equal length before
their energies ``n sum steps`` are compared: the recipe, whose spline runs at uneven speed, is given
that for free.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from benchmarks.problems import Problem, digits, toy
from torch import Tensor

from diffodesic import AdamSpline, Geodesic, Relax, Spacetime, Spline, counting, geodesic
from diffodesic.curve import constant_speed

__all__ = ["Comparison", "Run", "common_energy", "compare", "main", "run"]

NODES = 64
RESULTS = Path(__file__).parent / "results" / "solvers.json"


@dataclass(frozen=True)
class Run:
    """One solve, with everything it passed through.

    Attributes:
        path: the result.
        seconds: wall time, certificate included.
        history: node gradients spent and the path held, after every round.
    """

    path: Geodesic
    seconds: float
    history: list[tuple[float, Tensor]]


def run(problem: Problem, solver: Relax | AdamSpline, nodes: int) -> Run:
    """Solve a problem and keep every path on the way.

    Args:
        problem: what to solve.
        solver: with which settings.
        nodes: number of segments of the result.

    Returns:
        The run.
    """
    history: list[tuple[float, Tensor]] = []
    with counting() as cost:
        start = time.perf_counter()
        path = geodesic(
            problem.space,
            problem.a,
            problem.b,
            nodes=nodes,
            solver=solver,
            progress=lambda _, x: history.append((cost.node_gradients, x[0])),
        )
    return Run(path, time.perf_counter() - start, history)


def common_energy(space: Spacetime, x: Tensor) -> Tensor:
    """Energy ``n sum steps`` of paths, respaced to 64 segments of equal length.

    Args:
        space: the geometry.
        x: nodes (..., n+1, d) for any n.

    Returns:
        Twice the discrete energy, (...).
    """
    with torch.no_grad():
        for _ in range(4):  # every pass moves the nodes closer to equal lengths
            x = constant_speed(Spline(x), space.steps(x).clamp(min=0).sqrt(), NODES)
        return NODES * space.steps(x).sum(-1)


def first_below(space: Spacetime, found: Run, target: float, *, stride: int = 1) -> float | None:
    """Node gradients that a run had spent when its path first met an energy.

    Args:
        space: the geometry.
        found: the run.
        target: energy as measured by :func:`common_energy`.
        stride: look at every so many rounds only.

    Returns:
        Node gradients, or None if the target was never met.
    """
    for spent, x in found.history[stride - 1 :: stride]:
        if float(common_energy(space, x)) <= target:
            return spent
    return None


@dataclass(frozen=True)
class Comparison:
    """The default solver and the recipe on one problem.

    Attributes:
        problem: what was solved.
        default: run of the default solver.
        recipe: run of the published recipe.
        target: the recipe's last energy on the common grid.
        reached: node gradients of the default until its path is as good as the recipe's last.
        settled: node gradients of the recipe until it is within 1 % of its own last energy.
    """

    problem: Problem
    default: Run
    recipe: Run
    target: float
    reached: float
    settled: float

    @property
    def ratio(self) -> float:
        """Node gradients of the recipe's published budget, over those that the default needs."""
        return sum(n * steps for n, steps in self.problem.recipe.schedule) / self.reached

    @property
    def settled_ratio(self) -> float:
        """The same with a recipe stopped as soon as it is within 1 % of its own last energy."""
        return self.settled / self.reached


def compare(problem: Problem, *, stride: int = 1) -> Comparison:
    """Run both solvers on a problem.

    Args:
        problem: what to solve.
        stride: resolution, in steps, of the search for the step where the recipe has settled.

    Returns:
        The comparison.

    Raises:
        RuntimeError: if the default solver never gets as far as the recipe.
    """
    recipe = run(problem, problem.recipe, problem.recipe_nodes)
    default = run(problem, Relax(), NODES)
    target = float(common_energy(problem.space, recipe.path.nodes))
    reached = first_below(problem.space, default, target)
    settled = first_below(problem.space, recipe, 1.01 * target, stride=stride)
    if reached is None or settled is None:
        raise RuntimeError(f"{problem.name}: the default solver did not reach {target:.4f}")
    return Comparison(problem, default, recipe, target, reached, settled)


def _rows(found: Comparison) -> list[dict[str, object]]:
    space = found.problem.space
    return [
        {
            "problem": found.problem.name,
            "solver": name,
            "length": float(each.path.length),
            "energy": float(common_energy(space, each.path.nodes)),
            "node gradients": round(each.path.node_gradients),
            "evaluations": each.path.evaluations,
            "derivatives": each.path.derivatives,
            "seconds": round(each.seconds, 2),
            "status": each.path.status.name,
        }
        for name, each in (("default", found.default), ("recipe", found.recipe))
    ]


def _ratios(found: Comparison) -> dict[str, object]:
    return {
        "problem": found.problem.name,
        "target energy": found.target,
        "default reaches it after": round(found.reached),
        "recipe's budget": round(found.ratio * found.reached),
        "ratio": round(found.ratio, 1),
        "recipe within 1 % after": round(found.settled),
        "ratio to that": round(found.settled_ratio, 1),
    }


def _markdown(rows: list[dict[str, object]]) -> str:
    def cell(value: object) -> str:
        return f"{value:.4f}" if isinstance(value, float) and value > 1 else str(value)

    lines = [list(rows[0]), ["---"] * len(rows[0])]
    lines += [[cell(value) for value in row.values()] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description="the default solver against the published recipe")
    parser.add_argument(
        "--quick", action="store_true", help="search the recipe's history at every tenth step only"
    )
    options = parser.parse_args()
    found = [compare(problem, stride=10 if options.quick else 1) for problem in (toy(), digits())]
    tables = {
        "solvers": [row for each in found for row in _rows(each)],
        "ratios": [_ratios(each) for each in found],
    }
    for name, rows in tables.items():
        print(f"\n### {name}\n\n{_markdown(rows)}")
    machine = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "python": platform.python_version(),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"machine": machine, **tables}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
