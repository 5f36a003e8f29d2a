r"""Riemannian metrics: two methods, and hooks that let a metric be fast.

``inner(x, u, v)`` is the definition; ``steps(x)`` are the squared lengths of the segments of a
polyline, by default the midpoint rule on ``inner``.  Boundary-value solvers see only ``steps``,
initial-value solvers only ``inner``.  For n segments

    energy  E = n/2 sum steps,    length  L = sum sqrt(steps),    L^2 <= 2E (equal: constant speed).

Here: Euclidean; conformal ``c(x) I`` (Yu 2025, 2504.06675); the score metric ``I + w s s^T``
(Azeglio & Di Bernardo, 2505.11128; the same tensor is the Monge metric of Hartmann, Girolami &
Klami, 2202.10755); the score Jacobian ``J^T J + eps I`` (Saito & Matsubara, 2510.05509); and the
pullback of a map f, whose steps are exact chords ``|f(x_{i+1}) - f(x_i)|^2``.
No D x D matrix is ever formed, but by :meth:`Metric.matrix`, which exists for tests.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from diffodesic import calculus
from diffodesic.denoiser import Denoiser

__all__ = ["Conformal", "Euclidean", "Metric", "Pullback", "ScoreJacobian", "ScoreMetric"]


class Metric(ABC):
    """A Riemannian metric on points of shape (..., d).

    Attributes:
        dim: number d of coordinates.
        blocks: sizes of the groups of coordinates that share a weight (see :meth:`weights`).
        bounds: lowest and highest value of every coordinate, each (d,), or None: the region in
            which solvers keep a path.
    """

    dim: int
    bounds: tuple[Tensor, Tensor] | None = None

    @property
    def blocks(self) -> tuple[int, ...]:
        """Sizes of the groups of coordinates that share a weight; they sum to d."""
        return (self.dim,)

    @abstractmethod
    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Inner product <u, v> at ``x``; all (..., d), result (...)."""

    def steps(self, x: Tensor) -> Tensor:
        """Squared lengths of the segments of a polyline, (..., n+1, d) -> (..., n).

        The default is the midpoint rule, exact to second order in the length of a segment.

        Args:
            x: nodes (..., n+1, d).

        Returns:
            (..., n).
        """
        delta = x[..., 1:, :] - x[..., :-1, :]
        return self.inner((x[..., 1:, :] + x[..., :-1, :]) / 2, delta, delta)

    def judged_steps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``steps(x)``, and where the metric was not positive: (..., n) and (..., n) boolean.

        A metric that can tell although its steps are positive overrides this.

        Args:
            x: nodes (..., n+1, d).

        Returns:
            squared lengths (..., n) and a boolean (..., n).
        """
        steps = self.steps(x)
        return steps, steps < 0

    def steps_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``judged_steps(x)`` and the gradient of the sum of the steps.

        The default is reverse mode through :meth:`judged_steps`.

        Args:
            x: nodes (..., n+1, d).

        Returns:
            squared lengths (..., n), gradient (..., n+1, d), and a boolean (..., n).
        """
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            steps, wrong = self.judged_steps(leaf)
            (grad,) = torch.autograd.grad(steps.sum(), leaf)
        return steps.detach(), grad, wrong

    def segment(self, x: Tensor, y: Tensor, s: Tensor) -> Tensor:
        """Points on the segments that :meth:`steps` measures; by default straight lines.

        Args:
            x: first ends (..., d).
            y: second ends (..., d).
            s: parameters in [0, 1], broadcast against the points: (..., 1).

        Returns:
            points (..., d).
        """
        return torch.lerp(x, y, s)

    def resolves(self, x: Tensor) -> Tensor:
        """Tell whether the nodes are close enough for :meth:`steps` to be believed.

        Solvers do not move from a path that is resolved to one that is not.

        Args:
            x: nodes (..., n+1, d).

        Returns:
            (...) boolean; the default is True.
        """
        return torch.ones(x.shape[:-2], dtype=torch.bool, device=x.device)

    def weights(self, x: Tensor) -> Tensor:
        """Typical size of the metric on each block at ``x``, (..., d) -> (..., len(blocks)).

        Solvers use it to precondition; it must not call a network.

        Args:
            x: points (..., d).

        Returns:
            positive sizes (..., len(blocks)).
        """
        return x.new_ones(*x.shape[:-1], len(self.blocks))

    def starts(self, a: Tensor, b: Tensor, nodes: int) -> dict[str, Tensor]:
        """Candidate first paths from ``a`` to ``b`` (..., d), each (..., nodes+1, d), by name."""
        s = torch.linspace(0, 1, nodes + 1, dtype=a.dtype, device=a.device).unsqueeze(-1)
        return {"chord": torch.lerp(a.unsqueeze(-2), b.unsqueeze(-2), s)}

    def confine(self, x: Tensor) -> Tensor:
        """Move points into :attr:`bounds`; solvers report LEFT_DOMAIN where a path presses."""
        if self.bounds is None:
            return x
        low, high = (bound.to(x) for bound in self.bounds)
        return x.clamp(low, high)

    def flat(self, x: Tensor, u: Tensor) -> Tensor:
        """Covector ``g(x) u``, (..., d); differentiable in ``x`` and ``u``."""
        with torch.enable_grad():
            v = torch.zeros_like(u).requires_grad_()
            (out,) = torch.autograd.grad(self.inner(x, u, v).sum(), v, create_graph=True)
        return out

    def sharp(self, x: Tensor, p: Tensor) -> Tensor:
        """Vector ``g(x)^-1 p``.

        The default is conjugate gradients on :meth:`flat`, scaled by :meth:`weights`.

        Args:
            x: points (..., d).
            p: covectors (..., d).

        Returns:
            vectors (..., d).

        Raises:
            RuntimeError: if the metric is singular at ``x``.
        """
        sizes = torch.tensor(self.blocks, device=x.device)
        scale = self.weights(x).repeat_interleave(sizes, -1).rsqrt()
        return scale * calculus.conjugate_gradient(
            lambda w: scale * self.flat(x, scale * w).detach(), scale * p
        )

    def norm(self, x: Tensor, u: Tensor) -> Tensor:
        """Length of ``u`` at ``x``, (...)."""
        return self.inner(x, u, u).sqrt()

    def matrix(self, x: Tensor) -> Tensor:
        """Metric tensor (..., d, d), for tests and small d; d inner products per column."""
        basis = torch.eye(self.dim, dtype=x.dtype, device=x.device)
        shape = (*x.shape[:-1], self.dim, self.dim, self.dim)
        point = x[..., None, None, :].expand(shape).contiguous()
        u, v = basis[:, None, :].expand(shape), basis[None, :, :].expand(shape)
        return self.inner(point, u.contiguous(), v.contiguous())


