r"""The verbs: geodesic and distance (two ends), exp and log, parallel transport, mean.

Boundary-value problems go to a solver (:mod:`diffodesic.solver`) and see only ``metric.steps``;
initial-value problems see only ``metric.inner``.  With momentum p = g(x) x',

    x' = g(x)^-1 p,     p' = 1/2 d/dx g(x)(u, u) at u = x' held fixed            (Hamilton)
    g Gamma(u, v) = 1/2 [ d_u (g v) + d_v (g u) - d/dx g(u, v) ]                 (Koszul)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from diffodesic import calculus
from diffodesic.curve import Spline
from diffodesic.metric import Metric
from diffodesic.solver import Progress, Relax, Solution, Status, energy

__all__ = ["Certificate", "Geodesic", "distance", "exp", "geodesic", "log", "mean", "transport"]


@dataclass(frozen=True)
class Certificate:
    """What is known about the quality of a path; tensors have the batch shape.

    Attributes:
        length: refined length, of the C2 spline through the nodes on a grid ``refine`` times finer.
        energy: refined energy on the same grid.
        discrete_length: ``sum sqrt(steps)`` over the nodes.
        discrete_energy: ``n/2 sum steps`` over the nodes, the solver's objective.
        speed_spread: standard deviation over mean of the speeds at the nodes; 0 is constant speed.
        negative_fraction: share of refined steps with a negative squared length. They count as
            zero in the length, and are never zero for a true posterior mean's reason.
        gradient_norm: preconditioned gradient of the discrete energy, relative to the length.
    """

    length: Tensor
    energy: Tensor
    discrete_length: Tensor
    discrete_energy: Tensor
    speed_spread: Tensor
    negative_fraction: Tensor
    gradient_norm: Tensor

    def as_dict(self) -> dict[str, object]:
        """Plain numbers and lists, for JSON."""
        return {name: value.tolist() for name, value in asdict(self).items()}


@dataclass(frozen=True)
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
    """

    metric: Metric
    nodes: Tensor
    certificate: Certificate
    statuses: tuple[Status, ...]
    cost: calculus.Cost
    iterations: Tensor
    start: tuple[str, ...]

    def __call__(self, s: Tensor | float) -> Tensor:
        """Points of the path: ``s`` a number gives (..., d), (S,) gives (..., S, d)."""
        # between nodes on the boundary of the metric's domain a spline may overshoot it
        return self.metric.confine(Spline(self.nodes)(s))

    def velocity(self, s: Tensor | float) -> Tensor:
        """Derivative of the path by ``s``; shapes as for a call."""
        return Spline(self.nodes).velocity(s)

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
    nodes: int = 64,
    solver=None,  # noqa: ANN001
    init: Tensor | None = None,
    refine: int = 8,
    progress: Progress | None = None,
) -> Geodesic:
    """Path of least energy between two points.

    Args:
        metric: the geometry.
        a: starts (..., d).
        b: ends (..., d), broadcast against ``a``.
        nodes: number n >= 2 of segments; the path has n + 1 points, ends included.
        solver: default ``Relax()``; anything with its ``solve`` method.
        init: a first path (..., k+1, d); default the best of ``metric.starts``.
        refine: the certificate is taken on a grid this many times finer.
        progress: called with a short line after every round of the solver.

    Returns:
        the path, its certificate and its cost.

    Raises:
        ValueError: for points of the wrong dimension, non-finite points, or ``nodes < 2``.

    Cost: one energy gradient per solver round, and ``refine * nodes`` steps for the certificate.
    """
    if nodes < 2:
        raise ValueError(f"nodes must be at least 2, got {nodes}")
    a, b = torch.broadcast_tensors(_checked(metric, a, "a"), _checked(metric, b, "b"))
    batch = a.shape[:-1]
    flat_a, flat_b = a.reshape(-1, metric.dim), b.reshape(-1, metric.dim)
    if init is not None:
        init = init.expand(*batch, *init.shape[-2:]).reshape(-1, *init.shape[-2:])
    with calculus.counting() as cost:
        solution = _solve(solver or Relax(), metric, flat_a, flat_b, nodes, init, progress)
        certificate = _certify(metric, solution, refine)
    statuses = tuple(
        Status.NEGATIVE_STEPS
        if status in (Status.CONVERGED, Status.FIXED_BUDGET) and negative > 0
        else status
        for status, negative in zip(
            solution.statuses, certificate.negative_fraction.tolist(), strict=True
        )
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
    )


