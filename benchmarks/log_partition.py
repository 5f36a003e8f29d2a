"""Log-partition networks beside plain denoisers, and the estimators of spacetime on both.

    python -m benchmarks.log_partition train     [--seeds 0,1,2] [--steps 3000]   8x8 digits
    python -m benchmarks.log_partition means                                      their errors
    python -m benchmarks.log_partition estimators [--pairs 4]                     the table

``train`` keeps networks in ``--folder`` (default ``log-partition`` in the temporary folder), and
goes on from its checkpoints; the others print tables in Markdown and keep their rows in
``benchmarks/results/log_partition.json``.  The law is a mixture of 50 of scikit-learn's digits, of
which everything is known exactly.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import diffodesic as dd
from benchmarks.measure import even
from benchmarks.record import RESULTS, Record, read, table_of, write
from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.denoisers.network import NetworkOptions, from_network
from diffodesic.denoisers.schedules import EDM
from diffodesic.geometry.boundary_value import search
from diffodesic.geometry.solvers.redraw import Redraw
from diffodesic.metrics.spacetime.estimators.entropy import Mismatch
from diffodesic.models.codec import PixelCodec
from diffodesic.models.image_training import ImageTraining, TrainSettings
from diffodesic.models.log_partition import LogPartitionNet
from diffodesic.models.log_partition_training import LogPartitionTraining
from diffodesic.models.model import Model
from diffodesic.models.training_data import Examples
from diffodesic.models.unet import NoiseEmbedding

__all__ = ["law", "main", "trained"]

ATOMS, BANDWIDTH, DRAWN = 50, 0.25, 20_000
NODES = 16
LEVELS = (-4, -2, 0, 2, 4, 6)
LEVELS_TRAINED = EDM(0.01, 40.0)
SETTINGS = TrainSettings(steps=3000, batch=128, threads=1, held_out=0.0, checkpoint_minutes=1.0)


class Perceptron(nn.Module):
    """A residual network of 64 numbers; the level scales and shifts every block."""

    def __init__(self, width: int = 128, blocks: int = 3) -> None:
        super().__init__()
        self.enter, self.level = nn.Linear(64, width), NoiseEmbedding(width)
        self.films = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(blocks))
        self.first = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.second = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.leave = nn.Linear(width, 64)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """Map x (N, 1, 8, 8) and the level (N,) to the shape of x."""
        h, level = self.enter(x.flatten(1)), self.level(noise)
        for film, first, second in zip(self.films, self.first, self.second, strict=True):
            scale, shift = film(level).chunk(2, -1)
            h = h + second(F.silu(first(F.silu(torch.addcmul(shift, h, 1 + scale)))))
        return self.leave(F.silu(h)).reshape(x.shape)


class Plain(ImageTraining):
    """Training of the perceptron as a denoiser."""

    def network(self, settings: TrainSettings) -> nn.Module:
        """The perceptron."""
        return Perceptron()


class Potential(LogPartitionTraining):
    """Training of the perceptron inside a log-partition network."""

    def inner(self, settings: TrainSettings) -> tuple[nn.Module, bool]:
        """The perceptron."""
        return Perceptron(), False


KEPT = Path(tempfile.gettempdir()) / "log-partition"
KINDS = ("log-partition", "plain", "distilled")


def law() -> dd.GaussianMixture:
    """The mixture of the first 50 digits, 8 x 8 pixels in [-1, 1]."""
    from sklearn.datasets import load_digits

    images = torch.tensor(load_digits().images / 8 - 1).flatten(1)
    return dd.GaussianMixture.from_data(images[:ATOMS], bandwidth=BANDWIDTH)


def exact() -> Model:
    """The exact denoiser, as a teacher."""
    known = law()
    denoiser = from_network(
        lambda z, sigma: known(z.flatten(1), sigma).reshape(z.shape),
        shape=(1, 8, 8),
        schedule=LEVELS_TRAINED,
        prediction="x0",
        options=NetworkOptions(trial=False),
    )
    return Model(denoiser, PixelCodec((1, 8, 8)), "exact")


def prepared(kind: str, seed: int, steps: int, folder: Path) -> ImageTraining:
    """A run on draws of the law, as far as it was kept."""
    drawn = law().sample(DRAWN, generator=torch.Generator().manual_seed(7))
    settings = replace(SETTINGS, seed=seed, steps=steps, log_partition=kind != "plain")
    examples = Examples(drawn.float().reshape(-1, 1, 8, 8))
    outdir = folder / f"{kind}-{seed}"
    if kind == "plain":
        run: ImageTraining = Plain(examples, settings, outdir)
    else:
        run = Potential(examples, settings, outdir, "cpu", exact() if kind == "distilled" else None)
    run.restore()
    return run


def trained(kind: str, seed: int, steps: int, folder: Path) -> Denoiser:
    """The averaged weights of a run, as a denoiser in float64."""
    run = prepared(kind, seed, steps, folder)
    run.pool.shutdown()
    network = run.average.module.double().eval().requires_grad_(False)
    if isinstance(network, LogPartitionNet):
        return network.denoiser()
    return from_network(
        network, shape=(1, 8, 8), schedule=LEVELS_TRAINED,
        prediction="edm", sigma_data=run.sigma_data,
    )  # fmt: skip


def train(options: argparse.Namespace) -> list[Record]:
    """Both kinds from every seed; seconds of CPU time and steps."""
    rows: list[Record] = []
    for kind in options.kinds:
        for seed in options.seeds:
            run = prepared(kind, seed, options.steps, options.folder)
            before, began = run.step, time.process_time()
            run.loop(progress=False)
            run.pool.shutdown()
            spent = time.process_time() - began
            rows.append({"network": kind, "seed": seed, "steps": run.step - before, "CPU s": spent})
            print(rows[-1], run.check(), flush=True)
    return rows


def means(options: argparse.Namespace) -> list[Record]:
    """Errors of the posterior mean over those of the exact one, and of the spread."""
    rows: list[Record] = []
    exact = law()
    for kind in options.kinds:
        for seed in options.seeds:
            if not (options.folder / f"{kind}-{seed}").exists():
                continue
            denoiser = trained(kind, seed, options.steps, options.folder)
            row: Record = {"network": kind, "seed": seed}
            for level in LEVELS:
                row[f"{level}"] = _excess(denoiser, exact, level)
            if isinstance(denoiser, dd.denoisers.LogPartitionDenoiser):
                for level in LEVELS:
                    row[f"spread {level}"] = _spread(denoiser, exact, level)
            rows.append(row)
            print(row, flush=True)
    return rows


def _noisy(exact: dd.GaussianMixture, level: float, count: int = 1000) -> tuple[Tensor, ...]:
    """Clean points, noisy ones and the noise at a level."""
    g = torch.Generator().manual_seed(11)
    x0, sigma = exact.sample(count, generator=g), math.exp(-level / 2)
    z = x0 + sigma * torch.randn(x0.shape, generator=g, dtype=torch.float64)
    return x0, z, torch.full((count,), sigma, dtype=torch.float64)


@torch.no_grad()
def _excess(denoiser: Denoiser, exact: dd.GaussianMixture, level: float) -> float:
    """``E|m - m*|^2 / E|x0 - m*|^2``: by how much the error of the mean exceeds the exact one's."""
    _, z, sigma = _noisy(exact, level)
    m, second = exact.moments(z, sigma)
    left = second - m.square().sum(-1)
    return float((denoiser(z, sigma) - m).square().sum(-1).mean() / left.mean())


