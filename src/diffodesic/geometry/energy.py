r"""The energy of a path: all that a boundary-value solver sees of a geometry.

A path is a polyline of nodes x, (..., n+1, d).  Its energy and its length are sums over segments,

    E = n/2 sum squared_steps,    L = sum sqrt(squared_steps),    L^2 <= 2E (equal: constant speed),

and both ends stay where they are.  A metric says how it is discretised by :meth:`Metric.energy`;
splines, penalties and continuation wrap an energy (:mod:`diffodesic.geometry.wrappers`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from diffodesic.geometry.status import Status
from diffodesic.numerics.cost import record
from diffodesic.numerics.curves import Polyline, Spline
from diffodesic.numerics.hessians import BlockDiagonal, PathHessian

__all__ = [
    "Evaluation",
    "Order",
    "PathEnergy",
    "Problem",
    "Progress",
    "Solution",
    "Solver",
    "chord",
    "discrete_energy",
    "evaluate",
    "even_knots",
]

Order = Literal[0, 1, 2]
Progress = Callable[[str, Tensor], None]


def discrete_energy(squared_steps: Tensor) -> Tensor:
    """Energy ``n/2 sum squared_steps``, (..., n) -> (...)."""
    return squared_steps.shape[-1] / 2 * squared_steps.sum(-1)


@dataclass(frozen=True)
class Evaluation:
    """What an energy says of paths (..., n+1, d).

    Attributes:
        squared_steps: squared lengths of the segments, (..., n).
        doubtful: segments whose squared length is not to be believed, (..., n) boolean: it is
            negative, or the energy can tell in another way.
        gradient: of the energy by the nodes, (..., n+1, d); None where it was not asked for.
        hessian: approximate second derivative of the energy; None where it was not asked for.
    """

    squared_steps: Tensor
    doubtful: Tensor
    gradient: Tensor | None = None
    hessian: PathHessian | None = None

    @property
    def energy(self) -> Tensor:
        """``n/2 sum squared_steps``, (...)."""
        return discrete_energy(self.squared_steps)

    @property
    def slope(self) -> Tensor:
        """The gradient, where it was asked for."""
        assert self.gradient is not None, "evaluate with order=1 or 2"
        return self.gradient


def chord(a: Tensor, b: Tensor, nodes: int) -> Tensor:
    """The straight path between points (..., d), (..., nodes+1, d)."""
    s = torch.linspace(0, 1, nodes + 1, dtype=a.dtype, device=a.device).unsqueeze(-1)
    return torch.lerp(a.unsqueeze(-2), b.unsqueeze(-2), s)


class PathEnergy(ABC):
    """A discretised energy of paths between fixed ends, with what a search needs to know.

    Attributes:
        dim: number d of coordinates.
        bounds: lowest and highest value of every coordinate, each (d,), or None: the region in
            which a search keeps the path.
        coarsest: number of segments below which ``squared_steps`` say little about the path.
        exact_segments: True where ``squared_steps`` are the exact energies of :meth:`segments`,
            which need not be straight: an upper bound of the distance for any number of nodes.
        cheap_hessian: True where ``evaluate(x, order=2)`` costs no more than ``order=1``.
        tolerance: relative difference between the energy of ``squared_steps`` and the one that
            ``gradient`` belongs to; 0 where they are one.
        doubt: what a search ends with where it is held back by doubtful segments.
        fitted: True where ``squared_steps`` are estimates that a search fits; the length of a path
            is then that of :meth:`judge`.
        default_solver: the search to use where none is given; None leaves it to ``geodesic``.
    """

    dim: int
    bounds: tuple[Tensor, Tensor] | None = None
    coarsest: int = 6
    exact_segments: bool = False
    cheap_hessian: bool = False
    tolerance: float = 0.0
    doubt: Status = Status.HELD_BACK
    fitted: bool = False
    default_solver: Solver | None = None

    @abstractmethod
    def evaluate(self, x: Tensor, *, order: Order = 1) -> Evaluation:
        """Squared lengths of the segments of paths, with derivatives of the energy.

        Args:
            x: nodes (..., n+1, d).
            order: 0 for the squared lengths alone, 1 for the gradient too, 2 for an approximate
                Hessian too (paths (B, n+1, d)).

        Returns:
            the evaluation; its gradient is that by all nodes, ends included.

        Raises:
            FloatingPointError: where a denoiser returns values that are not finite.
        """

    @abstractmethod
    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Inner product of the metric that this is the energy of; all (..., d), result (...)."""

    @property
    def blocks(self) -> tuple[int, ...]:
        """Sizes of the groups of coordinates that share a weight; they sum to d."""
        return (self.dim,)

    def weights(self, x: Tensor) -> Tensor:
        """Typical size of the metric on each block at points, by which searches precondition.

        Args:
            x: points (..., d).

        Returns:
            positive sizes (..., len(blocks)).

        Cost: no network call.
        """
        return x.new_ones(*x.shape[:-1], len(self.blocks))

    def preconditioner(self, x: Tensor, squared_steps: Tensor) -> PathHessian:
        """Approximate Hessian of the energy from what is known without a further network call.

        The typical sizes are corrected, within a factor 30, by the squared lengths measured on
        the path itself: these see where the law is far from a Gaussian.

        Args:
            x: paths (B, n+1, d).
            squared_steps: their squared segment lengths (B, n).

        Returns:
            one number per block of coordinates and segment.
        """
        return BlockDiagonal.of(self.segment_sizes(x, squared_steps), self.blocks)

    def segment_sizes(self, x: Tensor, squared_steps: Tensor) -> Tensor:
        """Typical sizes of the metric on the segments of paths, (B, n, len(blocks)).

        Args:
            x: paths (B, n+1, d).
            squared_steps: their squared segment lengths (B, n).

        Returns:
            :meth:`weights` in the middle of the segments, corrected as :meth:`preconditioner` says.
        """
        w = self.weights((x[:, 1:] + x[:, :-1]) / 2)
        parts = x.diff(dim=1).square().split(self.blocks, -1)
        expected = (w * torch.stack([part.sum(-1) for part in parts], -1)).sum(-1)
        ratio = (squared_steps / expected.clamp(min=1e-300)).nan_to_num(1.0).clamp(1 / 30, 30)
        return w * ratio.unsqueeze(-1)

    def starts(self, a: Tensor, b: Tensor, nodes: int) -> dict[str, Tensor]:
        """Candidate first paths from ``a`` to ``b`` (..., d), each (..., nodes+1, d), by name."""
        return {"chord": chord(a, b, nodes)}

    def detours(self, a: Tensor, b: Tensor, nodes: int) -> dict[str, Tensor]:
        """Further first paths, as those of :meth:`starts`, for pairs that are searched again."""
        return {}

    def hops(self, a: Tensor, b: Tensor, nodes: int) -> dict[str, Tensor]:
        """Detours that take no evaluation; what is longer than one is searched again from it."""
        return {}

    def curve(self, nodes: Tensor) -> Polyline:
        """The smooth path that nodes (..., n+1, d) stand for: the C2 spline through them."""
        return Spline(nodes)

    def segments(self, nodes: Tensor) -> Polyline:
        """The segments between nodes (..., n+1, d) that ``squared_steps`` measure."""
        return Polyline(nodes)

    def confine(self, x: Tensor) -> Tensor:
        """Move points (..., d) into :attr:`bounds`."""
        if self.bounds is None:
            return x
        low, high = (bound.to(x) for bound in self.bounds)
        return x.clamp(low, high)

    def longest_step(self, direction: Tensor) -> Tensor:
        """Share of a step of paths for which the local model of the energy holds, at most 1.

        Args:
            direction: the step (B, n+1, d).

        Returns:
            (B,); the default is 1.
        """
        return torch.ones_like(direction[:, 0, 0])

    def resolves(self, x: Tensor) -> Tensor:
        """Tell whether nodes are close enough for ``squared_steps``.

        A search does not move from a path that is resolved to one that is not.

        Args:
            x: nodes (..., n+1, d).

        Returns:
            (...) boolean; the default is True.
        """
        return torch.ones(x.shape[:-2], dtype=torch.bool, device=x.device)

    def outside(self, x: Tensor) -> Tensor:
        """Tell which paths (B, n+1, d) run where no shortest path exists, (B,); default none."""
        return torch.zeros(x.shape[0], dtype=torch.bool, device=x.device)

    def lower_bound(self, a: Tensor, b: Tensor) -> Tensor:
        """What the distance of points (..., d) is at least, known without a path; (...)."""
        return torch.zeros_like(a[..., 0])

    def stages(self) -> tuple[PathEnergy, ...]:
        """Energies on the same points to solve one after another, easiest first, this one last."""
        return (self,)

    def redrawn(self, seed: int) -> PathEnergy:
        """The energy with its random probes drawn anew; itself where it has none."""
        return self

    def judge(self, x: Tensor, seed: int, *, within: float | None = None) -> tuple[Tensor, Tensor]:
        """Lengths of paths by an estimate that shares no formula with ``squared_steps``.

        Args:
            x: nodes (B, n+1, d); the estimate of a path does not depend on its company.
            seed: of the estimate.
            within: standard error that is wanted, as a share of the length; None: as comes with
                the least work.

        Returns:
            lengths and standard errors, each (B,); NaN, the default, where there is no such
            estimate of a path.
        """
        unknown = x.new_full((len(x),), torch.nan)
        return unknown, unknown

    def noise_ratio(self, x: Tensor) -> Tensor | None:
        """How much noise points carry, relative to what their level says.

        Networks are trained on points where it is close to 1.

        Args:
            x: points (..., d).

        Returns:
            ratios (...); None, the default, where points are not noisy data of a network.
        """
        return None

    def doubts(self) -> tuple[str, ...]:
        """A sentence on each thing that makes its paths or lengths wrong; none by default."""
        return ()

    def settled(self, a: Tensor, b: Tensor) -> PathEnergy:
        """The energy with everything decided that depends on the ends (B, d); default itself."""
        return self


