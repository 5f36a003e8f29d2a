"""Adam and limited-memory BFGS on the nodes of a path, as they come.

:class:`AdamNodes` takes a fixed number of steps.  :class:`LBFGS` is torch's, with a strong Wolfe
line search and no preconditioner: its inverse Hessian begins as a multiple of the identity, so the
number of iterations grows with the number of nodes and with the spread of the metric.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffodesic.geometry.metric import Metric
from diffodesic.geometry.solvers.base import Progress, Solution
from diffodesic.geometry.solvers.descent import energy, evaluate, relative_norm
from diffodesic.geometry.solvers.reference.common import first_path, solution
from diffodesic.geometry.status import Status


@dataclass(frozen=True)
class AdamNodes:
    """Adam on the nodes of the path, for a fixed number of steps.

    Args:
        learning_rate: of Adam, in units of the coordinates.
        steps: number of gradients per pair.

    Cost: ``steps + 1`` energy gradients per pair.
    """

    learning_rate: float = 0.01
    steps: int = 1000

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
        """Find paths of n = ``nodes`` segments from ``a`` to ``b``, both (B, d); see ``Solver``."""
        x, names = first_path(metric, a, b, nodes, init)
        optimiser = torch.optim.Adam([x], lr=self.learning_rate)
        for i in range(self.steps):
            _, x.grad, _ = evaluate(metric, x)
            optimiser.step()
            x.copy_(metric.confine(x))
            if progress:
                progress(f"step {i + 1} of {self.steps}", x.clone())
        steps, grad, _ = evaluate(metric, x)
        ends = [Status.FIXED_BUDGET] * len(x)
        return solution(metric, x, steps, grad, ends, torch.full((len(x),), self.steps), names)


@dataclass(frozen=True)
class LBFGS:
    """Plain L-BFGS with a strong Wolfe line search (torch's), one pair after another.

    Args:
        rtol: see the head of this file; looked at after every fifth iteration.
        iterations: limit per pair.
        memory: correction pairs kept.

    Cost: one energy gradient per trial of the line search.
    """

    rtol: float = 1e-6
    iterations: int = 2000
    memory: int = 12

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
        """Find paths of n = ``nodes`` segments from ``a`` to ``b``, both (B, d); see ``Solver``."""
        x, names = first_path(metric, a, b, nodes, init)
        ends, taken, found = [], torch.zeros(len(x), dtype=torch.long), []
        for i in range(len(x)):
            problem = _Closure(metric, x[i : i + 1])
            optimiser = torch.optim.LBFGS(
                [problem.inner],
                max_iter=5,
                history_size=self.memory,
                line_search_fn="strong_wolfe",
                tolerance_grad=0,
                tolerance_change=0,
            )
            end = problem.end(self.rtol)
            while end is None and taken[i] < self.iterations:
                optimiser.step(problem)
                taken[i] += 5
                end = problem.end(self.rtol)
                if progress:
                    x[i] = problem.best[0][0]
                    progress(f"pair {i + 1}, iteration {int(taken[i])}", x.clone())
            ends.append(end or Status.ITERATION_LIMIT)
            found.append(problem.best)
        x, steps, grad = (torch.cat(parts) for parts in zip(*found, strict=True))
        return solution(metric, x, steps, grad, ends, taken, names)


class _Closure:
    """Energy of one path as torch's optimisers want it; remembers the best path."""

    def __init__(self, metric: Metric, x: Tensor) -> None:
        self.metric, self.ends = metric, x
        self.inner = x[:, 1:-1].clone().requires_grad_()
        steps, grad, _ = evaluate(metric, x)
        self.last = self.best = (x, steps, grad)
        self.settled = energy(steps)

    def __call__(self) -> Tensor:
        x = torch.cat([self.ends[:, :1], self.inner.detach(), self.ends[:, -1:]], 1)
        x = self.metric.confine(x)
        if not torch.equal(x, self.last[0]):  # a step begins where the last one ended
            steps, grad, _ = evaluate(self.metric, x)
            self.last = (x, steps, grad)
        _, steps, grad = self.last
        value = energy(steps)
        if not bool(torch.isfinite(value + grad.sum())):
            # a wall, which the line search backs away from
            self.inner.grad = torch.zeros_like(self.inner)
            return 10 * energy(self.best[1]).sum().abs()
        if bool(value <= energy(self.best[1])):
            self.best = self.last
        self.inner.grad = grad[:, 1:-1].clone()
        return value.sum()

    def end(self, rtol: float) -> Status | None:
        """How the solve has ended, or None if it has not."""
        x, steps, grad = self.best
        value = energy(steps)
        if not bool(torch.isfinite(value + grad.sum())):
            return Status.NON_FINITE
        h0 = self.metric.curvature(x, steps)
        if float(relative_norm(h0, grad, value)) ** 2 <= rtol:
            return Status.CONVERGED
        stalled = bool(self.settled - value <= 1e-14 * value.abs()) and x is not self.ends
        self.settled = value
        return Status.STALLED if stalled else None
