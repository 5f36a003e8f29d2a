"""Langevin chains against posteriors and laws that are known exactly, with stated confidence."""

from __future__ import annotations

import math

import pytest
import torch

from diffodesic.numerics.cost import counting
from diffodesic.transitions.grid_denoiser import GridDenoiser
from diffodesic.transitions.langevin import Langevin, Walkers, suggested_step
from diffodesic.transitions.own_potentials import from_callable
from diffodesic.transitions.potentials import DoubleWell, Potential, Ring
from diffodesic.transitions.surfaces import alanine
from support.langevin import trajectory


def harmonic(stiffness: float = 2.0, kT: float = 1.5) -> Potential:
    return from_callable(
        lambda x: stiffness / 2 * x.square().sum(-1),
        dim=1,
        kT=kT,
        box=((-3.0, 3.0),),
        unit="reduced",
    )


def within(x: torch.Tensor, mean: torch.Tensor, error: torch.Tensor, sigmas: float) -> bool:
    return bool(((x - mean).abs() < sigmas * error).all())


@pytest.mark.parametrize("correct", [False, True])
def test_a_held_harmonic_chain_in_closed_form(correct):
    # V = (s/kT + k)/2 (x - m)^2.  Unadjusted, the stationary variance is 1/(a (1 - a tau/2)).
    potential, k, z = harmonic(), 3.0, torch.tensor([0.8], dtype=torch.float64)
    a = 2.0 / 1.5 + k
    step = 0.3 / a
    generator = torch.Generator().manual_seed(3)
    walkers = Walkers.at(potential, z.expand(20_000, 1).clone())
    walkers = Langevin(potential, step, z, math.log(k), correct).run(walkers, 60, generator)
    variance = 1 / a if correct else 1 / (a * (1 - a * step / 2))
    x = walkers.x[:, 0]
    # 20,000 independent Gaussians: 4 standard errors each, and the two variances differ by 17 %
    assert within(x.mean(), k * z / a, torch.tensor((variance / 2e4) ** 0.5), 4)
    assert abs(float(x.var()) / variance - 1) < 4 * math.sqrt(2 / 2e4)
    assert (walkers.accepted < 1) == correct


@pytest.mark.parametrize(
    ("potential", "z", "log_snr"),
    [
        (alanine(), (-1.3, 1.2), 2.0),
        (Ring(10, 1, 0.5), (0.1, -0.6), 1.0),
        (DoubleWell(), (0.6, 0.2), 2.5),
    ],
    ids=["alanine", "ring", "double-well"],
)
def test_a_held_chain_samples_the_grid_posterior(potential, z, log_snr):
    centre = torch.tensor(z, dtype=torch.float64)
    generator = torch.Generator().manual_seed(11)
    walkers = Walkers.at(potential, centre.expand(2000, 2).clone())
    step = 3 * suggested_step(potential, centre, log_snr)
    walkers = Langevin(potential, step, centre, log_snr).run(walkers, 800, generator)
    grid = GridDenoiser(potential)
    sigma = torch.tensor(math.exp(-log_snr / 2), dtype=torch.float64)
    mean = grid(centre, sigma)
    covariance = torch.stack(
        [
            grid.statistic_covariance(centre, sigma, axis, torch.tensor(0.0).double())[0]
            for axis in torch.eye(2, dtype=torch.float64)
        ]
    )
    x = walkers.x
    off = x - x.mean(0)
    products = off[:, :, None] * off[:, None]
    # 2,000 independent chains; 3.5 standard errors for each of 2 + 3 numbers
    assert within(x.mean(0), mean, (covariance.diagonal() / 2000).sqrt(), 3.5)
    assert within(products.mean(0), covariance, products.std(0) / math.sqrt(2000), 3.5)


def test_corrected_chains_are_stationary():
    """Started in the law, the corrected chain stays in it however large the step."""
    potential = DoubleWell(dim=1, barrier=3.0)
    x = torch.linspace(-2, 2, 4001, dtype=torch.float64)
    law = torch.softmax(-potential(x[:, None]), 0)
    draws = torch.multinomial(law, 40_000, True, generator=torch.Generator().manual_seed(0))
    start = x[draws][:, None]
    shares = {}
    for correct in (True, False):
        dynamics = Langevin(potential, 0.02, correct=correct)
        states, accepted = trajectory(dynamics, start, steps=40, every=40, seed=5)
        bins = torch.linspace(-2, 2, 21, dtype=torch.float64)
        seen = torch.histogram(states[:, -1, 0].contiguous(), bins)[0]
        rows = torch.bucketize(x[1:-1], bins) - 1
        expected = 40_000 * torch.zeros(20, dtype=torch.float64).index_add(0, rows, law[1:-1])
        full = expected > 20
        shares[correct] = float(((seen - expected)[full] ** 2 / expected[full]).sum())
        degrees = int(full.sum()) - 1
        assert (accepted < 0.99) == correct
    # chi squared: mean f, variance 2 f; 4 standard deviations above.  Unadjusted it must fail.
    limit = degrees + 4 * math.sqrt(2 * degrees)
    assert shares[True] < limit < shares[False]


def test_a_step_costs_one_evaluation():
    potential, generator = Ring(), torch.Generator().manual_seed(0)
    start = torch.ones(7, 2, dtype=torch.float64)
    for correct in (True, False):
        with counting() as spent:
            walkers = Walkers.at(potential, start)
            Langevin(potential, 1e-4, correct=correct).run(walkers, 5, generator)
        assert spent.energies == 7 * 6


def test_every_state_is_watched_and_seeds_repeat():
    potential, start = Ring(), torch.ones(3, 2, dtype=torch.float64)
    seen: list[torch.Tensor] = []
    ends = []
    for seed in (1, 1, 2):
        generator = torch.Generator().manual_seed(seed)
        walkers = Langevin(potential, 1e-3).run(
            Walkers.at(potential, start), 4, generator, lambda now: seen.append(now.x)
        )
        ends.append(walkers.x)
    assert len(seen) == 12
    assert torch.equal(seen[3], ends[0])
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


def test_explosions_name_the_step():
    potential, start = Ring(), torch.full((2, 2), 1.5, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"step 0\.1 makes the dynamics on ring explode"):
        trajectory(Langevin(potential, 0.1, correct=False), start, steps=50)
    with pytest.raises(ValueError, match=r"step 5 is too large for ring"):
        trajectory(Langevin(potential, 5.0), start.repeat(100, 1), steps=50, every=50)
    with pytest.raises(ValueError, match="step must be a positive number"):
        Langevin(potential, -1.0)


def test_suggested_step_is_a_tenth_of_the_relaxation_time():
    step = suggested_step(harmonic(2.0, 1.5), torch.zeros(1, dtype=torch.float64), math.log(3.0))
    # the Hessian comes by differences: 1e-16 / 1e-8
    assert abs(step - 0.1 / (3 + 2 / 1.5)) < 1e-6
