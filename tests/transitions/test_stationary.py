"""Stationary points against those that are known."""

from __future__ import annotations

import math

import pytest
import torch

from diffodesic.transitions.potentials import DoubleWell, MuellerBrown, Potential, Ring
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


# saddles, ridges that steepest descent follows to a saddle, and a peak; what lies beside them
STANDING = [
    (DoubleWell(), (0.0, 0.0), [(1.0, 0.0), (-1.0, 0.0)]),
    (DoubleWell(), (0.0, 0.7), [(1.0, 0.0), (-1.0, 0.0)]),
    (DoubleWell(3, barrier=0.5), (0.0, 0.0, 0.2), [(1.0, 0.0, 0.0), (-1.0, 0.0, 0.0)]),
    (Ring(tilt=0.0), (0.0, 0.0), [(1.0, 0.0), (-1.0, 0.0)]),
    (Ring(tilt=0.0), (0.0, 0.3), [(1.0, 0.0), (-1.0, 0.0)]),
    (
        MuellerBrown(),
        (-0.82200156, 0.6243128),
        [(-0.55822363, 1.44172584), (-0.05001082, 0.4666941)],
    ),
    (
        MuellerBrown(),
        (0.21248658, 0.29298833),
        [(0.6234994, 0.02803776), (-0.05001082, 0.4666941)],
    ),
]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("potential", "start", "minima"), STANDING)
def test_relaxation_leaves_saddles_and_peaks(
    potential: Potential, start: tuple, minima: list, dtype: torch.dtype
):
    found = relax(potential, torch.tensor([start, minima[0]], dtype=dtype))
    ends = torch.tensor(minima, dtype=dtype)
    away = (found[:1] - ends).norm(dim=-1).min()
    assert float(away) < (1e-5 if dtype == torch.float64 else 1e-2)
    # a minimum beside it stays where it was
    assert float((found[1] - ends[0]).norm()) < (1e-5 if dtype == torch.float64 else 1e-2)


def test_relaxation_stays_on_level_ground():
    # no way leads down from a level valley: only across it is the point moved
    start = torch.tensor([[0.6, 0.8], [math.cos(2.0), math.sin(2.0)]], dtype=torch.float64)
    found = relax(Ring(barrier=0.0, tilt=0.0), start)
    torch.testing.assert_close(found, start, rtol=0, atol=1e-6)
