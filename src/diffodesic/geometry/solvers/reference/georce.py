r"""GEORCE (Rygaard & Hauberg, 2505.05961): solve the problem with the metric held fixed, again.

With the metric tensors G_t of the segments held fixed, the energy is quadratic in the nodes.  Let
d be the displacement of the nodes, w_t = d_{t+1} - d_t its change along segment t, and g_t the
gradient of the energy at node t.  The minimum of the quadratic is

    n G_t w_t = c - S_t,    S_t = g_1 + ... + g_t,    c from  sum_t w_t = 0,

and x - a d is tried for a = 1, 1/2, 1/4, ...  It is a quasi-Newton step that leaves out how the
metric changes: it converges linearly, and slowly where the metric is curved.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffodesic.geometry.energy import PathEnergy, Problem, Solution, discrete_energy
from diffodesic.geometry.solvers.reference.common import first_path, solution
from diffodesic.geometry.status import Status
from diffodesic.numerics.cost import record
from diffodesic.numerics.derivatives import lower
from diffodesic.numerics.linear import conjugate_gradient

__all__ = ["Georce"]


@dataclass(frozen=True)
class Georce:
    """The algorithm of 2505.05961, with backtracking; batched over pairs.

    The published energy holds the metric fixed at the left end of every segment, and is of first
    order in 1/n.  Up to ``dense`` coordinates the metric tensors are formed, d products ``flat``
    per segment and round; above that the system is solved by conjugate gradients on ``flat``,
    preconditioned by the path Laplacian.  Both need ``energy.inner``.

    Args:
        rtol: stop when the predicted decrease of the energy is at most this share of it.
        iterations: limit on rounds.
        dense: largest number of coordinates for which the metric tensors are formed.
        cg_rtol: tolerance of the conjugate gradients.

    Cost: per round and pair one energy gradient, an energy (a third) for every trial, and n d
    products ``flat`` (each counted as a node gradient), or n per conjugate gradient.
    """

    rtol: float = 1e-6
    iterations: int = 200
    dense: int = 128
    cg_rtol: float = 1e-3

    def solve(self, problem: Problem) -> Solution:
        """Take rounds from the first path; see ``Solver``."""
        energy, x = problem.energy, first_path(problem)
        ends: list[Status | None] = [None] * len(x)
        taken = torch.zeros(len(x), dtype=torch.long)
        active = torch.arange(len(x))
        for i in range(self.iterations):
            now = x[active]
            steps, grad = _left_gradient(energy, now)
            direction, positive = self._direction(energy, now, steps, grad)
            value, slope = discrete_energy(steps), (grad * direction).flatten(1).sum(-1)
            finite = torch.isfinite(value + grad.flatten(1).sum(-1))
            done = finite & positive & (slope / 2 <= self.rtol * value.abs())
            trying = finite & positive & ~done
            moved, accepted = _backtrack(energy, now, direction, value, slope, trying)
            x[active] = moved
            taken[active] += accepted.long()
            for mask, status in (
                (~finite, Status.NON_FINITE),
                (finite & ~positive, Status.NEGATIVE_STEPS),
                (done, Status.CONVERGED),
                (trying & ~accepted, Status.STALLED),
            ):
                for home in active[mask].tolist():
                    ends[home] = status
            active = active[accepted]
            problem.tell(f"round {i + 1}: {len(active)} of {len(x)} paths active", x)
            if not len(active):
                break
        judged = [end or Status.ITERATION_LIMIT for end in ends]
        return solution(problem, x, judged, taken)

    def _direction(
        self, energy: PathEnergy, x: Tensor, steps: Tensor, grad: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The frozen problem's step (B, n+1, d), uphill, and where its tensors are positive."""
        if energy.dim > self.dense:
            return self._iterative(energy, x, steps, grad)
        n, left = x.shape[1] - 1, x[:, :-1]
        basis = torch.eye(energy.dim, dtype=x.dtype, device=x.device)
        point = left[:, :, None].expand(*left.shape[:2], energy.dim, energy.dim).contiguous()
        tensors = _flat(energy, point, basis.expand_as(point).contiguous())
        factor, info = torch.linalg.cholesky_ex((tensors + tensors.mT) / 2)
        positive = (info == 0).all(-1)
        inverse = torch.cholesky_inverse(torch.where(positive[:, None, None, None], factor, basis))
        total = grad[:, :-1].cumsum(1)  # S_t; the ends' gradients are zero
        pulled = (inverse @ total[..., None])[..., 0]
        c = torch.linalg.solve(inverse.sum(1), pulled.sum(1))
        w = (inverse @ (c[:, None] - total)[..., None])[..., 0] / n
        d = torch.nn.functional.pad(w.cumsum(1)[:, :-1], (0, 0, 1, 1))
        return d, positive

    def _iterative(
        self, energy: PathEnergy, x: Tensor, steps: Tensor, grad: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The same by conjugate gradients; paths along which they fail are not positive."""
        n = x.shape[1] - 1

        def frozen(p: Tensor) -> Tensor:
            ap = torch.zeros_like(p)
            momenta = n * _flat(energy, x[:, :-1], p.diff(dim=1))
            ap[:, 1:-1] = -momenta.diff(dim=1)
            return ap

        inverse = energy.preconditioner(x, steps).solve
        found = conjugate_gradient(
            frozen, grad, inverse=inverse, axes=2, rtol=self.cg_rtol, iterations=200
        )
        return found.x, found.positive


def _flat(energy: PathEnergy, x: Tensor, u: Tensor) -> Tensor:
    record(node_gradients=x[..., 0].numel())
    return lower(energy.inner, x, u).detach()


def _left_steps(energy: PathEnergy, x: Tensor) -> Tensor:
    u = x.diff(dim=-2)
    return energy.inner(x[..., :-1, :].contiguous(), u, u)


def _left_gradient(energy: PathEnergy, x: Tensor) -> tuple[Tensor, Tensor]:
    """Squared lengths with the metric of the left ends (B, n), and the gradient of the energy."""
    record(node_gradients=x.shape[0] * x.shape[1])
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        steps = _left_steps(energy, leaf)
        (grad,) = torch.autograd.grad(discrete_energy(steps).sum(), leaf)
    grad[:, 0] = grad[:, -1] = 0
    return steps.detach(), grad


def _backtrack(
    energy: PathEnergy, x: Tensor, direction: Tensor, value: Tensor, slope: Tensor, trying: Tensor
) -> tuple[Tensor, Tensor]:
    """Halve the step until Armijo's rule holds: paths (B, n+1, d) and where it did (B,)."""
    out, accepted = x.clone(), torch.zeros_like(trying)
    share = 1.0
    while share > 1e-8 and bool((trying & ~accepted).any()):
        left = torch.nonzero(trying & ~accepted).flatten()
        trial = energy.confine(x[left] - share * direction[left])
        record(node_gradients=trial[..., 0].numel() / 3)
        with torch.no_grad():
            after = discrete_energy(_left_steps(energy, trial))
            better = after <= value[left] - 1e-4 * share * slope[left]
        out[left[better]], accepted[left[better]] = trial[better], True
        share /= 2
    return out, accepted
