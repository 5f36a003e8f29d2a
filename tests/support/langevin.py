"""Trajectories of Langevin walkers, to compare with."""

from __future__ import annotations

import torch
from torch import Tensor

from diffodesic.transitions.langevin import Langevin, Walkers


def trajectory(
    dynamics: Langevin, start: Tensor, *, steps: int, every: int = 1, seed: int = 0
) -> tuple[Tensor, float]:
    """Every so many states of walkers from ``start`` (P, d), and the share of accepted moves."""
    generator = torch.Generator().manual_seed(seed)
    walkers, states, shares = Walkers.at(dynamics.potential, start), [], []
    for _ in range(steps // every):
        walkers = dynamics.run(walkers, every, generator)
        states.append(walkers.x)
        shares.append(walkers.accepted)
    return torch.stack(states, 1), sum(shares) / len(shares)
