"""The noise level of a score metric, and the unit of its weight."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from diffodesic import Denoiser, GaussianMixture, ScoreMetric
from diffodesic.denoisers.noise_level import choose_noise_level
from diffodesic.denoisers.schedules import Tabulated
from diffodesic.denoisers.sphere import SphereDenoiser
from diffodesic.metrics.one_level import weight_unit
from support.checks import Draw, same


def _plate(thin: float) -> GaussianMixture:
    """Gaussian data that are wide in two directions of six and thin in four."""
    std = torch.tensor([[1.0, 1.0, thin, thin, thin, thin]], dtype=torch.float64)
    return GaussianMixture(torch.zeros(1, 6).double(), std=std)


def test_gap_and_turn_of_a_gaussian_are_known(draw: Draw, rng: torch.Generator):
    law, levels = _plate(0.05), torch.linspace(-1, 6, 8)
    found = choose_noise_level(
        law, law.sample(300, generator=rng), levels=levels, points=2, probes=4000
    )
    share = law.variances / (law.variances + torch.exp(-found.levels).unsqueeze(-1))
    exact = 1 - (share * (1 - share)).square().sum(-1) / share.square().sum(-1)
    # ratios of means over 8,000 random probes: a standard error of about one per cent
    torch.testing.assert_close(found.gap, exact, rtol=0, atol=0.05)
    same(found.turn, torch.zeros(8).double())
    assert found.gaussian


def test_the_level_of_a_gaussian_lies_between_its_two_scales(rng: torch.Generator):
    law = _plate(0.02)
    found = choose_noise_level(law, law.sample(200, generator=rng))
    sigma = math.exp(-found.log_snr / 2)
    assert 0.02 < sigma < 1
    best = found.gap.max()
    chosen = found.levels == found.log_snr
    assert float(found.gap[chosen]) >= 0.9 * float(best)
    assert not bool((found.gap[found.levels < found.log_snr] >= 0.9 * best).any())


def test_a_sphere_is_no_gaussian_below_its_radius_and_one_far_above(rng: torch.Generator):
    law = SphereDenoiser(5)
    data = law.sample(100, generator=rng)
    found = choose_noise_level(law, data)
    assert not found.gaussian
    assert float(found.turn[found.levels == found.log_snr]) >= 0.1
    value = found.gap * found.turn
    assert float(value[found.levels == found.log_snr]) >= 0.9 * float(value.max())
    assert math.exp(-found.log_snr / 2) < 1
    high = choose_noise_level(law, data, levels=torch.tensor([-4.0, -3.0]))
    assert high.gaussian


def test_auto_is_that_level(rng: torch.Generator):
    law = SphereDenoiser(5)
    data = law.sample(50, generator=rng)
    metric = ScoreMetric(law, data=data, seed=3)
    assert metric.log_snr == choose_noise_level(law, data, seed=3).log_snr
    assert metric.weight == 1


def test_a_relative_weight_is_in_units_of_the_mean_square_score(draw: Draw, rng: torch.Generator):
    law = GaussianMixture(draw(1, 4), std=0.7)
    data = law.sample(20_000, generator=rng)
    metric = ScoreMetric(law, log_snr=1.0, weight=3.0, relative=True, data=data)
    # |s|^2 of a Gaussian has mean D/(v + sigma^2); the mean of 20,000 of relative spread .7
    exact = 3 * (0.49 + math.exp(-1)) / 4
    assert metric.weight == pytest.approx(exact, rel=0.02)


def test_weights_of_a_network_are_those_of_its_own_coordinates(draw: Draw):
    """Steps in x = alpha z under weight L are alpha^2 those of the metric on z."""
    alpha, sigma = (float(v) for v in Tabulated.ddpm_linear().alpha_sigma(400))
    assert alpha**2 == pytest.approx(0.194, abs=5e-4)
    law = GaussianMixture(draw(3, 4), std=0.7)
    metric = ScoreMetric.native(law, alpha, sigma, weight=1000.0)
    # the noisy law of x itself: means alpha a, variances alpha^2 v + sigma^2
    own = GaussianMixture(alpha * law.means, std=(alpha**2 * 0.49 + sigma**2 / 2) ** 0.5)
    half = sigma / math.sqrt(2)
    native = ScoreMetric(own, log_snr=-2 * math.log(half), weight=1000.0)
    x = draw(2, 9, 4)
    same(alpha**2 * metric.squared_steps(x / alpha), native.squared_steps(x))
    same(metric.sigma, sigma / alpha)


class _Broken(Denoiser):
    """A denoiser whose score is zero, or not finite beyond x = 2."""

    dim = 2

    def __init__(self, *, zero: bool) -> None:
        self.zero = zero

    def posterior_mean(self, z: Tensor, sigma: Tensor) -> Tensor:
        return z if self.zero else torch.where(z[:, :1] > 2, torch.nan, 0.0).expand_as(z)


def test_a_score_without_size_is_said():
    ends = torch.tensor([[0.0, 1.0], [3.0, 0.0]], dtype=torch.float64)
    with pytest.raises(ValueError, match="the score is zero at all points"):
        weight_unit(_Broken(zero=True), ends, 0.0)
    with pytest.raises(ValueError, match=r"the score is not finite at points \[1\]"):
        weight_unit(_Broken(zero=False), ends, 0.0)
    with pytest.raises(ValueError, match="the score is zero"):
        ScoreMetric(_Broken(zero=True), log_snr=0.0, relative=True, data=ends)


def test_bad_settings_are_said(rng: torch.Generator):
    law = SphereDenoiser(5)
    data = law.sample(9, generator=rng)
    for weight in (-1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="weight must be >= 0 and finite"):
            ScoreMetric(law, log_snr=0.0, weight=weight)
    with pytest.raises(ValueError, match=r'log_snr="auto" is measured on data; give data'):
        ScoreMetric(law)
    with pytest.raises(ValueError, match="a relative weight is measured on data"):
        ScoreMetric(law, log_snr=0.0, relative=True)
    with pytest.raises(ValueError, match="rank must be between 1 and 5"):
        ScoreMetric(law, log_snr=0.0, rank=6)
    with pytest.raises(ValueError, match="alpha and sigma must be positive"):
        ScoreMetric.native(law, 0.0, 1.0)
    law.log_snr_range = (-3.0, 4.0)
    with pytest.raises(ValueError, match="outside the noise levels of the denoiser"):
        ScoreMetric(law, log_snr=5.0)
    with pytest.raises(ValueError, match="levels must be finite log SNR between -3 and 4"):
        choose_noise_level(law, data, levels=torch.tensor([0.0, 5.0]))
    with pytest.raises(ValueError, match=r"data must be \(N, 5\) with N >= 2"):
        choose_noise_level(law, data[:1])
    with pytest.raises(ValueError, match="probes must be at least 1"):
        choose_noise_level(law, data, probes=0)
    with pytest.raises(ValueError, match="the data do not vary"):
        choose_noise_level(law, torch.ones(4, 5).double())
