r"""Stationary points of a potential: minima by steepest descent, saddles by eigenvector following.

- Minimum.  x' = x - h grad U, with the step of Barzilai and Borwein (1988) for every point.  Where
  it comes to rest on a saddle or a peak, it goes on from a step along the lowest eigenvector.
- Saddle.  Uphill along the lowest eigenvector of the Hessian, downhill along all others (Cerjan &
  Miller 1981): with H = V diag(l) V^T,   dx = V diag(s/|l|) V^T grad U,   s = +1 on the lowest,
  else -1.  A point with grad U = 0 and one negative eigenvalue is a saddle.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffodesic.numerics import checks
from diffodesic.transitions.potentials import Potential

__all__ = ["relax", "relax_to_saddle"]

_TINY = 1e-300
_PUSH = 1e-4  # of the box: a step off a saddle, as long as those behind the Hessian


def relax(potential: Potential, x: Tensor, *, rtol: float = 1e-6, iterations: int = 2000) -> Tensor:
    """Minima reached from ``x`` by steepest descent with a step that adapts to each point.

    A saddle or a peak, where the slope is zero too, is left along its lowest eigenvector: to one of
    the minima beside it.  Where the curvature is zero to the error of its differences, it is not
    seen.

    Args:
        potential: the potential.
        x: points (..., d).
        rtol: stop when every slope across the whole box is below this share of kT.
        iterations: limit.

    Returns:
        the minima (..., d), without a graph; a periodic coordinate is not wrapped.

    Raises:
        TypeError: for complex numbers.
        ValueError: for points of another dimension, none, or not finite, or whose energy is not.

    **Cost** one energy with gradient per iteration and point, and ``2 d`` more at its end.
    """
    checks.of_kind(potential, "potential", Potential)
    x = checks.points(x, "x", potential.dim, f"the dimension of {potential.name}")
    shape, x = x.shape, x.reshape(-1, potential.dim)
    x, rests = _descend(potential, x, rtol, iterations)
    left = rests.nonzero()[:, 0]
    # every round leaves the points that stood on a saddle: to another one at worst
    for _ in range(potential.dim):
        if not len(left):
            break
        falls, way = _downhill(potential, x[left])
        left, pushed = left[falls], (x[left] + _PUSH * potential.size * way)[falls]
        if not len(left):
            break
        lower, rests = _descend(potential, pushed, rtol, iterations)
        x, left = x.index_put((left,), lower), left[rests]
    return x.reshape(shape)


def _downhill(potential: Potential, x: Tensor) -> tuple[Tensor, Tensor]:
    """Whether U falls from stationary points (P, d), (P,), and the way, unit vectors (P, d)."""
    # NaN beside a point says nothing of it
    values, vectors = torch.linalg.eigh(potential.hessian(x).nan_to_num(0.0, 0.0, 0.0))
    # rounding and the fourth derivative, over the step of the differences
    error = (1e-6 + 1e4 * torch.finfo(x.dtype).eps) * values.abs().amax(-1)
    least = 0.1 * potential.kT / potential.size**2
    way = vectors[..., 0]
    # the sign of an eigenvector is free: the same way on every machine
    largest = way.gather(-1, way.abs().argmax(-1, keepdim=True))
    return values[:, 0] < -error.clamp(min=least), way * largest.sign()


def _descend(
    potential: Potential, x: Tensor, rtol: float, iterations: int
) -> tuple[Tensor, Tensor]:
    """Where steepest descent from points (P, d) ends, and whether it came to rest (P,)."""
    energy, slope = potential.gradient(x)
    checks.finite(energy, f"the energy of {potential.name} at x")
    checks.finite(slope, f"the gradient of {potential.name} at x")
    steepest = slope.norm(dim=-1, keepdim=True).clamp(min=potential.kT / potential.size)
    step = 0.01 * potential.size / steepest
    for _ in range(iterations):
        # where the curvature vanishes the step may overflow
        move = _shortened((-step * slope).nan_to_num(), 0.05 * potential.size)
        trial_energy, trial_slope = potential.gradient(x + move)
        down = (trial_energy <= energy).unsqueeze(-1)
        # Barzilai-Borwein: the step that a quadratic with the seen curvature would take
        curvature = (move * (trial_slope - slope)).sum(-1, keepdim=True)
        length = move.square().sum(-1, keepdim=True)
        bold = torch.where(curvature > 0, length / curvature.clamp(min=_TINY), 2 * step)
        x = torch.where(down, x + move, x)
        energy = torch.where(down[..., 0], trial_energy, energy)
        slope = torch.where(down, trial_slope, slope)
        step = torch.where(down, bold, step / 4)
        if float(slope.abs().max()) * potential.size < rtol * potential.kT:
            break
    # float32 comes to rest before the slope is below rtol
    return x, slope.abs().amax(-1) * potential.size < max(rtol, 1e-2) * potential.kT


def relax_to_saddle(
    potential: Potential, x: Tensor, *, iterations: int = 100, rtol: float = 1e-8
) -> tuple[Tensor, Tensor]:
    """Saddles nearest uphill from ``x`` by eigenvector following.

    Args:
        potential: the potential.
        x: points (P, d), such as the highest states of paths.
        iterations: limit.
        rtol: stop when no point moves by more than this share of the box.

    Returns:
        where the searches ended (P, d), and the number of negative eigenvalues there (P,): 1 is a
        saddle; -1 where the search did not converge.

    Raises:
        TypeError: for complex numbers.
        ValueError: for points of another dimension, none, or not finite.

    **Cost** ``2 d + 1`` energies with gradient per iteration and point.
    """
    checks.of_kind(potential, "potential", Potential)
    x = checks.points(x, "x", potential.dim, f"the dimension of {potential.name}")
    move, values = torch.full_like(x, potential.size), torch.zeros_like(x)
    for _ in range(iterations):
        slope = potential.gradient(x)[1]
        values, vectors = torch.linalg.eigh(potential.hessian(x))
        sign = -torch.ones_like(values)
        sign[:, 0] = 1
        share = (vectors.mT @ slope.unsqueeze(-1)).squeeze(-1) * sign
        # where the surface is flat the step would be infinite, and is shortened
        move = (vectors @ (share / values.abs().clamp(min=1e-12)).unsqueeze(-1)).squeeze(-1)
        move = _shortened(move, 0.02 * potential.size)
        x = x + move
        if float(move.abs().max()) < rtol * potential.size:
            break
    index = (values < 0).sum(-1)
    # a point cannot stand stiller than the differences behind the Hessian allow
    return x, torch.where(move.norm(dim=-1) < 1e-5 * potential.size, index, -1)


def _shortened(move: Tensor, longest: float) -> Tensor:
    """Moves (..., d) of at most the length ``longest``."""
    return move * (longest / move.norm(dim=-1, keepdim=True).clamp(min=_TINY)).clamp(max=1.0)
