"""Paths between two points: ``geodesic`` and ``distance``, and what is known of the result.

A solver (:mod:`diffodesic.geometry.solvers.relax`) sees only ``metric.steps``.  The discrete path
it returns is judged on a finer grid, along the smooth curve through its nodes: a path that hides
length between its nodes is found out there.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from diffodesic.geometry.metric import Metric
from diffodesic.geometry.solvers.base import Progress, Solution, Solver
from diffodesic.geometry.solvers.descent import energy, guarded_steps
from diffodesic.geometry.solvers.relax import Relax
from diffodesic.geometry.status import Status
from diffodesic.numerics.cost import Cost, counting
from diffodesic.numerics.curves import Polyline

__all__ = ["Certificate", "Geodesic", "distance", "geodesic"]

MOST_NODES = 1024  # of a path that is refined until its length settles


@dataclass(frozen=True)
class Certificate:
    """What is known about the quality of a path; tensors have the batch shape.

    Attributes:
        length: refined length, of the C2 spline through the nodes on a grid ``refine`` times finer.
        energy: refined energy on the same grid.
        discrete_length: ``sum sqrt(steps)`` over the nodes.
        discrete_energy: ``n/2 sum steps`` over the nodes, the solver's objective.
        speed_spread: standard deviation over mean of the speeds at the nodes; 0 is constant speed.
        negative_fraction: share of refined steps along which the metric was not positive, which
            cannot be for a true posterior mean. Where the squared length itself is negative it
            counts as zero in the length, and the status is NEGATIVE_STEPS.
        gradient_norm: preconditioned gradient of the discrete energy, relative to the length.
        lower: what the distance is at least (``Metric.lower_bound``); 0 where nothing is known.
        upper: length of the one segment between the ends, where it is a bound (two-point steps of
            an exact denoiser); else infinite.
    """

    length: Tensor
    energy: Tensor
    discrete_length: Tensor
    discrete_energy: Tensor
    speed_spread: Tensor
    negative_fraction: Tensor
    gradient_norm: Tensor
    lower: Tensor
    upper: Tensor

    def as_dict(self) -> dict[str, object]:
        """Plain numbers and lists, for JSON; bounds that are not known are left out."""
        found = asdict(self)
        for name, unknown in (("lower", 0.0), ("upper", math.inf)):
            if bool((found[name] == unknown).all()):
                del found[name]
        return {name: value.tolist() for name, value in found.items()}


@dataclass(frozen=True, repr=False)
class Geodesic:
    """A solved path; call it with ``s`` in [0, 1] for points at constant speed.

    Attributes:
        metric: the geometry it was solved in.
        nodes: (..., n+1, d) with exact ends.
        certificate: quality of the path.
        statuses: how each pair of the batch ended, in row-major order.
        cost: work spent, certificate included.
        iterations: accepted solver steps, (...).
        start: name of the first path, per pair.
        smooth: whether the path is the smooth curve through its nodes, (...); else, where few
            nodes make that one longer than the metric's own segments, it is these.
    """

    metric: Metric
    nodes: Tensor
    certificate: Certificate
    statuses: tuple[Status, ...]
    cost: Cost
    iterations: Tensor
    start: tuple[str, ...]
    smooth: Tensor

    def __call__(self, s: Tensor | float) -> Tensor:
        """Points of the path: ``s`` a number gives (..., d), (S,) gives (..., S, d)."""
        # between nodes on the boundary of the metric's domain a spline may overshoot it
        return self.metric.confine(self._either(lambda curve: curve(s)))

    def velocity(self, s: Tensor | float) -> Tensor:
        """Derivative of the path by ``s``; shapes as for a call."""
        return self._either(lambda curve: curve.velocity(s))

    def __repr__(self) -> str:
        """One line: the metric, the shape, the length and how it ended."""
        length = self.length.flatten()
        text = f"{float(length[0]):.6g}" if len(length) == 1 else f"{len(length)} lengths"
        return (
            f"Geodesic({type(self.metric).__name__}, {self.nodes.shape[-2] - 1} segments, {text}, "
            f"{self.status.name})"
        )

    def split(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Its tensors, and the rest but the metric as JSON takes it."""
        own = ("nodes", "iterations", "smooth")
        tensors = {name: getattr(self, name) for name in own} | asdict(self.certificate)
        statuses = [status.name for status in self.statuses]
        return tensors, {"statuses": statuses, "start": list(self.start), "cost": asdict(self.cost)}

    @classmethod
    def joined(cls, metric: Metric, tensors: dict[str, Tensor], rest: dict[str, Any]) -> Geodesic:
        """What :meth:`split` took apart, in the same metric."""
        rated = {name: tensors[name] for name in Certificate.__dataclass_fields__}
        return cls(
            metric,
            tensors["nodes"],
            Certificate(**rated),
            tuple(Status[name] for name in rest["statuses"]),
            Cost(**rest["cost"]),
            tensors["iterations"],
            tuple(rest["start"]),
            tensors["smooth"],
        )

    def _either(self, ask: Callable[[Polyline], Tensor]) -> Tensor:
        smooth = ask(self.metric.curve(self.nodes))
        if bool(self.smooth.all()):
            return smooth
        mask = self.smooth.reshape(*self.smooth.shape, *[1] * (smooth.ndim - self.smooth.ndim))
        return torch.where(mask, smooth, ask(self.metric.segments(self.nodes)))

    @property
    def length(self) -> Tensor:
        """Refined length, (...)."""
        return self.certificate.length

    @property
    def energy(self) -> Tensor:
        """Discrete energy on the nodes, (...)."""
        return self.certificate.discrete_energy

    @property
    def status(self) -> Status:
        """The worst status of the batch."""
        return max(self.statuses, key=list(Status).index)

    @property
    def ok(self) -> bool:
        """Whether the search of every pair ended as it was meant to; see :attr:`Status.ok`."""
        return self.status.ok

    @property
    def evaluations(self) -> int:
        """Network evaluations spent (a batch of n points counts n)."""
        return self.cost.evaluations

    @property
    def derivatives(self) -> int:
        """Jacobian products of the network spent, forward or backward."""
        return self.cost.derivatives

    @property
    def node_gradients(self) -> float:
        """Gradients of the energy at a node spent; an energy alone counts a third."""
        return self.cost.node_gradients


