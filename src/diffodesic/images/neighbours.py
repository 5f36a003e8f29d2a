r"""Nearest neighbours in Diffusion Edit Distance without all the distances  (2505.17517).

1. *Candidates*: of each point the pairs of least relative entropy between posteriors at the
   anchor, ``KL(a || b) + KL(b || a) = SNR (z_a - z_b) . (m_a - m_b)``: one evaluation per point and
   no geodesic.  A neighbour that is not among them is missed; how many are is measured by
   ``check``, which solves all pairs of some points.
2. *Bounds*: a candidate whose lower bound exceeds the k-th best distance so far is not solved.
   Where the log-partition has a closed form, as that of a mixture, ``d >= 2 arccos BC`` with BC
   the Bhattacharyya coefficient of the posteriors; else, as of a network, it is zero.  Of 25
   candidates of each of 10,000 digits 15 are left to solve.
3. *Pivots*: distances to a few points p bound all others by the triangle inequality,

    |d(p, i) - d(p, j)|  <=  d(i, j)  <=  d(p, i) + d(p, j).

   Solved lengths L are those of real paths, d <= L <= (1 + a) d for an accuracy a of the solver,
   and what is used is ``L(p, i)/(1 + a) - L(p, j) <= d(i, j)``: a candidate is missed only if a is
   too small.  This saves little where distances concentrate, as among images of many classes, and
   most of the work where data lie on a line.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.images.door import Data, as_data
from diffodesic.images.information import NOISY, NoisyOptions
from diffodesic.images.noisy_neighbours import under_noise
from diffodesic.images.own_kind import doubtful, tell
from diffodesic.images.pairs import PairSolver, PairwiseOptions, lifted
from diffodesic.images.spaces import SpacetimeSpace
from diffodesic.images.work import join_work
from diffodesic.images.workers import batches
from diffodesic.metrics.spacetime.metric import Spacetime
from diffodesic.models.identity import identity
from diffodesic.models.model import Model
from diffodesic.numerics import checks
from diffodesic.numerics.cost import expect, scaled, stage
from diffodesic.numerics.words import brief
from diffodesic.output.options import option, suggests
from diffodesic.output.stages import AGAIN, GOES_ON, Store, fingerprint

__all__ = ["NearestOptions", "Neighbours", "candidates_of", "entropies", "nearest", "promising"]

CANDIDATES = 5  # times k
BLOCK = 1024  # points of one call


@dataclass(frozen=True, kw_only=True)
class NearestOptions(PairwiseOptions):
    """Options of :func:`nearest`.

    Args:
        candidates: pairs of each point that may be solved, those of least relative entropy at the
            anchor; default 5 k. With the number of points every pair that the bounds allow is one.
        pivots: points whose distances to all others are solved first, far from each other; default
            4 where all points are candidates, else none.
        accuracy: share by which a solved length may exceed the distance.
    """

    candidates: int | None = option(None, least=1)
    pivots: int | None = option(None, least=0)
    accuracy: float = option(0.02, least=0)


@dataclass(frozen=True, repr=False)
class Neighbours:
    """The k nearest of each of N points, itself apart.

    Attributes:
        index: their places, nearest first, (N, k).
        distance: their distances, (N, k).
        log_snr: the scale: the anchor, or the cleanest level of a metric under noise; distances of
            other scales do not compare.
        solved: number of pairs whose geodesic was solved, without those of the check.
        pairs: number N (N - 1) / 2 of all pairs.
        recall: share of the true neighbours of the checked points that was found, None where none
            was checked; of ``iem`` and ``mean`` what the noise lets expect, see
            :mod:`diffodesic.images.noisy_neighbours`.
        notices: what is doubtful about the pictures, the model or its paths, one sentence each.
    """

    index: Tensor
    distance: Tensor
    log_snr: float
    solved: int
    pairs: int
    recall: float | None = None
    notices: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """One line: how many of how many, and what was solved."""
        points, k = self.index.shape
        known = {"log SNR": self.log_snr, "distance": self.distance}
        solved = f"{self.solved} of {self.pairs} pairs solved"
        return f"Neighbours({k} of {points} points, {brief(known)}, {solved})"


@suggests(options=(NearestOptions, *NOISY.values()))
def nearest(
    source: Model | Denoiser,
    data: Data,
    k: int = 5,
    *,
    metric: Literal["diffed", "iem", "mean"] = "diffed",
    log_snr: float | None = None,
    check: int = 0,
    folder: str | os.PathLike[str] | None = None,
    options: NearestOptions | NoisyOptions | None = None,
    progress: Callable[[str], None] | None = None,
) -> Neighbours:
    """The k nearest neighbours of every point.

    Args:
        source: a model, or a denoiser.
        data: images for a model, as for :func:`pairwise`; points (N, D) at the anchor for a
            denoiser.
        k: number of neighbours, 1 <= k < N.
        metric: ``diffed``, Diffusion Edit Distance; ``iem`` or ``mean``, where no geodesic is
            solved and noise alone decides what is missed.
        log_snr: the anchor, in place of ``options.log_snr``; see ``edit``.
        check: number of points, spread over the set, all of whose pairs are solved for the recall.
        folder: where solved pairs are kept; a run that was interrupted, or has another ``check``,
            goes on from them.
        options: everything else; default ``NearestOptions()``, or those of the metric.
        progress: called with a short line after every batch.

    Returns:
        neighbours, their distances, and how many pairs it took.

    Raises:
        TypeError: for data that are none.
        ValueError: for k outside 1 ... N - 1, pivots or check beyond N, what is no whole number,
            options of another metric, or a folder of other data or settings.

    Cost: that of ``geodesic`` per solved pair, at most ``candidates N + (pivots + check) (N - 1)``,
    one evaluation per point, and three log-partitions in closed form per candidate; for a model
    ``2 flow_steps + 12`` more of each image.  Of ``iem`` 34 evaluations a point and noise with 17
    levels: 136 to 544, whatever the number of pairs.  Memory: about ``40 N^2`` bytes.
    """
    points, say = as_data(source, data), progress or _silent
    count = len(points)
    k, check = checks.whole(k, "k", 1), checks.whole(check, "check", 0)
    if k >= count:
        raise ValueError(f"k must be between 1 and {count - 1}, one less than the points; got {k}")
    known: dict[str, type[NearestOptions | NoisyOptions]] = {"diffed": NearestOptions, **NOISY}
    if (kind := known.get(str(metric))) is None:
        raise ValueError(f"unknown metric {metric!r}; choose diffed, {' or '.join(NOISY)}")
    options = kind() if options is None else options
    if not isinstance(options, kind):
        raise ValueError(
            f"options are {type(options).__name__}; the metric {metric} takes {kind.__name__}"
        )
    if isinstance(options, NearestOptions):
        asked = options.but(log_snr=log_snr)
        for name, value in (("pivots", asked.pivots or 0), ("check", check)):
            if value > count:
                raise ValueError(
                    f"{name} must be at most {count}, the number of points; got {value}"
                )
        return _by_edits(source, points, k, asked, check, folder, say)
    if check or folder is not None or log_snr is not None:
        raise ValueError(f"check, folder and log_snr are no arguments of the metric {metric}")
    notices = tell(doubtful(source, points), say)
    found = under_noise(source, points, k, options, say)
    pairs = count * (count - 1) // 2
    return Neighbours(found.index, found.distance, found.log_snr, 0, pairs, found.recall, notices)


def _silent(_: str) -> None:
    pass


def _by_edits(
    source: Model | Denoiser,
    data: Tensor,
    k: int,
    asked: NearestOptions,
    check: int,
    folder: str | os.PathLike[str] | None,
    say: Callable[[str], None],
) -> Neighbours:
    """Neighbours in edit distance."""
    space, points = lifted(source, data, asked, say)
    solver, count = PairSolver.of(space, points, asked), len(points)
    candidates = min(asked.candidates or CANDIDATES * k, count - 1)
    if candidates < k:
        raise ValueError(f"candidates must be at least k, which is {k}; got {candidates}")
    pivots = asked.pivots
    if pivots is None:
        pivots = min(4, count) if candidates == count - 1 else 0
    depends = {
        **asked.but(workers=1, ray=None).settings(),  # results do not depend on who solves
        "solver": repr(solver.solver),
        "k": k,
        "points": fingerprint(points),
        "model": identity(source),
    }
    with Store(None if folder is None else Path(folder), depends).held() as store:
        if made := store.finished():
            say(f"{GOES_ON}, which has solved {len(made)} batches of pairs")
        elif store.stopped:
            say(AGAIN)
        if isinstance(source, Model):
            of_one = join_work(SpacetimeSpace(), asked, solver.nodes, ("ends",))
            most = min(count * candidates, count * (count - 1) // 2)
            expect(scaled(of_one, most), pairs=most)
        alarms = tell(doubtful(source, data), say)
        ledger = _Ledger(solver, store, asked, say)
        nearby = candidates_of(entropies(space, points), candidates)
        ledger.search(nearby, _bounds(space, points, nearby), k, pivots, asked.accuracy)
        distance, index = ledger.known.topk(k, largest=False)
        solved = ledger.solved
        recall = ledger.recall(index, check) if check else None
    notices = tuple(dict.fromkeys((*alarms, *ledger.doubts)))
    every = count * (count - 1) // 2
    return Neighbours(index, distance, asked.log_snr, solved, every, recall, notices)


@stage("candidates")
def entropies(space: Spacetime, points: Tensor) -> Tensor:
    """Relative entropies of posteriors at the anchor, both ways summed, over the SNR.

    Args:
        space: the spacetime.
        points: packed points (N, D + 1) at one level.

    Returns:
        ``(z_a - z_b) . (m_a - m_b)`` of all points, (N, N), infinite on the diagonal.

    Cost: one evaluation per point.
    """
    z, sigma = points[:, :-1], (-points[0, -1] / 2).exp()
    with torch.no_grad():
        means = torch.cat([space.denoiser(part, sigma) for part in z.split(BLOCK)])
    products = z @ means.T
    size = products.diagonal()
    cheap = size + size.unsqueeze(1) - products - products.T
    return cheap.double().cpu().fill_diagonal_(torch.inf)


def candidates_of(cheap: Tensor, candidates: int) -> Tensor:
    """Cheap distances (N, N) of the ``candidates`` nearest of each point, infinite elsewhere."""
    least = cheap.topk(candidates, largest=False)
    return torch.full_like(cheap, torch.inf).scatter_(1, least.indices, least.values)


def _bounds(space: Spacetime, points: Tensor, cheap: Tensor) -> Tensor:
    """What distances of pairs with a finite cheap distance are at least, (N, N); else zero."""
    lower, energy = torch.zeros_like(cheap), space.energy()
    with torch.no_grad():
        for pairs in cheap.isfinite().nonzero().split(BLOCK):
            i, j = pairs.T
            lower[i, j] = energy.lower_bound(points[i], points[j]).double().cpu()
    return lower


class _Ledger:
    """Pairs that are solved, and what for.

    Args:
        solver: solves pairs.
        store: keeps each batch of them.
        asked: who solves them.
        say: called with a short line after every batch.
    """

    def __init__(
        self, solver: PairSolver, store: Store, asked: NearestOptions, say: Callable[[str], None]
    ) -> None:
        self.solver, self.store, self.asked, self.say = solver, store, asked, say
        count = len(solver.points)
        self.known = torch.full((count, count), torch.inf, dtype=torch.float64)
        self.doubts: dict[str, None] = {}

    @property
    def solved(self) -> int:
        """Number of pairs solved."""
        return int(torch.isfinite(self.known).sum()) // 2

    def solve(self, pairs: Tensor) -> None:
        """Fill in the distances of pairs (P, 2), or take them from an earlier run."""
        parts = pairs.split(self.solver.batch) if len(pairs) else ()
        # by their pairs: which batches a run has, and in which order, depends on its check
        names = [f"batch-{fingerprint(part)}" for part in parts]
        left: dict[int, Tensor] = {}
        for place, part in enumerate(parts):
            if made := self.store.read(names[place]):
                self._take(*made)
            else:
                left[place] = part
        for place, batch in batches(self.solver, left, self.asked.workers, self.asked.ray):
            solved = {"pairs": left[place], "lengths": batch.lengths}
            self._take(*self.store.write(names[place], solved, {"doubts": batch.doubts}))

    def _take(self, made: dict[str, Tensor], words: dict[str, Any]) -> None:
        i, j = made["pairs"].T
        self.known[i, j] = self.known[j, i] = made["lengths"]
        self.doubts |= dict.fromkeys(words["doubts"])
        self.say(f"{self.solved} pairs solved")

    def search(self, cheap: Tensor, lower: Tensor, k: int, pivots: int, accuracy: float) -> None:
        """Solve the pairs that neither the cheap distance, a bound nor the pivots rule out."""
        chosen = self._pivots(pivots)
        gap = self.known[chosen].clone()
        gap[torch.arange(len(chosen)), chosen] = 0  # a pivot and itself
        for row in gap:
            bound = row.unsqueeze(1) / (1 + accuracy) - row
            lower = torch.maximum(lower, torch.maximum(bound, bound.T))
        rows = torch.arange(len(cheap))
        while len(pairs := promising(rows, self.known, cheap, lower, k)):
            self.solve(pairs)

    def _pivots(self, count: int) -> list[int]:
        """Points far from each other, with their distances to all others solved."""
        chosen: list[int] = []
        reach = torch.full((len(self.known),), torch.inf, dtype=torch.float64)
        for _ in range(count):
            chosen.append(int(reach.argmax()))
            self._all_of(chosen[-1])
            reach = self.known[chosen].amin(0)
            reach[chosen] = -1
        return chosen

    def _all_of(self, point: int) -> None:
        """Solve all pairs of a point."""
        rest = torch.nonzero(torch.isinf(self.known[point])).flatten()
        rest = rest[rest != point]
        self.solve(torch.stack([torch.full_like(rest, point), rest], 1))

    def recall(self, index: Tensor, check: int) -> float:
        """Share of the true neighbours of ``check`` points that are in ``index`` (N, k)."""
        places = torch.linspace(0, len(index) - 1, check).round().long()
        hits = []
        for place in places.tolist():
            self._all_of(place)
            true = self.known[place].topk(index.shape[1], largest=False).indices
            hits.append(torch.isin(true, index[place]).double().mean())
        return float(torch.stack(hits).mean())


def promising(rows: Tensor, known: Tensor, cheap: Tensor, lower: Tensor, k: int) -> Tensor:
    """The k unsolved candidates of least cheap distance that may be near, of some points.

    Args:
        rows: places of the points, (Q,).
        known: their distances, (Q, N), infinite where not solved.
        cheap: cheap distances, (Q, N), infinite for pairs that are no candidates.
        lower: what the distances are at least, (Q, N).
        k: number of neighbours.

    Returns:
        pairs of places (P, 2), the smaller first, each once; none where the k nearest candidates
        are known.
    """
    worst = known.topk(k, largest=False).values[:, -1:]
    open_ = torch.where(torch.isinf(known) & (lower < worst), cheap, torch.inf)
    least, place = open_.topk(k, largest=False)
    pairs = torch.stack([rows.unsqueeze(1).expand_as(place), place], -1)[torch.isfinite(least)]
    return torch.unique(pairs.sort(1).values, dim=0)
