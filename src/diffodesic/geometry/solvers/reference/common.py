"""What the reference solvers share: the first path, and the judgement of the last."""

from __future__ import annotations

import torch
from torch import Tensor

from diffodesic.geometry.energy import Evaluation, PathEnergy, Solution
from diffodesic.geometry.solvers.descent import relative_norm
from diffodesic.geometry.status import Status
from diffodesic.numerics.curves import Spline

__all__ = ["first_path", "solution"]


def first_path(
    energy: PathEnergy, a: Tensor, b: Tensor, nodes: int, init: Tensor | None
) -> tuple[Tensor, list[str]]:
    """The given path, or the chord, at n + 1 equal parameters; and its name."""
    s = torch.linspace(0, 1, nodes + 1, dtype=a.dtype, device=a.device)
    if init is None:
        return torch.lerp(a[:, None], b[:, None], s[:, None]), ["chord"] * len(a)
    inside = energy.confine(Spline(init)(s)[:, 1:-1])
    return torch.cat([a[:, None], inside, b[:, None]], 1), ["given"] * len(a)


def solution(
    energy: PathEnergy,
    x: Tensor,
    last: Evaluation,
    ends: list[Status],
    taken: Tensor,
    names: list[str],
) -> Solution:
    """The result; a path with negative or non-finite steps ends in their name."""
    h0 = energy.preconditioner(x, last.squared_steps)
    norm = relative_norm(h0, last.slope, last.energy)
    statuses = list(ends)
    for i, row in enumerate(last.squared_steps):
        if not bool(torch.isfinite(row).all()):
            statuses[i] = Status.NON_FINITE
        elif bool((row < 0).any()):
            statuses[i] = Status.NEGATIVE_STEPS
    return Solution(x, norm, statuses, taken, names)
