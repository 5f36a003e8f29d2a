"""Boundary-value verbs: ``geodesic`` and ``distance``.

A solver sees only the energy of a path (:mod:`diffodesic.geometry.energy`).  Its discrete path is
judged on a finer grid, along the smooth curve through the nodes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from diffodesic.geometry.certify import certify, judged
from diffodesic.geometry.closer import look_closer
from diffodesic.geometry.energy import Problem, Progress, Solution, Solver, even_knots
from diffodesic.geometry.metric import Metric
from diffodesic.geometry.metric_trial import check_dimension, try_metric
from diffodesic.geometry.path import Certificate, Geodesic
from diffodesic.geometry.solvers.lagrangian import AugmentedLagrangian
from diffodesic.geometry.solvers.redraw import Redraw
from diffodesic.geometry.solvers.relax import Relax
from diffodesic.geometry.status import Status
from diffodesic.numerics import checks
from diffodesic.numerics.cost import counting, stage

__all__ = ["UntilSettled", "checked", "distance", "geodesic", "search"]

FAR = 0.1  # share of its size by which a first path may miss the ends, which are put in their place


@dataclass(frozen=True)
class UntilSettled:
    """Double the number of segments until the refined length of every pair settles.

    Attributes:
        rtol: relative change of the refined length at which it has settled.
        first: number of segments to begin with.
        most: number of segments at which doubling ends, with status TOO_COARSE.
    """

    rtol: float = 1e-3
    first: int = 16
    most: int = 1024


def geodesic(
    metric: Metric,
    a: Tensor,
    b: Tensor,
    *,
    nodes: int | UntilSettled | None = 64,
    solver: Solver | None = None,
    init: Tensor | None = None,
    refine: int = 8,
    progress: Progress | None = None,
) -> Geodesic:
    """Path of least energy between two points.

    Args:
        metric: the geometry.
        a: starts (..., d).
        b: ends (..., d), broadcast against ``a``.
        nodes: number n >= 2 of segments; the path has n + 1 points, ends included. None:
            ``UntilSettled()``, doubled from 16 until the refined length moves by less than 1e-3.
        solver: anything with the method of :class:`Solver`; default that of the metric's energy,
            or ``Relax()``.
        init: a first path (..., k+1, d); default the best of the energy's own starts.
        refine: the certificate is taken on a grid this many times finer; with 1 it is that of the
            nodes, and no independent estimate is paid for.
        progress: called after every round with a short line and the paths (B, k+1, d).

    Returns:
        the path, its certificate and its cost.

    Raises:
        TypeError: for complex numbers, what is no metric or solver, or a metric of one's own whose
            products are of another type or cannot be differentiated.
        ValueError: for points of the wrong dimension, non-finite points, an ``init`` of another
            shape or between other points, ``nodes < 2`` or ``refine < 1``; for a metric of one's
            own whose products have another shape or depend on the batch.

    Warns:
        SearchWarning: with the status sentence, where the search of a pair did not end well.
        RuntimeWarning: for a network whose derivatives or levels make lengths wrong.

    Cost: one energy gradient per solver round, and ``refine * nodes`` squared lengths for the
    certificate; in the spacetime of a network ``39 nodes`` evaluations for a sample of the judged
    length, and more samples (8 at most) until its standard error is below 1 %. A path that hides
    length between its nodes, or is longer than a start, is searched again on at most ``16 nodes``
    points (at most 100 gradients for each of three searches).  A metric of one's own is tried by
    six inner products.
    """
    path = search(
        metric, a, b, nodes=nodes, solver=solver, init=init, refine=refine, progress=progress
    )
    path.warn()
    return path


def distance(
    metric: Metric,
    a: Tensor,
    b: Tensor,
    *,
    nodes: int | UntilSettled | None = 64,
    solver: Solver | None = None,
    init: Tensor | None = None,
    refine: int = 8,
    progress: Progress | None = None,
) -> Tensor:
    """Length (...) of the geodesic; arguments, errors and warnings: :func:`geodesic`."""
    path = search(
        metric, a, b, nodes=nodes, solver=solver, init=init, refine=refine, progress=progress
    )
    path.warn()
    return path.length


def search(
    metric: Metric,
    a: Tensor,
    b: Tensor,
    *,
    nodes: int | UntilSettled | None = 64,
    solver: Solver | None = None,
    init: Tensor | None = None,
    refine: int = 8,
    progress: Progress | None = None,
) -> Geodesic:
    """:func:`geodesic` without the warning, for verbs that tell the status themselves."""
    checks.of_kind(metric, "metric", Metric)
    refine = checks.whole(refine, "refine", 1)
    if solver is not None and not hasattr(solver, "solve"):
        raise TypeError(f"solver must have a method solve, such as Relax(), got {solver!r}")
    if nodes is None or isinstance(nodes, UntilSettled):
        at = partial(search, metric, a, b, solver=solver, refine=refine, progress=progress)
        return _until_settled(at, init, nodes or UntilSettled())
    nodes = checks.whole(nodes, "nodes", 2)
    a, b = checked(metric, a, "a"), checked(metric, b, "b")
    a, b = checks.pair(a, b)
    batch = a.shape[:-1]
    flat_a, flat_b = a.reshape(-1, metric.dim), b.reshape(-1, metric.dim)
    try_metric(metric, torch.stack([flat_a[0], flat_b[-1]]))
    if init is not None:
        init = _first_paths(metric, init, flat_a, flat_b, batch)
    with counting() as cost:
        with stage("starts"):
            energy = metric.energy().settled(flat_a, flat_b)
        solver = solver or energy.default_solver or Relax()
        problem = Problem(energy, flat_a, flat_b, nodes, init, progress)
        with stage("searching"):
            solution = _solve(solver, problem)
        with stage("judging"):
            found = certify(energy, solution, refine)
        # a constraint may cost length, and a judge compares with the start itself
        if not isinstance(solver, AugmentedLagrangian | Redraw):
            with stage("searching"):
                found = look_closer(problem, found, solver, refine)
        if refine > 1:
            with stage("judging"):
                found = judged(energy, found, solution)
    solution, rated = found.solution, vars(found.certificate)
    return Geodesic(
        metric,
        energy,
        solution.nodes.reshape(*batch, nodes + 1, metric.dim),
        solution.parameters.reshape(*batch, nodes + 1),
        Certificate(**{name: value.reshape(batch) for name, value in rated.items()}),
        tuple(solution.statuses),
        cost,
        solution.iterations.reshape(batch),
        tuple(solution.start),
        found.smooth.reshape(batch),
        energy.doubts(),
    )


def _first_paths(metric: Metric, init: Tensor, a: Tensor, b: Tensor, batch: torch.Size) -> Tensor:
    """Checked first paths (..., k+1, d) as (B, k+1, d), from ``a`` to ``b`` (B, d)."""
    init = checks.points(init, "init", metric.dim, "the dimension of the metric")
    if init.ndim < 2 or init.shape[-2] < 2:
        raise ValueError(
            f"init has shape {tuple(init.shape)}; it must be (..., k+1, {metric.dim}) with k >= 1"
        )
    try:
        init = init.expand(*batch, *init.shape[-2:]).reshape(-1, *init.shape[-2:]).to(a)
    except RuntimeError as error:
        raise ValueError(
            f"init has shape {tuple(init.shape)}; it must be one path, or one for each pair of "
            f"ends: {(*batch, *init.shape[-2:])}"
        ) from error
    size = (init - init[:, :1]).norm(dim=-1).amax(-1)
    if bool(((init[:, [0, -1]] - torch.stack([a, b], 1)).norm(dim=-1).amax(-1) > FAR * size).any()):
        raise ValueError(
            "init does not join the ends: its first node must be a and its last b; turn a path "
            "from b to a round by init.flip(-2)"
        )
    return torch.cat([a[:, None], init[:, 1:-1], b[:, None]], 1)


def _until_settled(
    at: Callable[..., Geodesic], init: Tensor | None, rule: UntilSettled
) -> Geodesic:
    """Double the number of segments until the refined lengths settle."""
    with counting() as cost:
        path = at(nodes=rule.first, init=init)
        settled = torch.zeros_like(path.length, dtype=torch.bool)
        start, iterations = path.start, path.iterations
        while not bool(settled.all()) and path.nodes.shape[-2] - 1 < rule.most:
            before, nodes = path, 2 * (path.nodes.shape[-2] - 1)
            # a search on few nodes of its own begins as before: the path would only lose by them
            again = init if path.objective.fitted else path.nodes
            path = at(nodes=nodes, init=again)
            iterations = iterations + path.iterations
            # a judged length is known to its error. NaN counts as settled, so that one bad pair
            # does not keep the loop running
            unsure = sum(one.certificate.judged_error.nan_to_num() for one in (before, path))
            change = (path.length - before.length).abs()
            settled = ~(change > rule.rtol * path.length + unsure)
    statuses = tuple(
        status if done or status is not Status.CONVERGED else Status.TOO_COARSE
        for status, done in zip(path.statuses, settled.flatten().tolist(), strict=True)
    )
    return replace(path, cost=cost, statuses=statuses, start=start, iterations=iterations)


def checked(metric: Metric, x: Tensor, name: str) -> Tensor:
    """Points (..., d) of a metric, floating point and detached.

    Args:
        metric: the geometry.
        x: the points.
        name: of the argument, for the message.

    Returns:
        the points.

    Raises:
        TypeError: for complex numbers, what is no metric, or one without a dimension.
        ValueError: for another dimension, no points, values that are not finite or out of bounds.
    """
    checks.of_kind(metric, "metric", Metric)
    check_dimension(metric)
    x = checks.points(x, name, metric.dim, "the dimension of the metric")
    if not torch.equal(metric.energy().confine(x), x):
        raise ValueError(f"{name} holds points outside the range of the metric")
    return x


def _solve(solver: Solver, problem: Problem) -> Solution:
    """Solve the pairs that differ; a pair of equal points is its own path."""
    a, b, init = problem.a, problem.b, problem.init
    same = (a == b).all(-1)
    moving = ~same
    x = a[:, None].expand(-1, problem.nodes + 1, -1).clone()
    norm, iterations = a.new_zeros(len(a)), torch.zeros(len(a), dtype=torch.long)
    statuses, start = [Status.SAME_POINT] * len(a), ["chord"] * len(a)
    length, knots = torch.full_like(norm, torch.nan), None
    if bool(moving.any()):
        init = None if init is None else init[moving]
        found = solver.solve(replace(problem, a=a[moving], b=b[moving], init=init))
        x[moving], norm[moving] = found.nodes, found.gradient_norm
        iterations[moving.cpu()] = found.iterations
        if found.length is not None:
            length[moving] = found.length
        if found.knots is not None:
            knots = even_knots(x).clone()
            knots[moving] = found.knots
        for i, home in enumerate(torch.nonzero(moving).flatten().tolist()):
            statuses[home], start[home] = found.statuses[i], found.start[i]
    return Solution(x, norm, statuses, iterations, start, length, knots)