def evaluate(energy: PathEnergy, x: Tensor, *, order: Order = 1) -> Evaluation:
    """``energy.evaluate(x)`` with fixed ends; a path that a denoiser refuses has NaN steps.

    Args:
        energy: the energy.
        x: paths (..., n+1, d); (B, n+1, d) for ``order`` 2.
        order: see :meth:`PathEnergy.evaluate`.

    Returns:
        the evaluation, its gradient zero at the ends.

    Cost: that of ``energy.evaluate``; derivatives count as one node gradient per node.
    """
    try:
        found = energy.evaluate(x, order=order)
    except FloatingPointError:
        paths = x.reshape(-1, *x.shape[-2:])
        if len(paths) > 1:  # the refusal costs only the paths that it is of
            return _joined([evaluate(energy, path[None], order=order) for path in paths], x)
        refused = x.new_full((*x.shape[:-2], x.shape[-2] - 1), torch.nan)
        doubt = torch.zeros_like(refused, dtype=torch.bool)
        found = Evaluation(refused, doubt, torch.zeros_like(x) if order else None)
    if order:
        record(node_gradients=x[..., 0].numel())
        found.slope[..., 0, :] = found.slope[..., -1, :] = 0
    return found


def _joined(single: Sequence[Evaluation], x: Tensor) -> Evaluation:
    """Evaluations of one path each, as one of paths shaped like ``x``."""
    batch = x.shape[:-2]

    def cat(name: str) -> Tensor:
        return torch.cat([getattr(one, name) for one in single]).unflatten(0, batch or (1,))

    gradient = None if single[0].gradient is None else cat("gradient").reshape(x.shape)
    # a refused path takes a Hessian that it never uses
    known = next((one.hessian for one in single if one.hessian is not None), None)
    hessian = known and known.cat([one.hessian or known for one in single])
    return Evaluation(cat("squared_steps"), cat("doubtful"), gradient, hessian)


