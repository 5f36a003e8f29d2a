"""What the reference solvers share: the first path, and the judgement of the last."""

from __future__ import annotations

import torch
from torch import Tensor

from diffodesic.geometry.energy import Evaluation, Problem, Solution, chord, evaluate
from diffodesic.geometry.solvers.descent import relative_norm
from diffodesic.geometry.status import Status
from diffodesic.numerics.curves import Spline

__all__ = ["first_path", "solution"]


def first_path(problem: Problem) -> Tensor:
    """The given path, or the chord, at n + 1 equal parameters."""
    a, b = problem.a, problem.b
    if problem.init is None:
        return chord(a, b, problem.nodes)
    s = torch.linspace(0, 1, problem.nodes + 1, dtype=a.dtype, device=a.device)
    inside = problem.energy.confine(Spline(problem.init)(s)[:, 1:-1])
    return torch.cat([a[:, None], inside, b[:, None]], 1)


def solution(
    problem: Problem,
    x: Tensor,
    ends: list[Status],
    taken: Tensor,
    last: Evaluation | None = None,
) -> Solution:
    """The result; a path with negative or non-finite steps ends in their name."""
    last = last or evaluate(problem.energy, x)
    h0 = problem.energy.preconditioner(x, last.squared_steps)
    norm = relative_norm(h0, last.slope, last.energy)
    statuses = list(ends)
    for i, row in enumerate(last.squared_steps):
        if not bool(torch.isfinite(row).all()):
            statuses[i] = Status.NON_FINITE
        elif bool((row < 0).any()):
            statuses[i] = Status.NEGATIVE_STEPS
    name = "chord" if problem.init is None else "given"
    return Solution(x, norm, statuses, taken, [name] * len(x))
