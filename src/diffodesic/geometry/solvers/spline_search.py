r"""The energy of the smooth curves through a few nodes, for searches on learned metrics.

Free nodes see the metric at their own places alone.  Between them a path may pass a place of high
cost that none of them looks at, and a search on a learned metric finds such places.  Here the
unknowns are n nodes, and the energy is taken on the C2 spline through them, at ``pieces`` points
per segment:

    y = M x,    E = N/2 sum squared_steps(y),    N = pieces n,    grad_x = M^T grad_y,

with M the spline's matrix, (N+1, n+1).  (2505.17517 and stochman, Detlefsen et al. 2021, search
among splines, too.)
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffodesic.geometry.energy import Evaluation, Order, PathEnergy
from diffodesic.geometry.wrappers import EnergyWrapper
from diffodesic.numerics.cost import record
from diffodesic.numerics.curves import Spline
from diffodesic.numerics.linear import product

__all__ = ["SplineEnergy"]


class SplineEnergy(EnergyWrapper):
    """An energy taken along the splines through nodes.

    Args:
        wrapped: the energy; its segments must be straight.
        pieces: points of the energy per segment.

    Raises:
        ValueError: for fewer than one piece, or an energy with segments of its own.

    Cost: that of the wrapped energy at ``pieces n + 1`` nodes.
    """

    cheap_hessian = False  # that of a spline's nodes is the preconditioner's

    def __init__(self, wrapped: PathEnergy, pieces: int) -> None:
        if pieces < 1 or wrapped.exact_segments:
            raise ValueError(
                f"splines with {pieces} pieces on {type(wrapped).__name__}: pieces must be at "
                "least 1, and the energy must have straight segments (no exact spacetime)"
            )
        super().__init__(wrapped)
        self.pieces = pieces

    @property
    def coarsest(self) -> int:  # type: ignore[override]
        """Segments of splines that have as many points as the wrapped energy asks for."""
        return -(-self.wrapped.coarsest // self.pieces)

    def fine(self, x: Tensor) -> Tensor:
        """Points of the splines through nodes (..., n+1, d), (..., pieces n + 1, d)."""
        return self.confine(product(self._matrix(x), x))

    def resolves(self, x: Tensor) -> Tensor:
        """Whether the wrapped energy is resolved along the spline, (...)."""
        return self.wrapped.resolves(self.fine(x))

    def evaluate(self, x: Tensor, *, order: Order = 1) -> Evaluation:
        """Sums over the pieces of segments, by the nodes; the Hessian is the preconditioner."""
        matrix = self._matrix(x)
        free = product(matrix, x)
        y = self.confine(free)
        found = self.wrapped.evaluate(y, order=1 if order else 0)
        steps = self.pieces * found.squared_steps.unflatten(-1, (-1, self.pieces)).sum(-1)
        doubtful = found.doubtful.unflatten(-1, (-1, self.pieces)).any(-1)
        if not order:
            return Evaluation(steps, doubtful)
        # a search counts its own nodes; the rest are those of the spline
        record(node_gradients=y[..., 0].numel() - x[..., 0].numel())
        # a point on the bound stays there
        gradient = product(matrix.mT, torch.where(y == free, found.slope, 0.0))
        hessian = self.preconditioner(x, steps) if order == 2 else None
        return Evaluation(steps, doubtful, gradient, hessian)

    def _matrix(self, x: Tensor) -> Tensor:
        n = x.shape[-2] - 1
        unit = torch.eye(n + 1, dtype=x.dtype, device=x.device)
        s = torch.linspace(0, 1, self.pieces * n + 1, dtype=x.dtype, device=x.device)
        return Spline(unit)(s)
