r"""The Frechet (Karcher) ``mean`` of points: the point of least weighted sum of squared distances.

With shares w_i that sum to one and f(x) = 1/2 sum w_i d(x, x_i)^2,

    -grad f(x) = v(x) = sum w_i log_x(x_i),       v = 0 at a mean.

The mean is sought by x <- x + t v.  The length t is that of Barzilai and Borwein (1988),
<s, s>/<s, y> with s the last step and y = v_before - v: on negative curvature the Hessian of f
grows with the distances, and t = 1 overshoots.  A step after which f has not fallen is taken back
and shortened; where f no longer changes in its digits, |v| has to fall.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffodesic.geometry.boundary_value import checked, search
from diffodesic.geometry.energy import Solver
from diffodesic.geometry.exponential import velocity_at_start
from diffodesic.geometry.metric import Metric
from diffodesic.geometry.solvers.relax import Relax
from diffodesic.geometry.status import SearchWarning, Status
from diffodesic.numerics import checks

__all__ = ["mean"]

SHORTEST = 1e-3  # of the lengths t: below it no shorter step is tried
LEVEL = 1e-7  # relative change of f that is not to be believed


def mean(
    metric: Metric,
    points: Tensor,
    *,
    weights: Tensor | None = None,
    nodes: int = 32,
    tol: float = 1e-5,
    iterations: int = 100,
    solver: Solver | None = None,
) -> Tensor:
    """Frechet (Karcher) mean: the point of least weighted sum of squared distances.

    It is unique where the curvature is not positive, or the points lie close together; else a
    local minimum is returned.

    Args:
        metric: the geometry.
        points: (..., N, d), N points for every mean.
        weights: non-negative weights (..., N), not all zero for any mean; default equal.
        nodes: segments n of the geodesics to the points.  The mean is that of distances along
            polylines: it lies off the true one by order ``n^-2``, whatever ``tol`` is.  For points
            .7, 2.1 and 4.6 apart on the half-plane the true ``|sum w_i log_x(x_i)|`` is 2e-5, 2e-4
            and 8e-4 of the largest distance at n = 32; doubling n quarters it.
        tol: a mean x is found when ``|sum w_i log_x(x_i)| <= tol * max_i d(x, x_i)``, with weights
            that sum to one and the logarithms of the polylines.
        iterations: limit on steps.
        solver: boundary-value solver; default ``Relax(rtol=tol**2 / 100)``, since logarithms are
            known to about the square root of the energy's tolerance; in float32 ``rtol`` is at
            least 1.2e-8, a tenth of a machine epsilon.

    Returns:
        the means, (..., d).

    Raises:
        TypeError: for complex numbers.
        ValueError: for points that are not (..., N, d) or finite, weights that do not fit, a
            tolerance that is not positive, or no iterations.
        RuntimeError: if a mean is not found in the limit, or steps no longer bring it closer.

    Warns:
        SearchWarning: where the search for a geodesic to the mean did not end well.

    Cost: N geodesics per step and mean, the first from nothing, all others from the last ones;
    about ten steps. All that are not found yet are searched as one batch.
    """
    points, shares = _points_and_shares(metric, points, weights)
    tol, iterations = checks.number(tol, "tol"), checks.whole(iterations, "iterations", 1)
    if not tol > 0:
        raise ValueError(f"tol must be positive, got {tol:g}")
    batch, N = points.shape[:-2], points.shape[-2]
    points, shares = points.reshape(-1, N, metric.dim), shares.reshape(-1, N)
    rtol = max(tol**2 / 100, torch.finfo(points.dtype).eps / 10)
    karcher = _Karcher(metric, nodes, solver or Relax(rtol=rtol))
    now = karcher.look((shares.unsqueeze(-1) * points).sum(1), points, shares, None)
    length = torch.ones_like(now.objective)
    known = max(LEVEL, metric.energy().tolerance)
    for _ in range(iterations):
        left = ~(now.miss <= tol) & (length >= SHORTEST)
        if not bool(left.any()):
            break
        old = now.take(left)
        to = karcher.move(old, length[left])
        new = karcher.look(to, points[left], shares[left], old)
        # v is the gradient of a slightly other energy, for some; near the mean |v| tells more
        level = (new.objective <= (1 + known) * old.objective) & (new.size < old.size)
        better = (new.objective < (1 - known) * old.objective) | level
        length[left] = torch.where(better, karcher.next_length(old, new), length[left] / 4)
        now.put(torch.nonzero(left).flatten()[better], new.take(better))
    _judge(now, tol)
    return now.here.reshape(*batch, metric.dim)


def _points_and_shares(
    metric: Metric, points: Tensor, weights: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Checked points (..., N, d) and weights (..., N) that sum to one."""
    points = checked(metric, points, "points")
    if points.ndim < 2:
        raise ValueError(f"points has shape {tuple(points.shape)}; it must be (..., N, d)")
    weights = points.new_ones(points.shape[:-1]) if weights is None else weights
    weights = checks.finite(checks.floating(weights, "weights"), "weights").detach()
    try:
        weights = weights.to(points).expand(points.shape[:-1])
    except RuntimeError as error:
        raise ValueError(
            f"weights has shape {tuple(weights.shape)}; it must be {tuple(points.shape[:-1])}, "
            "one weight per point"
        ) from error
    total = weights.sum(-1, keepdim=True)
    if not bool((weights >= 0).all() & (total > 0).all()):
        raise ValueError("weights must be non-negative and not all zero")
    return points, weights / total


