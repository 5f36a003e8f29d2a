r"""A search on an energy that is known by random probes, which are drawn anew every few rounds.

A search on fixed probes fits them: its energy goes on falling long after the path has stopped
getting shorter, and ends below the true one.  Here every draw of probes serves for a few rounds of
descent.  Each fits its probes in its own way, so that the mean of their paths is shorter than any
of them.  The mean over a few draws, and as many before them, is judged by an estimate of another
kind, with noise that the descent never sees (:meth:`PathEnergy.judge`): a pair is done when that
length no longer falls, and keeps the shortest path that was judged.  Where the length rose, the
draws have led away: the search begins once more from the shortest path, with others.  So
"converged" says that longer searching does not help, and no path is longer than the one that it
began with.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffodesic.geometry.energy import Evaluation, Order, PathEnergy, Problem, Solution
from diffodesic.geometry.solvers.descent import Descent
from diffodesic.geometry.solvers.starts import measure, respace
from diffodesic.geometry.status import Status
from diffodesic.geometry.wrappers import EnergyWrapper
from diffodesic.numerics import checks
from diffodesic.numerics.cost import stage

__all__ = ["Redraw"]


SCATTER = 0.1  # of a length judged by one sample on few segments; 8 % were seen

# how the rounds of a draw may end where the judged length no longer falls: steps that probes find
# negative say nothing of it
WELL = (Status.ITERATION_LIMIT, Status.HELD_BACK, Status.NEGATIVE_STEPS)


class _Unheld(EnergyWrapper):
    """An energy that holds no descent back: whether a doubtful path is shorter, the judge says."""

    def evaluate(self, x: Tensor, *, order: Order = 1) -> Evaluation:
        """That of the wrapped energy, without doubts."""
        found = self.wrapped.evaluate(x, order=order)
        return replace(found, doubtful=torch.zeros_like(found.doubtful))


class _State:
    """Everything that belongs to the pairs of a search; first axis B.

    Args:
        x: paths (B, k + 1, d) that the search begins with.
        length: their lengths, (B,).
        blind: which pairs no judge can tell of, (B,).
        scale: of the preconditioner, (B,).
    """

    def __init__(self, x: Tensor, length: Tensor, blind: Tensor, scale: Tensor) -> None:
        self.x, self.scale, self.blind = x.clone(), scale, blind
        self.best, self.shortest = x.clone(), length.clone()
        self.going = torch.ones_like(blind)
        self.rose = torch.zeros_like(blind)  # whether the last judgement found the path longer
        self.taken = torch.zeros(len(x), dtype=torch.long)
        self.statuses = [Status.ITERATION_LIMIT] * len(x)


@dataclass(frozen=True)
class Redraw:
    """Descent with probes drawn anew, for the energies of networks.

    Args:
        nodes: number of segments that are searched; the path is then spread over those asked for.
            A network's energy is followed further on many nodes than it is right.
        starts: how many of the energy's own starts are judged: those that probes call shortest.
        rounds: energy gradients per draw of probes and pair.
        draws: draws between two judgements; the mean of their paths and of those before the last
            judgement is what is judged.
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
    starts: int = 3
    rounds: int = 5
    draws: int = 2
    judgements: int = 6
    rtol: float = 1e-2
    scale: float = 0.03
    memory: int = 12
    seed: int = 1

    def __post_init__(self) -> None:
        if min(self.nodes - 1, self.starts, self.rounds, self.draws, self.judgements) < 1:
            raise ValueError("starts, rounds, draws, judgements must be at least 1, and nodes 2")
        if not min(self.rtol, self.scale) > 0:
            raise ValueError("rtol and scale must be positive")
        checks.seed(self.seed)

    def solve(self, problem: Problem) -> Solution:
        """Shorten the best start of every pair, or ``init``.

        Returns:
            the solution on n + 1 nodes: CONVERGED where the judged length no longer fell,
            ITERATION_LIMIT where the judgements ran out, START_KEPT where no path was judged
            shorter than the first one, or than ``init`` on the nodes asked for, else what ended the
            descent.

        Cost: the starts and their lengths on ``2 nodes`` segments, of some a
        :meth:`PathEnergy.judge` on ``nodes``, all pairs together; then per judgement and active
        pair ``draws (rounds + 1)`` energy gradients on ``nodes`` segments and one
        :meth:`PathEnergy.judge` there. With ``init`` two more on the nodes asked for.
        """
        energy = problem.energy
        x, names, judged = self._start(problem)
        # which pairs no judge can tell of, decided once: lengths of two kinds are not compared
        blind = judged.isnan()
        first = self._lengths(energy, x, judged, blind)
        now = _State(x, first, blind, torch.full_like(first, self.scale))
        for judgement in range(self.judgements):
            rows = torch.nonzero(now.going).flatten()
            if not len(rows):
                break
            self._shorten(now, rows, judgement, problem)
        kept = ~(now.shortest < first)
        nodes = self._spread(energy, now.best, problem.nodes)
        length = torch.where(blind, torch.nan, now.shortest)
        if problem.init is not None:
            nodes, length, kept = self._no_longer(problem, problem.init, nodes, length, kept)
        for row in torch.nonzero(kept & ~blind).flatten().tolist():
            if now.statuses[row] in (Status.CONVERGED, *WELL):
                now.statuses[row] = Status.START_KEPT
        # the last gradient was that of other probes, on few nodes
        norm = torch.full_like(first, torch.nan)
        return Solution(nodes, norm, now.statuses, now.taken, names, length)

    def _no_longer(
        self, problem: Problem, init: Tensor, nodes: Tensor, length: Tensor, kept: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """``init`` in the place of paths ``nodes`` that are longer, or began with it and stayed."""
        # few nodes may have cut its corners or bent it: both are judged on the nodes asked for
        energy = problem.energy
        same = init.shape[1] == problem.nodes + 1
        given = init if same else _along(energy, init, problem.nodes)
        told, found = self._judge(energy, given), self._judge(energy, nodes)
        kept = kept | (told < found)
        nodes = torch.where(kept[:, None, None], given, nodes)
        return nodes, torch.where(kept & ~told.isnan(), told, length), kept

    def _shorten(self, now: _State, rows: Tensor, judgement: int, problem: Problem) -> None:
        """Draw, descend and judge the pairs ``rows`` (A,) once."""
        found, before = [], now.x[rows]
        for draw in range(self.draws):
            drawn = problem.energy.redrawn(self.seed + judgement * self.draws + draw)
            found.append(self._descend(drawn, now.x[rows], now.scale[rows], problem))
            now.x[rows], now.scale[rows] = found[-1].result, found[-1].scale
            now.taken[rows.cpu()] += found[-1].iterations
        mean = torch.stack([one.result for one in found]).mean(0)
        x = (mean + before) / 2 if judgement else mean
        judged = self._judge(problem.energy, x)
        length = self._lengths(problem.energy, x, judged, now.blind[rows])
        gain = (1 - length / now.shortest[rows]).nan_to_num(nan=-torch.inf)
        better, rose = gain > 0, gain < -self.rtol
        now.best[rows[better]], now.shortest[rows[better]] = x[better], length[better]
        # draws that led away: once more from the shortest path, with others
        again = rose & ~now.rose[rows]
        now.x[rows] = torch.where(again[:, None, None], now.best[rows], mean)
        now.going[rows], now.rose[rows] = (gain > self.rtol) | again, rose
        for row, ended in zip(rows.tolist(), found[-1].statuses, strict=True):
            if not bool(now.going[row]):
                well = ended in WELL and bool(now.taken[row])
                now.statuses[row] = Status.CONVERGED if well else ended

    @staticmethod
    def _spread(energy: PathEnergy, x: Tensor, nodes: int) -> Tensor:
        """Points at equal steps of the smooth curve through few nodes, (B, n + 1, d)."""
        # equal steps between few nodes would bend the curve: its own parameter first
        return respace(energy, _along(energy, x, nodes), nodes)

    @stage("starts")
    def _start(self, problem: Problem) -> tuple[Tensor, list[str], Tensor]:
        """The start judged shortest of every pair (B, k + 1, d), its name, and that length (B,)."""
        energy, few = problem.energy, min(self.nodes, problem.nodes)
        if problem.init is not None:
            x = respace(energy, problem.init, few)
            return x, ["given"] * len(x), self._judge(energy, x)
        # twice as many segments tell how long an arch is, which half of them can follow
        named = energy.starts(problem.a, problem.b, 2 * few)
        paths = torch.stack(list(named.values()), 1)
        found = measure(energy, paths)
        among = found.sound | ~found.sound.any(1, keepdim=True)
        length = torch.where(among, found.length, torch.inf)
        rows = torch.arange(len(paths), device=paths.device)[:, None]
        # probes rank starts of different kinds wrong: of the shortest by them, the judge chooses
        # another than the first where that is shorter by more than one sample scatters
        first = length.argsort(stable=True, dim=1)[:, : self.starts]
        x = paths[rows, first, ::2]
        judged = self._judge(energy, x.flatten(0, 1)).reshape(first.shape)
        judged = torch.where(length.gather(1, first).isinf(), torch.nan, judged)
        rated = judged.nan_to_num(nan=torch.inf)
        rated[:, :1] *= 1 - SCATTER
        best = rated.argmin(1, keepdim=True)
        names = [list(named)[i] for i in first.gather(1, best)[:, 0].tolist()]
        return x[rows, best][:, 0], names, judged.gather(1, best)[:, 0]

    @stage("judging")
    def _judge(self, energy: PathEnergy, x: Tensor) -> Tensor:
        """Lengths of paths (B, k + 1, d) by one sample of the judge; NaN where there is none."""
        if not energy.fitted:
            return torch.full_like(x[:, 0, 0], torch.nan)
        return energy.judge(x, self.seed)[0]

    def _lengths(self, energy: PathEnergy, x: Tensor, judged: Tensor, blind: Tensor) -> Tensor:
        """Lengths ``judged`` of paths (B, k + 1, d), and of pairs ``blind`` by unseen probes."""
        if not bool(blind.any()):
            return judged
        unseen = energy.redrawn(self.seed + self.draws * self.judgements)
        return torch.where(blind, measure(unseen, x[:, None]).length[:, 0], judged)

    def _descend(self, energy: PathEnergy, x: Tensor, scale: Tensor, problem: Problem) -> Descent:
        """A few rounds from paths (B, k + 1, d)."""
        # no tolerance of its own: whether a path got shorter, the judge says
        descent = Descent(
            _Unheld(energy), x, rtol=1e-12, iterations=self.rounds, memory=self.memory, scale=scale
        )
        while descent.active:
            descent.round()
            line = f"{x.shape[1] - 1} nodes, round {descent.rounds}: {descent.active} paths active"
            problem.tell(line, descent.current())
        return descent


def _along(energy: PathEnergy, x: Tensor, nodes: int) -> Tensor:
    """The smooth curve through paths (B, k + 1, d) at equal steps of its parameter."""
    s = torch.linspace(0, 1, nodes + 1, dtype=x.dtype, device=x.device)
    inside = energy.confine(energy.curve(x)(s))[:, 1:-1]
    return torch.cat([x[:, :1], inside, x[:, -1:]], 1)