def geodesic(
    metric: Metric,
    a: Tensor,
    b: Tensor,
    *,
    nodes: int | None = 64,
    solver: Solver | None = None,
    init: Tensor | None = None,
    refine: int = 8,
    length_rtol: float = 1e-3,
    progress: Progress | None = None,
) -> Geodesic:
    """Path of least energy between two points.

    Args:
        metric: the geometry.
        a: starts (..., d).
        b: ends (..., d), broadcast against ``a``.
        nodes: number n >= 2 of segments; the path has n + 1 points, ends included. None: doubled
            from 16 until the refined length moves by less than ``length_rtol``.
        solver: default ``Relax()``; anything with its ``solve`` method.
        init: a first path (..., k+1, d); default the best of ``metric.starts``.
        refine: the certificate is taken on a grid this many times finer.
        length_rtol: relative change of the refined length at which ``nodes=None`` stops.
        progress: called after every round with a short line and the paths (B, k+1, d).

    Returns:
        the path, its certificate and its cost.

    Raises:
        ValueError: for points of the wrong dimension, non-finite points, or ``nodes < 2``.

    Cost: one energy gradient per solver round, and ``refine * nodes`` steps for the certificate.
    """
    if refine < 1:
        raise ValueError(f"refine must be at least 1, got {refine}")
    if nodes is None:
        options = {"solver": solver, "refine": refine, "progress": progress}
        return _refined(metric, a, b, init, length_rtol, options)
    if nodes < 2:
        raise ValueError(f"nodes must be at least 2, got {nodes}")
    a, b = checked(metric, a, "a"), checked(metric, b, "b")
    kind = torch.promote_types(a.dtype, b.dtype)
    a, b = torch.broadcast_tensors(a.to(kind), b.to(kind))
    batch = a.shape[:-1]
    flat_a, flat_b = a.reshape(-1, metric.dim), b.reshape(-1, metric.dim)
    if init is not None:
        if init.ndim < 2 or init.shape[-2] < 2 or init.shape[-1] != metric.dim:
            raise ValueError(
                f"init has shape {tuple(init.shape)}; it must be (..., k+1, "
                f"{metric.dim}) with k >= 1"
            )
        init = init.expand(*batch, *init.shape[-2:]).reshape(-1, *init.shape[-2:]).to(flat_a)
        init = torch.cat([flat_a[:, None], init[:, 1:-1], flat_b[:, None]], 1)
    with counting() as cost:
        metric = metric.settled(flat_a, flat_b)
        solution = _solve(solver or Relax(), metric, flat_a, flat_b, nodes, init, progress)
        certificate, negative, smooth = _certify(metric, solution, refine)
    unresolved = ~metric.resolves(solution.nodes)
    statuses = tuple(
        _judge(*found)
        for found in zip(solution.statuses, negative.tolist(), unresolved.tolist(), strict=True)
    )
    shaped = Certificate(
        **{k: getattr(certificate, k).reshape(batch) for k in Certificate.__dataclass_fields__}
    )
    return Geodesic(
        metric,
        solution.nodes.reshape(*batch, nodes + 1, metric.dim),
        shaped,
        statuses,
        cost,
        solution.iterations.reshape(batch),
        tuple(solution.start),
        smooth.reshape(batch),
    )


