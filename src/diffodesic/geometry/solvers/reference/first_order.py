"""Adam and limited-memory BFGS on the nodes of a path, as they come.

:class:`AdamNodes` takes a fixed number of steps.  :class:`LBFGS` is torch's, with a strong Wolfe
line search and no preconditioner: its inverse Hessian begins as a multiple of the identity, so the
number of iterations grows with the number of nodes and with the spread of the metric.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffodesic.geometry.energy import Evaluation, PathEnergy, Problem, Solution, evaluate
from diffodesic.geometry.solvers.descent import relative_norm
from diffodesic.geometry.solvers.reference.common import first_path, solution
from diffodesic.geometry.status import Status

__all__ = ["LBFGS", "AdamNodes"]


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

    def solve(self, problem: Problem) -> Solution:
        """Take the steps from the first path; see ``Solver``."""
        energy, x = problem.energy, first_path(problem)
        optimiser = torch.optim.Adam([x], lr=self.learning_rate)
        for i in range(self.steps):
            x.grad = evaluate(energy, x).slope
            optimiser.step()
            x.copy_(energy.confine(x))
            problem.tell(f"step {i + 1} of {self.steps}", x)
        ends, taken = [Status.FIXED_BUDGET] * len(x), torch.full((len(x),), self.steps)
        return solution(problem, x, ends, taken)


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

    def solve(self, problem: Problem) -> Solution:
        """Minimise from the first path, pair by pair; see ``Solver``."""
        x = first_path(problem)
        ends, taken, found = [], torch.zeros(len(x), dtype=torch.long), []
        for i in range(len(x)):
            closure = _Closure(problem.energy, x[i : i + 1])
            optimiser = torch.optim.LBFGS(
                [closure.inner],
                max_iter=5,
                history_size=self.memory,
                line_search_fn="strong_wolfe",
                tolerance_grad=0,
                tolerance_change=0,
            )
            end = closure.end(self.rtol)
            while end is None and taken[i] < self.iterations:
                optimiser.step(closure)
                taken[i] += 5
                end = closure.end(self.rtol)
                x[i] = closure.best[0][0]
                problem.tell(f"pair {i + 1}, iteration {int(taken[i])}", x)
            ends.append(end or Status.ITERATION_LIMIT)
            x_best, last = closure.best
            found.append((x_best, last.squared_steps, last.slope, last.doubtful))
        x, steps, grad, doubtful = (torch.cat(parts) for parts in zip(*found, strict=True))
        return solution(problem, x, ends, taken, Evaluation(steps, doubtful, grad))


class _Closure:
    """Energy of one path as torch's optimisers want it; remembers the best path."""

    def __init__(self, energy: PathEnergy, x: Tensor) -> None:
        self.objective, self.ends = energy, x
        self.inner = x[:, 1:-1].clone().requires_grad_()
        self.last = self.best = (x, evaluate(energy, x))
        self.settled = self.best[1].energy

    def __call__(self) -> Tensor:
        x = torch.cat([self.ends[:, :1], self.inner.detach(), self.ends[:, -1:]], 1)
        x = self.objective.confine(x)
        if not torch.equal(x, self.last[0]):  # a step begins where the last one ended
            self.last = (x, evaluate(self.objective, x))
        value, grad = self.last[1].energy, self.last[1].slope
        if not bool(torch.isfinite(value + grad.sum())):
            # a wall, which the line search backs away from
            self.inner.grad = torch.zeros_like(self.inner)
            return 10 * self.best[1].energy.sum().abs()
        if bool(value <= self.best[1].energy):
            self.best = self.last
        self.inner.grad = grad[:, 1:-1].clone()
        return value.sum()

    def end(self, rtol: float) -> Status | None:
        """How the solve has ended, or None if it has not."""
        x, found = self.best
        value, grad = found.energy, found.slope
        if not bool(torch.isfinite(value + grad.sum())):
            return Status.NON_FINITE
        h0 = self.objective.preconditioner(x, found.squared_steps)
        if float(relative_norm(h0, grad, value)) ** 2 <= rtol:
            return Status.CONVERGED
        stalled = bool(self.settled - value <= 1e-14 * value.abs()) and x is not self.ends
        self.settled = value
        return Status.STALLED if stalled else None
