"""The estimators of spacetime beside exact values, and beside each other on the shipped network.

    python -m benchmarks.estimators [entropies] [lengths] [refined] [network] [probes] [--quick]

prints tables in Markdown, all of them by default, and keeps them in
``benchmarks/results/estimators.json``:

- ``entropies``: relative entropies both ways on mixtures, by the path estimator at three numbers of
  levels; errors in per cent of the exact value, with standard errors;
- ``lengths``: geodesics of mixtures measured by every estimator;
- ``refined``: geodesics of the closure refined by the path estimator, measured exactly;
- ``network``: paths between digits of the shipped model, solved by secants and by the closure, and
  the starts that were tried, measured by three estimators (15 minutes on one core);
- ``probes``: those paths solved with 2, 4 and 8 probes (20 minutes).
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

import diffodesic as dd
from benchmarks.measure import even, independent_length, measure
from benchmarks.problems import digits, mixture, toy
from benchmarks.problems import network as network_problem
from benchmarks.record import RESULTS, Record, path_of, read, table_of, write
from benchmarks.spent import spent_at
from diffodesic.experiments.common.statistics import standard_error
from diffodesic.geometry.boundary_value import search
from diffodesic.geometry.solvers.relax import Relax
from diffodesic.metrics.spacetime.consistency import path_diagnostics
from diffodesic.metrics.spacetime.estimators.entropy import Mismatch
from diffodesic.metrics.spacetime.mismatched_estimation import mismatch_length, relative_entropy

__all__ = ["exact_entropy", "main", "two_points"]

LEVELS = (16, 32, 64)
# the benchmark's, two that the search was chosen on, and two that it was not
PAIRS = ((3, 8), (1, 7), (0, 6), (2, 4), (5, 9))
# name: D, components, spread of the means, std of each, log SNR of the points
CASES = {
    "1 mode": (4, 1, 0.0, 1.0, 0.0),
    "overlapping": (1, 3, 1.5, 0.75, -0.5),
    "apart, D = 1": (1, 2, 4.0, 0.3, -2.0),
    "apart, D = 2": (2, 3, 3.0, 0.4, -0.5),
    "apart, D = 16": (16, 4, 2.0, 0.5, -2.5),
    "apart, D = 64": (64, 4, 0.8, 0.2, -2.3),
}


def two_points(name: str) -> tuple[dd.GaussianMixture, Tensor]:
    """A mixture, and two points (2, D + 1) between its modes at different noise."""
    dim, count, spread, std, level = CASES[name]
    generator = torch.Generator().manual_seed(7)
    means = spread * torch.randn(count, dim, generator=generator, dtype=torch.float64)
    centres = torch.stack([means[:2].mean(0), means[:3].mean(0) + 0.2])
    levels = torch.tensor([[level], [level - 0.2]], dtype=torch.float64)
    return dd.GaussianMixture(means, std=std), torch.cat([centres, levels], -1)


def exact_entropy(data: dd.GaussianMixture, a: Tensor, b: Tensor) -> Tensor:
    """KL of the posteriors by the log-partition, ``(eta_a - eta_b).mu_a - psi_a + psi_b``."""
    space = dd.Spacetime(data)
    first, second = space.eta(a), space.eta(b)
    psi = [data.log_partition(eta[..., :-1], -2 * eta[..., -1]) for eta in (first, second)]
    return ((first - second) * space.mu(a)).sum(-1) - psi[0] + psi[1]


def entropies(samples: int) -> list[Record]:
    """Errors of the path estimator, in per cent, with standard errors."""
    table = []
    for name in CASES:
        data, ends = two_points(name)
        exact = exact_entropy(data, ends, ends.flip(0))
        record: Record = {"law": name, "KL": exact.tolist(), "samples": samples}
        for levels in LEVELS:
            kl = relative_entropy(data, ends, ends.flip(0), samples=samples, levels=levels)
            off, error = 100 * (kl.mean(0) / exact - 1), 100 * standard_error(kl) / exact
            record[f"{levels} levels, %"] = [
                f"{a:+.2f} +- {b:.2f}" for a, b in zip(off.tolist(), error.tolist(), strict=True)
            ]
        table.append(record)
    return table


def lengths(samples: int) -> list[Record]:
    """Geodesics of exact denoisers by every estimator."""
    table = []
    for problem in (toy(), mixture(2), mixture(16), digits()):
        space = problem.space
        assert isinstance(space, dd.Spacetime)
        path = search(space, problem.a, problem.b, nodes=24)
        denoiser, x = space.denoiser, path.nodes
        record: Record = {
            "problem": problem.name,
            "exact": float(space.squared_steps(x).sqrt().sum()),
        }
        for name in ("secant", "closure"):
            other = dd.Spacetime(denoiser, estimator=name, probes=16)
            record[name] = float(other.squared_steps(x).clamp(min=0).sqrt().sum())
        for hubs in ("all", "alternate"):
            with dd.counting() as cost:
                length, error = mismatch_length(denoiser, x, samples=samples, levels=32, hubs=hubs)
            record[f"path, {hubs}"] = f"{length:.4f} +- {error:.4f}"
            record[f"evaluations, {hubs}"] = cost.evaluations
        record["samples"] = samples
        table.append(record)
    return table


def refined(pairs: tuple[int, ...], rounds: int = 40) -> list[Record]:
    """Geodesics of the closure, refined by the path estimator; their exact lengths."""
    table = []
    for problem in (toy(), mixture(2), mixture(16)):
        space = problem.space
        assert isinstance(space, dd.Spacetime)
        denoiser, a, b = space.denoiser, problem.a, problem.b
        best = search(space, a, b, nodes=16).nodes
        closure = dd.Spacetime(denoiser, estimator="closure", probes=8)
        start = search(closure, a, b, nodes=16).nodes
        record: Record = {
            "problem": problem.name,
            "shortest": float(space.squared_steps(best).sqrt().sum()),
            "closure's": float(space.squared_steps(start).sqrt().sum()),
        }
        for samples in pairs:
            estimator = Mismatch(denoiser, samples=samples, levels=16)
            frozen = dd.Spacetime(denoiser, estimator=estimator, log_snr_range=space.log_snr_range)
            solver = Relax(rtol=1e-3, iterations=rounds)
            path = search(frozen, a, b, nodes=16, init=start, solver=solver, refine=1).nodes
            record[f"refined, {samples} pairs"] = float(space.squared_steps(path).sqrt().sum())
            record[f"frozen, {samples} pairs"] = float(frozen.squared_steps(path).sqrt().sum())
        table.append(record)
    return table


def network(pairs: tuple[tuple[int, int], ...]) -> list[Record]:
    """Paths between digits of the shipped network: by secants, by the closure, and starts."""
    table: list[Record] = []
    for first, second in pairs:
        problem = network_problem((first, second))
        space, judge = problem.space, problem.judge
        assert isinstance(space, dd.Spacetime)
        assert isinstance(judge, dd.Spacetime)
        closed = dd.Spacetime(
            space.denoiser, estimator="closure", log_snr_range=space.log_snr_range
        )
        paths = {
            name: search(metric, problem.a, problem.b, nodes=32, solver=problem.solver, refine=1)
            for name, metric in (("default", space), ("search by the closure", closed))
        }
        for name, path in paths.items():
            record = {"gradients": round(path.node_gradients), "status": path.status.name}
            table.append(_lengths(f"{first} to {second}, {name}", judge, path.nodes) | record)
        if (first, second) == pairs[0]:
            checked = path_diagnostics(space, paths["default"].nodes, probes=4)
            starts = space.energy().starts(problem.a, problem.b, 32)
            table += [_lengths(f"start: {n}", judge, x) for n, x in starts.items()]
            table[0] |= {
                "two-point": float(checked.raw_steps.clamp(min=0).sqrt().sum()),
                "negative steps": checked.negative_fraction,
                "asymmetry": [float(checked.asymmetry.min()), float(checked.asymmetry.max())],
                "maxwell": [float(checked.maxwell.min()), float(checked.maxwell.max())],
            }
    return table


def probes(pairs: tuple[tuple[int, int], ...]) -> list[Record]:
    """The same search with 2, 4 and 8 probes; the recipe's energy is that of its stored run."""
    target = read(path_of(RESULTS, "network", "recipe"))["energy"]
    table: list[Record] = []
    for first, second in pairs:
        problem = network_problem((first, second))
        space = problem.space
        assert isinstance(space, dd.Spacetime)
        for count in (2, 4, 8):
            metric = dd.Spacetime(space.denoiser, probes=count, log_snr_range=space.log_snr_range)
            run = measure(replace(problem, space=metric), "default")
            length, error = run.independent or (math.nan, math.nan)
            record: Record = {"name": f"{first} to {second}", "probes": count}
            record |= {"path": f"{length:.2f} +- {error:.2f}", "energy": run.energy[0]}
            record |= {"gradients": round(run.node_gradients), "evaluations": run.evaluations}
            record |= {"derivatives": run.derivatives, "CPU s": run.cpu}
            if (first, second) == PAIRS[0]:
                reached = spent_at(asdict(run), target)
                record["recipe's energy after"] = reached and round(reached[0])
            table.append(record)
            print(record, flush=True)
    return table


