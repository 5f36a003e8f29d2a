r"""What sampled transition paths say: which saddles they cross, which channels, how many differ.

- Saddles.  The highest state of a path lies near the pass it took.  Following the lowest
  eigenvector of the Hessian uphill, all others downhill (Cerjan & Miller 1981), moves it there:
  with H = V diag(l) V^T, g = grad U,   dx = V diag(s/|l|) V^T g,   s = +1 on the lowest, else -1.
  A point with g = 0 and one negative eigenvalue is a saddle; each saddle is a channel, and the
  share of paths that come to it is its occupation.
- Committor.  The share of free trajectories from a point that reach the second state before the
  first: one half at a true transition state.
- Effective number of distinct paths.  exp of the entropy of the eigenvalues of K/P, where
  K_pq = exp(-|x_p - x_q|^2 / 2 l^2) with the mean square distance over frames (Friedman & Dieng,
  2210.02410): 1 if all paths coincide at the scale l, P if no two do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffodesic.transitions.annealing import TransitionPaths
from diffodesic.transitions.langevin import Walkers, hessian, walk
from diffodesic.transitions.potentials import Potential

__all__ = ["Channel", "channels", "committor", "effective_paths", "relax_to_saddle"]


@dataclass(frozen=True)
class Channel:
    """A saddle and the paths whose highest state leads to it.

    A search from high up a slope ends at *some* saddle: where the highest states lie far from it
    or far above, the paths crossed elsewhere.

    Attributes:
        saddle: where, (d,), wrapped into the box.
        energy: U there.
        share: of all paths.
        above: median over these paths of how far the highest state lies above U there.
        away: median of its distance.
    """

    saddle: Tensor
    energy: float
    share: float
    above: float
    away: float


def relax_to_saddle(
    potential: Potential, x: Tensor, *, iterations: int = 100, rtol: float = 1e-8
) -> tuple[Tensor, Tensor]:
    """Move points to the saddles nearest uphill by eigenvector following.

    Args:
        potential: the potential.
        x: points (P, d), such as the highest states of paths.
        iterations: limit.
        rtol: stop when no point moves by more than this share of the box.

    Returns:
        where they came to (P, d), and the number of negative eigenvalues there (P,): 1 is a
        saddle; -1 where the search did not end.

    Cost: ``2 d + 1`` evaluations with gradient per iteration and point.
    """
    size = min(high - low for low, high in potential.box)
    move = torch.full_like(x, size)
    values = x.new_zeros(x.shape)
    for _ in range(iterations):
        slope = potential.gradient(x)[1]
        values, vectors = torch.linalg.eigh(hessian(potential, x))
        sign = -torch.ones_like(values)
        sign[:, 0] = 1
        share = (vectors.mT @ slope.unsqueeze(-1)).squeeze(-1) * sign
        # where the surface is flat the step is held, below, to a fraction of the box
        move = (vectors @ (share / values.abs().clamp(min=1e-12)).unsqueeze(-1)).squeeze(-1)
        longest = 0.02 * size / move.norm(dim=-1, keepdim=True).clamp(min=1e-300)
        move = move * longest.clamp(max=1.0)
        x = x + move
        if float(move.abs().max()) < rtol * size:
            break
    index = (values < 0).sum(-1)
    # the differences behind the Hessian limit how still a point can stand
    return x, torch.where(move.norm(dim=-1) < 1e-5 * size, index, -1)


def channels(paths: TransitionPaths, *, within: float | None = None) -> list[Channel]:
    """The saddles that the highest states of paths lead to, the most used first.

    Args:
        paths: sampled paths.
        within: two saddles nearer than this are one; default 2 % of the box.

    Returns:
        channels; their shares sum to less than one where a search from a path's highest state
        ended at no saddle.

    Cost: a saddle search per path.
    """
    potential = paths.potential
    if within is None:
        within = 0.02 * min(high - low for low, high in potential.box)
    places, index = relax_to_saddle(potential, paths.peak)
    ended = index == 1
    places, peaks = potential.wrap(places[ended]), paths.peak[ended]
    heights, found = paths.max_energy[ended], []
    while len(places):
        saddle, energy = places[0], float(potential(places[0]))
        near = potential.difference(places, saddle).norm(dim=-1) <= within
        away = potential.difference(peaks[near], saddle).norm(dim=-1)
        above = float(heights[near].median()) - energy
        share = float(near.sum()) / len(paths)
        found.append(Channel(saddle, energy, share, above, float(away.median())))
        places, peaks, heights = places[~near], peaks[~near], heights[~near]
    return sorted(found, key=lambda channel: -channel.share)


def committor(
    potential: Potential,
    x: Tensor,
    a: Tensor,
    b: Tensor,
    *,
    radius: float,
    step: float,
    shots: int = 100,
    steps: int = 20_000,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Share of free trajectories from ``x`` that come to ``b`` before ``a``.

    Args:
        potential: U and kT.
        x: points (P, d).
        a: first state (d,).
        b: second state (d,).
        radius: a trajectory has come to a state within this distance, by the nearest image.
        step: step tau of the dynamics, in squared units of x.
        shots: trajectories per point.
        steps: limit on their length.
        seed: seed of the noise.

    Returns:
        the share of decided trajectories that came to ``b``, (P,), NaN where none was decided,
        and the share that was decided, (P,).

    Raises:
        ValueError: if the two states are closer than ``2 radius``.

    Cost: one evaluation with gradient per step and undecided trajectory.
    """
    if float(potential.difference(a, b).norm()) < 2 * radius:
        raise ValueError(f"the two states overlap at radius {radius:g}; make it smaller")
    generator = torch.Generator().manual_seed(seed)
    owner = torch.arange(len(x)).repeat_interleave(shots)
    walkers = Walkers.at(potential, x[owner])
    came = torch.zeros(2, len(x), dtype=torch.float64)
    for _ in range(steps):
        walkers = walk(potential, walkers, steps=1, step=step, generator=generator, correct=False)
        open_ = torch.ones(len(owner), dtype=torch.bool)
        for row, state in enumerate((a, b)):
            there = potential.difference(walkers.x, state).norm(dim=-1) <= radius
            came[row] += torch.bincount(owner[there], minlength=len(x))
            open_ &= ~there
        owner = owner[open_]
        walkers = Walkers(walkers.x[open_], walkers.energy[open_], walkers.slope[open_])
        if not len(owner):
            break
    decided = came.sum(0)
    return came[1] / decided, decided / shots


def effective_paths(paths: TransitionPaths, *, scale: float) -> float:
    """Effective number of distinct paths at a length scale.

    Args:
        paths: P sampled paths.
        scale: distance l, root mean square over frames, at which two paths count as different.

    Returns:
        a number from 1 to P.

    Raises:
        ValueError: if ``scale`` is not positive.

    Cost: P^2 F d in time, and an eigenvalue problem of size P.
    """
    if not scale > 0:
        raise ValueError(f"scale must be positive, got {scale}")
    count, frames = paths.frames.shape[:2]
    square = paths.frames.new_zeros(count, count)
    for i in range(frames):
        x = paths.frames[:, i]
        square += paths.potential.difference(x[:, None], x[None]).square().sum(-1)
    kernel = torch.exp(-square / (2 * frames * scale**2))
    share = torch.linalg.eigvalsh(kernel / count)
    share = share[share > 0]
    return math.exp(-float((share * share.log()).sum()))
