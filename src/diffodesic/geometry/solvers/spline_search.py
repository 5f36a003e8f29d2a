r"""A metric seen along the smooth curve through a few nodes.

Nodes that are free see the metric at their own places alone, and between them the path may pass
what none of them looks at; a learned metric has such places, and a solver finds them.  Here the
unknowns are n nodes, and the energy is taken on the C2 spline through them, at ``pieces`` points
per segment:

    y = M x,    E = N/2 sum steps(y),    N = pieces n,    grad_x = M^T grad_y,

with M the spline's matrix, (N+1, n+1).  Few nodes move far in few iterations, and what they hide
is less.  (2505.17517 and stochman, Detlefsen et al. 2021, search among splines, too.)
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffodesic.geometry.metric import Metric
from diffodesic.numerics.cost import record
from diffodesic.numerics.curves import Spline

__all__ = ["Smooth"]


class Smooth(Metric):
    """A metric whose paths are the splines through their nodes.

    Args:
        metric: the metric; its curve must be the plain spline (no metric with bent segments).
        pieces: points of the energy per segment.

    Raises:
        ValueError: for fewer than one piece, or a metric with a curve of its own.
    """

    def __init__(self, metric: Metric, pieces: int) -> None:
        if pieces < 1 or metric.bent_segments:
            raise ValueError(
                f"splines with {pieces} pieces through {type(metric).__name__}: pieces must be at "
                "least 1, and the metric must have straight segments (no exact spacetime)"
            )
        self.metric, self.pieces, self.dim = metric, pieces, metric.dim
        self.bounds = metric.bounds
        self.coarsest = -(-metric.coarsest // pieces)

    @property
    def blocks(self) -> tuple[int, ...]:
        """Those of the metric."""
        return self.metric.blocks

    def fine(self, x: Tensor) -> Tensor:
        """Points of the splines through nodes (..., n+1, d), (..., pieces n + 1, d)."""
        return self.metric.confine(self._matrix(x) @ x)

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """That of the metric."""
        return self.metric.inner(x, u, v)

    def weights(self, x: Tensor) -> Tensor:
        """Those of the metric."""
        return self.metric.weights(x)

    def starts(self, a: Tensor, b: Tensor, nodes: int) -> dict[str, Tensor]:
        """Those of the metric."""
        return self.metric.starts(a, b, nodes)

    def stride(self, direction: Tensor) -> Tensor:
        """That of the metric."""
        return self.metric.stride(direction)

    def resolves(self, x: Tensor) -> Tensor:
        """Whether the metric's steps along the spline are to be believed, (...)."""
        return self.metric.resolves(self.fine(x))

    def judged_steps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``pieces`` times the sum of the metric's steps in a segment, and where one is wrong."""
        return self._gathered(*self.metric.judged_steps(self.fine(x)))

    def steps(self, x: Tensor) -> Tensor:
        """As :meth:`judged_steps`, (..., n)."""
        return self.judged_steps(x)[0]

    def steps_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """:meth:`judged_steps` with the gradient of their sum, (..., n+1, d).

        Args:
            x: nodes (..., n+1, d).

        Returns:
            squared lengths (..., n), gradient (..., n+1, d), and a boolean (..., n).

        Cost: that of the metric at ``pieces n + 1`` nodes.
        """
        free = self._matrix(x) @ x
        y = self.metric.confine(free)
        steps, grad, wrong = self.metric.steps_and_grad(y)
        grad = torch.where(y == free, grad, 0.0)  # a point on the bound stays there
        # the solver counts its own nodes; the rest are ours
        record(node_gradients=y[..., 0].numel() - x[..., 0].numel())
        found = self._gathered(steps, wrong)
        return found[0], self.pieces * (self._matrix(x).mT @ grad), found[1]

    def _gathered(self, steps: Tensor, wrong: Tensor) -> tuple[Tensor, Tensor]:
        parts = steps.unflatten(-1, (-1, self.pieces)), wrong.unflatten(-1, (-1, self.pieces))
        return self.pieces * parts[0].sum(-1), parts[1].any(-1)

    def _matrix(self, x: Tensor) -> Tensor:
        n = x.shape[-2] - 1
        unit = torch.eye(n + 1, dtype=x.dtype, device=x.device)
        s = torch.linspace(0, 1, self.pieces * n + 1, dtype=x.dtype, device=x.device)
        return Spline(unit)(s)
