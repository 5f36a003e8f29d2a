"""Products that do not depend on their batch, and symmetric positive definite systems."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "SINGULAR",
    "Solved",
    "conjugate_gradient",
    "filled",
    "product",
    "solve_positive",
]

LANES = 16  # numbers to which sizes are filled up: a line of the cache, in any dtype

SINGULAR = (
    "the metric tensor could not be inverted: it is singular or not positive definite at this point"
)


class Solved(NamedTuple):
    """What conjugate gradients found.

    Attributes:
        x: the solution, shaped like the right-hand side.
        solved: where the residual is below the square root of the tolerance, (...).
        positive: where the operator was positive along every direction that mattered, (...).
    """

    x: Tensor
    solved: Tensor
    positive: Tensor


def conjugate_gradient(
    operator: Callable[[Tensor], Tensor],
    b: Tensor,
    *,
    inverse: Callable[[Tensor], Tensor] = lambda r: r,
    axes: int = 1,
    rtol: float = 1e-12,
    iterations: int | None = None,
) -> Solved:
    """Solve ``A x = b`` for symmetric positive definite ``A``, each batch entry for itself.

    An entry that ends early, by its tolerance or by the limit, holds a direction of descent of
    ``x.Ax/2 - b.x`` all the same.

    Args:
        operator: ``A`` as a map of tensors shaped like ``b``.
        b: right-hand sides; the last ``axes`` axes are those of one vector.
        inverse: approximate inverse of ``A``, symmetric and positive.
        axes: see above.
        rtol: an entry is done when its residual, in the norm of ``inverse``, is below ``rtol`` of
            that of ``b``.
        iterations: limit; default twice the size of a vector and 10 (exact arithmetic needs once).

    Returns:
        the solution, and where to believe it.
    """
    dims = tuple(range(-axes, 0))

    def dot(u: Tensor, v: Tensor) -> Tensor:
        return (u * v).sum(dims, keepdim=True)

    x, r = torch.zeros_like(b), b
    y = inverse(r)
    p, ry = y, dot(r, y)
    first, positive = ry, torch.ones_like(ry, dtype=torch.bool)
    size = math.prod(b.shape[-axes:])
    for _ in range(iterations or 2 * size + 10):
        active = ry > rtol**2 * first
        if not bool(active.any()):
            break
        ap = operator(p)
        # a finished entry is held still instead of divided by zero
        pap = dot(p, ap)
        good = active & (pap > 0)
        positive = positive & (good | ~active)
        step = torch.where(good, ry / torch.where(good, pap, 1.0), 0.0)
        x, r = x + step * p, r - step * ap
        y = inverse(r)
        before, ry = ry, dot(r, y)
        turn = torch.where(good, ry / torch.where(before > 0, before, 1.0), 0.0)
        p = y + turn * p
    solved = ry <= rtol * first
    return Solved(x, solved.squeeze(dims), positive.squeeze(dims))


def product(left: Tensor, right: Tensor) -> Tensor:
    """Matrix product (..., n, k) times (..., k, m) that is the same alone and within a batch.

    A library of linear algebra chooses its order of summation by shapes and by where a matrix lies
    in memory, so that the last digit of a row depends on its company; a search of hundreds of
    steps makes a difference of 1e-3 of it.  With zeros up to full lines of memory it does not.

    Returns:
        (..., n, m).
    """
    rows, columns, inner = left.shape[-2], right.shape[-1], left.shape[-1]
    return (_filled(left, rows, inner) @ _filled(right, inner, columns))[..., :rows, :columns]


def _filled(matrix: Tensor, rows: int, columns: int) -> Tensor:
    wider, longer = -columns % LANES, -rows % LANES
    if not (wider or longer):  # padding by nothing copies
        return matrix
    return torch.nn.functional.pad(matrix, (0, wider, 0, longer))


def filled(matrix: Tensor) -> Tensor:
    """Square matrices (..., n, n) with ones down the diagonal up to full lines of memory.

    Factors of it are the same alone and within a batch; those of odd sizes are not, since every
    other matrix of a batch then begins within a line.

    Returns:
        (..., m, m) with m >= n.
    """
    wide = _filled(matrix, matrix.shape[-1], matrix.shape[-1])
    more = torch.arange(wide.shape[-1], device=matrix.device) >= matrix.shape[-1]
    return wide + torch.diag(more.to(matrix))


def solve_positive(matrix: Tensor, b: Tensor) -> Tensor:
    """Solve with positive definite matrices (..., d, d) for ``b`` (..., d), else LinAlgError."""
    scale = matrix.diagonal(dim1=-2, dim2=-1).rsqrt()  # the pivots are then at most 1
    factor, info = torch.linalg.cholesky_ex(scale.unsqueeze(-1) * matrix * scale.unsqueeze(-2))
    least = factor.diagonal(dim1=-2, dim2=-1).amin(-1).square()
    rounding = b.shape[-1] * torch.finfo(b.dtype).eps
    if not bool((info == 0).all() & (least > rounding).all()):
        raise torch.linalg.LinAlgError(SINGULAR)  # type: ignore[attr-defined]
    return scale * torch.cholesky_solve((scale * b).unsqueeze(-1), factor).squeeze(-1)
