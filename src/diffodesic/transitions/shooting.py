r"""Two-way shooting: the ensemble of transition paths by Monte Carlo in the space of paths.

A move picks a point of the path at random, runs the dynamics from it both ways, and keeps the new
path if it joins the states, with probability min(1, n_old/n_new), n the number of frames that could
have been picked (Dellago, Bolhuis & Chandler, J. Chem. Phys. 108, 1964, 1998): those above an
energy (a shooting range, Jung, Okazaki & Hummer, J. Chem. Phys. 147, 152716, 2017).

    fixed length     the picked frame keeps its time; the ends must lie in the two states.
    variable length  runs end on first entry into a state; frames inside states are not picked.

The dynamics is that of :mod:`diffodesic.transitions.simulation`.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass

import torch
from torch import Tensor

from diffodesic.numerics import checks
from diffodesic.numerics.cost import counting
from diffodesic.output.options import Options, option, suggests
from diffodesic.transitions.langevin import Walkers
from diffodesic.transitions.potentials import Potential
from diffodesic.transitions.simulation import FreeDynamics, PathEnsemble, Progress
from diffodesic.transitions.states import Basin, check_apart

__all__ = ["ShootingOptions", "two_way_shooting"]


@dataclass(frozen=True)
class ShootingOptions(Options):
    """How two-way shooting samples paths.

    Args:
        step: of the dynamics, in squared units of x.
        length: number of steps of every path; None for paths of variable length.
        above: shoot only from frames of at least this energy; default from all.  It must lie below
            every pass, so that every path has such frames; a few kT below makes most moves succeed.
        paths: number of paths to collect, a multiple of ``chains``; after a rejected move the old
            path counts again.
        chains: independent chains, run side by side.
        burn_in: moves per chain before paths are collected.
        max_length: with variable length, runs longer than this are given up and the move rejected.
        seed: of all random numbers.

    Raises:
        ValueError: for ``paths`` that are no multiple of ``chains``.
    """

    step: float = option(MISSING, above=0)
    length: int | None = option(None, least=2)
    above: float | None = None
    paths: int = option(1000, least=1)
    chains: int = option(100, least=1)
    burn_in: int = option(30, least=0)
    max_length: int = option(100_000, least=1)
    seed: int = option(0, least=0, most=2**63 - 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.paths % self.chains:
            raise ValueError(f"paths = {self.paths} must be a multiple of chains = {self.chains}")


@suggests(options=(ShootingOptions,))
def two_way_shooting(
    potential: Potential,
    a: Basin,
    b: Basin,
    via: Tensor,
    options: ShootingOptions,
    *,
    progress: Progress | None = None,
) -> PathEnsemble:
    """Sample the transition path ensemble by two-way shooting.

    Args:
        potential: the landscape, with its kT.
        a: first state.
        b: last state, apart from the first.
        via: a point (D,) from which both states are reached, such as a saddle: the first path of
            every chain is shot from it.
        options: step of the dynamics, and how many paths of which length.
        progress: called with a line per move.

    Returns:
        the ensemble.

    Raises:
        ValueError: if the states overlap, no first path joins them, or the step is so long that
            hardly a step of the dynamics is accepted.

    **Cost** one energy with gradient per step of every path tried, first paths and burn-in
    included.
    """
    checks.of_kind(potential, "potential", Potential)
    check_apart(potential, a, b)
    run, chains = FreeDynamics(potential, options.step, options.seed), options.chains
    shooter, say = _Shooter(run, a, b, options), progress or (lambda _: None)
    with counting() as spent:
        current = shooter.first_paths(via, say)
        best, lengths, accepted = [], [], 0
        for move in range(options.burn_in + options.paths // chains):
            current, moved = shooter.move(current)
            if move >= options.burn_in:
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
        accepted / options.paths,
        run.accepted,
        potential.kT,
    )


Path = tuple[Tensor, Tensor]
"""Points (n, D) and energies (n,) of one path."""


@dataclass(frozen=True)
class _Shooter:
    """Moves of two-way shooting, for many chains at once."""

    run: FreeDynamics
    a: Basin
    b: Basin
    options: ShootingOptions

    def first_paths(self, via: Tensor, say: Progress, rounds: int = 50) -> list[Path]:
        """Shoot from one point until every chain has a path."""
        chains, length, joined = self.options.chains, self.options.length, list[Path]()
        for i in range(rounds):
            at = None
            if length:
                at = torch.randint(0, length + 1, (chains,), generator=self.run.generator)
            joined += [p for p in self._shoot(via.expand(chains, -1), at) if p is not None]
            say(f"first paths: {len(joined)} of {chains} after round {i + 1}")
            if len(joined) >= chains:
                return joined[:chains]
        raise ValueError(
            f"{len(joined)} of {rounds * chains} runs from {via.tolist()} join the states, "
            f"{chains} are needed; give another point, larger radii or longer paths"
        )

    def move(self, current: list[Path]) -> tuple[list[Path], int]:
        """One shooting move per chain, and how many were accepted."""
        frames = [self._candidates(u) for _, u in current]
        shares = torch.rand(len(current), generator=self.run.generator).tolist()
        at = [int(f[int(r * len(f))]) for f, r in zip(frames, shares, strict=True)]
        points = torch.stack([x[i] for (x, _), i in zip(current, at, strict=True)])
        trial = self._shoot(points, torch.tensor(at) if self.options.length else None)
        chance = torch.rand(len(current), generator=self.run.generator).tolist()
        after, accepted = [], 0
        for old, new, f, r in zip(current, trial, frames, chance, strict=True):
            taken = new is not None and r * len(self._candidates(new[1])) < len(f)
            accepted += taken
            after.append(new if new is not None and taken else old)
        return after, accepted

    def _candidates(self, energies: Tensor) -> Tensor:
        """Frames of a path that may be picked."""
        above = self.options.above
        high = torch.ones_like(energies, dtype=torch.bool) if above is None else energies >= above
        if self.options.length is None:
            high[0] = high[-1] = False  # inside the states
        if not bool(high.any()):
            raise ValueError(
                f"no frame of a path has an energy of at least above = {above}; "
                "lower it to the energy of a point that paths through via must cross"
            )
        return high.nonzero()[:, 0]

    def _shoot(self, points: Tensor, at: Tensor | None) -> list[Path | None]:
        """Paths through points (C, D), frame ``at`` of each; None where they join not a and b."""
        chains, length = len(points), self.options.length
        if at is None or length is None:
            limit = torch.full((2 * chains,), self.options.max_length)
        else:
            limit = torch.cat([at, length - at])
        halves = self._runs(points.repeat(2, 1), limit)
        joined: list[Path | None] = []
        for (x, u), (y, v) in zip(halves[:chains], halves[chains:], strict=True):
            path = (torch.cat([x.flip(0), y[1:]]), torch.cat([u.flip(0), v[1:]]))
            if at is None and self._in(self.a, path[0][-1]):
                path = (path[0].flip(0), path[1].flip(0))  # as likely, and from a to b
            ends = self._in(self.a, path[0][0]) & self._in(self.b, path[0][-1])
            joined.append(path if bool(ends) else None)
        return joined

    def _in(self, state: Basin, x: Tensor) -> Tensor:
        return state.holds(self.run.potential, x)

    def _runs(self, points: Tensor, limit: Tensor) -> list[Path]:
        """Run from points (W, D) for ``limit`` (W,) steps, or with variable length to a state."""
        now = Walkers.at(self.run.potential, points)
        frames, names = [(now.x, now.energy)], [torch.arange(len(points))]
        alive = names[0]
        for done in range(int(limit.max())):
            keep = limit[alive] > done
            if self.options.length is None and done:
                keep &= ~(self._in(self.a, now.x) | self._in(self.b, now.x))
            now, alive = now[keep], alive[keep]
            if not len(alive):
                break
            now = self.run.step(now)
            frames.append((now.x, now.energy))
            names.append(alive)
        order = torch.cat(names).sort(stable=True)
        counts = order.values.bincount(minlength=len(points)).tolist()
        columns = (torch.cat([f[i] for f in frames])[order.indices].split(counts) for i in (0, 1))
        return list(zip(*columns, strict=True))
