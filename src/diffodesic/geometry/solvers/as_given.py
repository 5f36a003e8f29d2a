"""The solver that keeps the path that it is given, so that a path can be certified as it is."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from diffodesic.geometry.energy import Problem, Solution
from diffodesic.geometry.status import Status

__all__ = ["AsGiven"]


@dataclass(frozen=True)
class AsGiven:
    """Keep ``init``, on the nodes asked for.

    Attributes:
        status: what every pair ends with.
    """

    status: Status = Status.ITERATION_LIMIT

    def solve(self, problem: Problem) -> Solution:
        """Keep the paths: ``init`` where it has n segments, else points of its curve.

        Returns:
            the paths, their gradient norms unknown (NaN).

        Raises:
            ValueError: without ``init``.
        """
        init, nodes = problem.init, problem.nodes
        if init is None:
            raise ValueError("AsGiven keeps the path that it is given; give init")
        if init.shape[1] != nodes + 1:
            s = torch.linspace(0, 1, nodes + 1, dtype=init.dtype, device=init.device)
            init = problem.energy.curve(init)(s)
        none = torch.zeros(len(init), dtype=torch.long)
        unknown = init.new_full((len(init),), torch.nan)
        return Solution(init, unknown, [self.status] * len(init), none, ["given"] * len(init))