def _checked(metric: Metric, x: Tensor, name: str) -> Tensor:
    x = torch.as_tensor(x).detach()
    if x.ndim == 0 or x.shape[-1] != metric.dim:
        raise ValueError(
            f"{name} has shape {tuple(x.shape)}; its last axis must be {metric.dim}, "
            "the dimension of the metric"
        )
    if not bool(torch.isfinite(x).all()):
        raise ValueError(f"{name} holds values that are not finite")
    return x


def _solve(
    solver,
    metric: Metric,
    a: Tensor,
    b: Tensor,
    nodes: int,  # noqa: ANN001
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


def _certify(metric: Metric, solution: Solution, refine: int) -> Certificate:
    x = solution.nodes
    n = x.shape[1] - 1
    s = torch.linspace(0, 1, refine * n + 1, dtype=x.dtype, device=x.device)
    with torch.no_grad():
        # one pair at a time: the fine grid of a whole batch need not fit in memory
        fine = torch.stack([metric.steps(metric.confine(Spline(path)(s))) for path in x])
        coarse = metric.steps(x)
    speed = coarse.clamp(min=0).sqrt()
    spread = speed.std(-1, correction=0) / speed.mean(-1)
    return Certificate(
        length=fine.clamp(min=0).sqrt().sum(-1),
        energy=energy(fine),
        discrete_length=speed.sum(-1),
        discrete_energy=energy(coarse),
        speed_spread=spread.nan_to_num(),
        gradient_norm=solution.gradient_norm,
        negative_fraction=(fine < 0).to(x.dtype).mean(-1),
    )


def distance(metric: Metric, a: Tensor, b: Tensor, **options) -> Tensor:  # noqa: ANN003
    """Refined length of the geodesic between ``a`` and ``b`` (..., d); options of ``geodesic``."""
    return geodesic(metric, a, b, **options).length


def exp(metric: Metric, x: Tensor, v: Tensor, *, rtol: float = 1e-9) -> Tensor:
    """End of the geodesic that leaves ``x`` with velocity ``v`` after unit time.

    Args:
        metric: the geometry; only ``inner`` is used.
        x: points (..., d).
        v: velocities (..., d).
        rtol: tolerance of the integrator (Dormand-Prince on Hamilton's equations).

    Returns:
        end points (..., d).

    Raises:
        ValueError: for points of the wrong dimension or not finite.
        RuntimeError: if the curve stops being finite or the metric is singular on the way.

    Cost: six stages per step; each inverts the metric by conjugate gradients (at most about 2d
    products, unless the metric has a closed-form ``sharp``) and takes one gradient of ``inner``.
    """
    x, v = torch.broadcast_tensors(_checked(metric, x, "x"), _checked(metric, v, "v"))
    d = metric.dim

    def field(_: float, state: Tensor) -> Tensor:
        here, p = state[..., :d], state[..., d:]
        u = metric.sharp(here, p).detach()
        with torch.enable_grad():
            leaf = here.detach().requires_grad_()
            (force,) = torch.autograd.grad(metric.inner(leaf, u, u).sum() / 2, leaf)
        return torch.cat([u, force], -1)

    p = metric.flat(x, v).detach()
    return calculus.rk45(field, torch.cat([x, p], -1), rtol=rtol)[..., :d]


def log(
    metric: Metric,
    x: Tensor,
    y: Tensor,
    *,
    nodes: int = 64,
    tol: float = 1e-8,
    iterations: int = 60,
    solver=None,
) -> Tensor:  # noqa: ANN001
    """Velocity at ``x`` of the geodesic that reaches ``y`` after unit time.

    The boundary-value solution gives the first guess, shooting with Anderson's acceleration
    refines it until ``exp(x, v)`` meets ``y``.

    Args:
        metric: the geometry.
        x: points (..., d).
        y: targets (..., d).
        nodes: segments of the boundary-value path.
        tol: accepted miss, as a metric length at ``y`` relative to the length of the path.
        iterations: limit on shots.
        solver: boundary-value solver.

    Returns:
        velocities (..., d).

    Raises:
        RuntimeError: if the miss stays above ``tol``.
    """
    x, y = torch.broadcast_tensors(_checked(metric, x, "x"), _checked(metric, y, "y"))
    path = geodesic(metric, x, y, nodes=nodes, solver=solver)
    scale = path.length.clamp(min=torch.finfo(x.dtype).tiny)

    def miss(v: Tensor) -> Tensor:
        return y - exp(metric, x, v)

    def small(r: Tensor) -> Tensor:
        return metric.norm(y, r) <= tol * scale

    return _anderson(miss, path.velocity(0.0), small, iterations)


def _anderson(
    residual: Callable[[Tensor], Tensor],
    v: Tensor,
    small: Callable[[Tensor], Tensor],
    iterations: int,
    memory: int = 20,
) -> Tensor:
    """Solve ``residual(v) = 0`` by multisecant iteration from the guess that v and r move alike."""
    r = residual(v)
    dv: list[Tensor] = []
    dr: list[Tensor] = []
    for _ in range(iterations):
        done = small(r)
        if bool(done.all()):
            return v
        step = r
        if dr:
            drs, dvs = torch.stack(dr, -1), torch.stack(dv, -1)
            weights = torch.linalg.lstsq(drs, r.unsqueeze(-1), driver="gelsd").solution
            step = r - ((drs + dvs) @ weights).squeeze(-1)
        step = torch.where(done.unsqueeze(-1), 0.0, step)
        after = residual(v + step)
        dv.append(step)
        dr.append(after - r)
        del dv[:-memory], dr[:-memory]
        v, r = v + step, after
    raise RuntimeError(
        f"shooting did not meet the target in {iterations} shots; the points may be "
        "beyond a cut point: bring them closer or give more nodes"
    )


def _christoffel(metric: Metric, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """``Gamma(u, v)`` at ``x`` from ``inner`` alone; all (..., d)."""

    def flat_at(w: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda p: metric.flat(p, w)

    along_u = _directional(flat_at(v), x, u)
    along_v = along_u if v is u else _directional(flat_at(u), x, v)
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(metric.inner(leaf, u, v).sum(), leaf)
    return metric.sharp(x, (along_u + along_v - slope) / 2)


def _directional(function: Callable[[Tensor], Tensor], x: Tensor, u: Tensor) -> Tensor:
    """Derivative of ``function`` along ``u`` by two reverse passes, which nest with autograd."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        out = function(leaf)
        w = torch.zeros_like(out).requires_grad_()
        (pulled,) = torch.autograd.grad(out, leaf, w, create_graph=True)
        (pushed,) = torch.autograd.grad(pulled, w, u)
    return pushed


def transport(path: Geodesic, v: Tensor, *, rtol: float = 1e-8) -> Tensor:
    """Parallel transport of a vector from the start of a geodesic to its end.

    Args:
        path: the geodesic, (...).
        v: vectors (..., d) at its start.
        rtol: tolerance of the integrator of ``v' = -Gamma(x', v)``.

    Returns:
        vectors (..., d) at its end; their lengths and angles are those of ``v``.
    """
    curve = Spline(path.nodes)

    def field(s: float, w: Tensor) -> Tensor:
        s = min(max(s, 0.0), 1.0)
        return -_christoffel(path.metric, curve(s), curve.velocity(s), w).detach()

    return calculus.rk45(field, v, rtol=rtol)


def mean(
    metric: Metric,
    points: Tensor,
    *,
    weights: Tensor | None = None,
    nodes: int = 16,
    tol: float = 1e-6,
    iterations: int = 50,
    solver=None,
) -> Tensor:  # noqa: ANN001
    """Frechet (Karcher) mean: the point of least weighted sum of squared distances.

    Args:
        metric: the geometry.
        points: (N, d).
        weights: non-negative weights (N,); default equal.
        nodes: segments of the geodesics to the points.
        tol: stop when the step is shorter than ``tol`` times the largest distance.
        iterations: limit on steps.
        solver: boundary-value solver.

    Returns:
        the mean, (d,).

    Raises:
        RuntimeError: if the steps do not shrink below ``tol``.

    Cost: N geodesics (warm-started) and one ``exp`` per step.
    """
    points = _checked(metric, points, "points")
    weights = points.new_ones(len(points)) if weights is None else weights.to(points)
    share = (weights / weights.sum()).unsqueeze(-1)
    here = (share * points).sum(0)
    init = None
    for _ in range(iterations):
        paths = geodesic(metric, here, points, nodes=nodes, solver=solver, init=init, refine=1)
        step = (share * paths.velocity(0.0)).sum(0)
        if float(metric.norm(here, step)) <= tol * float(paths.length.max()):
            return here
        here = exp(metric, here, step)
        init = torch.cat([here.expand(len(points), 1, -1), paths.nodes[:, 1:]], 1)
    raise RuntimeError(
        f"the mean did not settle in {iterations} steps; the points may lie too "
        "far apart for a unique mean"
    )
