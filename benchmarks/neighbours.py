"""Nearest neighbours of each of many pictures: recall, and solved pairs of all.

    python -m benchmarks.neighbours samples [FOLDER [COUNT]]   of 10,000 digits
    python -m benchmarks.neighbours photographs DATA [FOLDER]  of 1,000 photographs, by IEM

The law of the digits is the exact mixture around 100 of them.  Their true neighbours are known
without all pairs: a distance is at least ``2 arccos BC``, BC the Bhattacharyya coefficient of the
two posteriors, and a pair whose bound exceeds the fifth length found is no neighbour.  All others
are solved.  COUNT of the points, drawn at random, are asked for their neighbours (default all);
FOLDER keeps what is solved, so that a run that was stopped goes on, or goes further.

Photographs have no such bound, and need none: IEM of all pairs costs what the pictures cost.  Noise
decides what it misses: two estimates, drawn apart, say how much, and what more noises would.
"""

from __future__ import annotations

import math
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
from diffodesic.images.information import points_of
from diffodesic.images.neighbours import CANDIDATES, candidates_of, entropies, promising
from diffodesic.images.pairs import PairSolver, PairwiseOptions
from diffodesic.metrics.information import Features, InformationRule, every_pair
from diffodesic.models.identity import identity, short
from diffodesic.models.loading import load
from diffodesic.models.model import Model
from diffodesic.output.stages import Stage, Store, fingerprint

K, BANDWIDTH, BLOCK = 5, 0.15, 250
NOISES, EVALUATIONS = (1, 2, 4, 8, 16, 32), 136  # per level; of a pair, with 17 levels


def main(name: str, *given: str) -> None:
    """Measure one set, print it and keep it in the results."""
    if name == "photographs":
        found = of_photographs(Path(given[0]), Path(given[1]) if given[1:] else None)
    else:
        law, _ = law_and_digits()
        many = law.sample(10_000, generator=torch.Generator().manual_seed(1))
        place = Path(given[0]) if given else None
        found = of_digits(law, many, int(given[1]) if given[1:] else len(many), place)
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


def of_photographs(data: Path, folder: Path | None, count: int = 1000) -> dict[str, Any]:
    """Recall by IEM of photographs, expected from two estimates of one noise per level each."""
    model = load("fruits")
    drawn = torch.randperm(18_684, generator=torch.Generator().manual_seed(0))[:count].tolist()
    store = Store(folder, {"model": short(identity(model)), "count": count})

    def encoded() -> Stage:
        images = Archive.read(data / "fruits" / "images.npz").images(drawn, model)
        return {"points": points_of(model, images, "data")}, {}

    points, rules = store.stage("points", encoded)[0]["points"], {}
    for levels in (9, 17):
        rule = InformationRule.over(model.denoiser.log_snr_range, levels - 1, unbounded=False)
        halves = [_square(store, model, points, rule, draw) for draw in (0, 1)]
        mean, noise = (halves[0] + halves[1]) / 2, (halves[0] - halves[1]) / 2
        for noises in NOISES:
            scale = math.sqrt(2 / noises)
            hits = (_hits(mean + scale * noise, mean) + _hits(mean - scale * noise, mean)) / 2
            chosen, reported = hits[0::2], hits[1::2]  # every other photograph asks to choose
            rules[f"{levels} levels, {noises} noises"] = {
                "evaluations": 2 * levels * noises,
                "fewer": (count - 1) * EVALUATIONS / (4 * levels * noises),
                "choosing": float(chosen.mean()),
                "recall": float(reported.mean()),
                **_interval(reported),
            }
    return {"points": count, "pairs": count * (count - 1) // 2, "rules": rules}


def _square(store: Store, model: Model, points: Tensor, rule: InformationRule, draw: int) -> Tensor:
    """IEM^2 of all pairs by one noise per level, (N, N), infinite on the diagonal."""
    features, total = Features(model.denoiser, 1, draw), torch.zeros(())
    for weight, level, place in zip(
        rule.weights.tolist(), rule.levels.tolist(), rule.places, strict=True
    ):

        def measured(level: float = level, place: int = place) -> Stage:
            return {"square": features.squares(points, level, place, every_pair)[0].float()}, {}

        total = total + weight * store.stage(f"draw-{draw}-{place}", measured)[0]["square"].double()
    square = torch.full((len(points),) * 2, torch.inf, dtype=torch.float64)
    i, j = torch.triu_indices(len(points), len(points), 1)
    square[i, j] = square[j, i] = total
    return square


def _hits(one: Tensor, other: Tensor) -> Tensor:
    """Share of the K least of each row that two matrices have in common, (N,)."""
    a, b = (each.topk(K, largest=False).indices for each in (one, other))
    return (a.unsqueeze(2) == b.unsqueeze(1)).double().sum((1, 2)) / K


if __name__ == "__main__":
    main(*sys.argv[1:])