def _lengths(name: str, judge: dd.Spacetime, x: Tensor) -> Record:
    """A path on 32 even segments, by three estimators with probes that it was not fitted to."""
    options: dict[str, Any] = {"probes": judge.probes, "log_snr_range": judge.log_snr_range}
    closed = dd.Spacetime(judge.denoiser, estimator="closure", **options)
    with torch.no_grad():
        path = even(judge, x, 32)
        secant, closure = (
            float(metric.squared_steps(path).clamp(min=0).sqrt().sum())
            for metric in (judge, closed)
        )
    record: Record = {"name": name, "secant": secant, "closure": closure}
    try:
        length, error = independent_length(judge, x)
    except ValueError as refusal:  # a path that ran to where the model knows no noise
        return record | {"path": str(refusal).partition(";")[0]}
    return record | {"path": f"{length:.2f} +- {error:.2f}"}


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description="estimators of spacetime beside exact values")
    parser.add_argument("tables", nargs="*", help="which (default: all)")
    parser.add_argument("--quick", action="store_true", help="few samples")
    options = parser.parse_args()
    known: dict[str, Callable[[], list[Record]]] = {
        "entropies": lambda: entropies(200 if options.quick else 6_000),
        "lengths": lambda: lengths(4 if options.quick else 64),
        "refined": lambda: refined((4,) if options.quick else (4, 16), 5 if options.quick else 40),
        "network": lambda: network(PAIRS[:1] if options.quick else PAIRS),
        "probes": lambda: probes(PAIRS[:1] if options.quick else PAIRS),
    }
    kept = read(RESULTS / "estimators.json")
    for name in options.tables or known:
        began = time.monotonic()
        table = known[name]()
        print(f"\n### {name}\n\n{table_of(table, '.4g')}", flush=True)
        kept[name] = {"rows": table, "seconds": round(time.monotonic() - began)}
    write(RESULTS / "estimators.json", kept, indent=1)


if __name__ == "__main__":
    main()
