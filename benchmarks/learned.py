"""The default search on the shipped networks: status, length, noise, work, and whether it repeats.

    python -m benchmarks.learned choosing|held-out|seeds|photographs [--longer]

prints a table in Markdown and keeps it in ``benchmarks/results/learned.json``, pair by pair, so
that a run that was interrupted goes on.  Digits that ship by their places:

- ``choosing``: the five pairs that the search was chosen on;
- ``held-out``: ten others, drawn by seed from digits that no choice has seen;
- ``seeds``: the pair of ``diffodesic interpolate`` with five seeds of the probes;
- ``photographs``: views of the fruit turntable, and fruit to fruit, in ``DIFFODESIC_DATA``.

With ``--longer`` a search with four times as many draws runs beside it.  The independent length is
that of the path estimator with noise that neither search nor certificate has seen, with a standard
error below 1 %.  About a minute a pair on one core, five with ``--longer``.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

import diffodesic as dd
from benchmarks.record import RESULTS, Record, read, table_of, write
from benchmarks.triangles import photographs
from diffodesic.geometry.boundary_value import search
from diffodesic.geometry.solvers.redraw import Redraw
from diffodesic.images.placement import REFINE, Placement
from diffodesic.images.spaces import SpacetimeSpace
from diffodesic.metrics.spacetime.mismatched_estimation import check_lengths
from diffodesic.models.model import Model

__all__ = ["cases", "held_out", "main", "measured"]

FRESH = 0x66726573  # seed of the independent noise
CHOOSING = ((3, 8), (1, 7), (0, 6), (2, 4), (5, 9))  # first digits of their classes
SHOWN = (33, 83)
SEEDS = (1, 101, 201, 301, 401)


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


def cases(kind: str) -> tuple[Model, Tensor, dict[str, tuple[int, int, int]]]:
    """A model, pictures, and by name two places among them with a seed of the search."""
    if kind == "photographs":
        model, images = photographs(8)
        return model, images, {f"{i} to {i + 1}": (i, i + 1, 1) for i in range(0, 8, 2)}
    images, labels = dd.shipped_digits()
    first = [int((labels == label).nonzero()[0]) for label in range(10)]
    named = {
        "choosing": {f"{a} to {b}": (first[a], first[b], 1) for a, b in CHOOSING},
        "held-out": {f"digits {a}, {b}": (a, b, 1) for a, b in held_out()},
        "seeds": {f"seed {seed}": (*SHOWN, seed) for seed in SEEDS},
    }
    return dd.load("mnist"), images.double(), named[kind]


def measured(model: Model, pair: Tensor, solver: Redraw) -> Record:
    """What is measured of a search between two pictures."""
    space = SpacetimeSpace()
    lifting = space.lifting(model)
    there = Placement(space, lifting, lifting.lift(pair))
    path = search(there.metric, *there.points, nodes=32, solver=solver, refine=REFINE)
    rated, cost = path.certificate, path.cost
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
        "node gradients": round(cost.node_gradients),
        **{name: calls for name, calls in cost.stages.items() if name},
    }


def main(arguments: list[str] | None = None) -> int:
    """Measure the pairs of one kind that are not measured yet."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learned", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("kind", choices=["choosing", "held-out", "seeds", "photographs"])
    parser.add_argument("--longer", action="store_true", help="and a search four times as long")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    model, images, named = cases(options.kind)
    file, key = options.out / "learned.json", options.kind + " longer" * options.longer
    for name, (first, second, seed) in named.items():
        kept = read(file)
        rows = kept.setdefault(key, [])
        if name in {row["pair"] for row in rows}:
            continue
        solver = Redraw(seed=seed)
        if options.longer:
            solver = replace(solver, draws=4 * solver.draws)
        rows.append({"pair": name} | measured(model, images[[first, second]], solver))
        write(file, kept, indent=1)
        print(rows[-1], flush=True)
    print(table_of(read(file)[key], ".4g"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