@torch.no_grad()
def _spread(denoiser: Denoiser, exact: dd.GaussianMixture, level: float) -> float:
    """The mean of ``E|x0 - m|^2`` as the network has it, over the exact one."""
    _, z, sigma = _noisy(exact, level)
    left = []
    for source in (denoiser, exact):
        m, second = source.moments(z, sigma)
        left.append(second - m.square().sum(-1))
    return float(left[0].mean() / left[1].mean())


# name: network, estimator, probes
ESTIMATORS = {
    "plain, secant, 2 probes": ("plain", "secant", 2),
    "plain, secant, 16 probes": ("plain", "secant", 16),
    "plain, full divergence": ("plain", "exact", 1),
    "plain, path": ("plain", "path", 1),
    "log-partition, secant, 2 probes": ("log-partition", "secant", 2),
    "log-partition, exact": ("log-partition", "exact", 1),
    "exact law, exact": ("exact", "exact", 1),
}


def ends(count: int) -> tuple[Tensor, Tensor]:
    """Pairs of different digits at log SNR 2, each with a noise of its own, (count, D + 1)."""
    known, g = law(), torch.Generator().manual_seed(23)
    first = torch.arange(count) * 3
    means = known.means[torch.cat([first, first + 1])]
    noise = torch.randn(means.shape, generator=g, dtype=torch.float64)
    # typical of the law at this level: spread of a component, and the level's noise
    z = means + (BANDWIDTH**2 + math.exp(-2.0)) ** 0.5 * noise
    a, b = torch.nn.functional.pad(z, (0, 1), value=2.0).chunk(2)
    return a, b


