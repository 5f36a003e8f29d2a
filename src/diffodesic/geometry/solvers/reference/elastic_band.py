"""A nudged elastic band without a potential (after Henkelman & Jonsson 2000).

Across the path the nodes follow the negative gradient of the energy; along it springs make the
segments equally long.  The motion is damped by FIRE (Bitzek et al. 2006) in coordinates scaled by
the metric's typical size, in which a constant metric has a Hessian between 0 and 4.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffodesic.geometry.energy import PathEnergy, Problem, Solution, evaluate
from diffodesic.geometry.solvers.descent import relative_norm
from diffodesic.geometry.solvers.reference.common import first_path, solution
from diffodesic.geometry.status import Status
from diffodesic.numerics.hessians import dot

__all__ = ["Neb"]


@dataclass(frozen=True)
class Neb:
    """Nudged elastic band with FIRE; batched over pairs.

    At rest the segments are equally long and the gradient of the energy is along the path.

    Args:
        rtol: see the head of this file, for the force of the band in place of the gradient.
        iterations: limit on rounds.
        spring: stiffness of the springs; 1 is that of the energy itself.
        longest: limit of the time step; 1 is the limit of stability in flat space.

    Cost: one energy gradient per round and active pair.
    """

    rtol: float = 1e-6
    iterations: int = 2000
    spring: float = 1.0
    longest: float = 0.7

    def solve(self, problem: Problem) -> Solution:
        """Relax the band from its first path; see ``Solver``."""
        band = _Band(problem.energy, first_path(problem), self.spring)
        while band.active and band.rounds < self.iterations:
            band.round(self.rtol, self.longest)
            left = f"{band.active} of {len(band.result)} paths active"
            problem.tell(f"round {band.rounds}: {left}", band.result)
        judged = [end or Status.ITERATION_LIMIT for end in band.ends]
        return solution(problem, band.result, judged, band.taken)


class _Band:
    """The moving bands; first axis of all state but ``result``, ``taken``: the active pairs."""

    def __init__(self, energy: PathEnergy, x: Tensor, spring: float) -> None:
        self.objective, self.spring, self.rounds = energy, spring, 0
        self.result, self.taken = x.clone(), torch.zeros(len(x), dtype=torch.long)
        self.ends: list[Status | None] = [None] * len(x)
        self.home = torch.arange(len(x))
        sizes = torch.tensor(energy.blocks, device=x.device)
        # the Hessian of a constant energy, up to its path Laplacian: n w
        weight = energy.weights(x).repeat_interleave(sizes, -1)
        self.scale = ((x.shape[1] - 1) * weight).sqrt()
        self.x, self.before = x, x
        self.velocity, self.force = torch.zeros_like(x), torch.zeros_like(x)
        self.dt, self.mix = x.new_full((len(x),), 0.1), x.new_full((len(x),), 0.1)
        self.downhill = torch.zeros_like(self.taken)

    @property
    def active(self) -> int:
        return len(self.home)

    def round(self, rtol: float, longest: float) -> None:
        """Move every active band by one step of FIRE, and end those at rest."""
        found = evaluate(self.objective, self.x)
        steps, grad, value = found.squared_steps, found.slope, found.energy
        force = self._force(steps, grad)
        h0 = self.objective.preconditioner(self.x, steps)
        norm = relative_norm(h0, force * self.scale, value)
        finite = torch.isfinite(value + grad.flatten(1).sum(-1))
        lost = ~finite if self.rounds else torch.zeros_like(finite)
        self._return(lost, force)
        norm = torch.where(lost, torch.inf, norm)
        self.rounds += 1
        self.taken[self.home] = self.rounds
        self._end(
            {
                Status.NON_FINITE: ~(finite | lost),
                Status.CONVERGED: norm**2 <= rtol,
                Status.STALLED: self.dt < 1e-8,
            }
        )
        self._fire(longest)

    def _return(self, lost: Tensor, force: Tensor) -> None:
        """Go back to where the energy was finite, and stand still; remember where it is."""
        mask = lost[:, None, None]
        self.x = torch.where(mask, self.before, self.x)
        self.force = torch.where(mask, self.force, force)
        self.velocity = torch.where(mask, 0.0, self.velocity)
        self.dt = torch.where(lost, 0.2 * self.dt, self.dt)
        self.before = self.x
        self.result[self.home] = self.x

    def _force(self, steps: Tensor, grad: Tensor) -> Tensor:
        """Force in scaled coordinates: -dE across the path, springs along it."""
        n, y = steps.shape[-1], self.x * self.scale
        along = torch.nn.functional.pad(y[:, 2:] - y[:, :-2], (0, 0, 1, 1))
        along = torch.nn.functional.normalize(along, dim=-1)
        pull = -grad / self.scale
        across = pull - (pull * along).sum(-1, keepdim=True) * along
        lengths, gaps = steps.clamp(min=0).sqrt(), y.diff(dim=1).norm(dim=-1)
        rate = (lengths[:, 1:] + lengths[:, :-1]) / (gaps[:, 1:] + gaps[:, :-1])
        tension = self.spring * n * lengths.diff(dim=1) * rate
        return across + torch.nn.functional.pad(tension, (1, 1))[..., None] * along

    def _fire(self, longest: float) -> None:
        force = self.force
        power = dot(force, self.velocity)
        up = power <= 0
        self.downhill = torch.where(up, 0, self.downhill + 1)
        faster = self.downhill > 5
        self.dt = torch.where(faster, (1.1 * self.dt).clamp(max=longest), self.dt)
        self.dt = torch.where(up & (self.rounds > 1), 0.5 * self.dt, self.dt)
        speed = dot(self.velocity, self.velocity).sqrt()
        turned = speed / dot(force, force).sqrt().clamp(min=1e-300)
        mix = self.mix[:, None, None]
        velocity = (1 - mix) * self.velocity + mix * turned[:, None, None] * force
        velocity = torch.where(up[:, None, None], 0.0, velocity)
        self.mix = torch.where(up, 0.1, torch.where(faster, 0.99 * self.mix, self.mix))
        self.velocity = velocity + self.dt[:, None, None] * force
        move = self.dt[:, None, None] * self.velocity
        # no node moves farther than half the distance between neighbours
        gap = (self.x * self.scale).diff(dim=1).norm(dim=-1).mean(-1)
        most = move.norm(dim=-1).amax(-1)
        move = move * (0.5 * gap / most.clamp(min=1e-300)).clamp(max=1)[:, None, None]
        self.x = self.objective.confine(self.x + move / self.scale)

    def _end(self, ends: dict[Status, Tensor]) -> None:
        """Drop the bands that end."""
        keep = torch.ones_like(self.home, dtype=torch.bool)
        for status, mask in ends.items():
            for i in torch.nonzero(mask & keep).flatten().tolist():
                self.ends[int(self.home[i])] = status
            keep = keep & ~mask
        for name in ("home", "x", "before", "velocity", "force", "scale", "dt", "mix", "downhill"):
            setattr(self, name, getattr(self, name)[keep])
