"""What the reference solvers share: the first path, and the judgement of the last."""

from __future__ import annotations

import torch
from torch import Tensor

from diffodesic.geometry.metric import Metric
from diffodesic.geometry.solvers.base import Solution
from diffodesic.geometry.solvers.descent import energy, relative_norm
from diffodesic.geometry.status import Status
from diffodesic.numerics.curves import Spline


def dot(u: Tensor, v: Tensor) -> Tensor:
    """Inner products of paths (B, n+1, d), (B,)."""
    return (u * v).flatten(1).sum(-1)


def first_path(
    metric: Metric, a: Tensor, b: Tensor, nodes: int, init: Tensor | None
) -> tuple[Tensor, list[str]]:
    """The given path, or the chord, at n + 1 equal parameters; and its name."""
    s = torch.linspace(0, 1, nodes + 1, dtype=a.dtype, device=a.device)
    if init is None:
        return torch.lerp(a[:, None], b[:, None], s[:, None]), ["chord"] * len(a)
    inside = metric.confine(Spline(init)(s)[:, 1:-1])
    return torch.cat([a[:, None], inside, b[:, None]], 1), ["given"] * len(a)


def solution(
    metric: Metric,
    x: Tensor,
    steps: Tensor,
    grad: Tensor,
    ends: list[Status],
    taken: Tensor,
    names: list[str],
) -> Solution:
    """The result; a path with negative or non-finite steps ends in their name."""
    h0 = metric.curvature(x, steps)
    norm = relative_norm(h0, grad, energy(steps))
    statuses = list(ends)
    for i, row in enumerate(steps):
        if not bool(torch.isfinite(row).all()):
            statuses[i] = Status.NON_FINITE
        elif bool((row < 0).any()):
            statuses[i] = Status.NEGATIVE_STEPS
    return Solution(x, norm, statuses, taken, names)
