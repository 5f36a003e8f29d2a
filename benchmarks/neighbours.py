"""Nearest neighbours of some pictures of many: recall, and solved pairs of all.

    python -m benchmarks.neighbours samples           of 10,000 digits  (docs/edit-distance.md)
    python -m benchmarks.neighbours digits            of 1,697 digits that the law does not hold
    python -m benchmarks.neighbours photographs DATA  of 1,000 photographs, by IEM

The law of the digits is the exact mixture around 100 of them.  Of QUERIES points, spread over the
set, the candidates of least relative entropy are solved.  Their true neighbours are known without
all pairs: a distance is at least ``2 arccos BC``, BC the Bhattacharyya coefficient of the two
posteriors, and a pair whose bound exceeds the fifth length found is no neighbour.  All others are
solved.

Photographs have no such bound, and need none: IEM of all pairs costs what the pictures cost.  That
of 9 levels is compared with one of 17 levels and twice the noises, drawn anew, on the 10 nearest of
10 queries.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.record import RESULTS, read, write
from diffodesic.denoisers.mixture import GaussianMixture
from diffodesic.experiments.distances.sets import photographs
from diffodesic.images.edit_result import distances_of
from diffodesic.images.editing import anchored
from diffodesic.images.information import IemOptions
from diffodesic.images.neighbours import CANDIDATES, candidates_of, entropies
from diffodesic.images.pairs import PairSolver, PairwiseOptions
from diffodesic.models.identity import identity, short
from diffodesic.models.loading import load

K, BANDWIDTH, QUERIES = 5, 0.15, 50
COARSE, FINER, NEAR = IemOptions(levels=9), IemOptions(levels=17, noises=4, seed=1), 10


def main(name: str, data: str | None = None) -> None:
    """Measure one set, print it and keep it in the results."""
    began = time.process_time()
    if name == "photographs":
        found = of_photographs(Path(data or "."))
    else:
        law, others = law_and_digits()
        many = law.sample(10_000, generator=torch.Generator().manual_seed(1))
        # a bound is pi at most, which is less than many a fifth length of digits unknown to the law
        found = of_digits(law, many) if name == "samples" else of_digits(law, others, 20)
    found["seconds"] = round(time.process_time() - began)
    print(name, found)
    file = RESULTS / "neighbours.json"
    write(file, {**read(file), name: found}, indent=1)


def law_and_digits() -> tuple[GaussianMixture, Tensor]:
    """The mixture around 100 digits, and the 1,697 others in a random order, (N, 64)."""
    from sklearn.datasets import load_digits

    digits = torch.tensor(load_digits().data / 8 - 1, dtype=torch.float64)
    digits = digits[torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))]
    return GaussianMixture.from_data(digits[-100:], BANDWIDTH), digits[:-100]


def of_digits(law: GaussianMixture, points: Tensor, queries: int = QUERIES) -> dict[str, Any]:
    """Candidates of all points; candidates and true neighbours of some are solved."""
    asked = PairwiseOptions()
    space, packed = anchored(law, points, asked)
    solver, count = PairSolver.of(space, packed, asked), len(points)
    rows = torch.linspace(0, count - 1, queries).round().long()
    nearby = candidates_of(entropies(space, packed), CANDIDATES * K).isfinite()
    candidates = int((nearby | nearby.T).sum()) // 2

    known = torch.full((queries, count), torch.inf, dtype=torch.float64)
    _solve(solver, rows, nearby[rows], known)
    found, worst = _nearest(known)
    bounds = torch.stack([lower_bounds(law, packed, row) for row in rows.tolist()])
    _solve(solver, rows, (bounds < worst[:, None]) & known.isinf(), known)
    true, _ = _nearest(known)
    hits = torch.stack([torch.isin(a, b).double().mean() for a, b in zip(true, found, strict=True)])
    every = count * (count - 1) // 2
    return {
        "points": count,
        "pairs": every,
        "candidate_pairs": candidates,
        "fewer": every / candidates,
        "queries": queries,
        "solved_for_queries": int(nearby[rows].sum()),
        "solved_for_truth": int(known.isfinite().sum()) - int(nearby[rows].sum()),
        "recall": float(hits.mean()),
        **_interval(hits),
        "largest_nearest": float(worst.max()),
    }


def lower_bounds(law: GaussianMixture, packed: Tensor, row: int) -> Tensor:
    """``2 arccos BC`` of a point with all of one level, (N,); infinite with itself."""
    z, sigma = packed[:, :-1], (-packed[0, -1] / 2).exp()
    density = law.log_density(z, sigma)
    middle = law.log_density((z + z[row]) / 2, sigma)
    apart = (z - z[row]).square().sum(-1) / (8 * sigma**2)
    overlap = middle - (density + density[row]) / 2 - apart
    bound = 2 * torch.arccos(overlap.exp().clamp(max=1))
    bound[row] = torch.inf
    return bound


def _solve(solver: PairSolver, rows: Tensor, wanted: Tensor, known: Tensor) -> None:
    """Fill in the lengths (Q, N) of wanted pairs of rows and points."""
    pairs = wanted.nonzero()
    for part in pairs.split(solver.batch) if len(pairs) else ():
        query, other = part.T
        known[query, other] = distances_of(solver(torch.stack([rows[query], other], 1)))


def _nearest(known: Tensor) -> tuple[Tensor, Tensor]:
    """Places of the K nearest, (Q, K), and the K-th length, (Q,)."""
    least = known.topk(K, largest=False)
    return least.indices, least.values[:, -1]


def _interval(hits: Tensor) -> dict[str, Any]:
    """95 % of the recall over queries, by resampling them, and how many missed none."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(len(hits), (2000, len(hits)), generator=generator)
    low, high = hits[drawn].mean(1).quantile(torch.tensor([0.025, 0.975], dtype=hits.dtype))
    return {"low": float(low), "high": float(high), "without_a_miss": int((hits == 1).sum())}


def of_photographs(data: Path, count: int = 1000, queries: int = 10) -> dict[str, Any]:
    """IEM of all pairs of photographs, and of the nearest of some by a finer rule."""
    model = load("fruits")
    file = data / "fruits" / "images.npz"
    drawn = torch.randperm(18_684, generator=torch.Generator().manual_seed(0))[:count]
    images = photographs(file, drawn.tolist(), model.codec.shape)
    began = time.process_time()
    found = COARSE.among(model, images, progress=print)
    seconds = time.process_time() - began
    square = torch.full((count, count), torch.inf, dtype=torch.float64)
    i, j = torch.triu_indices(count, count, 1)
    square[i, j] = square[j, i] = found.distance
    rows = torch.linspace(0, count - 1, queries).round().long()
    hits = []
    near = square[rows].topk(NEAR, largest=False).indices
    used, place = torch.cat([rows[:, None], near], 1).unique(return_inverse=True)
    finer = FINER.among(model, images[used])
    again = torch.full((len(used),) * 2, torch.inf, dtype=torch.float64)
    i, j = torch.triu_indices(len(used), len(used), 1)
    again[i, j] = again[j, i] = finer.distance
    for query, *others in place.tolist():
        best = again[query, others].topk(K, largest=False).indices
        hits.append((best < K).double().mean())
    shares = torch.stack(hits)
    every = count * (count - 1) // 2
    return {
        "points": count,
        "pairs": every,
        "evaluations": found.evaluations * count,
        "fewer": every * 2 / count,
        "seconds_of_all_pairs": round(seconds),
        "queries": queries,
        "recall": float(shares.mean()),
        **_interval(shares),
        "model": short(identity(model)),
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
