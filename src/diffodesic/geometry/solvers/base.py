"""What a boundary-value solver is, and what it returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from diffodesic.geometry.metric import Metric
from diffodesic.geometry.status import Status

__all__ = ["Progress", "Solution", "Solver"]


Progress = Callable[[str, Tensor], None]


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
