"""Distances of the candidate pairs of a set, each a stage that an interrupted run finds again."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import fmean

import torch
from torch import Tensor

from diffodesic.experiments.distances.sets import PictureSet
from diffodesic.images.edit_result import distances_of
from diffodesic.images.editing import anchored
from diffodesic.images.evaluation import ssim
from diffodesic.images.features import Features
from diffodesic.images.information import IemOptions, MeanOptions, NoisyOptions
from diffodesic.images.pairs import PairSolver, PairwiseOptions
from diffodesic.numerics.cost import counting
from diffodesic.output.stages import Stage, Store

__all__ = ["NAMES", "Measured", "cheap", "edits"]

NAMES = {
    "diffed": "DiffED",
    "iem": "IEM",
    "coarse": "IEM to log SNR 2",
    "mean": "posterior means",
    "feature": "squeezenet-1.1 features",
    "ssim": "1 - SSIM",
    "euclid": "Euclid",
}
BLOCK = 256  # pairs of pictures at once


@dataclass(frozen=True)
class Measured:
    """One distance on pairs of pictures.

    Attributes:
        values: per pair, (P,).
        seconds: per pair alone, on this machine.
        evaluations: of the denoiser, with its derivatives, per pair alone.
        error: standard error over distance, mean; NaN where there is no noise.
    """

    values: Tensor
    seconds: float
    evaluations: float
    error: float


def cheap(set: PictureSet, features: Features, log_snr: float, store: Store) -> dict[str, Measured]:
    """All distances but the edit distance, of ``set.pairs``; coarse is what ``log_snr`` shows."""
    noisy: dict[str, NoisyOptions] = {
        "iem": IemOptions(),
        "coarse": IemOptions(snr=math.exp(log_snr)),
        "mean": MeanOptions(log_snr=log_snr),
    }
    makers = {name: partial(_noisy, set, options) for name, options in noisy.items()}
    plain = {
        "feature": features.distance,
        # convolutions in double precision are 17 times slower
        "ssim": lambda a, b: 1 - ssim(a.float(), b.float()),
        "euclid": lambda a, b: (a - b).flatten(1).norm(dim=-1),
    }
    makers |= {name: partial(_plain, set, measure) for name, measure in plain.items()}
    found = {}
    for name, make in makers.items():
        tensors, words = store.stage(name, make)
        found[name] = Measured(tensors["values"], **words)
    return found


def _noisy(set: PictureSet, options: NoisyOptions) -> Stage:
    began = time.process_time()
    found = options.among(set.model, set.images)
    spent = (time.process_time() - began) / len(set.images)
    i, j = torch.triu_indices(len(set.images), len(set.images), 1)
    kept = set.asked[i, j]
    error = (found.error / found.distance)[kept].nanmean()
    words = {
        "seconds": 2 * spent,
        "evaluations": 2 * found.evaluations,
        "error": float(error),
    }
    return {"values": found.distance[kept]}, words


def _plain(set: PictureSet, measure: Callable[[Tensor, Tensor], Tensor]) -> Stage:
    began = time.process_time()
    parts = [measure(*set.images[part.T]).double() for part in set.pairs.split(BLOCK)]
    seconds = (time.process_time() - began) / len(set.pairs)
    words = {"seconds": seconds, "evaluations": 0, "error": 0.0}
    return {"values": torch.cat(parts)}, words


def edits(
    set: PictureSet,
    pairs: Tensor,
    options: PairwiseOptions,
    store: Store,
    say: Callable[[str], None],
) -> Measured:
    """Edit distances of pairs (P, 2), a stage each."""
    stages = []
    for number, pair in enumerate(pairs):
        say(f"{set.name}: edit {number + 1} of {len(pairs)}")
        name = "-".join(map(str, pair.tolist()))
        stages.append(store.stage(name, partial(_edit, set, pair, options)))
    return Measured(
        torch.stack([tensors["length"] for tensors, _ in stages]),
        fmean(words["seconds"] for _, words in stages),
        fmean(words["evaluations"] for _, words in stages),
        fmean(words["error"] for _, words in stages),
    )


def _edit(set: PictureSet, pair: Tensor, options: PairwiseOptions) -> Stage:
    began = time.process_time()
    with counting() as cost:
        space, points = anchored(set.model, set.images[pair], options)
        path = PairSolver.of(space, points, options)(torch.tensor([[0, 1]]))
    length = distances_of(path).double()[0]
    words = {
        "seconds": time.process_time() - began,
        "evaluations": cost.evaluations + cost.derivatives,
        "error": float(path.certificate.judged_error[0] / length),
        "status": path.statuses[0].name,
    }
    return {"length": length.cpu()}, words
