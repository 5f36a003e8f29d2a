r"""The published recipe of the score metric (2505.11128): a score that is not differentiated.

    E = n/2 sum_i |u_i|^2 + L (s(m_i).u_i)^2,     m_i the middle of segment i,

is minimised as if the scores s(m_i) stayed what they are while the nodes move.  What it settles at
solves ``bend(u + L s (s.u)) = 0``, without the term of the changing metric that a geodesic has: it
is longer than one, by the more the larger L is and the more the normal turns.  For comparison.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffodesic.metrics.score import ScoreMetric
from diffodesic.numerics.hessians import bend

__all__ = ["FrozenScore"]


class FrozenScore(ScoreMetric):
    """:class:`ScoreMetric` by the midpoint rule, with the gradient of a frozen score.

    Its gradient is not that of its steps, so solvers with a line search do not converge on it;
    use ``reference.AdamNodes``.  Judge what it finds by :class:`ScoreMetric`.
    """

    newton = False

    def judged_steps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``|u|^2 + weight mean_k (s_k.u)^2``, scores at the middles; K evaluations per segment.

        Args:
            x: nodes (..., n+1, D).

        Returns:
            squared lengths (..., n), and False for all: the recipe sees nothing between nodes.
        """
        steps, _ = self._at_middles(x)
        return steps, torch.zeros_like(steps, dtype=torch.bool)

    def steps_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Steps, and their gradient with the scores held fixed; K evaluations per segment.

        Args:
            x: nodes (..., n+1, D).

        Returns:
            squared lengths (..., n), gradient (..., n+1, D), and False for all segments.
        """
        with torch.no_grad():
            steps, pull = self._at_middles(x)
        return steps, 2 * bend(pull), torch.zeros_like(steps, dtype=torch.bool)

    def _at_middles(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Steps (..., n), and ``g(m) u`` (..., n, D)."""
        u = x.diff(dim=-2)
        s = self.scores((x[..., 1:, :] + x[..., :-1, :]) / 2)
        along = (s * u.unsqueeze(-2)).sum(-1, keepdim=True)
        pull = u + self.weight * (along * s).mean(-2)
        return (u * pull).sum(-1), pull
