r"""The published recipe of the score metric (2505.11128): a score that is not differentiated.

    E = n/2 sum_i |u_i|^2 + L (s(m_i).u_i)^2,     m_i the middle of segment i,

is minimised as if the scores s(m_i) stayed what they are while the nodes move.  What it settles at
solves ``bend(u + L s (s.u)) = 0``, without the term of the changing metric that a geodesic has: it
is longer than one, by the more the larger L is and the more the normal turns.  For comparison.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffodesic.geometry.energy import Evaluation, Order, PathEnergy
from diffodesic.geometry.solvers.reference.first_order import AdamNodes
from diffodesic.metrics.one_level import OneLevelEnergy
from diffodesic.metrics.score import ScoreMetric
from diffodesic.numerics.hessians import bend

__all__ = ["FrozenEnergy", "FrozenScore"]


class FrozenScore(ScoreMetric):
    """:class:`ScoreMetric` by the midpoint rule, with the gradient of a frozen score.

    That gradient is not that of its steps, so searches with a line search do not converge on it:
    its energy asks for ``AdamNodes``.  Judge what it finds by :class:`ScoreMetric`.
    """

    def squared_steps(self, x: Tensor) -> Tensor:
        """``|u|^2 + weight mean_k (s_k.u)^2``, scores at the middles; K evaluations per segment."""
        return self.at_middles(x)[0]

    def energy(self) -> PathEnergy:
        """The energy of these steps, with the gradient of a frozen score."""
        return FrozenEnergy(self)

    def at_middles(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Steps (..., n), and ``g(m) u`` (..., n, D)."""
        u = x.diff(dim=-2)
        s = self.scores((x[..., 1:, :] + x[..., :-1, :]) / 2)
        along = (s * u.unsqueeze(-2)).sum(-1, keepdim=True)
        pull = u + self.weight * (along * s).mean(-2)
        return (u * pull).sum(-1), pull


class FrozenEnergy(OneLevelEnergy):
    """The energy of the recipe, its scores held fixed in the gradient; no segment is doubted."""

    metric: FrozenScore
    coarsest = 32
    default_solver = AdamNodes(learning_rate=0.01, steps=200)

    def evaluate(self, x: Tensor, *, order: Order = 1) -> Evaluation:
        """Steps and that gradient, by K evaluations per segment; Hessian: the preconditioner."""
        if not order:
            steps = self.metric.squared_steps(x)
            return Evaluation(steps, torch.zeros_like(steps, dtype=torch.bool))
        with torch.no_grad():
            steps, pull = self.metric.at_middles(x)
        doubtful = torch.zeros_like(steps, dtype=torch.bool)
        hessian = self.preconditioner(x, steps) if order == 2 else None
        return Evaluation(steps, doubtful, steps.shape[-1] * bend(pull), hessian)
