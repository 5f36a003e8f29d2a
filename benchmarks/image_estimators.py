"""The estimators of spacetime beside each other on the shipped networks of pictures.

    python -m benchmarks.image_estimators digits|photographs [--pairs 2] [--estimators A;B]
    python -m benchmarks.image_estimators digits --log-partition FOLDER
    python -m benchmarks.image_estimators means --log-partition FOLDER

prints a table in Markdown and keeps it in ``benchmarks/results/image_estimators.json``, pair by
pair, so that a run that was interrupted goes on.  Pairs are those that the search was chosen on
(:mod:`benchmarks.learned`).  Every path is measured by the path estimator on the shipped network,
with noise that no search has seen, to a standard error of 1 %.  ``FOLDER`` is a network of the
log-density (``diffodesic train DATA --log-partition``), on which a path is searched by its exact
steps; its ends are those of the shipped model, and so is the judge.  Half a minute (secants) to ten
minutes (path) a pair on one core.  ``means`` compares the errors of both networks' posterior means
on the digits that ship, with one noise for both.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import torch
from torch import Tensor

import diffodesic as dd
from benchmarks.learned import FRESH, cases
from benchmarks.record import RESULTS, Record, read, table_of, write
from diffodesic.geometry.boundary_value import search
from diffodesic.images.placement import REFINE, Placement
from diffodesic.images.spaces import SpacetimeSpace
from diffodesic.metrics.spacetime.estimators.entropy import Mismatch
from diffodesic.metrics.spacetime.mismatched_estimation import check_lengths
from diffodesic.models.model import Model

__all__ = ["errors", "main", "measured", "space_of"]

LEVELS = (-4, -2, 0, 2, 4, 6)

PROBES = {"secant, 2 probes": 2, "secant, 16 probes": 16}
ESTIMATORS = (*PROBES, "path", "log-partition")
CHOOSING = {"digits": "choosing", "photographs": "photographs"}


def space_of(name: str, there: Placement, model: Model, trained: Model | None) -> dd.Spacetime:
    """The spacetime of a row, between the levels of the shipped model's own."""
    shipped = there.metric
    assert isinstance(shipped, dd.Spacetime)
    levels = shipped.log_snr_range
    if name in PROBES:
        return dd.Spacetime(model.denoiser, probes=PROBES[name], log_snr_range=levels)
    if name == "path":
        frozen = Mismatch(model.denoiser, samples=1, levels=8, log_snr_range=levels)
        return dd.Spacetime(model.denoiser, estimator=frozen, log_snr_range=levels)
    if trained is None:
        raise SystemExit(f"{name}: --log-partition names the folder of the network")
    return dd.Spacetime(trained.denoiser, log_snr_range=levels)


def measured(name: str, model: Model, trained: Model | None, pair: Tensor) -> Record:
    """What is measured of a path between two pictures (2, ...) that one estimator searched."""
    space = SpacetimeSpace()
    lifting = space.lifting(model)
    there = Placement(space, lifting, lifting.lift(pair))
    metric, began = space_of(name, there, model, trained), time.process_time()
    path = search(metric, *there.points, nodes=32, refine=REFINE)
    spent, rated, cost = time.process_time() - began, path.certificate, path.cost
    (length,), (error,) = check_lengths(model.denoiser, path.nodes[None], FRESH, within=0.01)
    return {
        "status": path.status.name,
        "independent": float(length),
        "error": float(error),
        "reported over independent": float(path.length / length),
        "own over independent": float(rated.length / length),
        "negative steps": float(rated.negative_fraction),
        "node gradients": round(cost.node_gradients),
        "evaluations and derivatives": cost.evaluations + cost.derivatives,
        "searching": cost.stages["searching"],
        "CPU s": spent,
    }


@torch.no_grad()
def errors(model: Model, trained: Model, images: Tensor) -> list[Record]:
    """``E|x0 - m|^2 / (sigma^2 D)`` of two networks on the same noisy pictures, level by level."""
    x0 = model.codec.encode(images).flatten(1)
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(3), dtype=x0.dtype)
    rows = []
    for level in LEVELS:
        sigma = x0.new_full((len(x0),), math.exp(-level / 2))
        z = x0 + sigma[:, None] * noise
        shipped, other = (
            float((one.denoiser(z, sigma) - x0).square().mean() / sigma[0] ** 2)
            for one in (model, trained)
        )
        rows.append({
            "log SNR": level, "shipped": shipped, "log-partition": other,
            "excess": other / shipped - 1,
        })  # fmt: skip
    return rows


def main(arguments: list[str] | None = None) -> int:
    """Measure the pairs and estimators of one kind that are not measured yet."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.image_estimators")
    parser.add_argument("kind", choices=[*CHOOSING, "means"])
    parser.add_argument("--log-partition", type=Path, help="folder of a network of the log-density")
    parser.add_argument("--pairs", type=int, default=2, help="at most so many pairs")
    parser.add_argument("--estimators", type=lambda text: text.split(";"), help="separated by ;")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    file, folder = options.out / "image_estimators.json", options.log_partition
    trained = dd.load(folder) if folder else None
    model, images, named = cases(CHOOSING.get(options.kind, "choosing"))
    if options.kind == "means":
        if trained is None:
            raise SystemExit("means: --log-partition names the folder of the network")
        write(file, read(file) | {"means": errors(model, trained, images)}, indent=1)
        print(table_of(read(file)["means"], ".3g"))
        return 0
    rows_of = options.estimators or [name for name in ESTIMATORS if trained or name in PROBES]
    for name in rows_of:
        for pair, (first, second, _) in [*named.items()][: options.pairs]:
            rows = read(file).get(options.kind, [])
            if (name, pair) in {(row["estimator"], row["pair"]) for row in rows}:
                continue
            row = {"estimator": name, "pair": pair}
            row |= measured(name, model, trained, images[[first, second]])
            write(file, read(file) | {options.kind: [*rows, row]}, indent=1)
            print(row, flush=True)
    print(table_of(read(file)[options.kind], ".3g"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
