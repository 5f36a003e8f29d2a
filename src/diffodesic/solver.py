r"""Boundary-value solvers: paths of least energy between fixed ends, batched over pairs.

The unknowns are the inner nodes x_1 .. x_{n-1}; the objective is E(x) = n/2 sum steps(x).
For a constant metric w the Hessian is n T_w with T_w the path Laplacian (tridiagonal), so

    H0 = (n T_w)^-1,     w = the metric's cheap typical size (``Metric.weights``),

is a preconditioner that makes the number of iterations independent of n.  :class:`Relax` runs
limited-memory BFGS (Nocedal & Wright, Alg. 7.4) with H0 on a few nodes first, then on more,
respacing the nodes at constant speed between levels.  Every pair has its own step, history and
end; finished pairs leave the batch.  :class:`AdamSpline` is the recipe of 2505.17517: Adam on the
coefficients of one cubic spline, for comparison.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

import torch
from torch import Tensor

from diffodesic import calculus
from diffodesic.curve import Spline, constant_speed, spline_basis
from diffodesic.metric import Metric

__all__ = ["AdamSpline", "Relax", "Solution", "Status", "energy"]

Progress = Callable[[str], None]
Map = Callable[[Tensor], Tensor]


class Status(Enum):
    """How a solve ended; the value is a sentence with advice, worst last."""

    CONVERGED = "converged"
    SAME_POINT = "the end points are identical: the path has length zero"
    FIXED_BUDGET = "the solver ran its fixed number of steps; it does not test convergence"
    ITERATION_LIMIT = (
        "stopped at the iteration limit before the tolerance was met; "
        "raise `iterations` or loosen `rtol`"
    )
    STALLED = (
        "no further descent was found although the tolerance is not met; the energy is "
        "probably at its rounding or estimator noise: use float64, more probes, or a "
        "looser `rtol`"
    )
    LEFT_DOMAIN = (
        "the path presses against the limit of the noise range: the minimiser may lie "
        "outside; widen `log_snr_range` if the model knows more noise, or move the "
        "ends closer"
    )
    NEGATIVE_STEPS = (
        "some squared lengths are negative: the denoiser is not a posterior mean "
        "along this path (guided, or badly trained); do not trust the length"
    )
    NON_FINITE = (
        "the metric is not finite at the first path; check the end points and that the "
        "denoiser returns finite values there"
    )


@dataclass(frozen=True)
class Solution:
    """What a solver returns: nodes and how it ended, one entry per pair.

    Attributes:
        nodes: (B, n+1, d).
        gradient_norm: preconditioned gradient ``sqrt(g.H0 g / 2E)``, relative to the length, (B,).
        statuses: one per pair.
        iterations: accepted steps per pair, (B,).
        start: name of the first path chosen for each pair.
    """

    nodes: Tensor
    gradient_norm: Tensor
    statuses: list[Status]
    iterations: Tensor
    start: list[str]


def energy(steps: Tensor) -> Tensor:
    """Discrete energy ``n/2 sum steps``, (..., n) -> (...)."""
    return steps.shape[-1] / 2 * steps.sum(-1)


def _evaluate(metric: Metric, x: Tensor) -> tuple[Tensor, Tensor]:
    """Steps (B, n) and the gradient of the energy with fixed ends (B, n+1, d)."""
    calculus.record(node_gradients=x.shape[0] * x.shape[1])
    steps, grad = metric.steps_and_grad(x)
    grad = grad * steps.shape[-1] / 2
    grad[:, 0] = grad[:, -1] = 0
    return steps, grad


@dataclass(frozen=True)
class Relax:
    """Preconditioned L-BFGS on nodes, coarse to fine; the default solver.

    Args:
        rtol: stop when the predicted decrease of the energy is below this share of it.
        iterations: limit on energy gradients per level and pair.
        memory: correction pairs kept.
        coarsest: number of segments of the first level.
        refine: growth of the number of segments from level to level, at most.
        coarse_rtol: tolerance of all levels but the last.
    """

    rtol: float = 1e-6
    iterations: int = 500
    memory: int = 12
    coarsest: int = 10
    refine: float = 2.6
    coarse_rtol: float = 1e-3

    def levels(self, nodes: int) -> list[int]:
        """Numbers of segments, coarse to fine, ending at ``nodes``."""
        found = [nodes]
        while found[0] > self.coarsest:
            found.insert(0, max(self.coarsest, round(found[0] / self.refine)))
        return found

    def solve(
        self,
        metric: Metric,
        a: Tensor,
        b: Tensor,
        nodes: int,
        *,
        init: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Solution:
        """Minimise the energy between ``a`` and ``b`` (B, d).

        Args:
            metric: the geometry.
            a: starts (B, d).
            b: ends (B, d).
            nodes: number n of segments of the result.
            init: a first path (B, k+1, d) for any k; default the best of ``metric.starts``.
            progress: called with a short line after every round.

        Returns:
            the solution on n + 1 nodes.

        Cost: one energy gradient per round and active pair.
        """
        levels = self.levels(nodes)
        if init is None:
            x, names = _best_start(metric, a, b, levels[0])
        else:
            x, names = _respace(metric, init, levels[0]), ["given"] * len(a)
        total = torch.zeros(len(a), dtype=torch.long)
        for level in levels:
            x = x if x.shape[1] == level + 1 else _respace(metric, x, level)
            descent = _Descent(self, metric, x, last=level == nodes)
            while descent.active.numel():
                descent.round()
                if progress:
                    progress(descent.line())
            x, total = descent.result, total + descent.iterations
        return Solution(x, descent.gradient_norm, descent.statuses, total, names)


def _best_start(metric: Metric, a: Tensor, b: Tensor, nodes: int) -> tuple[Tensor, list[str]]:
    """The candidate start of least energy for every pair, at constant speed."""
    starts = metric.starts(a, b, nodes)
    if len(starts) == 1:
        ((name, path),) = starts.items()
        return path, [name] * len(a)
    paths = torch.stack([_respace(metric, path, nodes) for path in starts.values()])
    calculus.record(node_gradients=paths.shape[0] * paths.shape[1] * paths.shape[2] / 3)
    with torch.no_grad():
        energies = energy(metric.steps(paths))
    best = energies.nan_to_num(nan=torch.inf).argmin(0)
    chosen = paths[best, torch.arange(len(a), device=a.device)]
    return chosen, [list(starts)[i] for i in best.tolist()]


def _respace(metric: Metric, x: Tensor, nodes: int) -> Tensor:
    """Move to ``nodes`` segments of equal length along the spline through ``x``."""
    calculus.record(node_gradients=x[..., 0].numel() / 3)
    with torch.no_grad():
        # negative steps are counted and reported where they are judged, not here
        lengths = metric.steps(x).abs().nan_to_num().sqrt()
    path = constant_speed(Spline(x), lengths, nodes)
    return torch.cat([path[:, :1], metric.confine(path[:, 1:-1]), path[:, -1:]], 1)


@dataclass
class _History:
    """Limited-memory BFGS pairs of a batch, newest last: (M, B, n+1, d) and (M, B)."""

    s: list[Tensor] = field(default_factory=list)
    y: list[Tensor] = field(default_factory=list)
    rho: list[Tensor] = field(default_factory=list)

    def push(self, s: Tensor, y: Tensor, keep: Tensor, memory: int) -> None:
        """Add one pair of differences; entries outside ``keep`` add nothing."""
        sy = _dot(s, y)
        good = keep & (sy > 1e-12 * (_dot(s, s) * _dot(y, y)).sqrt())
        self.s.append(s)
        self.y.append(y)
        self.rho.append(torch.where(good, 1 / torch.where(good, sy, 1.0), 0.0))
        del self.s[:-memory], self.y[:-memory], self.rho[:-memory]

    def forget(self, which: Tensor) -> None:
        self.rho = [torch.where(which, 0.0, rho) for rho in self.rho]

    def select(self, keep: Tensor) -> None:
        self.s, self.y, self.rho = (
            [t[keep] for t in group] for group in (self.s, self.y, self.rho)
        )

    def apply(self, g: Tensor, h0: Callable[[Tensor], Tensor]) -> Tensor:
        """Two-loop recursion: approximate inverse Hessian times ``g``."""
        q, alphas = g, []
        for s, y, rho in zip(reversed(self.s), reversed(self.y), reversed(self.rho), strict=True):
            alpha = rho * _dot(s, q)
            q = q - _scale(alpha, y)
            alphas.append(alpha)
        r = h0(q)
        for s, y, rho, alpha in zip(self.s, self.y, self.rho, reversed(alphas), strict=True):
            r = r + _scale(alpha - rho * _dot(y, r), s)
        return r


def _dot(u: Tensor, v: Tensor) -> Tensor:
    return (u * v).flatten(1).sum(-1)


def _scale(c: Tensor, u: Tensor) -> Tensor:
    return c[:, None, None] * u


class _Descent:
    """One level: all active pairs take one trial step per round, each with its own state."""

    def __init__(self, options: Relax, metric: Metric, x: Tensor, *, last: bool) -> None:
        self.options, self.metric = options, metric
        self.rtol = options.rtol if last else max(options.rtol, options.coarse_rtol)
        batch = len(x)
        self.result = x.clone()
        self.gradient_norm = x.new_full((batch,), torch.nan)
        self.statuses = [Status.CONVERGED] * batch
        self.iterations = torch.zeros(batch, dtype=torch.long)
        self.active = torch.arange(batch, device=x.device)
        self.x = x
        self.steps, self.grad = _evaluate(metric, x)
        self.energy, self.negative = energy(self.steps), (self.steps < 0).sum(-1)
        self.h0 = _path_laplacian_inverse(metric, x, self.steps)
        self.gamma = x.new_ones(batch)
        self.history = _History()
        self.rounds, self.taken = 0, torch.zeros(batch, dtype=torch.long, device=x.device)
        bad = ~torch.isfinite(self.energy + self.grad.flatten(1).sum(-1))
        self._aim(torch.ones_like(bad))
        self._finish({Status.NON_FINITE: bad, Status.CONVERGED: self._converged()})

    def round(self) -> None:
        """Try one step of every active pair; accept, shrink, or end it."""
        trial = self.metric.confine(self.x - _scale(self.t, self.direction))
        steps, grad = _evaluate(self.metric, trial)
        value, negative = energy(steps), (steps < 0).sum(-1)
        moved = trial - self.x
        # Armijo's rule on the step really taken (it may be cut by the bounds)
        slope = _dot(self.grad, moved)
        accept = (
            (value <= self.energy + 1e-4 * slope)
            & (negative <= self.negative)
            & torch.isfinite(grad.flatten(1).sum(-1))
        )
        self.history.push(moved, grad - self.grad, accept, self.options.memory)
        self._rescale(moved, grad - self.grad, accept)
        shrink = (-slope / (2 * (value - self.energy - slope))).nan_to_num(0.1).clamp(0.1, 0.5)
        self.t = torch.where(accept, 1.0, self.t * shrink)
        for name, new in (("x", trial), ("energy", value), ("grad", grad), ("negative", negative)):
            old = getattr(self, name)
            mask = accept.reshape(-1, *[1] * (old.ndim - 1))
            setattr(self, name, torch.where(mask, new, old))
        self.rounds, self.taken = self.rounds + 1, self.taken + accept
        self._aim(accept)
        stuck = self.t < 1e-8
        limit = torch.full_like(stuck, self.rounds >= self.options.iterations)
        self._finish(
            {
                Status.CONVERGED: accept & self._converged(),
                Status.STALLED: stuck,
                Status.ITERATION_LIMIT: limit,
            }
        )

    def line(self) -> str:
        """A short progress line."""
        size = self.x.shape[1] - 1
        where = f"{size} nodes, round {self.rounds}"
        if not self.active.numel():
            return f"{where}: done"
        return f"{where}: {self.active.numel()} pairs, energy {float(self.energy.mean()):.5g}"

    def _apply_h0(self, g: Tensor) -> Tensor:
        return _scale(self.gamma, _precondition(self.h0, self.metric.blocks, g))

    def _aim(self, fresh: Tensor) -> None:
        """Choose the direction of the next step for the entries ``fresh``."""
        free = self._free(self.x, self.grad)
        direction = self.history.apply(self.grad * free, self._apply_h0) * free
        decrease = _dot(self.grad, direction)
        # A direction that does not descend: forget the history, fall back to H0.
        lost = fresh & ~(decrease > 0)
        if bool(lost.any()):
            self.history.forget(lost)
            plain = self._apply_h0(self.grad * free) * free
            direction = torch.where(lost[:, None, None], plain, direction)
            decrease = torch.where(lost, _dot(self.grad, plain), decrease)
        if not hasattr(self, "direction"):
            self.direction, self.decrease, self.t = direction, decrease, torch.ones_like(decrease)
        self.direction = torch.where(fresh[:, None, None], direction, self.direction)
        self.decrease = torch.where(fresh, decrease, self.decrease)

    def _rescale(self, s: Tensor, y: Tensor, accept: Tensor) -> None:
        """Scale H0 by the newest curvature (Nocedal & Wright, Eq. 7.20, in the H0 metric)."""
        plain = _precondition(self.h0, self.metric.blocks, y)
        sy, yhy = _dot(s, y), _dot(y, plain)
        good = accept & (sy > 0) & (yhy > 0)
        self.gamma = torch.where(good, sy / torch.where(good, yhy, 1.0), self.gamma)

    def _free(self, x: Tensor, grad: Tensor) -> Tensor:
        """0 where a coordinate sits on its bound and the descent points outside, else 1."""
        if self.metric.bounds is None:
            return torch.ones_like(x[:, :, :1])
        low, high = (bound.to(x) for bound in self.metric.bounds)
        return (~(((x <= low) & (grad > 0)) | ((x >= high) & (grad < 0)))).to(x.dtype)

    def _converged(self) -> Tensor:
        return self.decrease / 2 <= self.rtol * self.energy.abs()

    def _finish(self, ends: dict[Status, Tensor]) -> None:
        """Write out the pairs that end now and drop them from the batch."""
        done = torch.zeros_like(self.energy, dtype=torch.bool)
        norm = _relative_norm(self.h0, self.metric, self.grad, self.energy)
        pressed = (self._free(self.x, self.grad)[:, 1:-1] == 0).flatten(1).any(-1)
        for status, mask in ends.items():
            for i in torch.nonzero(mask & ~done).flatten().tolist():
                home = int(self.active[i])
                self.statuses[home] = status
                if status is not Status.NON_FINITE and bool(self.negative[i] > 0):
                    self.statuses[home] = Status.NEGATIVE_STEPS
                elif status is Status.CONVERGED and bool(pressed[i]):
                    self.statuses[home] = Status.LEFT_DOMAIN
            done = done | mask
        if not bool(done.any()):
            return
        home = self.active[done]
        self.result[home], self.gradient_norm[home] = self.x[done], norm[done]
        self.iterations[home.cpu()] = self.taken[done].cpu()
        keep = ~done
        for name in (
            "active",
            "x",
            "energy",
            "grad",
            "negative",
            "gamma",
            "taken",
            "direction",
            "decrease",
            "t",
            "h0",
        ):
            setattr(self, name, getattr(self, name)[keep])
        self.history.select(keep)


def _path_laplacian_inverse(metric: Metric, x: Tensor, steps: Tensor) -> Tensor:
    """Inverse of n T_w on the inner nodes, one matrix per block: (B, blocks, n-1, n-1).

    The typical sizes w are corrected, within a factor 30, by the squared lengths measured on the
    path itself: they see where the law is far from a Gaussian, and cost nothing more.
    """
    n = x.shape[1] - 1
    w = metric.weights((x[:, 1:] + x[:, :-1]) / 2).double()  # (B, n, blocks)
    parts = x.diff(dim=1).double().square().split(metric.blocks, -1)
    expected = (w * torch.stack([part.sum(-1) for part in parts], -1)).sum(-1)
    ratio = (steps.double() / expected.clamp(min=1e-300)).nan_to_num(1.0).clamp(1 / 30, 30)
    w = (w * ratio.unsqueeze(-1)).movedim(-1, 1)
    laplacian = torch.diag_embed(w[..., :-1] + w[..., 1:])
    if n > 2:
        off = torch.diag_embed(w[..., 1:-1], offset=1)
        laplacian = laplacian - off - off.mT
    return torch.cholesky_inverse(torch.linalg.cholesky(n * laplacian)).to(x)


def _precondition(h0: Tensor, blocks: tuple[int, ...], g: Tensor) -> Tensor:
    """H0 g on the inner nodes, zero at the ends; (B, n+1, d)."""
    parts = g[:, 1:-1].split(blocks, -1)
    inner = torch.cat([h0[:, i] @ part for i, part in enumerate(parts)], -1)
    return torch.nn.functional.pad(inner, (0, 0, 1, 1))


def _relative_norm(h0: Tensor, metric: Metric, grad: Tensor, value: Tensor) -> Tensor:
    """Preconditioned gradient norm relative to the length, ``sqrt(g.H0 g / 2E)``."""
    return (_dot(grad, _precondition(h0, metric.blocks, grad)) / (2 * value.abs())).sqrt()


@dataclass(frozen=True)
class AdamSpline:
    """The published recipe: Adam on the coefficients of one C2 cubic spline per pair.

    ``AdamSpline.toy()`` and ``AdamSpline.images()`` are the settings of 2505.17517. Adam depends
    on the coordinates of the spline; the published toy uses (x_t, t), see ``chart``.

    Args:
        edges: cubic pieces of the spline.
        schedule: ``(points, steps)`` phases; the energy is taken at ``points`` parameters.
        learning_rate: of Adam.
        weight_decay: of AdamW (0.01 is its default, which pulls towards the chord).
        chart: maps from the metric's points to the spline's coordinates, and back; default none.
    """

    edges: int = 7
    schedule: tuple[tuple[int, int], ...] = ((16, 350), (64, 250))
    learning_rate: float = 0.1
    weight_decay: float = 0.01
    chart: tuple[Map, Map] | None = None

    @classmethod
    def toy(cls, chart: tuple[Map, Map] | None = None) -> AdamSpline:
        """Fig. 1: two spline nodes (one cubic), 128 points, 1000 steps of Adam."""
        return cls(edges=1, schedule=((128, 1000),), weight_decay=0.0, chart=chart)

    @classmethod
    def images(cls) -> AdamSpline:
        """Images: eight spline nodes, AdamW, 350 steps at 16 points and 250 at 64."""
        return cls()

    def solve(
        self,
        metric: Metric,
        a: Tensor,
        b: Tensor,
        nodes: int,
        *,
        init: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Solution:
        """Minimise the energy between ``a`` and ``b`` (B, d); arguments as for Relax.

        Raises:
            ValueError: if ``init`` is given: the recipe starts at the chord.

        Cost: ``sum(points * steps)`` node gradients per pair.
        """
        if init is not None:
            raise ValueError("AdamSpline starts at the chord and takes no init; use Relax")
        coefficients = torch.zeros(
            len(a), self.edges + 1, a.shape[-1], dtype=a.dtype, device=a.device, requires_grad=True
        )
        optimiser = torch.optim.AdamW(
            [coefficients], lr=self.learning_rate, weight_decay=self.weight_decay
        )
        for points, steps in self.schedule:
            for i in range(steps):
                x = self._curve(a, b, coefficients, points)
                steps_, grad = _evaluate(metric, x)
                optimiser.zero_grad()
                x.backward(grad)
                optimiser.step()
                if progress:
                    progress(
                        f"{points} points, step {i + 1}/{steps}: {float(energy(steps_).mean()):.5g}"
                    )
        with torch.no_grad():
            x = metric.confine(self._curve(a, b, coefficients, nodes + 1))
        value, grad = _evaluate(metric, x)
        h0 = _path_laplacian_inverse(metric, x, value)
        statuses = [
            Status.NEGATIVE_STEPS if bad else Status.FIXED_BUDGET
            for bad in (value < 0).any(-1).tolist()
        ]
        steps = sum(count for _, count in self.schedule)
        return Solution(
            x,
            _relative_norm(h0, metric, grad, energy(value)),
            statuses,
            torch.full((len(a),), steps),
            ["chord"] * len(a),
        )

    def _curve(self, a: Tensor, b: Tensor, coefficients: Tensor, points: int) -> Tensor:
        s = torch.linspace(0, 1, points, dtype=a.dtype, device=a.device)
        to, back = self.chart or (lambda x: x, lambda x: x)
        chord = torch.lerp(to(a)[:, None], to(b)[:, None], s[:, None])
        inside = back(chord + spline_basis(self.edges, s) @ coefficients)[:, 1:-1]
        return torch.cat([a[:, None], inside, b[:, None]], 1)