@dataclass(frozen=True)
class Problem:
    """What a solver is given: B pairs of points to be joined by paths of least energy.

    Attributes:
        energy: what is minimised.
        a: starts (B, d).
        b: ends (B, d).
        nodes: number n of segments of the result.
        init: first paths (B, k+1, d) for any k; None for one of ``energy.starts``.
        progress: called with a short line and the paths (B, k+1, d) as they stand.
    """

    energy: PathEnergy
    a: Tensor
    b: Tensor
    nodes: int
    init: Tensor | None = None
    progress: Progress | None = None

    def tell(self, line: str, x: Tensor) -> None:
        """Call ``progress``, if there is one, with a copy of paths ``x``."""
        if self.progress:
            self.progress(line, x.detach().clone())


@dataclass(frozen=True)
class Solution:
    """What a solver returns: nodes and how it ended, one entry per pair.

    Attributes:
        nodes: (B, n+1, d).
        gradient_norm: preconditioned gradient ``sqrt(g.H0 g / 2E)``, relative to the length, (B,).
        statuses: one per pair.
        iterations: accepted steps per pair, (B,).
        start: name of the first path chosen for each pair.
        length: what :meth:`PathEnergy.judge` told the search of each path, (B,); NaN for a pair,
            or None, where it was not asked.
        knots: share of the length before every node, (B, n+1); None where nodes lie evenly.
    """

    nodes: Tensor
    gradient_norm: Tensor
    statuses: list[Status]
    iterations: Tensor
    start: list[str]
    length: Tensor | None = None
    knots: Tensor | None = None

    @property
    def parameters(self) -> Tensor:
        """:attr:`knots`, evenly spaced where they are None."""
        return self.knots if self.knots is not None else even_knots(self.nodes)


def even_knots(x: Tensor) -> Tensor:
    """Parameters 0, 1/n, ... 1 of the nodes of paths (..., n+1, d), (..., n+1)."""
    s = torch.linspace(0, 1, x.shape[-2], dtype=x.dtype, device=x.device)
    return s.expand(x.shape[:-1])


class Solver(Protocol):
    """A search for paths of least energy between fixed ends."""

    def solve(self, problem: Problem) -> Solution:
        """Join the pairs of a problem, on n + 1 nodes each."""
        ...
