r"""Transition paths as the dynamics itself takes them: the baselines of ``annealing``.

Overdamped Langevin dynamics  x' = x - step grad U/kT + sqrt(2 step) xi  with the Metropolis
correction (:mod:`diffodesic.transitions.langevin`; step in squared units of x: kT times time over
friction).  The chain is exactly reversible for exp(-U/kT), so a path run backwards is as likely as
forwards, and the ensembles here and of :mod:`diffodesic.transitions.shooting` are exact for the
chain at any step.

- Plain dynamics: one long run per walker; a path is what lies between leaving one state for the
  last time and entering the other.
- Committor: the share of free trajectories from a point that reach the second state before the
  first; one half at a true transition state.

MaxEnergy is the highest U over *every* state of a path.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffodesic.numerics import checks
from diffodesic.numerics.cost import counting
from diffodesic.transitions.langevin import Langevin, Walkers
from diffodesic.transitions.potentials import Potential
from diffodesic.transitions.states import Basin, check_apart

__all__ = ["FreeDynamics", "PathEnsemble", "committor", "plain_dynamics"]

Progress = Callable[[str], None]


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


class FreeDynamics:
    """Metropolis-corrected Langevin steps of free walkers, with the share accepted so far.

    Args:
        potential: U and kT.
        step: of the dynamics, in squared units of x.
        seed: of all random numbers.
    """

    def __init__(self, potential: Potential, step: float, seed: int) -> None:
        self.potential, self.langevin = potential, Langevin(potential, step)
        self.generator = checks.generator(seed)
        self._accepted, self._tried = 0.0, 0

    @property
    def accepted(self) -> float:
        """Share of the steps that were accepted."""
        return self._accepted / self._tried

    def step(self, walkers: Walkers) -> Walkers:
        """Move every walker once; an error where hardly a step is accepted."""
        walkers, count = self.langevin.run(walkers, 1, self.generator), len(walkers.x)
        self._accepted += walkers.accepted * count
        self._tried += count
        if self._tried >= 1000 and self.accepted < 0.1:
            raise ValueError(
                f"only {100 * self.accepted:.0f} % of the steps of length "
                f"{self.langevin.step:g} are accepted; give a smaller step"
            )
        return walkers


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

    **Cost** ``walkers * (steps + 1)`` energies; memory does not grow with ``steps``.
    """
    checks.of_kind(potential, "potential", Potential)
    check_apart(potential, a, b)
    run, say = FreeDynamics(potential, step, seed), progress or (lambda _: None)
    with counting() as spent:
        start = a.centres.reshape(-1, potential.dim)[:1].expand(walkers, -1)
        state = Walkers.at(potential, start.clone())
        home = torch.zeros(walkers, dtype=torch.long)  # the state visited last: 0 is a, 1 is b
        since, peak = torch.zeros_like(home), state.energy
        transitions: list[tuple[int, int, float]] = []
        for done in range(steps):
            state = run.step(state)
            inside = torch.stack([basin.holds(potential, state.x) for basin in (a, b)])
            at_home, across = inside.gather(0, home[None])[0], inside.gather(0, 1 - home[None])[0]
            since, peak = since + 1, torch.maximum(peak, state.energy)
            for w in across.nonzero()[:, 0].tolist():
                transitions.append((w, int(since[w]) + 1, float(peak[w])))
            home = torch.where(across, 1 - home, home)
            settled = at_home | across
            since, peak = since.masked_fill(settled, 0), torch.where(settled, state.energy, peak)
            if done % 1000 == 0:
                say(f"step {done} of {steps}: {len(transitions)} transitions")
    chain, lengths, peaks = zip(*transitions, strict=True) if transitions else ((), (), ())
    return PathEnsemble(
        torch.tensor(peaks, dtype=peak.dtype),
        torch.tensor(lengths, dtype=torch.long),
        torch.tensor(chain, dtype=torch.long),
        (),
        spent.energies,
        1.0,
        run.accepted,
        potential.kT,
    )


def committor(
    potential: Potential,
    x: Tensor,
    a: Basin,
    b: Basin,
    *,
    step: float,
    shots: int = 100,
    steps: int = 20_000,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Share of free trajectories that come to ``b`` before ``a``; 1 in ``b`` and 0 in ``a``.

    Args:
        potential: U and kT.
        x: points (P, d) that they start from.
        a: first state.
        b: second state.
        step: step tau of the dynamics, in squared units of x.
        shots: trajectories per point.
        steps: limit on their length.
        seed: of all random numbers.

    Returns:
        the share of decided trajectories that came to ``b``, (P,), NaN where none was decided,
        and the share that was decided, (P,).

    Raises:
        TypeError: for complex numbers.
        ValueError: for points that are not (P, d), none, or not finite, if the states overlap, or
            the step is so long that hardly a step is accepted.

    **Cost** one energy with gradient per step and undecided trajectory.
    """
    checks.of_kind(potential, "potential", Potential)
    x = checks.points(x, "x", potential.dim, f"the dimension of {potential.name}")
    if x.ndim != 2:
        raise ValueError(f"x has shape {tuple(x.shape)}; give points (P, {potential.dim})")
    check_apart(potential, a, b)
    run = FreeDynamics(potential, step, seed)
    owner = torch.arange(len(x)).repeat_interleave(shots)
    walkers = Walkers.at(potential, x[owner])
    arrived = torch.zeros(2, len(x), dtype=torch.float64)
    for done in range(steps + 1):
        # a point inside a state is decided before it moves
        if done:
            walkers = run.step(walkers)
        there = torch.stack([basin.holds(potential, walkers.x) for basin in (a, b)])
        for count, inside in zip(arrived, there, strict=True):
            count += torch.bincount(owner[inside], minlength=len(x))
        undecided = ~there.any(0)
        owner, walkers = owner[undecided], walkers[undecided]
        if not len(owner):
            break
    decided = arrived.sum(0)
    return arrived[1] / decided, decided / shots
