"""Geodesics between pairs of many points: the options of their search, and what solves batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from torch import Tensor

from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.denoisers.mixture import GaussianMixture
from diffodesic.geometry.boundary_value import search
from diffodesic.geometry.path import Geodesic
from diffodesic.geometry.solvers.redraw import Redraw
from diffodesic.geometry.solvers.relax import Relax
from diffodesic.images.editing import EditOptions, anchored
from diffodesic.metrics.spacetime.metric import Spacetime
from diffodesic.models.model import Model
from diffodesic.numerics.cost import expect
from diffodesic.output.options import option

__all__ = ["PairSolver", "PairwiseOptions", "lifted"]

NODES, EXACT = 16, Relax(rtol=1e-3)  # in closed form: about 1 %
MEMORY = 2**22  # numbers in the largest tensor of a batch of a mixture: 32 MB in float64


@dataclass(frozen=True, kw_only=True)
class PairwiseOptions(EditOptions):
    """Options of :func:`pairwise`.

    Args:
        nodes: segments of a path; default 16.
        solver: default that of the metric's energy for a network, else one looser than for a
            single pair.
        batch: pairs solved together; default what fits in some hundred MB.
        workers: processes that solve batches at the same time, with a model each.
        ray: address of a Ray cluster that solves the batches, HOST:PORT, ray://HOST:PORT or auto;
            local begins one on this machine. Needs the extra ray, there too.
    """

    nodes: int | None = option(None, least=2, most=10_000)
    solver: Relax | Redraw | None = option(None, flag=False)
    batch: int | None = option(None, least=1)
    workers: int = option(1, least=1, most=1024)
    ray: str | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        if self.ray is not None and self.workers > 1:
            raise ValueError("a Ray cluster has workers of its own: leave workers at 1")


def lifted(
    source: Model | Denoiser, data: Tensor, asked: EditOptions, say: Callable[[str], None]
) -> tuple[Spacetime, Tensor]:
    """As :func:`anchored`, and says that a run which goes on does it again."""
    if isinstance(source, Model):
        expect({"lifting": 2 * asked.flow_steps * len(data)})
        say(f"lifting {len(data)} images to their noise level, which is not kept")
    return anchored(source, data, asked)


@dataclass(frozen=True)
class PairSolver:
    """Geodesics between pairs of points, in batches.

    Attributes:
        space: the spacetime.
        points: packed points (N, D + 1).
        nodes: segments of every path.
        solver: the solver.
        batch: pairs solved together.
    """

    space: Spacetime
    points: Tensor
    nodes: int
    solver: Relax | Redraw
    batch: int

    @classmethod
    def of(cls, space: Spacetime, points: Tensor, asked: PairwiseOptions) -> PairSolver:
        """The solver that the options ask for, its defaults those of the denoiser."""
        denoiser = space.denoiser
        nodes, batch = asked.nodes or NODES, asked.batch or 4
        if asked.batch is None and isinstance(denoiser, GaussianMixture):
            # a network cuts its own batches, and keeps a graph per point; a mixture holds N x K
            batch = max(1, MEMORY // (max(len(denoiser.means), denoiser.dim) * (nodes + 1)))
        solver = cast(Relax | Redraw, asked.search(space, EXACT))
        return cls(space, points, nodes, solver, batch)

    def __call__(self, pairs: Tensor) -> Geodesic:
        """The geodesics of pairs (B, 2) of places of points."""
        a, b = self.points[pairs.T]
        return search(self.space, a, b, nodes=self.nodes, solver=self.solver)
