"""Every public function that takes a seed, given what is none: one typed sentence at the door."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import diffodesic as dd
from diffodesic.denoisers import (
    choose_noise_level,
    denoising_likelihood,
    flow_likelihood,
    sample_posterior,
    self_check,
)
from diffodesic.geometry.solvers.redraw import Redraw
from diffodesic.images.interpolation import InterpolateOptions
from diffodesic.metrics import continue_path
from diffodesic.metrics.spacetime import (
    Mismatch,
    mismatch_length,
    mismatch_steps,
    path_diagnostics,
    relative_entropy,
)
from diffodesic.transitions.annealing import PathOptions
from diffodesic.transitions.coordinate_training import CoordinateSettings
from diffodesic.transitions.potentials import DoubleWell
from diffodesic.transitions.recipe import PathwayOptions
from diffodesic.transitions.shooting import ShootingOptions
from diffodesic.transitions.simulation import committor, plain_dynamics
from diffodesic.transitions.states import Basin
from support.tiny import pictures, tiny_model

LAW = dd.GaussianMixture(torch.tensor([[1.0, 0.0], [-1.0, 0.5]], dtype=torch.float64), std=0.7)
NETWORK = dd.Denoiser.from_callable(LAW.posterior_mean, dim=2, variance=LAW.variance)
Z = torch.tensor([[1.0, 2.0], [0.0, -1.0]], dtype=torch.float64)
X = dd.Spacetime(LAW).point(Z, 1.0)
WELL, BASINS = DoubleWell(), (Basin(-Z[0] / 2, 0.1), Basin(Z[0] / 2, 0.1))
PATH = dd.geodesic(dd.Euclidean(2), Z[0], Z[1], nodes=4)

CALLS: dict[str, Callable[[Any], object]] = {
    "choose_noise_level": lambda s: choose_noise_level(LAW, Z, points=2, seed=s),
    "sample_posterior": lambda s: sample_posterior(LAW, Z, 0.0, seed=s),
    "self_check of a denoiser": lambda s: self_check(NETWORK, X, seed=s),
    "self_check of a model": lambda s: dd.self_check(tiny_model(), pictures(3), seed=s),
    "flow_likelihood": lambda s: flow_likelihood(LAW, Z, seed=s),
    "denoising_likelihood": lambda s: denoising_likelihood(LAW, Z, seed=s),
    "ScoreMetric": lambda s: dd.ScoreMetric(LAW, log_snr=0.0, rank=2, seed=s),
    "ScoreMetric of data": lambda s: dd.ScoreMetric(LAW, data=Z, seed=s),
    "Spacetime": lambda s: dd.Spacetime(LAW, seed=s),
    "Mismatch": lambda s: Mismatch(LAW, seed=s),
    "continue_path": lambda s: continue_path(PATH, 0.1, seed=s),
    "path_diagnostics": lambda s: path_diagnostics(NETWORK, X, seed=s),
    "mismatch_steps": lambda s: mismatch_steps(LAW, X, levels=8, samples=1, seed=s),
    "mismatch_length": lambda s: mismatch_length(LAW, X, levels=8, samples=2, seed=s),
    "relative_entropy": lambda s: relative_entropy(LAW, X, X, levels=8, samples=1, seed=s),
    "committor": lambda s: committor(WELL, Z, *BASINS, step=1e-3, shots=1, steps=1, seed=s),
    "plain_dynamics": lambda s: plain_dynamics(WELL, *BASINS, step=1e-3, steps=1, seed=s),
    "evaluate": lambda s: dd.evaluate(pictures(3), seed=s),
    "Redraw": lambda s: Redraw(seed=s),
    "CoordinateSettings": lambda s: CoordinateSettings(seed=s),
    "InterpolateOptions": lambda s: InterpolateOptions(seed=s),
    "PathwayOptions": lambda s: PathwayOptions(seed=s),
    "PathOptions": lambda s: PathOptions(seed=s),
    "ShootingOptions": lambda s: ShootingOptions(step=1e-3, seed=s),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("bad", ["a word", 1.5, -1, 2**64, float("nan"), [1], torch.tensor(1.5)])
def test_what_is_no_seed(name: str, bad: object):
    with pytest.raises(ValueError, match=r"^seed ") as refused:
        CALLS[name](bad)
    assert "\n" not in str(refused.value)


def test_whole_numbers_of_every_kind_are_seeds():
    expected = dd.ScoreMetric(LAW, log_snr=0.0, rank=2, seed=3).displacements
    kinds: list[Any] = [np.int64(3), torch.tensor(3)]
    for same in kinds:
        metric = dd.ScoreMetric(LAW, log_snr=0.0, rank=2, seed=same)
        assert torch.equal(metric.displacements, expected)
