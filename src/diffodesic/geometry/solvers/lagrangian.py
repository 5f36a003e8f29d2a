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

from diffodesic.geometry.metric import Metric
from diffodesic.geometry.solvers.base import Progress, Solution
from diffodesic.geometry.solvers.relax import Relax
from diffodesic.geometry.status import Status
from diffodesic.numerics.curves import Polyline

__all__ = ["AugmentedLagrangian", "Constraint"]

Constraint = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class AugmentedLagrangian:
    """A solver that keeps constraints, made of one that does not.

    Attributes:
        constraints: functions of a curve's points.
        solver: solves every round.
        rounds: limit on updates of the multipliers.
        tolerance: accuracy of a constraint, relative to what the first path breaks it by (to its
            largest size along the path, for a given one).
        refine: how much finer than the nodes the constraints are enforced.
        growth: of the penalty, while the violation does not fall to a quarter per round.
    """

    constraints: tuple[Constraint, ...]
    solver: Relax
    rounds: int = 20
    tolerance: float = 1e-3
    refine: int = 8
    growth: float = 4.0

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
        """Find paths of n = ``nodes`` segments; arguments as for Relax.

        Args:
            metric: the geometry.
            a: starts (B, d).
            b: ends (B, d).
            nodes: number n of segments.
            init: a first path (B, k+1, d) for any k, which chooses the side of what it avoids;
                default the solver's result without the constraints.
            progress: called with a short line and the paths.

        Returns:
            the solution; a pair whose end breaks a constraint keeps its first path.
        """
        if init is None:
            found = self.solver.solve(metric, a, b, nodes, progress=progress)
        else:
            found = _given(metric, init, nodes)
        with torch.no_grad():
            values = self._values(metric, found.nodes)
            ends = self._values(metric, found.nodes[:, [0, -1]], fine=False)
        # a given path is not solved yet, whether it keeps the constraints or not
        scale = (-values.amin(-1)).clamp(min=0) if init is None else values.abs().amax(-1)
        # ends on the limit leave no room for a strict margin
        room = ends.amin(-1).clamp(min=0)
        state = _State(
            margin=torch.minimum(self.tolerance * scale, room / 2),
            multipliers=torch.zeros_like(values),
            # where it is broken most, the first penalty outweighs the energy
            penalty=20
            * nodes
            * metric.steps(found.nodes).detach().abs().sum(-1)
            / scale.clamp(min=torch.finfo(scale.dtype).tiny) ** 2,
            gap=torch.full_like(scale, torch.inf),
        )
        left = torch.nonzero((scale > 0) & (ends.amin(-1) >= 0)).flatten()
        for _ in range(self.rounds):
            if not len(left):
                break
            for rows in _apart(a, b, left):
                self._round(metric, a, b, rows, state, found, progress)
            left = left[~(state.gap[left] <= self.tolerance * scale[left] / 2)]
        for row in left.tolist():  # the inner solves may have converged; their multipliers have not
            if found.statuses[row] is Status.CONVERGED:
                found.statuses[row] = Status.ITERATION_LIMIT
        return found

    def _round(
        self,
        metric: Metric,
        a: Tensor,
        b: Tensor,
        rows: Tensor,
        state: _State,
        found: Solution,
        progress: Progress | None,
    ) -> None:
        """One solve of the pairs ``rows``, and one update of their multipliers."""
        multipliers, penalty = state.multipliers[rows], state.penalty[rows, None]
        penalised = _Penalised(metric, self, a[rows], b[rows], state, rows)
        n = found.nodes.shape[1] - 1
        warm = replace(self.solver, coarsest=n)
        new = warm.solve(penalised, a[rows], b[rows], n, init=found.nodes[rows], progress=progress)
        found.nodes[rows], found.gradient_norm[rows] = new.nodes, new.gradient_norm
        found.iterations[rows.cpu()] += new.iterations
        for i, row in enumerate(rows.tolist()):
            found.statuses[row] = new.statuses[i]
        with torch.no_grad():
            values = self._values(metric, new.nodes) - state.margin[rows, None]
        # zero where both the constraint and its multiplier's sign are as they should be
        gap = torch.minimum(values, multipliers / penalty).abs().amax(-1)
        state.multipliers[rows] = (multipliers - penalty * values).clamp(min=0)
        slow = gap > state.gap[rows] / 4
        state.penalty[rows] *= torch.where(slow, self.growth, 1.0)
        state.gap[rows] = gap

    def _values(self, metric: Metric, x: Tensor, *, fine: bool = True) -> Tensor:
        """All constraints along paths (B, n+1, d), on the finer grid, (B, p)."""
        s = torch.linspace(0, 1, self.refine * (x.shape[1] - 1) + 1, dtype=x.dtype, device=x.device)
        points = metric.curve(x)(s) if fine else x
        return torch.cat([constraint(points) for constraint in self.constraints], -1)


