"""All pairs of ten 8x8 digits under exact metrics, and by how much triangles fail.

    python -m benchmarks.digit_triangles METRIC [METRIC ...] [--count 10]

The distribution is the exact mixture of scikit-learn's 1,797 digits (deviation .15 each, D = 64),
the points the first digit of each class, the paths on 32 nodes; metrics of one level are taken at
log SNR 2, points of a spacetime lie there.  Pairs that the file of results (``--out``) holds are
not solved again.  A pair takes from .1 seconds of one core (conformal) to ten (score size).
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.record import RESULTS, read, write
from diffodesic import (
    Conformal,
    Euclidean,
    GaussianMixture,
    Metric,
    Pullback,
    ScoreJacobian,
    ScoreMetric,
    Spacetime,
)
from diffodesic.geometry import search
from diffodesic.metrics.density import DensityMetric, InverseDensity, ScoreSize
from diffodesic.metrics.spacetime.gaussian import Hyperbolic

__all__ = ["METRICS", "digits", "excess", "main"]

LOG_SNR, NODES, BANDWIDTH = 2.0, 32, 0.15


def _striped(law: GaussianMixture) -> Metric:
    axis = torch.arange(1.0, 1.0 + law.dim, dtype=torch.float64)
    return Conformal(lambda x: 1 + torch.sin(x @ (axis / axis.norm())) ** 2, law.dim)


def _waves(law: GaussianMixture) -> Metric:
    return Pullback(lambda x: torch.cat([x, torch.sin(x + x.roll(1, -1)) / 2], -1), law.dim)


# those of the laws' table (tests/support/cases.py); the inverse density is near 1 at data
METRICS: dict[str, Callable[[GaussianMixture], Metric]] = {
    "euclidean": lambda law: Euclidean(law.dim),
    "conformal": _striped,
    "pullback": _waves,
    "hyperbolic": lambda law: Hyperbolic(law.dim, variance=1.5),
    "spacetime": Spacetime,
    "score": lambda law: ScoreMetric(law, log_snr=LOG_SNR, weight=1.0),
    "score-jacobian": lambda law: ScoreJacobian(law, log_snr=LOG_SNR, eps=0.5),
    "score-size": lambda law: ScoreSize(law, log_snr=LOG_SNR, weight=0.5),
    "density": lambda law: DensityMetric(law, log_snr=LOG_SNR, power=0.2),
    "inverse-density": lambda law: InverseDensity(law, log_snr=LOG_SNR, reference=law.means[0]),
}


def digits(count: int) -> tuple[GaussianMixture, Tensor]:
    """The mixture, and the first digit of the first ``count`` classes, (count, 64)."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    data = torch.tensor(images / 8 - 1, dtype=torch.float64)
    rows = [int((torch.tensor(labels) == label).int().argmax()) for label in range(count)]
    return GaussianMixture.from_data(data, bandwidth=BANDWIDTH), data[rows]


def excess(pairs: list[dict[str, Any]]) -> dict[str, float]:
    """By how much distances exceed their best detour through a third point, relative, if at all."""
    d = {(one[p], one[q]): one["length"] for one in pairs for p, q in (("a", "b"), ("b", "a"))}
    points = sorted({a for a, _ in d})
    worst = {
        f"{a}-{b}": d[a, b] / min(d[a, c] + d[c, b] for c in points if c not in (a, b)) - 1
        for a, b in combinations(points, 2)
    }
    return {name: round(value, 4) for name, value in worst.items() if value > 1e-3}


def main(arguments: list[str] | None = None) -> int:
    """Solve the pairs that are missing, and print the triangles that fail."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.digit_triangles")
    parser.add_argument("metric", nargs="+", choices=METRICS)
    parser.add_argument("--count", type=int, default=10, help="number of digits")
    parser.add_argument("--out", type=Path, default=RESULTS / "digit_triangles.json")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    law, x = digits(options.count)
    results = read(options.out)
    for name in options.metric:
        metric = METRICS[name](law)
        level = x.new_full((len(x), metric.dim - law.dim), LOG_SNR)
        pairs = results.setdefault(name, {"pairs": []})["pairs"]
        for pair in _missing(metric, torch.cat([x, level], -1), pairs):
            pairs.append(pair)
            print(name, pair, flush=True)
            write(options.out, results, indent=1)
        results[name]["excess"] = excess(pairs)
        write(options.out, results, indent=1)
        print(f"{name}: {_verdict(results[name])}")
    return 0


def _missing(metric: Metric, x: Tensor, pairs: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    known = {(one["a"], one["b"]) for one in pairs}
    for a, b in combinations(range(len(x)), 2):
        if (a, b) not in known:
            path = search(metric, x[a], x[b], nodes=NODES)
            yield {
                "a": a,
                "b": b,
                "length": float(path.length),
                "status": path.status.name,
                "start": path.start[0],
                "node_gradients": path.node_gradients,
            }


def _verdict(found: dict[str, Any]) -> str:
    statuses = Counter(one["status"] for one in found["pairs"])
    ends = ", ".join(f"{count} {name}" for name, count in statuses.items())
    return f"{len(found['pairs'])} pairs, {ends}; longer than a detour: {found['excess']}"


if __name__ == "__main__":
    raise SystemExit(main())
