"""Cost against size: nodes, dimension, pairs, size of the model; processor time, small runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.problems import toy
from diffodesic import GaussianMixture, Geodesic, Spacetime, from_network, geodesic
from diffodesic.denoisers.schedules import EDM
from diffodesic.geometry.metric import Metric
from diffodesic.geometry.solvers.base import Solver
from diffodesic.models.unet import UNet

__all__ = ["LAWS", "measure_law"]

Row = dict[str, Any]


def _solve(
    space: Metric, a: Tensor, b: Tensor, nodes: int, solver: Solver | None = None
) -> tuple[Geodesic, float]:
    began = time.process_time()
    path = geodesic(space, a, b, nodes=nodes, solver=solver, refine=1)
    return path, time.process_time() - began


def _law(dim: int) -> GaussianMixture:
    generator = torch.Generator().manual_seed(dim)
    return GaussianMixture(torch.randn(8, dim, generator=generator, dtype=torch.float64), std=0.3)


def _pairs(space: Spacetime, law: GaussianMixture, count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    first, second = law.sample(2 * count, generator=generator).split(count)
    return space.point(first, 2.0), space.point(second, 2.0)


def _row(size: int, path: Geodesic, seconds: float, pairs: int = 1) -> Row:
    return {
        "size": size,
        "node gradients": path.node_gradients / pairs,
        "evaluations": path.evaluations / pairs,
        "seconds": seconds / pairs,
        "statuses": sorted({status.name for status in path.statuses}),
    }


def by_nodes() -> list[Row]:
    """The toy on 8 to 256 segments."""
    problem = toy()
    _solve(problem.space, problem.a, problem.b, 8)
    sizes = (8, 16, 32, 64, 128, 256)
    return [_row(n, *_solve(problem.space, problem.a, problem.b, n)) for n in sizes]


def by_dimension() -> list[Row]:
    """Mixtures of eight Gaussians in 2 to 512 dimensions, the mean of four pairs."""
    rows = []
    for dim in (2, 8, 32, 128, 512):
        law = _law(dim)
        space = Spacetime(law)
        rows.append(_row(dim, *_solve(space, *_pairs(space, law, 4), 32), pairs=4))
    return rows


def by_pairs() -> list[Row]:
    """1 to 64 pairs at once on a mixture in 16 dimensions; how far each is from its own solve.

    Every size is the same 64 pairs, so many at a time.
    """
    law = _law(16)
    space = Spacetime(law)
    return _batches(space, *_pairs(space, law, 64), 32, (1, 4, 16, 64), None)


def by_pairs_of_the_network(total: int = 2) -> list[Row]:
    """The same on the shipped network, 1 and all of ``total`` pairs at once (minutes)."""
    from benchmarks.problems import network

    problem = network()
    generator = torch.Generator().manual_seed(2)
    space = problem.space
    shift = 0.02 * torch.randn(2, total, space.dim, generator=generator, dtype=torch.float64)
    shift[..., -1] = 0
    a, b = problem.a + shift[0], problem.b + shift[1]
    return _batches(space, a, b, 32, (1, total), problem.solver)


def _batches(
    space: Metric, a: Tensor, b: Tensor, nodes: int, sizes: tuple[int, ...], solver: Solver | None
) -> list[Row]:
    rows: list[Row] = []
    alone: Tensor | None = None
    for size in sizes:
        parts = [
            _solve(space, first, second, nodes, solver)
            for first, second in zip(a.split(size), b.split(size), strict=True)
        ]
        lengths = torch.cat([path.length for path, _ in parts])
        alone = lengths if alone is None else alone
        rows.append(
            {
                "size": size,
                "node gradients": sum(path.node_gradients for path, _ in parts) / len(a),
                "evaluations": sum(path.evaluations for path, _ in parts) / len(a),
                "seconds": sum(seconds for _, seconds in parts) / len(a),
                "statuses": sorted({s.name for path, _ in parts for s in path.statuses}),
                "apart": float(((lengths - alone) / alone).abs().max()),
            }
        )
    return rows


def by_model() -> list[Row]:
    """One gradient of 9 nodes through untrained U-Nets of the package's kind, 28 x 28."""
    rows = []
    for width in (8, 16, 32, 64):
        network = UNet(channels=(width, 2 * width, 4 * width)).eval().requires_grad_(False)
        denoiser = from_network(
            network, shape=(1, 28, 28), schedule=EDM(), prediction="edm", sigma_data=0.5
        )
        space = Spacetime(denoiser)
        generator = torch.Generator().manual_seed(0)
        ends = torch.randn(2, 784, generator=generator, dtype=torch.float64)
        a, b = space.point(ends, 1.0)
        x = torch.lerp(a, b, torch.linspace(0, 1, 9, dtype=torch.float64)[:, None])[None]
        space.steps_and_grad(x)
        began = time.process_time()
        space.steps_and_grad(x)
        seconds = (time.process_time() - began) / 9
        parameters = sum(weight.numel() for weight in network.parameters())
        rows.append({"size": parameters, "node gradients": 1.0, "seconds": seconds})
    return rows


LAWS: dict[str, Callable[[], list[Row]]] = {
    "nodes": by_nodes,
    "dimension": by_dimension,
    "pairs": by_pairs,
    "model": by_model,
    "network pairs": by_pairs_of_the_network,
}


def measure_law(name: str) -> list[Row]:
    """The rows of one law by its name."""
    return LAWS[name]()
