"""Metrics that need no diffusion model: Euclidean, conformal, and the pullback of a map."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from diffodesic.geometry.metric import Metric
from diffodesic.numerics import checks, derivatives

__all__ = ["Conformal", "Euclidean", "Pullback"]


class Euclidean(Metric):
    """The flat metric of ``R^dim``; ValueError for a ``dim`` that is no number of coordinates."""

    def __init__(self, dim: int) -> None:
        self.dim = checks.whole(dim, "dim", 1)

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """``u . v``; no network call."""
        return (u * v).sum(-1)


class Conformal(Metric):
    """A conformal metric ``c(x) I``.

    Args:
        factor: positive function (..., d) -> (...), for instance ``p(x)^(-2a)`` (2504.06675).
        dim: number of coordinates.

    Raises:
        ValueError: for a ``dim`` that is no number of coordinates.
    """

    of_function = True  # the user's, which is tried: geometry/metric_trial.py

    def __init__(self, factor: Callable[[Tensor], Tensor], dim: int) -> None:
        self.factor, self.dim = factor, checks.whole(dim, "dim", 1)

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """``c(x) u . v``; one call of ``factor`` per point."""
        return self.factor(x) * (u * v).sum(-1)


class Pullback(Metric):
    """Pullback of the Euclidean metric by a map ``f``.

    Args:
        f: differentiable map (..., d) -> (..., e).
        dim: number d of coordinates of the source.

    Raises:
        ValueError: for a ``dim`` that is no number of coordinates.
    """

    of_function = True  # the user's, which is tried: geometry/metric_trial.py

    def __init__(self, f: Callable[[Tensor], Tensor], dim: int) -> None:
        self.f, self.dim = f, checks.whole(dim, "dim", 1)

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """``(df u) . (df v)``; one JVP of ``f`` per point (two if ``u`` is not ``v``)."""
        du = self._push(x, u)
        return (du * (du if v is u else self._push(x, v))).sum(-1)

    def squared_steps(self, x: Tensor) -> Tensor:
        """``|f(x_{i+1}) - f(x_i)|^2``; one call of ``f`` per node."""
        return self.f(x).diff(dim=-2).square().sum(-1)

    def _push(self, x: Tensor, u: Tensor) -> Tensor:
        x, u = (t.contiguous() for t in torch.broadcast_tensors(x, u))
        return derivatives.jvp(self.f, (x,), (u,))[1]
