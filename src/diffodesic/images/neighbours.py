r"""Nearest neighbours in Diffusion Edit Distance without all the distances  (2505.17517).

Distances to a few pivots p bound all others by the triangle inequality,

    |d(p, i) - d(p, j)|  <=  d(i, j)  <=  d(p, i) + d(p, j),

so a pair whose lower bound exceeds the k-th best distance so far need not be solved.  Solved
lengths L are those of real paths, d <= L <= (1 + a) d for an accuracy a of the solver, and what is
used is ``L(p, i)/(1 + a) - L(p, j) <= d(i, j)``: a neighbour is missed only if a is too small.
This saves little where distances concentrate, as among images of many classes, and most of the
work where data lie on a line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.images.distances import PairSolver, PairwiseOptions
from diffodesic.images.door import Data, as_data
from diffodesic.images.editing import anchored, distances_of
from diffodesic.images.own_kind import doubtful
from diffodesic.models.model import Model
from diffodesic.numerics.words import brief
from diffodesic.output.options import option, suggests

__all__ = ["NearestOptions", "Neighbours", "nearest"]


@dataclass(frozen=True, kw_only=True)
class NearestOptions(PairwiseOptions):
    """Options of :func:`nearest`.

    Args:
        pivots: points whose distances to all others are solved first, far from each other.
        accuracy: share by which a solved length may exceed the distance.
    """

    pivots: int = option(4, least=1)
    accuracy: float = option(0.02, least=0)


@dataclass(frozen=True, repr=False)
class Neighbours:
    """The k nearest of each of N points, itself apart.

    Attributes:
        index: their places, nearest first, (N, k).
        distance: their distances, (N, k).
        log_snr: the anchor; distances of other anchors do not compare.
        solved: number of pairs whose geodesic was solved.
        pairs: number N (N - 1) / 2 of all pairs.
        notices: what is doubtful about the pictures, the model or its paths, one sentence each.
    """

    index: Tensor
    distance: Tensor
    log_snr: float
    solved: int
    pairs: int
    notices: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """One line: how many of how many, and what was solved."""
        points, k = self.index.shape
        known = {"log SNR": self.log_snr, "distance": self.distance}
        solved = f"{self.solved} of {self.pairs} pairs solved"
        return f"Neighbours({k} of {points} points, {brief(known)}, {solved})"


@suggests(options=(NearestOptions,))
def nearest(
    source: Model | Denoiser,
    data: Data,
    k: int = 5,
    *,
    log_snr: float | None = None,
    options: NearestOptions | None = None,
    progress: Callable[[str], None] | None = None,
) -> Neighbours:
    """The k nearest neighbours of every point in Diffusion Edit Distance.

    Args:
        source: a model, or a denoiser.
        data: images for a model, as for :func:`pairwise`; points (N, D) at the anchor for a
            denoiser.
        k: number of neighbours, 1 <= k < N.
        log_snr: the anchor, in place of ``options.log_snr``; see ``edit``.
        options: everything else; default ``NearestOptions()``.
        progress: called with a short line after every round.

    Returns:
        neighbours, their distances, and how many pairs it took.

    Raises:
        ValueError: for k outside 1 ... N - 1, or pivots outside 1 ... N.

    Cost: that of ``geodesic`` per solved pair, ``pivots (N - 1)`` at least, and for a model ``2
    flow_steps + 12`` evaluations per image.
    """
    points = as_data(source, data)
    asked, count = (options or NearestOptions()).but(log_snr=log_snr), len(points)
    if not 1 <= k < count:
        raise ValueError(f"k must be between 1 and {count - 1}, one less than the points; got {k}")
    if asked.pivots > count:
        raise ValueError(
            f"pivots must be at most {count}, the number of points; got {asked.pivots}"
        )
    solver = PairSolver.of(*anchored(source, points, asked), asked)
    notices = dict.fromkeys(doubtful(source, points))
    known = torch.full((count, count), torch.inf, dtype=torch.float64)

    def solve(pairs: Tensor) -> None:
        """Fill in the distances of pairs (P, 2)."""
        for part in pairs.split(solver.batch):
            i, j = part.T
            path = solver(part)
            notices.update(dict.fromkeys(path.doubts))
            known[i, j] = known[j, i] = distances_of(path).double().cpu()
            if progress:
                progress(f"{_solved(known)} pairs solved")

    chosen = _pivots(known, asked.pivots, solve)
    gap = known[chosen].clone()
    gap[torch.arange(len(chosen)), chosen] = 0  # a pivot and itself
    shrunk = gap / (1 + asked.accuracy)
    lower = (shrunk.unsqueeze(2) - gap.unsqueeze(1)).amax(0)
    lower = torch.maximum(lower, lower.T)
    while len(pairs := _promising(known, lower, k)):
        solve(pairs)
    distance, index = known.topk(k, largest=False)
    every = count * (count - 1) // 2
    return Neighbours(index, distance, asked.log_snr, _solved(known), every, tuple(notices))


def _solved(known: Tensor) -> int:
    return int(torch.isfinite(known).sum()) // 2


def _pivots(known: Tensor, count: int, solve: Callable[[Tensor], None]) -> list[int]:
    """Points far from each other, with their distances to all others solved."""
    chosen = [0]
    everyone = torch.arange(len(known))
    while True:
        last = chosen[-1]
        rest = everyone[(everyone != last) & torch.isinf(known[last])]
        solve(torch.stack([torch.full_like(rest, last), rest], 1))
        if len(chosen) == count:
            return chosen
        reach = known[chosen].amin(0)
        reach[chosen] = -1
        chosen.append(int(reach.argmax()))


def _promising(known: Tensor, lower: Tensor, k: int) -> Tensor:
    """For every point the k unsolved pairs of least bound that may be among its nearest, (P, 2)."""
    worst = known.topk(k, largest=False).values[:, -1:]
    bound = torch.where(torch.isinf(known) & (lower < worst), lower, torch.inf)
    bound.fill_diagonal_(torch.inf)
    least, place = bound.topk(k, largest=False)
    row = torch.arange(len(known)).unsqueeze(1).expand_as(place)
    pairs = torch.stack([row, place], -1)[torch.isfinite(least)]
    return torch.unique(pairs.sort(1).values, dim=0)
