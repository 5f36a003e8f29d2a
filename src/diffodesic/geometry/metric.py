r"""Riemannian metrics: mathematics only.

``inner(x, u, v)`` is the definition; ``squared_steps(x)`` are the squared lengths of the segments
of a polyline, by default the midpoint rule on ``inner``.  Initial-value solvers see only ``inner``;
boundary-value solvers see only the energy of a path, :meth:`Metric.energy`.
A d x d matrix is formed to invert metrics of few coordinates, and by :meth:`Metric.matrix`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any, TypeVar

import torch
from torch import Tensor

from diffodesic.geometry.energy import Evaluation, Order, PathEnergy
from diffodesic.numerics import checks
from diffodesic.numerics.derivatives import lower
from diffodesic.numerics.hessians import PathHessian
from diffodesic.numerics.linear import SINGULAR, conjugate_gradient, solve_positive

__all__ = ["Metric", "MetricEnergy"]

DENSE = 32  # coordinates up to which the metric tensor is formed to invert it

ENTRANCES = ("inner", "squared_steps", "flat", "sharp", "christoffel", "log_volume")

Method = TypeVar("Method", bound=Callable[..., Tensor])


def entered(method: Method) -> Method:
    """A method of a metric whose tensors are real, in one floating type, and have its dimension.

    No value is read: solvers call these methods thousands of times.

    Args:
        method: of tensors (..., d) alone, by place or by name.

    Returns:
        the method, with these checks before it.
    """
    names = list(signature(method).parameters)[1:]

    @wraps(method)
    def checked(self: Metric, *vectors: object, **named: object) -> Tensor:
        given: dict[str, Any] = dict(zip(names, vectors, strict=False)) | named
        kinds = [v.dtype for v in given.values() if isinstance(v, Tensor) and v.is_floating_point()]
        kind = kinds[0] if kinds else torch.get_default_dtype()
        for other in kinds:
            kind = torch.promote_types(kind, other)
        for name, v in given.items():
            # what has the type already stays the same tensor
            given[name] = v = checks.floating(v, name).to(kind)
            if v.ndim == 0 or v.shape[-1] != self.dim:
                raise ValueError(
                    f"{name} has shape {tuple(v.shape)}; its last axis must be {self.dim}, the "
                    "dimension of the metric"
                )
        return method(self, **given)

    return checked  # type: ignore[return-value]


class Metric(ABC):
    """A Riemannian metric on points of shape (..., d).

    Its methods convert integers, raise TypeError for complex numbers and ValueError for vectors of
    another dimension; those of subclasses, too.

    Attributes:
        dim: number d of coordinates.
    """

    dim: int

    def __init_subclass__(cls, **options: object) -> None:
        """Let every entrance of the class check what it is given."""
        super().__init_subclass__(**options)
        for name in ENTRANCES:
            if name in vars(cls):
                setattr(cls, name, entered(vars(cls)[name]))

    @abstractmethod
    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Inner product <u, v> at ``x``; all (..., d), result (...)."""

    @entered
    def squared_steps(self, x: Tensor) -> Tensor:
        """Squared lengths of the segments of a polyline, (..., n+1, d) -> (..., n).

        The default is the midpoint rule, exact to second order in the length of a segment.

        Args:
            x: nodes (..., n+1, d).

        Returns:
            (..., n).
        """
        delta = x[..., 1:, :] - x[..., :-1, :]
        return self.inner((x[..., 1:, :] + x[..., :-1, :]) / 2, delta, delta)

    def energy(self) -> PathEnergy:
        """The energy of paths that boundary-value solvers minimise; default: of the steps."""
        return MetricEnergy(self)

    @entered
    def flat(self, x: Tensor, u: Tensor) -> Tensor:
        """Covector ``g(x) u``, (..., d); differentiable in ``x`` and ``u``."""
        return lower(self.inner, x, u)

    @entered
    def sharp(self, x: Tensor, p: Tensor) -> Tensor:
        """Vector ``g(x)^-1 p``.

        The default solves with the matrix of :meth:`flat` where d is at most 32, all columns in one
        call, and by conjugate gradients above, scaled by the energy's weights.

        Args:
            x: points (..., d).
            p: covectors (..., d).

        Returns:
            vectors (..., d).

        Raises:
            LinAlgError: if the metric is singular at ``x``.
        """
        if self.dim <= DENSE:
            basis = torch.eye(self.dim, dtype=x.dtype, device=x.device)
            at = x.unsqueeze(-2).expand(*x.shape, self.dim).contiguous()
            return solve_positive(self.flat(at, basis.expand_as(at)).detach(), p)
        energy = self.energy()
        sizes = torch.tensor(energy.blocks, device=x.device)
        scale = energy.weights(x).repeat_interleave(sizes, -1).rsqrt()
        found = conjugate_gradient(
            lambda w: scale * self.flat(x, scale * w).detach(), scale * p, rtol=1e-12
        )
        if not bool(found.solved.all()):
            raise torch.linalg.LinAlgError(SINGULAR)  # type: ignore[attr-defined]
        return scale * found.x

    @entered
    def norm(self, x: Tensor, u: Tensor) -> Tensor:
        """Length of ``u`` at ``x``, (...)."""
        return self.inner(x, u, u).sqrt()

    @entered
    def matrix(self, x: Tensor) -> Tensor:
        """Metric tensor (..., d, d), for tests and small d; d inner products per column."""
        basis = torch.eye(self.dim, dtype=x.dtype, device=x.device)
        shape = (*x.shape[:-1], self.dim, self.dim, self.dim)
        point = x[..., None, None, :].expand(shape).contiguous()
        u, v = basis[:, None, :].expand(shape), basis[None, :, :].expand(shape)
        return self.inner(point, u.contiguous(), v.contiguous())


class MetricEnergy(PathEnergy):
    """The energy of a metric's own ``squared_steps``, its gradient in reverse mode.

    Args:
        metric: the metric.
    """

    def __init__(self, metric: Metric) -> None:
        self.metric, self.dim = metric, metric.dim

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """That of the metric."""
        return self.metric.inner(x, u, v)

    def steps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Squared lengths (..., n), differentiable, and which are doubtful; default: negative."""
        squared = self.metric.squared_steps(x)
        return squared, squared.detach() < 0

    def hessian(self, x: Tensor, squared_steps: Tensor) -> PathHessian:
        """Approximate Hessian at paths (B, n+1, d); default the preconditioner."""
        return self.preconditioner(x, squared_steps)

    def evaluate(self, x: Tensor, *, order: Order = 1) -> Evaluation:
        """By :meth:`steps`, reverse mode, and :meth:`hessian`; see :class:`PathEnergy`."""
        if not order:
            return Evaluation(*self.steps(x))
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            squared, doubtful = self.steps(leaf)
            (slope,) = torch.autograd.grad(squared.sum(), leaf)
        squared, half = squared.detach(), squared.shape[-1] / 2
        hessian = self.hessian(x, squared) if order == 2 else None
        return Evaluation(squared, doubtful, slope * half, hessian)
