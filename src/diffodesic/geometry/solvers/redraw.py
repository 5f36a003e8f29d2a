r"""A search on an energy that is known by random probes, which are drawn anew every few rounds.

A search on fixed probes fits them: its energy goes on falling long after the path has stopped
getting shorter, and ends below the true one.  Here every draw of probes serves for a few rounds of
descent.  After a few draws the paths are judged by an estimate of another kind, with noise that the
descent never sees (:meth:`PathEnergy.judge`): a pair is done when that length no longer falls, and
keeps the shortest path that was judged.  So "converged" says that longer searching does not help,
and no path is longer than the one that it began with.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffodesic.geometry.energy import PathEnergy, Problem, Solution
from diffodesic.geometry.solvers.descent import Descent
from diffodesic.geometry.solvers.starts import measure, respace
from diffodesic.geometry.status import Status

__all__ = ["Redraw"]


# how the rounds of a draw may end where the judged length no longer falls: steps that probes find
# negative say nothing of it
WELL = (Status.ITERATION_LIMIT, Status.HELD_BACK, Status.NEGATIVE_STEPS)


@dataclass(frozen=True)
class Redraw:
    """Descent with probes drawn anew, for the energies of networks.

    Args:
        nodes: number of segments that are searched; the path is then spread over those asked for.
            A network's energy is followed further on many nodes than it is right.
        rounds: energy gradients per draw of probes and pair.
        draws: draws between two judgements.
        judgements: limit on judgements.
        rtol: a pair is done when it has become shorter by less than this share of its length
            between two judgements.
        scale: first scale of the preconditioner, which knows the typical size of the metric and
            not its largest direction.
        memory: correction pairs kept within a draw.
        seed: of the draws; the judge has another one.

    Raises:
        ValueError: for a number below 1, or an ``rtol`` or ``scale`` that is not positive.
    """

    nodes: int = 8
    rounds: int = 5
    draws: int = 2
    judgements: int = 6
    rtol: float = 1e-2
    scale: float = 0.03
    memory: int = 12
    seed: int = 1

    def __post_init__(self) -> None:
        if min(self.nodes - 1, self.rounds, self.draws, self.judgements) < 1:
            raise ValueError("rounds, draws and judgements must be at least 1, and nodes 2")
        if not min(self.rtol, self.scale) > 0:
            raise ValueError("rtol and scale must be positive")

    def solve(self, problem: Problem) -> Solution:
        """Shorten the best start of every pair, or ``init``.

        Returns:
            the solution on n + 1 nodes: CONVERGED where the judged length no longer fell,
            ITERATION_LIMIT where the judgements ran out, START_KEPT where no path was judged
            shorter than the first one, else what ended the descent.

        Cost: the starts and their lengths on ``2 nodes`` segments; then per judgement and active
        pair ``draws (rounds + 1)`` energy gradients on ``nodes`` segments and one
        :meth:`PathEnergy.judge` there.
        """
        energy = problem.energy
        x, names = self._start(problem)
        # which pairs no judge can tell of, decided once: lengths of two kinds are not compared
        blind = torch.tensor([energy.judge(path, self.seed, samples=1) is None for path in x])
        blind = blind.to(x.device)
        best, shortest = x.clone(), self._judged(energy, x, blind)
        first, taken = shortest.clone(), torch.zeros(len(x), dtype=torch.long)
        scale = torch.full_like(shortest, self.scale)
        statuses = [Status.ITERATION_LIMIT] * len(x)
        rows = torch.arange(len(x), device=x.device)
        for judgement in range(self.judgements):
            for draw in range(self.draws):
                drawn = energy.redrawn(self.seed + judgement * self.draws + draw)
                found = self._descend(drawn, x[rows], scale[rows], problem)
                x[rows], scale[rows] = found.result, found.scale
                taken[rows.cpu()] += found.iterations
            length = self._judged(energy, x[rows], blind[rows])
            gain = 1 - length / shortest[rows]
            better, going = rows[gain > 0], gain > self.rtol
            best[better], shortest[better] = x[better], length[gain > 0]
            for i, row in enumerate(rows.tolist()):
                if not going[i]:
                    well = found.statuses[i] in WELL and bool(taken[row])
                    statuses[row] = Status.CONVERGED if well else found.statuses[i]
            rows = rows[going]
            if not len(rows):
                break
        kept = ~(shortest < first)
        for row in torch.nonzero(kept & ~blind).flatten().tolist():
            if statuses[row] in (Status.CONVERGED, *WELL):
                statuses[row] = Status.START_KEPT
        nodes = self._spread(energy, best, problem.nodes)
        given = problem.init
        if given is not None:  # which few nodes may have made longer
            same = given.shape[1] == problem.nodes + 1
            nodes[kept] = given[kept] if same else respace(energy, given[kept], problem.nodes)
        # the last gradient was that of other probes, on few nodes
        norm = torch.full_like(shortest, torch.nan)
        return Solution(nodes, norm, statuses, taken, names)

    @staticmethod
    def _spread(energy: PathEnergy, x: Tensor, nodes: int) -> Tensor:
        """Points at equal steps of the smooth curve through few nodes, (B, n + 1, d)."""
        # equal steps between few nodes would bend the curve: its own parameter first
        fine = torch.linspace(0, 1, nodes + 1, dtype=x.dtype, device=x.device)
        inside = energy.confine(energy.curve(x)(fine))[:, 1:-1]
        return respace(energy, torch.cat([x[:, :1], inside, x[:, -1:]], 1), nodes)

    def _start(self, problem: Problem) -> tuple[Tensor, list[str]]:
        """The shortest start of every pair (B, k + 1, d) among sound ones, and its name."""
        energy, few = problem.energy, min(self.nodes, problem.nodes)
        if problem.init is not None:
            return respace(energy, problem.init, few), ["given"] * len(problem.init)
        # twice as many segments tell how long an arch is, which half of them can follow
        named = energy.starts(problem.a, problem.b, 2 * few)
        paths = torch.stack(list(named.values()), 1)
        found = measure(energy, paths)
        among = found.sound | ~found.sound.any(1, keepdim=True)
        best = torch.where(among, found.length, torch.inf).argmin(1)
        rows = torch.arange(len(paths), device=paths.device)
        return paths[rows, best, ::2], [list(named)[i] for i in best.tolist()]

    def _judged(self, energy: PathEnergy, x: Tensor, blind: Tensor) -> Tensor:
        """Lengths of paths (B, k + 1, d): by the judge, or of pairs ``blind`` by unseen probes."""
        unseen = energy.redrawn(self.seed + self.draws * self.judgements)
        lengths = measure(unseen, x[:, None]).length[:, 0] if bool(blind.any()) else x[:, 0, 0]
        lengths = lengths.clone()
        for i in torch.nonzero(~blind).flatten().tolist():
            found = energy.judge(x[i], self.seed, samples=1)
            lengths[i] = torch.inf if found is None else found[0]
        return lengths

    def _descend(self, energy: PathEnergy, x: Tensor, scale: Tensor, problem: Problem) -> Descent:
        """A few rounds from paths (B, k + 1, d)."""
        # no tolerance of its own: whether a path got shorter, the judge says
        descent = Descent(
            energy, x, rtol=1e-12, iterations=self.rounds, memory=self.memory, scale=scale
        )
        while descent.active:
            descent.round()
            line = f"{x.shape[1] - 1} nodes, round {descent.rounds}: {descent.active} paths active"
            problem.tell(line, descent.current())
        return descent
