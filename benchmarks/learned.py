"""The default search on the shipped networks: status, length, noise, work, and whether it repeats.

    python -m benchmarks.learned KIND [--search default|longer|former]

prints a table in Markdown and keeps it in ``benchmarks/results/learned.json``, pair by pair, so
that a run that was interrupted goes on.  Kinds, of digits that ship by their places:

- ``choosing``: the five pairs that the search was chosen on;
- ``held-out``: ten others, drawn by seed from digits that no choice has seen;
- ``seeds``: the pair of ``diffodesic interpolate --model mnist`` with five seeds of the probes;
- ``photographs``: every second pair of ``fruit_turntable/pairs.csv`` in ``DIFFODESIC_DATA``, and
  the first photographs of eight objects, fruit to fruit;
- ``photographs-held-out``: the other pairs of that file, and eight other objects.

``longer`` draws four times as often; ``former`` is the search on fixed probes.  The independent
length is that of the path estimator with noise that neither search nor certificate has seen, with a
standard error below 1 %.  Half a minute a pair on one core, and twice that for ``longer``.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import diffodesic as dd
from benchmarks.problems import data_folder
from benchmarks.record import RESULTS, Record, read, table_of, write
from benchmarks.triangles import TURN, photographs
from diffodesic.geometry.boundary_value import search
from diffodesic.geometry.energy import Solver
from diffodesic.geometry.solvers.redraw import Redraw
from diffodesic.images.placement import REFINE, Placement
from diffodesic.images.spaces import SpacetimeSpace
from diffodesic.metrics.one_level import NETWORK_SEARCH
from diffodesic.metrics.spacetime.mismatched_estimation import check_lengths
from diffodesic.models.model import Model

__all__ = ["cases", "held_out", "main", "measured"]

FRESH = 0x66726573  # seed of the independent noise
CHOOSING = ((3, 8), (1, 7), (0, 6), (2, 4), (5, 9))  # first digits of their classes
SHOWN = (33, 83)
SEEDS = (1, 101, 201, 301, 401)
SEARCHES: dict[str, Callable[[int], Solver]] = {
    "default": lambda seed: Redraw(seed=seed),
    "longer": lambda seed: Redraw(seed=seed, draws=4 * Redraw.draws),
    "former": lambda seed: NETWORK_SEARCH,
}


def held_out(count: int = 10) -> list[tuple[int, int]]:
    """Places of pairs of shipped digits, of two classes each, apart from all that chose."""
    labels = dd.shipped_digits()[1]
    used = {int((labels == label).nonzero()[0]) for label in range(10)} | {*SHOWN}
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(21)).tolist()
    left = [i for i in order if i not in used]
    pairs: list[tuple[int, int]] = []
    while len(pairs) < count:
        first = left.pop(0)
        other = next(i for i in left if labels[i] != labels[first])
        left.remove(other)
        pairs.append((first, other))
    return pairs


def turning(first: int) -> tuple[dict[str, tuple[int, int]], list[int]]:
    """Every second pair of the turntable's file: places among its photographs, and their rows."""
    with (data_folder(None) / "fruit_turntable" / "pairs.csv").open() as file:
        pairs = list(csv.DictReader(file))[first::2]
    named = {
        f"{pair['name'].split('|')[0]}, {pair['angle0']} to {pair['angle1']} degrees": (
            2 * i,
            2 * i + 1,
        )
        for i, pair in enumerate(pairs)
    }
    return named, [int(pair[row]) for pair in pairs for row in ("row0", "row1")]


def fruits(held_out: bool) -> tuple[Model, Tensor, dict[str, tuple[int, int, int]]]:
    """Photographs that turn, and of two objects each; by name places among them."""
    named, rows = turning(int(held_out))
    objects = range(8, 16) if held_out else range(8)
    # half a turn on, where no photograph is one of a pair that chose
    start = TURN // 2 if held_out else 0
    model, images = photographs([*rows, *(TURN * i + start for i in objects)])
    places = range(len(rows), len(images), 2)
    named |= {
        f"fruit {objects[i - len(rows)]} to {objects[i + 1 - len(rows)]}": (i, i + 1)
        for i in places
    }
    return model, images, {name: (*pair, 1) for name, pair in named.items()}


def cases(kind: str) -> tuple[Model, Tensor, dict[str, tuple[int, int, int]]]:
    """A model, pictures, and by name two places among them with a seed of the search."""
    if kind.startswith("photographs"):
        return fruits(kind != "photographs")
    images, labels = dd.shipped_digits()
    first = [int((labels == label).nonzero()[0]) for label in range(10)]
    named = {
        "choosing": {f"{a} to {b}": (first[a], first[b], 1) for a, b in CHOOSING},
        "held-out": {f"digits {a}, {b}": (a, b, 1) for a, b in held_out()},
        "seeds": {f"seed {seed}": (*SHOWN, seed) for seed in SEEDS},
    }
    return dd.load("mnist"), images.double(), named[kind]


def measured(model: Model, pair: Tensor, solver: Solver) -> Record:
    """What is measured of a search between two pictures."""
    space = SpacetimeSpace()
    lifting = space.lifting(model)
    there = Placement(space, lifting, lifting.lift(pair))
    path = search(there.metric, *there.points, nodes=32, solver=solver, refine=REFINE)
    rated, cost = path.certificate, path.cost
    ends = there.metric.energy().noise_ratio(there.points)
    assert ends is not None  # of every network
    (length,), (error,) = check_lengths(model.denoiser, path.nodes[None], FRESH, within=0.01)
    return {
        "status": path.status.name,
        "start": path.start[0],
        "reported": float(rated.judged),
        "its error": float(rated.judged_error),
        "independent": float(length),
        "error": float(error),
        "least noise": float(rated.least_noise),
        "most": float(rated.most_noise),
        "at the ends": float(ends.amin()),
        "node gradients": round(cost.node_gradients),
        **{name: calls for name, calls in cost.stages.items() if name},
    }


def main(arguments: list[str] | None = None) -> int:
    """Measure the pairs of one kind that are not measured yet."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learned", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    kinds = ["choosing", "held-out", "seeds", "photographs", "photographs-held-out"]
    parser.add_argument("kind", choices=kinds)
    parser.add_argument("--search", choices=SEARCHES, default="default")
    parser.add_argument("--pairs", type=int, help="at most so many pairs; default all")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    model, images, named = cases(options.kind)
    key = options.kind if options.search == "default" else f"{options.kind} {options.search}"
    file = options.out / "learned.json"
    for name, (first, second, seed) in [*named.items()][: options.pairs]:
        rows = read(file).get(key, [])
        if name in {row["pair"] for row in rows}:
            continue
        solver = SEARCHES[options.search](seed)
        row = {"pair": name} | measured(model, images[[first, second]], solver)
        write(file, read(file) | {key: [*rows, row]}, indent=1)
        print(row, flush=True)
    print(table_of(read(file)[key], ".4g"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