def _refined(
    metric: Metric,
    a: Tensor,
    b: Tensor,
    init: Tensor | None,
    rtol: float,
    options: dict[str, Any],
) -> Geodesic:
    """Double the number of nodes until the refined lengths settle, or up to MOST_NODES."""
    with counting() as cost:
        path = geodesic(metric, a, b, nodes=16, init=init, **options)
        settled = torch.zeros_like(path.length, dtype=torch.bool)
        start, iterations = path.start, path.iterations
        while not bool(settled.all()) and path.nodes.shape[-2] - 1 < MOST_NODES:
            before, nodes = path.length, 2 * (path.nodes.shape[-2] - 1)
            path = geodesic(metric, a, b, nodes=nodes, init=path.nodes, **options)
            iterations = iterations + path.iterations
            # a length that is no number never settles, and holds nobody up
            settled = ~((path.length - before).abs() > rtol * path.length)
    statuses = tuple(
        status if done or status is not Status.CONVERGED else Status.TOO_COARSE
        for status, done in zip(path.statuses, settled.flatten().tolist(), strict=True)
    )
    return replace(path, cost=cost, statuses=statuses, start=start, iterations=iterations)


def checked(metric: Metric, x: Tensor, name: str) -> Tensor:
    x = torch.as_tensor(x).detach()
    if x.ndim == 0 or x.shape[-1] != metric.dim:
        raise ValueError(
            f"{name} has shape {tuple(x.shape)}; its last axis must be {metric.dim}, "
            "the dimension of the metric"
        )
    if not x.is_floating_point():
        x = x.to(torch.get_default_dtype())
    if not x.numel():
        raise ValueError(f"{name} holds no points")
    if not bool(torch.isfinite(x).all()):
        raise ValueError(f"{name} holds values that are not finite")
    if not torch.equal(metric.confine(x), x):
        raise ValueError(f"{name} holds points outside the range of the metric")
    return x


