r"""A solver that keeps constraints: the augmented Lagrangian around one that does not.

With c(x) >= 0 the constraints on a grid ``refine`` times finer than the nodes, along the spline
that will be judged, the augmented Lagrangian (Rockafellar 1974; Nocedal & Wright, 17.3)

    E(x) + mean_j [ max(0, l_j - r c_j)^2 ] / (2 r),        l <- max(0, l - r c)

is minimised from the last path in every round, for every pair with its own multipliers l and
penalty r, which grows while the violation does not fall.  A small margin, c >= margin, makes the
kept side strict.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffodesic.geometry.energy import Evaluation, Order, PathEnergy, Problem, Solution
from diffodesic.geometry.solvers.as_given import AsGiven
from diffodesic.geometry.solvers.relax import Relax
from diffodesic.geometry.status import Status
from diffodesic.geometry.wrappers import EnergyWrapper

__all__ = ["AugmentedLagrangian", "Constraint", "Multipliers", "PenalisedEnergy"]

Constraint = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class AugmentedLagrangian:
    """A solver that keeps constraints, made of one that does not.

    Attributes:
        constraints: functions of a curve's points.
        solver: of every round; a round need not be exact, the last word is the multipliers'.
        rounds: limit on updates of the multipliers.
        tolerance: accuracy of a constraint, relative to what the first path breaks it by (to its
            largest size along the path, for a given one).
        refine: how much finer than the nodes the constraints are enforced.
        growth: of the penalty, while the violation does not fall to a quarter per round.
    """

    constraints: tuple[Constraint, ...] = ()
    solver: Relax = Relax(rtol=1e-5)  # noqa: RUF009  (a frozen value)
    rounds: int = 20
    tolerance: float = 1e-3
    refine: int = 8
    growth: float = 4.0

    def solve(self, problem: Problem) -> Solution:
        """Minimise the energy among paths that keep the constraints.

        Args:
            problem: its ``init`` chooses the side of what is avoided; without one, the solver's
                result without the constraints does.

        Returns:
            the solution; a pair whose end breaks a constraint keeps its first path.
        """
        energy, init = problem.energy, problem.init
        # constraints are asked on a grid of even nodes
        free = replace(self.solver, uneven=False)
        found = (free if init is None else AsGiven()).solve(problem)
        with torch.no_grad():
            values = self.values(energy, found.nodes)
            ends = self.values(energy, found.nodes[:, [0, -1]], fine=False)
        # a given path is not solved yet, whether it keeps the constraints or not
        scale = (-values.amin(-1)).clamp(min=0) if init is None else values.abs().amax(-1)
        # ends on the limit leave no room for a strict margin
        room = ends.amin(-1).clamp(min=0)
        state = Multipliers(
            margin=torch.minimum(self.tolerance * scale, room / 2),
            multipliers=torch.zeros_like(values),
            # where it is broken most, the first penalty outweighs the energy
            penalty=20
            * problem.nodes
            * energy.evaluate(found.nodes, order=0).squared_steps.abs().sum(-1)
            / scale.clamp(min=torch.finfo(scale.dtype).tiny) ** 2,
            gap=torch.full_like(scale, torch.inf),
        )
        left = torch.nonzero((scale > 0) & (ends.amin(-1) >= 0)).flatten()
        for _ in range(self.rounds):
            if not len(left):
                break
            for rows in _apart(problem, left):
                self._round(problem, rows, state, found)
            left = left[~(state.gap[left] <= self.tolerance * scale[left] / 2)]
        for row in left.tolist():  # the inner solves may have converged; their multipliers have not
            if found.statuses[row] is Status.CONVERGED:
                found.statuses[row] = Status.ITERATION_LIMIT
        return found

    def _round(self, problem: Problem, rows: Tensor, state: Multipliers, found: Solution) -> None:
        """One solve of the pairs ``rows``, and one update of their multipliers."""
        multipliers, penalty = state.multipliers[rows], state.penalty[rows, None]
        a, b = problem.a[rows], problem.b[rows]
        penalised = PenalisedEnergy(problem.energy, self, a, b, state, rows)
        # the multipliers belong to these nodes, and the last path is where to look
        warm = replace(self.solver, coarsest=problem.nodes, explore=False)
        new = warm.solve(replace(problem, energy=penalised, a=a, b=b, init=found.nodes[rows]))
        found.nodes[rows], found.gradient_norm[rows] = new.nodes, new.gradient_norm
        found.iterations[rows.cpu()] += new.iterations
        for i, row in enumerate(rows.tolist()):
            found.statuses[row] = new.statuses[i]
        with torch.no_grad():
            values = self.values(problem.energy, new.nodes) - state.margin[rows, None]
        # zero where both the constraint and its multiplier's sign are as they should be
        gap = torch.minimum(values, multipliers / penalty).abs().amax(-1)
        state.multipliers[rows] = (multipliers - penalty * values).clamp(min=0)
        slow = gap > state.gap[rows] / 4
        state.penalty[rows] *= torch.where(slow, self.growth, 1.0)
        state.gap[rows] = gap

    def values(self, energy: PathEnergy, x: Tensor, *, fine: bool = True) -> Tensor:
        """All constraints along paths (B, n+1, d), on the finer grid, (B, p)."""
        s = torch.linspace(0, 1, self.refine * (x.shape[1] - 1) + 1, dtype=x.dtype, device=x.device)
        points = energy.curve(x)(s) if fine else x
        return torch.cat([constraint(points) for constraint in self.constraints], -1)


@dataclass
class Multipliers:
    """What the rounds hand on, first axis B."""

    margin: Tensor  # (B,)
    multipliers: Tensor  # (B, p)
    penalty: Tensor  # (B,)
    gap: Tensor  # (B,)


def _apart(problem: Problem, rows: Tensor) -> list[Tensor]:
    """Split rows so that no two of one part have the same ends."""
    ends = torch.cat([problem.a, problem.b], -1)[rows]
    _, same = ends.unique(dim=0, return_inverse=True)
    earlier = (same[:, None] == same[None, :]).tril(-1).sum(1)
    return [rows[earlier == turn] for turn in earlier.unique().tolist()]


class PenalisedEnergy(EnergyWrapper):
    """An energy and the penalty of the augmented Lagrangian, spread evenly over the segments.

    Finished paths leave a solver's batch, so a path is known by its ends.
    """

    def __init__(
        self,
        wrapped: PathEnergy,
        method: AugmentedLagrangian,
        a: Tensor,
        b: Tensor,
        state: Multipliers,
        rows: Tensor,
    ) -> None:
        super().__init__(wrapped)
        self.method, self.ends = method, torch.cat([a, b], -1)
        self.multipliers, self.penalties = state.multipliers[rows], state.penalty[rows]
        self.margin = state.margin[rows]

    # the penalty is not in the wrapped energy's Hessian, nor in what bounds its distance
    cheap_hessian = False
    default_solver = None

    def stages(self) -> tuple[PathEnergy, ...]:
        """This energy alone: a round starts from the last path."""
        return (self,)

    def lower_bound(self, a: Tensor, b: Tensor) -> Tensor:
        """Zero: the penalty can be negative against the wrapped energy's bound."""
        return torch.zeros_like(a[..., 0])

    def evaluate(self, x: Tensor, *, order: Order = 1) -> Evaluation:
        """The wrapped evaluation plus the penalty; its Hessian is the preconditioner."""
        found = self.wrapped.evaluate(x, order=1 if order else 0)
        n = found.squared_steps.shape[-1]
        if not order:
            share = 2 / n**2 * self.penalty(x).unsqueeze(-1)
            return Evaluation(found.squared_steps + share, found.doubtful)
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            penalty = self.penalty(leaf)
            (pull,) = torch.autograd.grad(penalty.sum(), leaf)
        # n/2 times the sum over n segments is the penalty
        steps = found.squared_steps + 2 / n**2 * penalty.detach().unsqueeze(-1)
        hessian = self.preconditioner(x, steps) if order == 2 else None
        return Evaluation(steps, found.doubtful, found.slope + pull, hessian)

    def penalty(self, x: Tensor) -> Tensor:
        """``mean_j max(0, l_j - r c_j)^2 / (2 r)`` of paths (..., n+1, d), (...)."""
        flat = x.reshape(-1, *x.shape[-2:])
        ends = torch.cat([flat[:, 0], flat[:, -1]], -1).detach()
        row = (ends[:, None] == self.ends).all(-1).long().argmax(1)
        weight = self.penalties[row, None]
        values = self.method.values(self.wrapped, flat) - self.margin[row, None]
        pull = (self.multipliers[row] - weight * values).clamp(min=0)
        return (pull.square().mean(-1) / (2 * weight[:, 0])).reshape(x.shape[:-2])
