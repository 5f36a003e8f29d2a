r"""Riemannian metrics: two methods, and hooks that let a metric be fast.

``inner(x, u, v)`` is the definition; ``steps(x)`` are the squared lengths of the segments of a
polyline, by default the midpoint rule on ``inner``.  Boundary-value solvers see only ``steps``,
initial-value solvers only ``inner``.  For n segments

    energy  E = n/2 sum steps,    length  L = sum sqrt(steps),    L^2 <= 2E (equal: constant speed).

Here: Euclidean; conformal ``c(x) I`` (Yu 2025, 2504.06675); and the pullback of a map f, whose
steps are exact chords ``|f(x_{i+1}) - f(x_i)|^2``.
No D x D matrix is ever formed, but by :meth:`Metric.matrix`, which exists for tests.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from diffodesic.numerics.curves import Polyline, Spline
from diffodesic.numerics.hessians import Curvature, Scalar
from diffodesic.numerics.linear import conjugate_gradient

__all__ = ["Metric"]


class Metric(ABC):
    """A Riemannian metric on points of shape (..., d).

    Attributes:
        dim: number d of coordinates.
        blocks: sizes of the groups of coordinates that share a weight (see :meth:`weights`).
        bounds: lowest and highest value of every coordinate, each (d,), or None: the region in
            which solvers keep a path.
        coarsest: number of segments below which :meth:`steps` say little about the path.
        bent_segments: True where :meth:`segments` are not straight lines, and :meth:`steps` are
            their exact energies: an upper bound for any number of nodes.
        newton: True where :meth:`newton_steps` costs no more than :meth:`steps_and_grad`; solvers
            then use it by default.
        slack: relative difference between the energy of ``steps`` and the one that the gradient of
            :meth:`newton_steps` belongs to.
    """

    dim: int
    bounds: tuple[Tensor, Tensor] | None = None
    coarsest: int = 6
    bent_segments: bool = False
    newton: bool = False
    slack: float = 0.0

    @property
    def blocks(self) -> tuple[int, ...]:
        """Sizes of the groups of coordinates that share a weight; they sum to d."""
        return (self.dim,)

    @abstractmethod
    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Inner product <u, v> at ``x``; all (..., d), result (...)."""

    def settled(self, a: Tensor, b: Tensor) -> Metric:
        """The metric with everything decided that depends on where paths go; default itself."""
        return self

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

    def stride(self, direction: Tensor) -> Tensor:
        """Share of a step of paths for which the curvature is to be believed, at most 1.

        Args:
            direction: the step (B, n+1, d).

        Returns:
            (B,); the default is 1.
        """
        return torch.ones_like(direction[:, 0, 0])

    def newton_steps(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Curvature]:
        """``steps_and_grad(x)`` and the Gauss-Newton curvature of the energy at ``x``.

        The default is the metric's typical size, corrected by the steps just measured.

        Args:
            x: paths (B, n+1, d).

        Returns:
            squared lengths (B, n), gradient of their sum (B, n+1, d), a boolean (B, n), and the
            curvature of ``n/2 sum steps``.
        """
        steps, grad, wrong = self.steps_and_grad(x)
        return steps, grad, wrong, self.curvature(x, steps)

    def curvature(self, x: Tensor, steps: Tensor) -> Curvature:
        """Curvature of the energy from what is known without calling the network.

        The typical sizes are corrected, within a factor 30, by the squared lengths measured on
        the path itself: they see where the law is far from a Gaussian, and cost nothing more.

        Args:
            x: paths (B, n+1, d).
            steps: their squared segment lengths (B, n).

        Returns:
            one number per block of coordinates and segment.
        """
        w = self.weights((x[:, 1:] + x[:, :-1]) / 2)  # (B, n, blocks)
        parts = x.diff(dim=1).square().split(self.blocks, -1)
        expected = (w * torch.stack([part.sum(-1) for part in parts], -1)).sum(-1)
        ratio = (steps / expected.clamp(min=1e-300)).nan_to_num(1.0).clamp(1 / 30, 30)
        return Scalar.of(w * ratio.unsqueeze(-1), self.blocks)

    def lower_bound(self, a: Tensor, b: Tensor) -> Tensor:
        """What the distance of points (..., d) is at least, known without a path; (...)."""
        return torch.zeros_like(a[..., 0])

    def curve(self, nodes: Tensor) -> Polyline:
        """The smooth path that nodes (..., n+1, d) stand for: the C2 spline through them."""
        return Spline(nodes)

    def segments(self, nodes: Tensor) -> Polyline:
        """The segments between nodes (..., n+1, d) that :meth:`steps` measures."""
        return Polyline(nodes)

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

    def easier(self) -> tuple[Metric, ...]:
        """Metrics on the same points to solve first, easiest first; solvers follow them."""
        return ()

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
        return scale * conjugate_gradient(
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
