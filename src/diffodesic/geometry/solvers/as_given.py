"""The solver that keeps the path that it is given, so that a path can be certified as it is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffodesic.geometry.energy import PathEnergy, Progress, Solution
from diffodesic.geometry.status import Status

__all__ = ["AsGiven"]


@dataclass(frozen=True)
class AsGiven:
    """Keep ``init``, on the nodes asked for.

    Attributes:
        status: what every pair ends with.
    """

    status: Status = Status.ITERATION_LIMIT

    def solve(
        self,
        energy: PathEnergy,
        a: Tensor,
        b: Tensor,
        nodes: int,
        *,
        init: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Solution:
        """``init`` itself where it has n = ``nodes`` segments, else points of its curve.

        Args:
            energy: gives the curve through the nodes of ``init``.
            a: starts (B, d).
            b: ends (B, d).
            nodes: number n of segments.
            init: the paths (B, k+1, d).
            progress: not called.

        Returns:
            the paths, their gradient norm unknown (NaN).

        Raises:
            ValueError: without ``init``.
        """
        if init is None:
            raise ValueError("AsGiven keeps the path that it is given; give init")
        if init.shape[1] != nodes + 1:
            s = torch.linspace(0, 1, nodes + 1, dtype=init.dtype, device=init.device)
            init = energy.curve(init)(s)
        none = torch.zeros(len(init), dtype=torch.long)
        unknown = init.new_full((len(init),), torch.nan)
        return Solution(init, unknown, [self.status] * len(init), none, ["given"] * len(init))