class Euclidean(Metric):
    """The flat metric of ``R^dim``."""

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """``u . v``; no network call."""
        return (u * v).sum(-1)


class Conformal(Metric):
    """A conformal metric ``c(x) I``.

    Args:
        factor: positive function (..., d) -> (...), for instance ``p(x)^(-2a)`` (2504.06675).
        dim: number of coordinates.
    """

    def __init__(self, factor: Callable[[Tensor], Tensor], dim: int) -> None:
        self.factor, self.dim = factor, dim

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """``c(x) u . v``; one call of ``factor`` per point."""
        return self.factor(x) * (u * v).sum(-1)


class Pullback(Metric):
    """Pullback of the Euclidean metric by a map ``f``.

    Args:
        f: differentiable map (..., d) -> (..., e).
        dim: number d of coordinates of the source.
    """

    def __init__(self, f: Callable[[Tensor], Tensor], dim: int) -> None:
        self.f, self.dim = f, dim

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """``(df u) . (df v)``; one JVP of ``f`` per point (two if ``u`` is not ``v``)."""
        du = self._push(x, u)
        return (du * (du if v is u else self._push(x, v))).sum(-1)

    def steps(self, x: Tensor) -> Tensor:
        """``|f(x_{i+1}) - f(x_i)|^2``; one call of ``f`` per node."""
        return self.f(x).diff(dim=-2).square().sum(-1)

    def _push(self, x: Tensor, u: Tensor) -> Tensor:
        x, u = (t.contiguous() for t in torch.broadcast_tensors(x, u))
        return calculus.jvp(self.f, (x,), (u,))[1]


