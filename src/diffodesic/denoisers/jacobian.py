r"""The Jacobian J = dm/dz of a posterior mean at one point, by products with vectors.

J is Cov[x0|z]/sigma^2, hence symmetric and positive for a true posterior mean.  Its eigenvalues
are near 1 along directions in which the data vary by more than sigma, and near 0 across them; the
Jacobian of the score is (J - 1)/sigma^2.  The leading singular values and vectors come from a
randomised range finder (Halko, Martinsson & Tropp 2011), which is exact with D directions.

The J of a network has a skew part.  With the orthogonal projectors T on a tangent space and N on
its complement, and in Frobenius norms, we report

    |T (J - J^T) T| / |T (J + J^T) T|,    |N (J - J^T) N| / |N (J + J^T) N|,

which are 0 for a symmetric block and 1, in the mean, for a block of random numbers.  Between the
two spaces an exact J has no symmetric part either, as T is an eigenspace; its skew part is given in
units of the tangent block: |N (J - J^T) T| / |T (J + J^T) T|.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffodesic.denoisers.denoiser import Denoiser

__all__ = ["Asymmetry", "Jacobian", "Spectrum"]

OVERSAMPLE = 8  # directions beyond those asked for
POWER = 1  # rounds of J J^T on the range: errors of values fall as the cube of their ratio


@dataclass(frozen=True)
class Spectrum:
    """Leading singular triplets of a Jacobian; rows are vectors.

    Attributes:
        values: falling, (r,).
        left: directions in which the posterior mean moves, (r, D), orthonormal.
        right: directions of z that move it, (r, D), orthonormal.
    """

    values: Tensor
    left: Tensor
    right: Tensor


@dataclass(frozen=True)
class Asymmetry:
    """Skew parts of a Jacobian, block by block; NaN where there is nothing to compare with.

    Attributes:
        tangent: skew over symmetric part of the tangent space with itself.
        cross: skew part between the spaces over the symmetric part of the tangent space.
        normal: skew over symmetric part of the normal space with itself.
    """

    tangent: float
    cross: float
    normal: float


class Jacobian:
    """``dm/dz`` of a denoiser at one point and noise level.

    Args:
        denoiser: posterior mean.
        z: the point (D,).
        sigma: the noise level.
    """

    def __init__(self, denoiser: Denoiser, z: Tensor, sigma: float) -> None:
        self.denoiser, self.z, self.sigma = denoiser, z, z.new_tensor(sigma)

    def push(self, v: Tensor) -> Tensor:
        """``J v`` for rows v (r, D); one JVP each."""
        with torch.no_grad():
            return self.denoiser.jvp(self.z, self.sigma, v)[1]

    def pull(self, w: Tensor) -> Tensor:
        """``J^T w`` for rows w (r, D); one VJP each."""
        return torch.cat([self._pull(part) for part in w.split(self.denoiser.chunk or len(w))])

    def _pull(self, w: Tensor) -> Tensor:
        with torch.enable_grad():
            z = self.z.repeat(len(w), 1).requires_grad_()
            return torch.autograd.grad(self.denoiser(z, self.sigma), z, w)[0]

    def spectrum(self, rank: int, *, generator: torch.Generator) -> Spectrum:
        """The ``rank`` largest singular values, and their vectors.

        Args:
            rank: how many; from D - 8 on all D, exactly.
            generator: of the random directions, on the CPU.

        Returns:
            min(rank, D) triplets, or all D.

        Cost: D VJPs where exact, else 2 (rank + 8) JVPs and as many VJPs.
        """
        dim = len(self.z)
        if rank + OVERSAMPLE >= dim:
            rank = dim
            base = torch.eye(dim, dtype=self.z.dtype, device=self.z.device)
        else:
            draws = torch.randn(rank + OVERSAMPLE, dim, generator=generator, dtype=torch.float64)
            base = _orthonormal(self.push(draws.to(self.z)))
            for _ in range(POWER):
                base = _orthonormal(self.push(_orthonormal(self.pull(base))))
        inner, values, right = torch.linalg.svd(self.pull(base), full_matrices=False)
        return Spectrum(values[:rank], (inner.T @ base)[:rank], right[:rank])

    def asymmetry(self, tangent: Tensor, *, probes: int, generator: torch.Generator) -> Asymmetry:
        """Skew over symmetric part, on a tangent space and off it.

        Args:
            tangent: orthonormal basis (d, D) of the tangent space, d < D; d = 0 leaves the normal
                space alone.
            probes: random normal vectors; the block of the normal space is known to one over
                the root of their number.
            generator: of the probes, on the CPU.

        Returns:
            the ratios of the three blocks.

        Cost: d + probes JVPs and as many VJPs.
        """
        draws = torch.randn(probes, len(self.z), generator=generator, dtype=torch.float64)
        normal = _off(draws.to(self.z), tangent)
        rows = torch.cat([tangent, normal])
        forward, backward = self.push(rows), self.pull(rows)
        d = len(tangent)
        # below the rounding of J itself there is no symmetry to measure
        least = math.sqrt(torch.finfo(self.z.dtype).eps) * float(forward.norm(dim=-1).max())

        def ratio(skew: Tensor, symmetric: Tensor, count: int = 1) -> float:
            size = float(symmetric.norm()) / math.sqrt(count)
            return float(skew.norm()) / math.sqrt(count) / size if size > least else math.nan

        skew, symmetric = forward - backward, forward + backward
        return Asymmetry(
            ratio(skew[:d] @ tangent.T, symmetric[:d] @ tangent.T),
            ratio(_off(skew[:d], tangent), symmetric[:d] @ tangent.T),
            ratio(_off(skew[d:], tangent), _off(symmetric[d:], tangent), probes),
        )


def _off(v: Tensor, basis: Tensor) -> Tensor:
    """Rows v (r, D) without their part in the span of the rows of a basis."""
    return v - v @ basis.T @ basis


def _orthonormal(rows: Tensor) -> Tensor:
    return torch.linalg.qr(rows.T).Q.T
