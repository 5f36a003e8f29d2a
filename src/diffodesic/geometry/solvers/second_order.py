r"""Is the end of a descent a minimum?  The lowest curvature of the energy, by a few Lanczos steps.

A path on an axis of symmetry has no slope across it and ends a descent, although the energy falls
to both sides.  With P the inverse of an approximate Hessian, the generalised eigenvalue

    lowest = min_v  v.Hv / v.P^-1 v

is about 1 for a good approximation and negative at a saddle.  Lanczos's method in the inner
product of P^-1 needs products with P and with the true Hessian H alone, the latter by differences
of gradients.  The direction in which a path falls is a long wave, so that few nodes show it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffodesic.geometry.energy import Order, PathEnergy, evaluate
from diffodesic.numerics.cost import record
from diffodesic.numerics.hessians import dot

__all__ = ["lower_beside", "lowest_curvature"]

STEPS = 4  # of Lanczos with a preconditioner; half as many with the energy's own Hessian
REACH = 1e-4  # of a difference of gradients, relative to the length of the path
SIDES = (-0.3, -0.1, 0.1, 0.3)  # moves that are tried along a direction of falling energy
JUMP = 0.01  # share of the energy below which a lower path is not believed
WAVES = 4  # of the first direction
FALLING = -1e-3  # a lowest curvature below this is a saddle, not rounding
FEW = 16  # segments on which a path is looked at


def lowest_curvature(
    energy: PathEnergy, x: Tensor, steps: int, *, order: Order = 1, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """The lowest generalised eigenvalue of the Hessian of paths, and its direction.

    Args:
        energy: the energy.
        x: paths (B, n+1, d), near a stationary point.
        steps: number of Lanczos steps; the value only falls with it.
        order: 2 for the energy's own approximate Hessian, 1 for its preconditioner.
        seed: of the first direction, the same for every path.

    Returns:
        the eigenvalue (B,), an upper bound of the lowest, and a direction (B, n+1, d) of norm 1
        in the inner product of the approximate Hessian.

    Cost: ``steps + 1`` energy gradients per path.
    """
    here = evaluate(energy, x, order=order)
    inverse = here.hessian or energy.preconditioner(x, here.squared_steps)
    reach = (REACH * (2 * here.energy.abs()).sqrt())[:, None, None]
    r, before = _waves(x, seed), torch.zeros_like(x)
    diagonal: list[Tensor] = []
    off: list[Tensor] = []
    basis: list[Tensor] = []
    for i in range(steps):
        v = inverse.solve(r)
        size = dot(r, v).clamp(min=torch.finfo(r.dtype).tiny).sqrt()[:, None, None]
        r, v = r / size, v / size
        move = reach * v
        # a path whose energy or gradient overflows is not asked beside itself
        move = torch.where(torch.isfinite(move).flatten(1).all(-1)[:, None, None], move, 0.0)
        ahead = evaluate(energy, energy.confine(x + move), order=order)
        w = (ahead.slope - here.slope) / reach
        basis.append(v)
        diagonal.append(dot(v, w))
        if i:
            off.append(size[:, 0, 0])
            w = w - size * before
        before, r = r, w - diagonal[-1][:, None, None] * r
    return _ritz(diagonal, off, basis)


def lower_beside(energy: PathEnergy, x: Tensor, *, order: Order = 1) -> tuple[Tensor, Tensor]:
    """Lower paths beside those that are saddles.

    Args:
        energy: the energy.
        x: paths (B, n+1, d) at the end of a descent.
        order: see :func:`lowest_curvature`.

    Returns:
        the lower paths (S, n+1, d), and their rows in ``x``, (S,).

    Cost: five energy gradients per path on at most 16 segments, three where ``order`` is 2, and
    five energies per saddle.
    """
    n = x.shape[1] - 1
    stride = next(k for k in range(-(-n // FEW), n + 1) if n % k == 0)
    lowest, few = lowest_curvature(energy, x[:, ::stride], STEPS // order, order=order)
    rows = torch.nonzero(lowest < FALLING).flatten()
    if not len(rows):
        return x[rows], rows
    between = torch.nn.functional.interpolate(
        few[rows].mT, size=n + 1, mode="linear", align_corners=True
    ).mT
    with torch.no_grad():
        now = evaluate(energy, x[rows], order=0)
        length = (2 * now.energy.abs()).sqrt()[:, None, None]
        tried = torch.stack([energy.confine(x[rows] + t * length * between) for t in SIDES], 1)
        found = evaluate(energy, tried, order=0)
        record(node_gradients=(1 + len(SIDES)) / 3 * x[rows][..., 0].numel())
    value, best = found.energy.nan_to_num(nan=torch.inf).min(1)
    chosen = tried[torch.arange(len(rows), device=x.device), best]
    # next to nothing is no path beside this one, but one that jumps over what its nodes do not see
    lower = (value < now.energy) & (value > JUMP * now.energy)
    lower &= energy.resolves(chosen) | ~energy.resolves(x[rows])
    return chosen[lower], rows[lower]


def _waves(x: Tensor, seed: int) -> Tensor:
    """A random covector of the longest waves of a path, (B, n+1, d)."""
    generator = torch.Generator().manual_seed(seed)
    k = torch.arange(1.0, WAVES + 1, dtype=torch.float64)
    s = torch.linspace(0, 1, x.shape[1], dtype=torch.float64)[:, None]
    push = torch.randn(WAVES, x.shape[-1], generator=generator, dtype=torch.float64)
    r = (torch.sin(math.pi * k * s) / k) @ push
    r[0] = r[-1] = 0
    return r.to(x).expand_as(x)


def _ritz(diagonal: list[Tensor], off: list[Tensor], basis: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Lowest eigenvalue and vector of the tridiagonal matrices, in the basis."""
    matrix = torch.diag_embed(torch.stack(diagonal, -1))
    if off:
        side = torch.diag_embed(torch.stack(off, -1), offset=1)
        matrix = matrix + side + side.mT
    good = torch.isfinite(matrix).flatten(1).all(-1)[:, None, None]
    matrix = torch.where(good, matrix, torch.eye(matrix.shape[-1]).to(matrix))
    values, vectors = torch.linalg.eigh(matrix)
    # not by a matrix product, whose last digit depends on the batch
    lowest = vectors[..., 0].mT[:, :, None, None]
    return values[:, 0], (lowest * torch.stack(basis)).sum(0)