class _AtNoise(Metric):
    """A metric on noisy points at one fixed noise level of a denoiser."""

    def __init__(self, denoiser: Denoiser, log_snr: float) -> None:
        low, high = denoiser.log_snr_range
        if not low <= log_snr <= high or not math.isfinite(log_snr):
            raise ValueError(
                f"log_snr = {log_snr} is outside the noise levels of the denoiser; "
                f"choose a finite value between {low:g} and {high:g}"
            )
        self.denoiser, self.log_snr, self.dim = denoiser, float(log_snr), denoiser.dim
        self.sigma = math.exp(-log_snr / 2)

    def score(self, x: Tensor) -> Tensor:
        """Score ``(m - x)/sigma^2`` at the fixed level, (..., d); one evaluation per point."""
        return self.denoiser.score(x, x.new_tensor(self.sigma))


class ScoreMetric(_AtNoise):
    """``g(x) = I + weight s(x) s(x)^T``, s the score at one noise level (2505.11128, Eq. 4).

    It charges the change of log-density along the path: if s = grad phi it is the metric of the
    graph ``(x, sqrt(weight) phi(x))``.

    Args:
        denoiser: posterior mean of the diffusion model.
        log_snr: noise level of the score, log SNR in data units.
        weight: weight of the score term, >= 0, in the core's coordinates (a weight given for
            ``x = alpha z`` is divided by ``alpha^2``).

    Raises:
        ValueError: for a negative weight or a level outside the denoiser's range.
    """

    def __init__(self, denoiser: Denoiser, *, log_snr: float, weight: float = 1.0) -> None:
        super().__init__(denoiser, log_snr)
        if not weight >= 0:
            raise ValueError(f"weight must be >= 0, got {weight}")
        self.weight = float(weight)

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """``u.v + weight (s.u)(s.v)``; one evaluation per point."""
        s = self.score(x)
        return (u * v).sum(-1) + self.weight * (s * u).sum(-1) * (s * v).sum(-1)

    def sharp(self, x: Tensor, p: Tensor) -> Tensor:
        """``p - weight s (s.p) / (1 + weight |s|^2)`` (Sherman-Morrison); one evaluation."""
        s = self.score(x)
        gain = self.weight * (s * p).sum(-1) / (1 + self.weight * s.square().sum(-1))
        return p - gain.unsqueeze(-1) * s


class ScoreJacobian(_AtNoise):
    """``g = J^T J + eps I`` with J the Jacobian of the score at one noise level (2510.05509).

    Args:
        denoiser: posterior mean of the diffusion model.
        log_snr: noise level of the score.
        eps: weight of the identity, > 0; without it the metric is flat wherever J is regular.

    Raises:
        ValueError: for ``eps <= 0`` or a level outside the denoiser's range.
    """

    def __init__(self, denoiser: Denoiser, *, log_snr: float, eps: float = 1e-2) -> None:
        super().__init__(denoiser, log_snr)
        if not eps > 0:
            raise ValueError(f"eps must be > 0, got {eps}")
        self.eps = float(eps)

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """``(Ju).(Jv) + eps u.v``; one JVP per point (two if ``u`` is not ``v``)."""
        ju = self._push(x, u)
        return (ju * (ju if v is u else self._push(x, v))).sum(-1) + self.eps * (u * v).sum(-1)

    def _push(self, x: Tensor, u: Tensor) -> Tensor:
        sigma = x.new_tensor(self.sigma)
        return (self.denoiser.jvp(x, sigma, u)[1] - u) / self.sigma**2
