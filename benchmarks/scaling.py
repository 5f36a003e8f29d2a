"""Cost against size: nodes, dimension, pairs, size of the model; processor time, small runs."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.problems import eight_gaussians, network, toy
from benchmarks.record import Record
from diffodesic import Geodesic, Spacetime, from_network
from diffodesic.denoisers.schedules import EDM
from diffodesic.geometry.boundary_value import search
from diffodesic.geometry.energy import Solver
from diffodesic.geometry.metric import Metric
from diffodesic.models.unet import UNet

__all__ = ["LAWS", "measure_law"]


def _solve(
    space: Metric, a: Tensor, b: Tensor, nodes: int, solver: Solver | None = None
) -> tuple[Geodesic, float]:
    began = time.process_time()
    path = search(space, a, b, nodes=nodes, solver=solver, refine=1)
    return path, time.process_time() - began


def _random_pairs(dim: int, count: int) -> tuple[Spacetime, Tensor, Tensor]:
    """The space of a mixture of eight Gaussians, and pairs of its samples at log SNR 2."""
    data = eight_gaussians(dim, torch.Generator().manual_seed(dim))
    samples = data.sample(2 * count, generator=torch.Generator().manual_seed(1))
    space = Spacetime(data)
    a, b = space.point(samples, 2.0).split(count)
    return space, a, b


def _record(size: int, solves: list[tuple[Geodesic, float]], pairs: int = 1) -> Record:
    """What solves of that size spent per pair."""
    return {
        "size": size,
        "node gradients": sum(path.node_gradients for path, _ in solves) / pairs,
        "evaluations": sum(path.evaluations for path, _ in solves) / pairs,
        "seconds": sum(seconds for _, seconds in solves) / pairs,
        "statuses": sorted({status.name for path, _ in solves for status in path.statuses}),
    }


def by_nodes() -> list[Record]:
    """The toy on 8 to 256 segments."""
    problem = toy()
    ends = problem.space, problem.a, problem.b
    _solve(*ends, 8)  # compiles some of torch's own formulas
    return [_record(n, [_solve(*ends, n)]) for n in (8, 16, 32, 64, 128, 256)]


def by_dimension() -> list[Record]:
    """Mixtures of eight Gaussians in 2 to 512 dimensions, the mean of four pairs."""
    return [
        _record(dim, [_solve(*_random_pairs(dim, 4), 32)], pairs=4) for dim in (2, 8, 32, 128, 512)
    ]


def by_pairs() -> list[Record]:
    """1 to 64 pairs at once on a mixture in 16 dimensions; how far each is from its own solve.

    Every size is the same 64 pairs, so many at a time.
    """
    return _batches(*_random_pairs(16, 64), (1, 4, 16, 64), None)


def by_pairs_of_the_network(total: int = 2) -> list[Record]:
    """1 and all of ``total`` pairs at once on the shipped network (minutes)."""
    problem = network()
    generator = torch.Generator().manual_seed(2)
    space = problem.space
    shift = 0.02 * torch.randn(2, total, space.dim, generator=generator, dtype=torch.float64)
    shift[..., -1] = 0
    a, b = problem.a + shift[0], problem.b + shift[1]
    return _batches(space, a, b, (1, total), problem.solver)


def _batches(
    space: Metric, a: Tensor, b: Tensor, sizes: tuple[int, ...], solver: Solver | None
) -> list[Record]:
    table: list[Record] = []
    alone: Tensor | None = None
    for size in sizes:
        solves = [
            _solve(space, first, second, 32, solver)
            for first, second in zip(a.split(size), b.split(size), strict=True)
        ]
        lengths = torch.cat([path.length for path, _ in solves])
        alone = lengths if alone is None else alone
        apart = float(((lengths - alone) / alone).abs().max())
        table.append({**_record(size, solves, pairs=len(a)), "apart": apart})
    return table


def by_model() -> list[Record]:
    """One gradient of 9 nodes through untrained U-Nets of the package's kind, 28 x 28."""
    table = []
    for width in (8, 16, 32, 64):
        unet = UNet(channels=(width, 2 * width, 4 * width)).eval().requires_grad_(False)
        denoiser = from_network(
            unet, shape=(1, 28, 28), schedule=EDM(), prediction="edm", sigma_data=0.5
        )
        space = Spacetime(denoiser)
        generator = torch.Generator().manual_seed(0)
        ends = torch.randn(2, 784, generator=generator, dtype=torch.float64)
        a, b = space.point(ends, 1.0)
        x = torch.lerp(a, b, torch.linspace(0, 1, 9, dtype=torch.float64)[:, None])[None]
        space.energy().evaluate(x)
        began = time.process_time()
        space.energy().evaluate(x)
        seconds = (time.process_time() - began) / 9
        parameters = sum(weight.numel() for weight in unet.parameters())
        table.append({"size": parameters, "node gradients": 1.0, "seconds": seconds})
    return table


LAWS: dict[str, Callable[[], list[Record]]] = {
    "nodes": by_nodes,
    "dimension": by_dimension,
    "pairs": by_pairs,
    "model": by_model,
    "network pairs": by_pairs_of_the_network,
}


def measure_law(name: str) -> list[Record]:
    """Cost by size, by the name of a scaling law."""
    return LAWS[name]()
