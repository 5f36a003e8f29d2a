"""Path ensembles against brute force and against what reversibility and committors say."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from diffodesic.transitions.potentials import DoubleWell
from diffodesic.transitions.simulation import PathEnsemble, committor, plain_dynamics
from diffodesic.transitions.states import Basin


def point(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


WELL = DoubleWell(1, barrier=1.5)
LEFT, RIGHT = Basin(point(-1), 0.2), Basin(point(1), 0.2)


def test_plain_dynamics_at_the_wrong_temperature_finds_nothing_and_says_so():
    cold = plain_dynamics(WELL.at(0.05), LEFT, RIGHT, step=1e-4, steps=50, walkers=3, seed=0)
    assert len(cold.max_energy) == 0
    assert math.isnan(cold.mean)
    assert math.isnan(cold.standard_error)
    assert cold.evaluations == 3 * 51


def test_standard_error_counts_chains_not_paths():
    # each chain repeats one value: the error is that of the chains' mean
    values = torch.arange(4.0, dtype=torch.float64)
    repeated = PathEnsemble(
        values.repeat(10), torch.ones(40), torch.arange(4).repeat(10), (), 0, 1.0, 1.0, 1.0
    )
    assert repeated.standard_error == pytest.approx(float(values.std() / 2))


def test_committor_is_one_half_where_symmetry_says_so():
    potential = DoubleWell(barrier=3.0)
    x, a, b = torch.stack([point(0, 0), point(-0.6, 0)]), point(-1, 0), point(1, 0)
    share, decided = committor(potential, x, Basin(a, 0.3), Basin(b, 0.3), step=4e-3, shots=400)
    assert decided.tolist() == [1, 1]
    # 400 shots: 4 standard errors are .1
    assert abs(float(share[0]) - 0.5) < 0.1
    # along x alone the committor at -.6 is int e^U from -1 + r over that to 1 - r: .09
    assert abs(float(share[1]) - _share_in_one_dimension(-0.6)) < 0.06
    with pytest.raises(ValueError, match="overlap"):
        committor(potential, x, Basin(a, 1.5), Basin(b, 1.5), step=1e-3)


def test_the_committor_is_one_and_zero_inside_the_states():
    # centres and points just inside the rims, from where many trajectories leave at once
    x = torch.stack([point(-1), point(-0.801), point(0.801), point(1)])
    share, decided = committor(WELL, x, LEFT, RIGHT, step=5e-3, shots=50)
    assert share.tolist() == [0, 0, 1, 1]
    assert decided.tolist() == [1] * 4


def test_committors_of_steps_that_would_explode():
    x, steep = point(0)[None], DoubleWell(1, barrier=3.0)
    # unadjusted dynamics leaves for infinity at a step of .3
    share, decided = committor(steep, x, LEFT, RIGHT, step=0.3, shots=900, seed=1)
    # of mirror images: one half, within 4 standard errors of 900 shots
    assert abs(float(share[0]) - 0.5) < 4 * 0.5 / 30
    assert decided.tolist() == [1]
    with pytest.raises(ValueError, match="are accepted; give a smaller step"):
        committor(steep, x, LEFT, RIGHT, step=1e3, shots=900)


def _share_in_one_dimension(x: float) -> float:
    u = torch.linspace(-0.7, 0.7, 10_001, dtype=torch.float64)
    weight = torch.exp(3 * (u**2 - 1) ** 2)
    return float(weight[u < x].sum() / weight.sum())
