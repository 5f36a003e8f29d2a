r"""Nearest neighbours in Diffusion Edit Distance without all the distances  (2505.17517).

Distances to a few pivots p bound all others by the triangle inequality,

    |d(p, i) - d(p, j)|  <=  d(i, j)  <=  d(p, i) + d(p, j),

so a pair whose lower bound exceeds the k-th best distance found so far need not be solved.  Solved
lengths L are those of real paths, d <= L <= (1 + a) d for an accuracy a of the solver, and what is
used is ``L(p, i)/(1 + a) - L(p, j) <= d(i, j)``: no neighbour is lost but by a wrong a.
How much is saved is the data's affair: little where distances concentrate, as among images of
many classes; most of it where data lie on a line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.geometry.boundary_value import search
from diffodesic.images.distances import _plan as plan_of
from diffodesic.images.editing import anchored, distances_of
from diffodesic.models.model import Model

__all__ = ["Neighbours", "nearest"]


@dataclass(frozen=True)
class Neighbours:
    """The k nearest of each of N points, itself apart.

    Attributes:
        index: their places, nearest first, (N, k).
        distance: their distances, (N, k).
        log_snr: the anchor; distances of other anchors do not compare.
        solved: number of pairs whose geodesic was solved.
        pairs: number N (N - 1) / 2 of all pairs.
    """

    index: Tensor
    distance: Tensor
    log_snr: float
    solved: int
    pairs: int


def nearest(
    source: Model | Denoiser,
    data: Tensor,
    k: int = 5,
    *,
    log_snr: float = 2.0,
    pivots: int = 4,
    accuracy: float = 0.02,
    flow_steps: int = 24,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Neighbours:
    """The k nearest neighbours of every point in Diffusion Edit Distance.

    Args:
        source: a model, or a denoiser.
        data: images (N, C, H, W) in [0, 1] for a model; points (N, D) at the anchor for a
            denoiser.
        k: number of neighbours, 1 <= k < N.
        log_snr: the anchor; see ``edit``.
        pivots: points whose distances to all others are solved first, far from each other.
        accuracy: share by which a solved length may exceed the distance.
        flow_steps: steps of the probability flow that lifts images.
        seed: seed of the probes and of the grain of noise.
        progress: called with a short line after every round.

    Returns:
        neighbours, their distances, and how many pairs it took.

    Raises:
        ValueError: for k outside 1 ... N - 1, pivots outside 1 ... N, or a negative accuracy.

    Cost: that of ``geodesic`` per solved pair, ``pivots (N - 1)`` at least.
    """
    count = len(data)
    if not 1 <= k < count:
        raise ValueError(f"k must be between 1 and {count - 1}, one less than the points; got {k}")
    if not 1 <= pivots <= count or accuracy < 0:
        raise ValueError(
            f"pivots must be between 1 and {count}, and accuracy >= 0; got {pivots} and {accuracy}"
        )
    space, points = anchored(source, data, log_snr=log_snr, flow_steps=flow_steps, seed=seed)
    plan = plan_of(space, None, None, None)
    known = torch.full((count, count), torch.inf, dtype=torch.float64)

    def solve(pairs: Tensor) -> None:
        """Fill in the distances of pairs (P, 2)."""
        for part in pairs.split(plan.batch):
            i, j = part.T
            path = search(space, points[i], points[j], nodes=plan.nodes, solver=plan.solver)
            known[i, j] = known[j, i] = distances_of(path).double().cpu()
            if progress:
                progress(f"{_solved(known)} pairs solved")

    chosen = _pivots(known, pivots, solve)
    gap = known[chosen].clone()
    gap[torch.arange(len(chosen)), chosen] = 0  # a pivot and itself
    shrunk = gap / (1 + accuracy)
    lower = (shrunk.unsqueeze(2) - gap.unsqueeze(1)).amax(0)
    lower = torch.maximum(lower, lower.T)
    while len(pairs := _promising(known, lower, k)):
        solve(pairs)
    distance, index = known.topk(k, largest=False)
    return Neighbours(index, distance, float(log_snr), _solved(known), count * (count - 1) // 2)


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
