r"""Initial-value verbs: ``exp`` and ``log``, parallel ``transport``, and the ``mean`` of points.

They see only ``metric.inner``.  With momentum p = g(x) x',

    x' = g(x)^-1 p,     p' = 1/2 d/dx g(x)(u, u) at u = x' held fixed            (Hamilton)
    g Gamma(u, v) = 1/2 [ d_u (g v) + d_v (g u) - d/dx g(u, v) ]                 (Koszul)
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from diffodesic.geometry.boundary_value import checked, search
from diffodesic.geometry.energy import Solver
from diffodesic.geometry.metric import DENSE, Metric
from diffodesic.geometry.metric_trial import try_metric
from diffodesic.geometry.path import Geodesic
from diffodesic.numerics import checks
from diffodesic.numerics.ode import rk45

__all__ = ["christoffel", "exp", "log", "slope", "transport"]

ROUNDINGS = 10  # machine epsilons: the least tolerance that an integration keeps
MARGIN = 10  # between the tolerances of a target that is shot at and of the integration


def exp(metric: Metric, x: Tensor, v: Tensor, *, rtol: float | None = None) -> Tensor:
    """End of the geodesic that leaves ``x`` with velocity ``v`` after unit time.

    Args:
        metric: the geometry; only ``inner`` is used.
        x: points (..., d).
        v: velocities (..., d).
        rtol: tolerance of the integrator (Dormand-Prince on Hamilton's equations), at least ten
            machine epsilons of the points; default 1e-9, in float32 1.2e-6.

    Returns:
        end points (..., d).

    Raises:
        TypeError: for complex numbers.
        ValueError: for points of the wrong dimension or not finite, a tolerance outside (0, 1), or
            one below the rounding of the points.
        RuntimeError: if the curve stops being finite or the metric is singular on the way.

    Cost: six stages per step; each takes one gradient of ``inner`` and one ``sharp``: d products
    with the metric at once where d is at most 32, else at most about 2d by conjugate gradients,
    and less where the metric has a closed form.  A metric of one's own is tried by six products.
    """
    x = checked(metric, x, "x")
    v = checks.points(v, "v", metric.dim, "the dimension of the metric")
    x, v = checks.pair(x, v, ("x", "v"))
    try_metric(metric, x.reshape(-1, metric.dim)[[0, -1]])
    rtol = _tolerance(rtol, "rtol", x, 1e-9)
    d = metric.dim

    def field(_: float, state: Tensor) -> Tensor:
        here, p = state[..., :d], state[..., d:]
        u = metric.sharp(here, p).detach()
        return torch.cat([u, slope(metric, here, u, u) / 2], -1)

    p = metric.flat(x, v).detach()
    return rk45(field, torch.cat([x, p], -1), rtol=rtol)[..., :d]


def _least(x: Tensor) -> float:
    """The least tolerance that an integration of numbers like ``x`` keeps."""
    return ROUNDINGS * torch.finfo(x.dtype).eps


def _tolerance(value: float | None, name: str, x: Tensor, default: float) -> float:
    """A tolerance that is kept by numbers like ``x``; for None ``default``, or their least."""
    least = _least(x)
    if value is None:
        return max(default, least)
    value = checks.number(value, name)
    if not 0 < value < 1:
        raise ValueError(f"{name} must be between 0 and 1, got {value:g}")
    if value < least:
        raise ValueError(
            f"{name} must be at least {least:.1e}, ten machine epsilons of {x.dtype}, got {value:g}"
        )
    return value


def log(
    metric: Metric,
    x: Tensor,
    y: Tensor,
    *,
    nodes: int = 64,
    tol: float | None = None,
    iterations: int = 60,
    solver: Solver | None = None,
) -> Tensor:
    """Velocity at ``x`` of the geodesic that reaches ``y`` after unit time.

    The boundary-value solution gives the first guess; shooting refines it until ``exp(x, v)``
    meets ``y``, by Newton's method where d is at most 32, and by Anderson's acceleration.

    Args:
        metric: the geometry.
        x: points (..., d).
        y: targets (..., d).
        nodes: segments of the boundary-value path.
        tol: accepted miss, as a metric length at ``y`` relative to the length of the path, at least
            ten machine epsilons of the points; default 1e-8, in float32 1.2e-5.
        iterations: limit on shots.
        solver: boundary-value solver.

    Returns:
        velocities (..., d).

    Raises:
        TypeError: for complex numbers.
        ValueError: for points of the wrong dimension or not finite, a tolerance outside (0, 1) or
            below the rounding of the points, points too near for it, or no iterations.
        RuntimeError: if the miss stays above ``tol``.

    Cost: one geodesic, and one ``exp`` per shot, three to five where d is at most 32; there also
    d + 1 of them at once, of looser tolerance.
    """
    x, y = checks.pair(checked(metric, x, "x"), checked(metric, y, "y"), ("x", "y"))
    tol = _tolerance(tol, "tol", x, max(1e-8, MARGIN * _least(x)))
    iterations = checks.whole(iterations, "iterations", 1)
    path = search(metric, x, y, nodes=nodes, solver=solver, refine=1)
    path.warn(status=False)  # what counts is the miss
    scale = path.length.clamp(min=torch.finfo(x.dtype).tiny)
    rounding = torch.finfo(x.dtype).eps * metric.norm(y, y)
    if bool(((x != y).any(-1) & (rounding > tol * scale)).any()):
        raise ValueError(
            f"the digits of y in {y.dtype} do not tell tol={tol:.1e} of its distance from x: give "
            "points of more digits, or a larger tol"
        )
    rtol = max(tol / MARGIN, _least(x))

    def miss(v: Tensor) -> Tensor:
        return y - exp(metric, x, v, rtol=rtol)

    def small(r: Tensor) -> Tensor:
        return metric.norm(y, r) <= tol * scale

    guess = path.velocity(0.0)
    changes = _changes(metric, x, guess) if metric.dim <= DENSE else []
    return _multisecant(miss, guess, small, iterations, changes)


def _changes(metric: Metric, x: Tensor, v: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Small changes of ``v`` along every coordinate and those of the miss, in one batch of shots.

    Each is a thousandth of ``v`` in metric length; the integrator's error is hardly in their
    differences, since all take the same steps.

    Returns:
        d pairs (dv, dr), (..., d) each.
    """
    basis = torch.eye(metric.dim, dtype=v.dtype, device=v.device).expand(*v.shape, metric.dim)
    at = x.unsqueeze(-2).expand(basis.shape)
    size = 1e-3 * metric.norm(x, v).unsqueeze(-1) / metric.norm(at, basis)
    nudges = torch.cat([torch.zeros_like(at[..., :1, :]), size.unsqueeze(-1) * basis], -2)
    ends = exp(metric, x.unsqueeze(-2), v.unsqueeze(-2) + nudges, rtol=max(1e-6, _least(x)))
    dv, dr = nudges[..., 1:, :], ends[..., :1, :] - ends[..., 1:, :]
    return list(zip(dv.unbind(-2), dr.unbind(-2), strict=True))


def velocity_at_start(path: Geodesic) -> Tensor:
    """Velocity of a shortest path at its start, from the gradient of its energy by that end.

    The energy E of a shortest path is half the squared distance, so ``-g^-1 dE/dx`` by its start
    is the logarithm. Unlike the velocity of the curve through the nodes it is the gradient of the
    very numbers E, and varies as smoothly as they do.

    Args:
        path: the solved path, (...).

    Returns:
        velocities (..., d).

    Cost: one gradient of the energy of the first segment, and one ``sharp``.
    """
    first = path.nodes[..., :2, :]
    momentum = -path.objective.evaluate(first).slope[..., 0, :] / path.knots[..., 1:2]
    return path.metric.sharp(first[..., 0, :], momentum).detach()


def _multisecant(
    residual: Callable[[Tensor], Tensor],
    v: Tensor,
    small: Callable[[Tensor], Tensor],
    iterations: int,
    changes: list[tuple[Tensor, Tensor]],
    memory: int = 20,
) -> Tensor:
    """Solve ``residual(v) = 0`` by Anderson's iteration.

    The known ``changes`` (dv, dr) are fitted by least squares; what they do not span is changed as
    if v and r moved alike. With d of them the first step is Newton's.

    Returns:
        v, (..., d).

    Raises:
        RuntimeError: where the residual is not small after ``iterations`` steps.
    """
    r = residual(v)
    memory = max(memory, 2 * len(changes))
    for _ in range(iterations + 1):
        done = small(r)
        if bool(done.all()):
            return v
        step = r
        if changes:
            dvs, drs = (torch.stack(each, -1) for each in zip(*changes, strict=True))
            # gelsd copes with dependent columns, and exists on the CPU only
            found = torch.linalg.lstsq(drs.cpu(), r.unsqueeze(-1).cpu(), driver="gelsd")
            weights = found.solution.to(r)
            step = r - ((drs + dvs) @ weights).squeeze(-1)
        step = torch.where(done.unsqueeze(-1), 0.0, step)
        after = residual(v + step)
        changes = [*changes, (step, after - r)][-memory:]
        v, r = v + step, after
    raise RuntimeError(
        f"shooting did not meet the target in {iterations} shots; the points may be "
        "beyond a cut point: bring them closer or give more nodes"
    )


def christoffel(metric: Metric, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """``Gamma(u, v)`` at ``x`` from ``inner`` alone; all (..., d)."""

    def flat_at(w: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda p: metric.flat(p, w)

    along_u = _directional(flat_at(v), x, u)
    along_v = along_u if v is u else _directional(flat_at(u), x, v)
    return metric.sharp(x, (along_u + along_v - slope(metric, x, u, v)) / 2)


def slope(metric: Metric, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Gradient by ``x`` of ``<u, v>`` at fixed components; (..., d)."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        value = metric.inner(leaf, u, v)
        if not value.requires_grad:  # a flat metric does not see its point
            return torch.zeros_like(x)
        (found,) = torch.autograd.grad(value.sum(), leaf)
    return found


def _directional(function: Callable[[Tensor], Tensor], x: Tensor, u: Tensor) -> Tensor:
    """Derivative of ``function`` along ``u`` by two reverse passes, which nest with autograd."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        out = function(leaf)
        if not out.requires_grad:
            return torch.zeros_like(out)
        w = torch.zeros_like(out).requires_grad_()
        (pulled,) = torch.autograd.grad(out, leaf, w, create_graph=True)
        (pushed,) = torch.autograd.grad(pulled, w, u)
    return pushed


def transport(path: Geodesic, v: Tensor, *, rtol: float | None = None) -> Tensor:
    """Parallel transport of a vector from the start of a geodesic to its end.

    Args:
        path: the geodesic, (...).
        v: vectors (..., d) at its start.
        rtol: tolerance of the integrator of ``v' = -Gamma(x', v)``, at least ten machine epsilons
            of ``v``; default 1e-8, in float32 1.2e-6.

    Returns:
        vectors (..., d) at its end; their lengths and angles are those of ``v``.

    Raises:
        TypeError: for complex numbers.
        ValueError: for vectors of another dimension, none, or not finite, a tolerance outside
            (0, 1), or one below the rounding of ``v``.
    """
    v = checks.points(v, "v", path.metric.dim, "the dimension of the metric")
    rtol = _tolerance(rtol, "rtol", v, 1e-8)
    curve = path.curve

    def field(s: float, w: Tensor) -> Tensor:
        s = min(max(s, 0.0), 1.0)
        return -christoffel(path.metric, curve(s), curve.velocity(s), w).detach()

    return rk45(field, v, rtol=rtol)