def _given(metric: Metric, init: Tensor, nodes: int) -> Solution:
    """A first path as if it were solved."""
    s = torch.linspace(0, 1, nodes + 1, dtype=init.dtype, device=init.device)
    unknown = init.new_full((len(init),), torch.nan)
    none = torch.zeros(len(init), dtype=torch.long)
    statuses = [Status.ITERATION_LIMIT] * len(init)
    return Solution(metric.curve(init)(s), unknown, statuses, none, ["given"] * len(init))


@dataclass
class _State:
    """What the rounds hand on, first axis B."""

    margin: Tensor  # (B,)
    multipliers: Tensor  # (B, p)
    penalty: Tensor  # (B,)
    gap: Tensor  # (B,)


def _apart(a: Tensor, b: Tensor, rows: Tensor) -> list[Tensor]:
    """Split rows so that no two of one part have the same ends."""
    ends = torch.cat([a, b], -1)[rows]
    _, same = ends.unique(dim=0, return_inverse=True)
    earlier = (same[:, None] == same[None, :]).tril(-1).sum(1)
    return [rows[earlier == turn] for turn in earlier.unique().tolist()]


class _Penalised(Metric):
    """A metric whose energy holds the penalty of the augmented Lagrangian, spread over the steps.

    Finished paths leave a solver's batch, so a path is known by its ends.
    """

    def __init__(
        self,
        metric: Metric,
        method: AugmentedLagrangian,
        a: Tensor,
        b: Tensor,
        state: _State,
        rows: Tensor,
    ) -> None:
        self.metric, self.method, self.ends = metric, method, torch.cat([a, b], -1)
        self.multipliers, self.penalty = state.multipliers[rows], state.penalty[rows]
        self.margin = state.margin[rows]
        self.dim, self.bounds = metric.dim, metric.bounds
        self.coarsest, self.bent_segments = metric.coarsest, metric.bent_segments

    @property
    def blocks(self) -> tuple[int, ...]:
        return self.metric.blocks

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return self.metric.inner(x, u, v)

    def steps(self, x: Tensor) -> Tensor:
        return self.judged_steps(x)[0]

    def judged_steps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        steps, wrong = self.metric.judged_steps(x)
        return steps + self._share(x), wrong

    def steps_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        steps, grad, wrong = self.metric.steps_and_grad(x)
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            share = self._share(leaf)
            (slope,) = torch.autograd.grad(share.sum(), leaf)
        n = steps.shape[-1]
        return steps + share.detach(), grad + n * slope, wrong

    def _share(self, x: Tensor) -> Tensor:
        """The penalty per step, (..., 1): n/2 times the sum over n steps is the penalty."""
        n = x.shape[-2] - 1
        flat = x.reshape(-1, *x.shape[-2:])
        ends = torch.cat([flat[:, 0], flat[:, -1]], -1).detach()
        row = (ends[:, None] == self.ends).all(-1).long().argmax(1)
        penalty = self.penalty[row, None]
        values = self.method._values(self.metric, flat) - self.margin[row, None]
        pull = (self.multipliers[row] - penalty * values).clamp(min=0)
        total = pull.square().mean(-1, keepdim=True) / (2 * penalty)
        return (2 / n**2 * total).reshape(*x.shape[:-2], 1)

    def curve(self, nodes: Tensor) -> Polyline:
        return self.metric.curve(nodes)

    def segments(self, nodes: Tensor) -> Polyline:
        return self.metric.segments(nodes)

    def stride(self, direction: Tensor) -> Tensor:
        return self.metric.stride(direction)

    def resolves(self, x: Tensor) -> Tensor:
        return self.metric.resolves(x)

    def weights(self, x: Tensor) -> Tensor:
        return self.metric.weights(x)

    def confine(self, x: Tensor) -> Tensor:
        return self.metric.confine(x)
