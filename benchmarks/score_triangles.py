"""All pairs of ten 8x8 digits under a score metric, and by how much triangles fail.

    python -m benchmarks.score_triangles [--count 10]

The distribution is the exact mixture of scikit-learn's 1,797 digits (deviation .15 each, D = 64),
the metric ``I + s s^T`` at log SNR 2, the points the first digit of each class, the paths on 32
nodes.  About six seconds a pair on one core; pairs that the file of results (``--out``) holds are
not solved again.
"""

from __future__ import annotations

import argparse
import json
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.record import RESULTS
from diffodesic import GaussianMixture, ScoreMetric
from diffodesic.geometry import search

__all__ = ["excess", "main"]

LOG_SNR, WEIGHT, NODES, BANDWIDTH = 2.0, 1.0, 32, 0.15


def problem(count: int) -> tuple[ScoreMetric, Tensor]:
    """The metric, and the first digit of the first ``count`` classes, (count, 64)."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    data = torch.tensor(images / 8 - 1, dtype=torch.float64)
    rows = [int((torch.tensor(labels) == label).int().argmax()) for label in range(count)]
    law = GaussianMixture.from_data(data, bandwidth=BANDWIDTH)
    return ScoreMetric(law, log_snr=LOG_SNR, weight=WEIGHT), data[rows]


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
    parser = argparse.ArgumentParser(prog="python -m benchmarks.score_triangles")
    parser.add_argument("--count", type=int, default=10, help="number of digits")
    parser.add_argument("--out", type=Path, default=RESULTS / "score_triangles.json")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    metric, x = problem(options.count)
    pairs = json.loads(options.out.read_text())["pairs"] if options.out.exists() else []
    known = {(one["a"], one["b"]) for one in pairs}
    for a, b in combinations(range(options.count), 2):
        if (a, b) in known:
            continue
        path = search(metric, x[a], x[b], nodes=NODES)
        pairs.append(
            {
                "a": a,
                "b": b,
                "length": float(path.length),
                "status": path.status.name,
                "start": path.start[0],
                "node_gradients": path.node_gradients,
            }
        )
        print(pairs[-1], flush=True)
        options.out.write_text(json.dumps({"pairs": pairs}, indent=1) + "\n")
    found = {"pairs": pairs, "excess": excess(pairs)}
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{len(found['excess'])} of {len(pairs)} pairs exceed a detour:", found["excess"])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
