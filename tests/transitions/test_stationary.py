"""Stationary points against those that are known."""

from __future__ import annotations

import torch

from diffodesic.transitions.potentials import MuellerBrown
from diffodesic.transitions.stationary import relax, relax_to_saddle


def test_saddles_of_mueller_brown():
    start = torch.tensor([[-0.75, 0.65], [0.25, 0.3]], dtype=torch.float64)
    found, index = relax_to_saddle(MuellerBrown(), start)
    expected = torch.tensor([[-0.82200156, 0.6243128], [0.21248658, 0.29298833]]).double()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert index.tolist() == [1, 1]


def test_minima_of_mueller_brown():
    start = torch.tensor([[-0.4, 1.2], [0.5, 0.1], [0.0, 0.5]], dtype=torch.float64)
    minima = relax(MuellerBrown(), start)
    expected = [[-0.55822363, 1.44172584], [0.6234994, 0.02803776], [-0.05001082, 0.4666941]]
    torch.testing.assert_close(minima, torch.tensor(expected).double(), rtol=0, atol=1e-5)