def lengths(options: argparse.Namespace) -> list[Record]:
    """Geodesics under every estimator: true lengths over the exact distance, and what they cost."""
    a, b = ends(options.pairs)
    true = dd.Spacetime(law())
    shortest = search(true, a, b, nodes=NODES).nodes
    distance = _true(true, shortest)
    rows: list[Record] = []
    for name in options.estimators:
        kind, estimator, probes = ESTIMATORS[name]
        numbers: list[list[float]] = [[] for _ in range(6)]
        over, own, said, spent, negative, evaluations = numbers
        statuses: list[str] = []
        for seed in options.seeds if kind != "exact" else [0]:
            denoiser = (
                law() if kind == "exact" else trained(kind, seed, options.steps, options.folder)
            )
            chosen = _path(denoiser) if estimator == "path" else estimator
            space = dd.Spacetime(denoiser, estimator=chosen, probes=probes)
            solver = Redraw() if kind == "plain" else None  # None: that of the energy
            for i in range(options.pairs):
                began = time.process_time()
                found = search(space, a[i], b[i], nodes=NODES, solver=solver, refine=4)
                spent.append(time.process_time() - began)
                length = _true(true, found.nodes)
                over.append(float(length / distance[i]))
                own.append(float(found.certificate.length / length))
                said.append(float(found.length / length))
                negative.append(float(found.certificate.negative_fraction))
                evaluations.append(found.cost.evaluations + found.cost.derivatives)
                statuses.append(found.status.name)
        rows.append({
            "network, estimator": name,
            "true length over distance": _middle(over),
            "largest": max(over),
            "own length over true": [min(own), _middle(own), max(own)],
            "reported over true": [min(said), _middle(said), max(said)],
            "evaluations and derivatives": round(_middle(evaluations)),
            "CPU s": _middle(spent),
            "negative steps": sum(negative) / len(negative),
            "converged": statuses.count("CONVERGED") / len(statuses),
        })  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def _path(denoiser: Denoiser) -> Mismatch:
    return Mismatch(denoiser, samples=2, levels=8)


def _middle(values: list[float]) -> float:
    return float(torch.tensor(values, dtype=torch.float64).median())


@torch.no_grad()
def _true(space: dd.Spacetime, x: Tensor) -> Tensor:
    """Lengths of paths (..., n+1, D + 1) on 64 even segments under the exact law."""
    fine = even(space, x, 64)
    return space.squared_steps(fine).sqrt().sum(-1)


TABLES: dict[str, Callable[[argparse.Namespace], list[Record]]] = {
    "train": train,
    "means": means,
    "estimators": lengths,
}


def main() -> None:
    """Run one table, print and keep it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--seeds", type=lambda text: [int(n) for n in text.split(",")],
                        default=[0, 1, 2])  # fmt: skip
    parser.add_argument("--kinds", type=lambda text: text.split(","), default=list(KINDS))
    parser.add_argument("--estimators", type=lambda text: text.split(";"), default=list(ESTIMATORS),
                        help="rows, separated by ;")  # fmt: skip
    parser.add_argument("--steps", type=int, default=SETTINGS.steps)
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()) / "log-partition"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = TABLES[options.table](options)
    print(f"\n### {options.table}\n\n{table_of(rows, '.3g')}", flush=True)
    kept = read(RESULTS / "log_partition.json")
    before = kept.get(options.table, {"rows": []})["rows"]
    again = [_name(row) for row in rows]
    rows = [row for row in before if _name(row) not in again] + rows
    kept[options.table] = {"rows": rows, "steps": options.steps}
    write(RESULTS / "log_partition.json", kept, indent=1)


def _name(row: Record) -> tuple[object, ...]:
    """What a row is about: its texts and its seed."""
    return tuple(v for k, v in row.items() if isinstance(v, str) or k == "seed")


if __name__ == "__main__":
    main()
