"""Channels and the number of distinct paths, on paths that are known."""

from __future__ import annotations

import pytest
import torch

from diffodesic.transitions.annealing import PathOptions
from diffodesic.transitions.paths import TransitionPaths, transition_paths
from diffodesic.transitions.potentials import DoubleWell, DualChannel
from diffodesic.transitions.saddles import channels, effective_paths


def test_channels_share_out_the_paths():
    potential = DualChannel()
    peak = torch.tensor([[0.05, 1.1], [0.0, 1.3], [-0.05, -1.2]], dtype=torch.float64)
    frames = torch.zeros(3, 2, 2, dtype=torch.float64)
    made = TransitionPaths(
        potential,
        torch.zeros(2, 3),
        frames,
        frames[..., 0],
        torch.arange(2),
        potential(peak),
        peak,
        torch.zeros(3),
        torch.ones(2),
        0,
        PathOptions(),
    )
    upper, lower = channels(made)
    assert (upper.share, lower.share) == (2 / 3, 1 / 3)
    assert float(upper.saddle[1]) > 1 > -1 > float(lower.saddle[1])
    assert upper.energy < lower.energy


def test_effective_paths_count_the_distinct_ones():
    nodes = torch.tensor([[-1.0, 0, 4], [1, 0, 4]], dtype=torch.float64)
    found = transition_paths(DoubleWell(), nodes, PathOptions(6, langevin_steps=8))
    assert abs(effective_paths(found, scale=1e3) - 1) < 1e-4
    assert abs(effective_paths(found, scale=1e-3) - 6) < 1e-6
    with pytest.raises(ValueError, match="scale must be positive"):
        effective_paths(found, scale=0.0)
