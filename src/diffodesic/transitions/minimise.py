"""Local minima of a potential."""

from __future__ import annotations

import torch
from torch import Tensor

from diffodesic.transitions.potentials import Potential

__all__ = ["relax"]


def relax(potential: Potential, x: Tensor, *, rtol: float = 1e-6, iterations: int = 2000) -> Tensor:
    """Minima reached from ``x`` by steepest descent with a step that adapts to each point.

    Args:
        potential: the potential.
        x: points (..., d).
        rtol: stop when every slope across the whole box is below this share of kT.
        iterations: limit.

    Returns:
        the minima (..., d); a periodic coordinate is not wrapped.

    Cost: one evaluation with gradient per iteration and point.
    """
    size = min(high - low for low, high in potential.box)
    energy, slope = potential.gradient(x)
    steepest = slope.norm(dim=-1, keepdim=True).clamp(min=1e-300)
    step = 0.01 * size / torch.maximum(steepest, steepest.new_tensor(potential.kT / size))
    for _ in range(iterations):
        move = -step * slope
        longest = 0.05 * size / move.norm(dim=-1, keepdim=True).clamp(min=1e-300)
        move = move * longest.clamp(max=1.0)
        trial_energy, trial_slope = potential.gradient(x + move)
        down = (trial_energy <= energy).unsqueeze(-1)
        # Barzilai-Borwein: the step that a quadratic with the seen curvature would take
        change = trial_slope - slope
        curvature = (move * change).sum(-1, keepdim=True)
        length = move.square().sum(-1, keepdim=True)
        bold = torch.where(curvature > 0, length / curvature.clamp(min=1e-300), 2 * step)
        x = torch.where(down, x + move, x)
        energy = torch.where(down[..., 0], trial_energy, energy)
        slope = torch.where(down, trial_slope, slope)
        step = torch.where(down, bold, step / 4)
        if float(slope.abs().max()) * size < rtol * potential.kT:
            break
    return x
