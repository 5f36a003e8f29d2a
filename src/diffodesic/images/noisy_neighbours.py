r"""Nearest neighbours under shared noise, and how many of them the noise lets find.

Distances d + e under shared noise know every pair, and their noise e exchanges neighbours that are
about as far.  Let A and B be squared distances by as many noises each, drawn apart, and M their
mean.  The noise of M and the difference A - M = (A - B)/2 have one covariance, and are independent
as far as noise is normal.  So the neighbours by A are to those by M what those by M are to the true
ones, and

    recall of M  ~  share of the neighbours by M that are neighbours by A, or by B,

is known without further evaluations.  (M is spread a little more than the truth, so that this is a
little too high where the noise is large.)  Noises are doubled until it suffices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.images.information import IemOptions, NoisyOptions, denoiser_of, points_of
from diffodesic.models.model import Model

__all__ = ["NoisyNeighbours", "under_noise"]

RECALL = 0.95
MOST = 16  # noises per level; of 1,000 points that is 125 times less than pair by pair


@dataclass(frozen=True)
class NoisyNeighbours:
    """The k nearest of each of N points.

    Attributes:
        index: their places, nearest first, (N, k).
        distance: their distances, (N, k).
        log_snr: the scale.
        recall: expected share of the true neighbours; None where noises were not doubled.
        noises: noises per level.
    """

    index: Tensor
    distance: Tensor
    log_snr: float
    recall: float | None
    noises: int


def under_noise(
    source: Model | Denoiser,
    data: Tensor,
    k: int,
    options: NoisyOptions,
    say: Callable[[str], None],
) -> NoisyNeighbours:
    """The nearest of each point by ``iem`` or ``mean``.

    Args:
        source: a model, or a denoiser.
        data: images (N, C, H, W), or points (N, D).
        k: number of neighbours.
        options: of the metric; its noises are those of the first round.
        say: called with a short line now and then.

    Returns:
        the neighbours.

    Cost: ``2 noises levels`` evaluations per point.
    """
    points, denoiser = points_of(source, data, "data"), denoiser_of(source)
    found = options.among(denoiser, points, progress=say)
    goal = RECALL if options.recall is None else options.recall
    square, noises, recall = _square(found.distance, len(points)), options.noises, None
    if isinstance(options, IemOptions):
        options = options.but(levels=len(found.levels))
    while goal and noises < MOST and (recall is None or recall < goal):
        # the seeds of all rounds differ: noises double, and each round takes the next seed
        options = options.but(noises=noises, seed=options.seed + 1)
        other = _square(options.among(denoiser, points, progress=say).distance, len(points))
        both = (square + other) / 2
        recall = (_shared(square, both, k) + _shared(other, both, k)) / 2
        square, noises = both, 2 * noises
        say(f"{noises} noises: recall {recall:.1%} expected")
    least = square.sqrt().topk(k, largest=False)
    return NoisyNeighbours(least.indices, least.values, found.log_snr, recall, noises)


def _square(distance: Tensor, count: int) -> Tensor:
    """Squared distances of pairs as a matrix (N, N), infinite on the diagonal."""
    square = torch.full((count, count), torch.inf, dtype=torch.float64)
    i, j = torch.triu_indices(count, count, 1)
    square[i, j] = square[j, i] = distance.double().cpu().square()
    return square


def _shared(one: Tensor, other: Tensor, k: int) -> float:
    """Share of the k least of each row that two matrices have in common."""
    a, b = (each.topk(k, largest=False).indices for each in (one, other))
    return float((a.unsqueeze(2) == b.unsqueeze(1)).double().sum() / a.numel())