def _judge(status: Status, negative: bool, unresolved: bool) -> Status:
    """What the certificate makes of a solver's own good word."""
    if not status.ok:
        return status
    if negative:
        return Status.NEGATIVE_STEPS
    return Status.TOO_COARSE if unresolved else status


def _solve(
    solver: Solver,
    metric: Metric,
    a: Tensor,
    b: Tensor,
    nodes: int,
    init: Tensor | None,
    progress: Progress | None,
) -> Solution:
    """Solve the pairs that differ; a pair of equal points is its own path."""
    same = (a == b).all(-1)
    moving = ~same
    x = a[:, None].expand(-1, nodes + 1, -1).clone()
    norm, iterations = a.new_zeros(len(a)), torch.zeros(len(a), dtype=torch.long)
    statuses, start = [Status.SAME_POINT] * len(a), ["chord"] * len(a)
    if bool(moving.any()):
        found = solver.solve(
            metric,
            a[moving],
            b[moving],
            nodes,
            progress=progress,
            init=None if init is None else init[moving],
        )
        x[moving], norm[moving] = found.nodes, found.gradient_norm
        iterations[moving.cpu()] = found.iterations
        for i, home in enumerate(torch.nonzero(moving).flatten().tolist()):
            statuses[home], start[home] = found.statuses[i], found.start[i]
    return Solution(x, norm, statuses, iterations, start)


def _certify(metric: Metric, solution: Solution, refine: int) -> tuple[Certificate, Tensor, Tensor]:
    """The certificate; which paths (B,) have negative squared lengths; which are smooth."""
    x = solution.nodes
    n = x.shape[1] - 1
    s = torch.linspace(0, 1, refine * n + 1, dtype=x.dtype, device=x.device)
    with torch.no_grad():
        # one pair at a time: the fine grid of a whole batch need not fit in memory
        judged = [guarded_steps(metric, metric.confine(metric.curve(path)(s))) for path in x]
        coarse = guarded_steps(metric, x)[0]
        lower = metric.lower_bound(x[:, 0], x[:, -1])
        upper = torch.full_like(lower, torch.inf)
        smooth = torch.ones_like(lower, dtype=torch.bool)
        if metric.bent_segments:
            upper = guarded_steps(metric, x[:, [0, -1]])[0][:, 0].clamp(min=0).sqrt()
            bound = coarse.clamp(min=0).sqrt().sum(-1)
            length = torch.stack([fine.clamp(min=0).sqrt().sum() for fine, _ in judged])
            smooth = ~(length > bound)  # the segments are a path too
            for i in torch.nonzero(~smooth).flatten().tolist():
                judged[i] = guarded_steps(metric, metric.segments(x[i])(s))
    fine, wrong = (torch.stack(parts) for parts in zip(*judged, strict=True))
    speed = coarse.clamp(min=0).sqrt()
    spread = speed.std(-1, correction=0) / speed.mean(-1)
    certificate = Certificate(
        length=fine.clamp(min=0).sqrt().sum(-1),
        energy=energy(fine),
        discrete_length=speed.sum(-1),
        discrete_energy=energy(coarse),
        speed_spread=spread.nan_to_num(),
        gradient_norm=solution.gradient_norm,
        negative_fraction=wrong.to(x.dtype).mean(-1),
        lower=lower,
        upper=upper,
    )
    return certificate, (fine < 0).any(-1), smooth


def distance(metric: Metric, a: Tensor, b: Tensor, **options: Any) -> Tensor:
    """Refined length of the geodesic between ``a`` and ``b`` (..., d).

    Args:
        metric: the geometry.
        a: starts (..., d).
        b: ends (..., d).
        **options: those of :func:`geodesic`, which also tells how the solve ended; here anything
            but success is a ``RuntimeWarning``.

    Returns:
        lengths (...).
    """
    path = geodesic(metric, a, b, **options)
    if not path.ok:
        warnings.warn(path.status.value, RuntimeWarning, stacklevel=2)
    return path.length
