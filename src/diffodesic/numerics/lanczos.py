"""Eigenvalues of a symmetric operator from products with blocks of vectors: block Lanczos.

From a block V_1 of n vectors the Krylov space of ``V_1, A V_1, A^2 V_1, ...`` is spanned by an
orthonormal basis, and A is diagonalised within it (Rayleigh and Ritz; Golub & Underwood 1977).
Eigenvalues at the ends of the spectrum are found first, each as often as it occurs up to n times.

With random starts w_i the same pairs (theta_j, u_j) are nodes and weights of a quadrature,

    w_i . f(A) w_i  ~  sum_j f(theta_j) (w_i . u_j)^2,

whose mean over the starts is the trace of f(A): stochastic Lanczos (Ubaru, Chen & Saad 2017).  For
polynomials f of degree below twice the number of steps it is exact, each start for itself.

The whole basis is kept orthogonal, and the operator's images are kept with it, so that the part of
A within the space is computed and not assumed: an operator that is not quite symmetric has that of
its symmetric part.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Ritz", "block_lanczos"]

EXHAUSTED = 1e-6  # of the largest image: what is left of a direction below it is rounding


class Ritz(NamedTuple):
    """Approximate eigenpairs within a space of r dimensions.

    Attributes:
        values: falling, (r,).
        vectors: orthonormal, rows (r, D).
        residuals: ``|A u - theta u|``, (r,): an eigenvalue lies within it of theta.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor


def block_lanczos(operator: Callable[[Tensor], Tensor], start: Tensor, *, steps: int) -> Ritz:
    """Eigenpairs of a symmetric operator by block Lanczos.

    Args:
        operator: ``A v`` of rows v (m, D).
        start: the first block, rows (n, D) that are independent.
        steps: blocks at most, >= 1; fewer where the space maps to itself.

    Returns:
        the pairs.

    Cost: n products per step.
    """
    basis = start.new_zeros(0, start.shape[-1])
    images, block = basis, _orthonormal(start, 0.0)
    for _ in range(steps):
        image = operator(block)
        basis, images = torch.cat([basis, block]), torch.cat([images, image])
        for _ in range(2):  # once more: the first projection rounds
            image = image - image @ basis.T @ basis
        block = _orthonormal(image, EXHAUSTED * float(images.norm(dim=-1).max()))
        if not len(block):
            break
    inner = basis @ images.T
    values, turn = torch.linalg.eigh((inner + inner.T) / 2)
    values, turn = values.flip(0), turn.flip(1)
    vectors = turn.T @ basis
    off = turn.T @ images - values.unsqueeze(-1) * vectors
    return Ritz(values, vectors, torch.linalg.vector_norm(off, dim=-1))


def _orthonormal(rows: Tensor, least: float) -> Tensor:
    """Basis of the span of rows (n, D), without directions of size ``least`` and below."""
    _, sizes, directions = torch.linalg.svd(rows, full_matrices=False)
    return directions[sizes > least]
