"""The recipe of 2505.17517: Adam on the coefficients of one cubic spline.

Its code is the second setting; the first is that of its figure of a one-dimensional mixture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffodesic.geometry.energy import PathEnergy, Progress, Solution, evaluate
from diffodesic.geometry.solvers.descent import relative_norm
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
        """Minimise the energy between ``a`` and ``b`` (B, d); arguments as for Relax.

        Args:
            energy: what is minimised.
            a: starts (B, d).
            b: ends (B, d).
            nodes: number n of segments of the result.
            init: not accepted.
            progress: called after every step with a short line and the paths.

        Returns:
            the spline at n + 1 equal parameters.

        Raises:
            ValueError: if ``init`` is given: the recipe starts at the chord.

        Cost: ``sum(points * steps)`` node gradients per pair.
        """
        if init is not None:
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
                if progress:
                    progress(f"{points} points, step {i + 1} of {rounds}", x.detach())
        with torch.no_grad():
            x = energy.confine(self._curve(a, b, coefficients, nodes + 1))
        found = evaluate(energy, x)
        steps = found.squared_steps
        norm = relative_norm(energy.preconditioner(x, steps), found.slope, found.energy)
        taken = torch.full((len(a),), sum(rounds for _, rounds in self.schedule))
        return Solution(x, norm, [_judge(row) for row in steps], taken, ["chord"] * len(a))

    def _curve(self, a: Tensor, b: Tensor, coefficients: Tensor, points: int) -> Tensor:
        s = torch.linspace(0, 1, points, dtype=a.dtype, device=a.device)
        to, back = self.chart or (lambda x: x, lambda x: x)
        chord = torch.lerp(to(a)[:, None], to(b)[:, None], s[:, None])
        inside = back(chord + spline_basis(self.edges, s) @ coefficients)[:, 1:-1]
        return torch.cat([a[:, None], inside, b[:, None]], 1)


def _judge(steps: Tensor) -> Status:
    """Status of a path that was not tested for convergence, from its squared lengths (n,)."""
    if not bool(torch.isfinite(steps).all()):
        return Status.NON_FINITE
    return Status.NEGATIVE_STEPS if bool((steps < 0).any()) else Status.FIXED_BUDGET
