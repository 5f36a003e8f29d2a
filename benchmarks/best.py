"""Best known lengths: every start to the default number of nodes, the best of them on four times.

Solvers are judged against these, or against a run that is shorter still.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.problems import Problem
from diffodesic import Relax, ScoreMetric
from diffodesic.geometry.boundary_value import search

__all__ = ["best_known"]

FINER = 4


def starts(problem: Problem, a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """First paths by name: the metric's own, and along the data where they are a curve."""
    paths = problem.space.energy().starts(a, b, problem.nodes)
    if isinstance(problem.space, ScoreMetric):
        data = problem.space.denoiser.means  # type: ignore[attr-defined]
        paths["law"] = data.expand(len(a), *data.shape)
    return paths


def best_known(problem: Problem) -> dict[str, Any]:
    """Shortest known paths of a problem.

    Args:
        problem: with an exact denoiser.

    Returns:
        Refined lengths, the starts that led to them and those of all starts, per pair.
    """
    a, b = (x.reshape(-1, problem.space.dim) for x in (problem.a, problem.b))
    first = Relax(rtol=1e-7, iterations=1000)
    solved = {
        name: search(problem.space, a, b, nodes=problem.nodes, solver=first, init=path)
        for name, path in starts(problem, a, b).items()
    }
    solved["best start"] = search(problem.space, a, b, nodes=problem.nodes, solver=first)
    lengths = torch.stack([path.length.nan_to_num(torch.inf) for path in solved.values()])
    best = lengths.argmin(0)
    paths = torch.stack([path.nodes for path in solved.values()])
    init = paths[best, torch.arange(len(a))]
    nodes = FINER * problem.nodes
    # one level: the coarse ones would lose the path again
    last = Relax(rtol=1e-9, iterations=1000, coarsest=nodes)
    fine = search(problem.space, a, b, nodes=nodes, solver=last, init=init)
    shortest = torch.minimum(fine.length.nan_to_num(torch.inf), lengths.amin(0))
    return {
        "length": shortest.tolist(),
        "nodes": nodes,
        "start": [list(solved)[i] for i in best.tolist()],
        "status": [status.name for status in fine.statuses],
        "by start": {name: path.length.tolist() for name, path in solved.items()},
    }
