"""The recipe of 2505.17517: Adam on the coefficients of one cubic spline.

Its code is the second setting; the first is that of its figure of a one-dimensional mixture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffodesic.geometry.energy import Problem, Solution, evaluate
from diffodesic.geometry.solvers.reference.common import solution
from diffodesic.geometry.status import Status
from diffodesic.numerics.curves import spline_basis

__all__ = ["AdamSpline"]

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class AdamSpline:
    """The published recipe: Adam on the coefficients of one C2 cubic spline per pair.

    ``AdamSpline.toy()`` and ``AdamSpline.images()`` are the settings of 2505.17517. Adam depends
    on the coordinates of the spline; the published toy uses (x_t, t), see ``chart``.

    Args:
        edges: cubic pieces of the spline.
        schedule: ``(points, steps)`` phases; the energy is taken at ``points`` parameters.
        learning_rate: of Adam.
        weight_decay: of AdamW (0.01 is its default, which pulls towards the chord).
        chart: maps from the metric's points to the spline's coordinates, and back; default none.
    """

    edges: int = 7
    schedule: tuple[tuple[int, int], ...] = ((16, 350), (64, 250))
    learning_rate: float = 0.1
    weight_decay: float = 0.01
    chart: tuple[Map, Map] | None = None

    @classmethod
    def toy(cls, chart: tuple[Map, Map] | None = None) -> AdamSpline:
        """Fig. 1: two spline nodes (one cubic), 128 points, 1000 steps of Adam."""
        return cls(edges=1, schedule=((128, 1000),), weight_decay=0.0, chart=chart)

    @classmethod
    def images(cls) -> AdamSpline:
        """Images: eight spline nodes, AdamW, 350 steps at 16 points and 250 at 64."""
        return cls()

    def solve(self, problem: Problem) -> Solution:
        """Minimise the energy from the chord.

        Returns:
            the spline at n + 1 equal parameters.

        Raises:
            ValueError: if ``init`` is given.

        Cost: ``sum(points * steps)`` node gradients per pair.
        """
        energy, a, b = problem.energy, problem.a, problem.b
        if problem.init is not None:
            raise ValueError("AdamSpline starts at the chord and takes no init; use Relax")
        coefficients = torch.zeros(
            len(a), self.edges + 1, a.shape[-1], dtype=a.dtype, device=a.device, requires_grad=True
        )
        optimiser = torch.optim.AdamW(
            [coefficients], lr=self.learning_rate, weight_decay=self.weight_decay
        )
        for points, rounds in self.schedule:
            for i in range(rounds):
                x = self._curve(a, b, coefficients, points)
                grad = evaluate(energy, x).slope
                optimiser.zero_grad()
                x.backward(grad)
                optimiser.step()
                problem.tell(f"{points} points, step {i + 1} of {rounds}", x)
        with torch.no_grad():
            x = energy.confine(self._curve(a, b, coefficients, problem.nodes + 1))
        taken = torch.full((len(a),), sum(rounds for _, rounds in self.schedule))
        return solution(problem, x, [Status.FIXED_BUDGET] * len(x), taken)

    def _curve(self, a: Tensor, b: Tensor, coefficients: Tensor, points: int) -> Tensor:
        s = torch.linspace(0, 1, points, dtype=a.dtype, device=a.device)
        to, back = self.chart or (lambda x: x, lambda x: x)
        chord = torch.lerp(to(a)[:, None], to(b)[:, None], s[:, None])
        inside = back(chord + spline_basis(self.edges, s) @ coefficients)[:, 1:-1]
        return torch.cat([a[:, None], inside, b[:, None]], 1)
