r"""Transition paths by simulation: the baselines of :mod:`diffodesic.transitions.annealing`.

Overdamped Langevin dynamics  x' = x - step grad U/kT + sqrt(2 step) xi  with the Metropolis
correction, as in :mod:`diffodesic.transitions.langevin` (step in squared units of x: kT times time
over friction).  The chain is exactly reversible for exp(-U/kT), so a path run backwards is as
likely as forwards, and the ensembles below are exact for the chain at any step.

- Two-way shooting (Dellago, Bolhuis & Chandler, J. Chem. Phys. 108, 1964, 1998): pick a point of
  the path at random, run the dynamics from it both ways, keep the new path if it joins the states,
  with probability min(1, n_old/n_new), n the number of frames that could have been picked: those
  above an energy (a shooting range, Jung, Okazaki & Hummer, J. Chem. Phys. 147, 152716, 2017).
    fixed length     the picked frame keeps its time; the ends must lie in the two states.
    variable length  runs end on first entry into a state; frames inside states are not picked.
- Plain dynamics: one long run per walker; a path is what lies between leaving one state for the
  last time and entering the other.

MaxEnergy is the highest U over *every* state of a path.  One evaluation is U with its gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffodesic.numerics.cost import counting
from diffodesic.transitions.langevin import Walkers, walk
from diffodesic.transitions.potentials import Potential

__all__ = ["Basin", "PathEnsemble", "plain_dynamics", "two_way_shooting"]

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Basin:
    """A state: balls around points, by the nearest image.

    Several balls make one state of minima that exchange much faster than the transition happens.

    Args:
        centres: (D,) or (M, D).
        radius: in the units of the coordinates.
    """

    centres: Tensor
    radius: float

    def distance(self, potential: Potential, x: Tensor) -> Tensor:
        """Distance of points (..., D) from the nearest centre, (...)."""
        centres = self.centres.reshape(-1, self.centres.shape[-1])
        return potential.difference(x.unsqueeze(-2), centres).norm(dim=-1).amin(-1)

    def holds(self, potential: Potential, x: Tensor) -> Tensor:
        """Whether points (..., D) lie in the state, (...)."""
        return self.distance(potential, x) <= self.radius


@dataclass(frozen=True)
class PathEnsemble:
    """Sampled transition paths.

    Attributes:
        max_energy: highest energy of each path (P,), in the potential's unit.
        lengths: frames of each path (P,).
        chain: which independent chain or walker a path comes from (P,).
        examples: some of the paths (n_i, D).
        evaluations: energies computed, each with its gradient.
        acceptance: share of shooting moves accepted; 1 for plain dynamics.
        metropolis: share of steps of the dynamics accepted.
        kT: of the dynamics.
    """

    max_energy: Tensor
    lengths: Tensor
    chain: Tensor
    examples: tuple[Tensor, ...]
    evaluations: int
    acceptance: float
    metropolis: float
    kT: float

    @property
    def mean(self) -> float:
        """Mean MaxEnergy; nan without paths."""
        return float(self.max_energy.mean()) if len(self.max_energy) else math.nan

    @property
    def standard_error(self) -> float:
        """Standard error of the mean, from the scatter between chains; nan with fewer than two.

        Paths of one chain resemble each other, chains are independent: with m_c paths of sum S_c
        in chain c,  se^2 = C/(C-1) sum_c (S_c - m_c mean)^2 / P^2.
        """
        names, where = self.chain.unique(return_inverse=True)
        if len(names) < 2:
            return math.nan
        off = self.max_energy - self.max_energy.mean()
        sums = off.new_zeros(len(names)).index_add(0, where, off)
        inflation = len(names) / (len(names) - 1)
        return float((inflation * sums.square().sum()).sqrt() / len(off))


def two_way_shooting(
    potential: Potential,
    a: Basin,
    b: Basin,
    via: Tensor,
    *,
    step: float,
    length: int | None = None,
    above: float = -math.inf,
    paths: int = 1000,
    chains: int = 100,
    burn_in: int = 30,
    max_length: int = 100_000,
    seed: int = 0,
    progress: Progress | None = None,
) -> PathEnsemble:
    """Sample the transition path ensemble by two-way shooting.

    Args:
        potential: the landscape, with its kT.
        a: first state.
        b: last state, apart from the first.
        via: a point (D,) from which both states are reached, such as a saddle: the first path of
            every chain is shot from it.
        step: of the dynamics, in squared units of x.
        length: number of steps of every path; None for paths of variable length.
        above: shoot only from frames of at least this energy; below every pass, so that every
            path has such frames. A few kT under the pass makes most moves succeed.
        paths: number of paths to collect, a multiple of ``chains``; after a rejected move the old
            path counts again.
        chains: independent chains, run side by side.
        burn_in: moves per chain before paths are collected.
        max_length: with variable length, runs longer than this are given up and the move rejected.
        seed: of all random numbers.
        progress: called with a line per move.

    Returns:
        the ensemble.

    Raises:
        ValueError: if the states overlap, no first path is found, the numbers do not fit, or the
            step is so long that hardly a step of the dynamics is accepted.

    **Cost** one evaluation per step of every path tried, first paths and burn-in included.
    """
    _check(potential, a, b, step)
    if chains < 1 or paths < chains or paths % chains:
        raise ValueError(f"paths = {paths} must be a multiple of chains = {chains}")
    if length is not None and length < 2:
        raise ValueError(f"length must be at least 2 steps, got {length}")
    run = _Dynamics(potential, step, seed)
    shooter = _Shooter(run, a, b, length, max_length, above)
    say = progress or (lambda _: None)
    with counting() as spent:
        current = shooter.first_paths(via, chains, say)
        best, lengths, accepted = [], [], 0
        for move in range(burn_in + paths // chains):
            current, moved = shooter.move(current)
            if move >= burn_in:
                accepted += moved
                best.append(torch.stack([u.max() for _, u in current]))
                lengths.append(torch.tensor([len(u) for _, u in current]))
            say(f"shooting move {move + 1}")
    return PathEnsemble(
        torch.cat(best),
        torch.cat(lengths),
        torch.arange(chains).repeat(len(best)),
        tuple(x for x, _ in current[:100]),
        spent.energies,
        accepted / paths,
        run.accepted / run.tried,
        potential.kT,
    )


def plain_dynamics(
    potential: Potential,
    a: Basin,
    b: Basin,
    *,
    step: float,
    steps: int,
    walkers: int = 100,
    seed: int = 0,
    progress: Progress | None = None,
) -> PathEnsemble:
    """Run walkers from the first state and collect their transitions, both ways.

    Args:
        potential: the landscape, with its kT; ``potential.at(kT)`` for another.
        a: first state; walkers start at its (first) centre.
        b: last state.
        step: of the dynamics, in squared units of x.
        steps: steps of every walker.
        walkers: independent walkers.
        seed: of all random numbers.
        progress: called with a line now and then.

    Returns:
        the ensemble; without a single transition its MaxEnergy is nan.

    Raises:
        ValueError: if the states overlap, or the step is so long that hardly a step is accepted.

    **Cost** ``walkers * steps`` evaluations; memory does not grow with ``steps``.
    """
    _check(potential, a, b, step)
    run, say = _Dynamics(potential, step, seed), progress or (lambda _: None)
    with counting() as spent:
        start = a.centres.reshape(-1, potential.dim)[:1].expand(walkers, -1)
        state = Walkers.at(potential, start.clone())
        home = torch.zeros(walkers, dtype=torch.long)  # the state visited last: 0 is a, 1 is b
        since, peak = torch.zeros_like(home), state.energy
        found: list[tuple[int, int, float]] = []
        for done in range(steps):
            state = run.step(state)
            inside = torch.stack([basin.holds(potential, state.x) for basin in (a, b)])
            at_home, across = inside.gather(0, home[None])[0], inside.gather(0, 1 - home[None])[0]
            since, peak = since + 1, torch.maximum(peak, state.energy)
            for w in across.nonzero()[:, 0].tolist():
                found.append((w, int(since[w]) + 1, float(peak[w])))
            home = torch.where(across, 1 - home, home)
            settled = at_home | across
            since, peak = since.masked_fill(settled, 0), torch.where(settled, state.energy, peak)
            if done % 1000 == 0:
                say(f"step {done} of {steps}: {len(found)} transitions")
    rows = list(zip(*found, strict=True)) if found else [(), (), ()]
    return PathEnsemble(
        torch.tensor(rows[2], dtype=peak.dtype),
        torch.tensor(rows[1], dtype=torch.long),
        torch.tensor(rows[0], dtype=torch.long),
        (),
        spent.energies,
        1.0,
        run.accepted / run.tried,
        potential.kT,
    )


def _check(potential: Potential, a: Basin, b: Basin, step: float) -> None:
    if not (math.isfinite(step) and step > 0):
        raise ValueError(f"step must be a positive time, got {step}")
    apart = float(a.distance(potential, b.centres).min())
    if apart <= a.radius + b.radius:
        raise ValueError(
            f"the states are {apart:.3g} apart and their radii {a.radius:g} and {b.radius:g} "
            "overlap; give smaller radii"
        )


class _Dynamics:
    """Metropolis-corrected Langevin steps of free walkers, side by side."""

    def __init__(self, potential: Potential, step: float, seed: int) -> None:
        self.potential, self.length = potential, step
        self.generator = torch.Generator().manual_seed(seed)
        self.accepted, self.tried = 0.0, 0

    def step(self, walkers: Walkers) -> Walkers:
        """Move every walker once."""
        walkers = walk(self.potential, walkers, steps=1, step=self.length, generator=self.generator)
        count = len(walkers.x)
        self.accepted, self.tried = self.accepted + walkers.accepted * count, self.tried + count
        if self.tried >= 1000 and self.accepted < 0.1 * self.tried:
            raise ValueError(
                f"only {100 * self.accepted / self.tried:.0f} % of the steps of length "
                f"{self.length:g} are accepted; give a smaller step"
            )
        return walkers


Path = tuple[Tensor, Tensor]
"""Points (n, D) and energies (n,) of one path."""


class _Shooter:
    """Moves of two-way shooting, for many chains at once."""

    def __init__(
        self,
        run: _Dynamics,
        a: Basin,
        b: Basin,
        length: int | None,
        max_length: int,
        above: float,
    ) -> None:
        self.run, self.a, self.b = run, a, b
        self.length, self.max_length, self.above = length, max_length, above

    def first_paths(self, via: Tensor, chains: int, say: Progress, rounds: int = 50) -> list[Path]:
        """Shoot from one point until every chain has a path."""
        found: list[Path] = []
        for i in range(rounds):
            at = self._random(chains, self.length) if self.length else None
            found += [p for p in self._shoot(via.expand(chains, -1), at) if p is not None]
            say(f"first paths: {len(found)} of {chains} after round {i + 1}")
            if len(found) >= chains:
                return found[:chains]
        raise ValueError(
            f"{len(found)} of {rounds * chains} runs from {via.tolist()} join the states, "
            f"{chains} are needed; give another point, larger radii or longer paths"
        )

    def move(self, current: list[Path]) -> tuple[list[Path], int]:
        """One shooting move per chain, and how many were accepted."""
        frames = [self._candidates(u) for _, u in current]
        shares = torch.rand(len(current), generator=self.run.generator).tolist()
        at = [int(f[int(r * len(f))]) for f, r in zip(frames, shares, strict=True)]
        points = torch.stack([x[i] for (x, _), i in zip(current, at, strict=True)])
        trial = self._shoot(points, torch.tensor(at) if self.length else None)
        chance = torch.rand(len(current), generator=self.run.generator).tolist()
        after, accepted = [], 0
        for old, new, f, r in zip(current, trial, frames, chance, strict=True):
            taken = new is not None and r * len(self._candidates(new[1])) < len(f)
            accepted += taken
            after.append(new if new is not None and taken else old)
        return after, accepted

    def _candidates(self, energies: Tensor) -> Tensor:
        """Frames of a path that may be picked."""
        high = energies >= self.above
        if self.length is None:
            high[0] = high[-1] = False  # inside the states
        if not bool(high.any()):
            raise ValueError(
                f"no frame of a path has an energy of at least above = {self.above:g}; lower it "
                "to the energy of a point that paths through via must cross"
            )
        return high.nonzero()[:, 0]

    def _random(self, count: int, steps: int) -> Tensor:
        return torch.randint(0, steps + 1, (count,), generator=self.run.generator)

    def _shoot(self, points: Tensor, at: Tensor | None) -> list[Path | None]:
        """Paths through points (C, D), frame ``at`` of each; None where they join not a and b."""
        chains = len(points)
        if at is None or self.length is None:
            limit = torch.full((2 * chains,), self.max_length)
        else:
            limit = torch.cat([at, self.length - at])
        halves = self._runs(points.repeat(2, 1), limit)
        joined: list[Path | None] = []
        for (x, u), (y, v) in zip(halves[:chains], halves[chains:], strict=True):
            path = (torch.cat([x.flip(0), y[1:]]), torch.cat([u.flip(0), v[1:]]))
            if at is None and self.a.holds(self.run.potential, path[0][-1]):
                path = (path[0].flip(0), path[1].flip(0))  # as likely, and from a to b
            joined.append(path if self._joins(path[0]) else None)
        return joined

    def _arrived(self, x: Tensor) -> Tensor:
        potential = self.run.potential
        return self.a.holds(potential, x) | self.b.holds(potential, x)

    def _joins(self, x: Tensor) -> bool:
        ends = self.a.holds(self.run.potential, x[0]) & self.b.holds(self.run.potential, x[-1])
        return bool(ends)

    def _runs(self, points: Tensor, limit: Tensor) -> list[Path]:
        """Run from points (W, D) for ``limit`` (W,) steps, or with variable length to a state."""
        now = Walkers.at(self.run.potential, points)
        frames, names = [(now.x, now.energy)], [torch.arange(len(points))]
        alive = names[0]
        for done in range(int(limit.max())):
            keep = limit[alive] > done
            if self.length is None and done:
                keep &= ~self._arrived(now.x)
            if not bool(keep.all()):
                now = Walkers(now.x[keep], now.energy[keep], now.slope[keep])
                alive = alive[keep]
            if not len(alive):
                break
            now = self.run.step(now)
            frames.append((now.x, now.energy))
            names.append(alive)
        order = torch.cat(names).sort(stable=True)
        counts = order.values.bincount(minlength=len(points)).tolist()
        columns = (torch.cat([f[i] for f in frames])[order.indices].split(counts) for i in (0, 1))
        return list(zip(*columns, strict=True))