@dataclass
class _Look:
    """What is seen from B points: the geodesics to the N points of each, and what follows.

    Attributes:
        here: (B, d).
        paths: nodes (B, N, n+1, d) from ``here``.
        step: ``v``, (B, d).
        size: its length, (B,).
        objective: ``f``, (B,).
        farthest: the largest distance, (B,).
        ended: index of the worst status among the N searches, (B,).
    """

    here: Tensor
    paths: Tensor
    step: Tensor
    size: Tensor
    objective: Tensor
    farthest: Tensor
    ended: Tensor

    @property
    def miss(self) -> Tensor:
        """Length of the step relative to the largest distance; 0 where all points are one."""
        return torch.where(self.farthest > 0, self.size / self.farthest, self.size)

    def take(self, which: Tensor) -> _Look:
        return _Look(**{name: value[which] for name, value in vars(self).items()})

    def put(self, at: Tensor, other: _Look) -> None:
        for name, value in vars(other).items():
            getattr(self, name)[at] = value


@dataclass(frozen=True)
class _Karcher:
    """How points are looked at, moved, and how far the next step goes."""

    metric: Metric
    nodes: int
    solver: Solver

    def look(self, here: Tensor, points: Tensor, shares: Tensor, last: _Look | None) -> _Look:
        """Search from ``here`` (B, d) to ``points`` (B, N, d), from the last paths if there are."""
        solver, init = self.solver, None
        if last is not None:  # the last paths, their start carried along
            fade = torch.linspace(1, 0, last.paths.shape[-2], dtype=here.dtype, device=here.device)
            init = last.paths + fade[:, None] * (here - last.here)[:, None, None]
            init = self.metric.energy().confine(init)
            if isinstance(solver, Relax):  # the first search looked around
                solver = replace(solver, explore=False)
        found = search(
            self.metric,
            here[:, None],
            points,
            nodes=self.nodes,
            solver=solver,
            init=init,
            refine=1,
        )
        if last is None:  # once is enough; the status of the last search is judged at the end
            found.warn(status=False, stacklevel=4)
        step = (shares[..., None] * velocity_at_start(found)).sum(1)
        rank = {status: i for i, status in enumerate(Status)}
        ended = torch.tensor([rank[s] for s in found.statuses]).reshape(points.shape[:2])
        return _Look(
            here,
            found.nodes,
            step,
            self.metric.norm(here, step),
            (shares * found.energy).sum(1),
            (2 * found.energy).sqrt().amax(1),
            ended.amax(1).to(here.device),
        )

    def move(self, now: _Look, length: Tensor) -> Tensor:
        """Points ``here + t v``, the step halved while its line is far longer than t |v|.

        So a step does not leave the domain of the metric, nor end where t v says little.

        Returns:
            (B, d).
        """
        s = torch.linspace(0, 1, 9, dtype=length.dtype, device=length.device).unsqueeze(-1)
        for _ in range(20):
            line = now.here[:, None] + s * (length[:, None] * now.step)[:, None]
            measured = self.metric.squared_steps(line).detach().sqrt().sum(-1)
            long = ~(measured <= 2 * length * now.size)
            if not bool(long.any()):
                break
            length = torch.where(long, length / 2, length)
        return self.metric.energy().confine(line[:, -1])

    def next_length(self, old: _Look, new: _Look) -> Tensor:
        """Barzilai and Borwein's length of the next step, (B,), between 1/10 and 2."""
        s, y = new.here - old.here, old.step - new.step
        along = self.metric.inner(new.here, s, y)
        found = self.metric.inner(new.here, s, s) / along
        return torch.where(along > 0, found, 1.0).nan_to_num(1.0).clamp(0.1, 2.0)


def _judge(now: _Look, tol: float) -> None:
    missed = ~(now.miss <= tol)
    if bool(missed.any()):
        worst = float(now.miss.nan_to_num(torch.inf).max())
        raise RuntimeError(
            f"{int(missed.sum())} of {len(missed)} means did not settle: the step is still "
            f"{worst:.1e} of the largest distance, and tol is {tol:.1e}. Loosen tol, raise nodes "
            "or iterations, or bring the points closer, where the mean is unique"
        )
    status = list(Status)[int(now.ended.max())]
    if not status.ok:
        warnings.warn(status.value, SearchWarning, stacklevel=3)
