"""Nearest neighbours of each of many pictures: recall, and solved pairs of all.

    python -m benchmarks.neighbours samples [FOLDER [COUNT]]  of 10,000 digits
    python -m benchmarks.neighbours photographs DATA          of 1,000 photographs, by IEM

The law of the digits is the exact mixture around 100 of them.  Their true neighbours are known
without all pairs: a distance is at least ``2 arccos BC``, BC the Bhattacharyya coefficient of the
two posteriors, and a pair whose bound exceeds the fifth length found is no neighbour.  All others
are solved.  COUNT of the points, drawn at random, are asked for their neighbours (default all);
FOLDER keeps what is solved, so that a run that was stopped goes on, or goes further.

Photographs have no such bound, and need none: IEM of all pairs costs what the pictures cost.  That
of 9 levels is compared with one of 17 levels and twice the noises, drawn anew, on the 10 nearest of
10 queries.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.record import RESULTS, read, write
from diffodesic.denoisers.mixture import GaussianMixture
from diffodesic.experiments.common.archive import Archive
from diffodesic.images.edit_result import distances_of
from diffodesic.images.editing import anchored
from diffodesic.images.information import IemOptions
from diffodesic.images.neighbours import CANDIDATES, candidates_of, entropies, promising
from diffodesic.images.pairs import PairSolver, PairwiseOptions
from diffodesic.models.identity import identity, short
from diffodesic.models.loading import load
from diffodesic.output.stages import Stage, Store, fingerprint

K, BANDWIDTH, BLOCK = 5, 0.15, 250
COARSE, FINER, NEAR = IemOptions(levels=9), IemOptions(levels=17, noises=4, seed=1), 10


def main(name: str, place: str | None = None, count: str = "10000") -> None:
    """Measure one set, print it and keep it in the results."""
    if name == "photographs":
        found = of_photographs(Path(place or "."))
    else:
        law, _ = law_and_digits()
        many = law.sample(10_000, generator=torch.Generator().manual_seed(1))
        found = of_digits(law, many, int(count), Path(place) if place else None)
    print(name, found)
    file = RESULTS / "neighbours.json"
    write(file, {**read(file), name: found}, indent=1)


def law_and_digits() -> tuple[GaussianMixture, Tensor]:
    """The mixture around 100 digits, and the 1,697 others in a random order, (N, 64)."""
    from sklearn.datasets import load_digits

    digits = torch.tensor(load_digits().data / 8 - 1, dtype=torch.float64)
    digits = digits[torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))]
    return GaussianMixture.from_data(digits[-100:], BANDWIDTH), digits[:-100]


def of_digits(
    law: GaussianMixture, points: Tensor, count: int, folder: Path | None = None
) -> dict[str, Any]:
    """The nearest of ``count`` points, drawn at random, and the true ones."""
    asked = PairwiseOptions()
    space, packed = anchored(law, points, asked)
    solver, every = PairSolver.of(space, packed, asked), len(points) * (len(points) - 1) // 2
    cheap, bounds = entropies(space, packed), lower_bounds(law, packed)
    nearby = candidates_of(cheap, CANDIDATES * K).isfinite()
    store = Store(folder, {"points": fingerprint(points), "solver": repr(solver.solver)})
    known, hits, searched, seconds = torch.full_like(cheap, torch.inf), [], 0, 0.0
    order = torch.randperm(len(points), generator=torch.Generator().manual_seed(2))
    for place, rows in enumerate(order[:count].split(BLOCK)):
        make = partial(_solved, rows, known, cheap, bounds, solver)
        solved, about = store.stage(f"points-{place}", make)
        i, j = solved["pairs"].T
        known[i, j] = known[j, i] = solved["lengths"]
        hits.append(solved["hits"])
        searched, seconds = searched + about["searched"], seconds + about["seconds"]
        print(f"{place}: {searched} pairs, {seconds:.0f} s", flush=True)
    shares, total = torch.cat(hits), int(known.isfinite().sum()) // 2
    return {
        "points": len(points),
        "pairs": every,
        "candidate_pairs": int((nearby | nearby.T).sum()) // 2,
        "queries": count,
        "solved_for_queries": searched,
        "fewer": every / (searched * len(points) / count),
        "solved_for_truth": total - searched,
        "seconds_a_pair": seconds / total,
        "recall": float(shares.mean()),
        **_interval(shares),
        "without_a_miss": int((shares == 1).sum()),
    }


def _solved(
    rows: Tensor, known: Tensor, cheap: Tensor, bounds: Tensor, solver: PairSolver
) -> Stage:
    """Solve the pairs of some points that ``nearest`` solves, and those that tell the truth."""
    began, own, lower = time.process_time(), known[rows], bounds[rows]
    place = {row: i for i, row in enumerate(rows.tolist())}
    made: list[tuple[Tensor, Tensor]] = []

    def solve(pairs: Tensor) -> None:
        for part in pairs.split(solver.batch):
            made.append((part, distances_of(solver(part))))
            for (i, j), length in zip(part.tolist(), made[-1][1].tolist(), strict=True):
                for one, other in ((i, j), (j, i)):
                    if one in place:
                        own[place[one], other] = length

    candidates = candidates_of(cheap[rows], CANDIDATES * K)
    while len(pairs := promising(rows, own, candidates, lower, K)):
        solve(pairs)
    searched = sum(len(pairs) for pairs, _ in made)
    found = own.topk(K, largest=False).indices
    while len(pairs := promising(rows, own, cheap[rows], lower, K)):
        solve(pairs)
    true = own.topk(K, largest=False).indices
    hits = torch.stack([torch.isin(a, b).double().mean() for a, b in zip(true, found, strict=True)])
    pairs, lengths = (torch.cat(each) for each in zip(*made, strict=True))
    about = {"searched": searched, "seconds": time.process_time() - began}
    return {"pairs": pairs, "lengths": lengths, "hits": hits}, about


def lower_bounds(law: GaussianMixture, packed: Tensor) -> Tensor:
    """``2 arccos BC`` of points of one level, (N, N), for components of one variance.

    With responsibilities r, BC is ``sum_j (r_aj r_bj)^(1/2)`` times that of a single component.
    """
    z, k, variance = packed[:, :-1], packed[0, -1].exp(), law.variances[0]
    apart = torch.cdist(z, law.means).square() / (variance + 1 / k) / 2
    root = ((law.log_weights - apart).softmax(-1)).sqrt()
    single = torch.cdist(z, z).square() * (k**2 * variance / (1 + k * variance) / 8)
    bound = 2 * torch.arccos(((root @ root.T) * (-single).exp()).clamp(max=1))
    return bound.fill_diagonal_(torch.inf)


def _interval(hits: Tensor) -> dict[str, Any]:
    """95 % of the recall over queries, by resampling them, and how many missed none."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(len(hits), (2000, len(hits)), generator=generator)
    low, high = hits[drawn].mean(1).quantile(torch.tensor([0.025, 0.975], dtype=hits.dtype))
    return {"low": float(low), "high": float(high)}


def of_photographs(data: Path, count: int = 1000, queries: int = 10) -> dict[str, Any]:
    """IEM of all pairs of photographs, and of the nearest of some by a finer rule."""
    model = load("fruits")
    drawn = torch.randperm(18_684, generator=torch.Generator().manual_seed(0))[:count]
    images = Archive.read(data / "fruits" / "images.npz").images(drawn.tolist(), model)
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
