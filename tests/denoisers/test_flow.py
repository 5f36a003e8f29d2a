"""The flow between data and noise, and samples of the posterior, against exact mixtures."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from diffodesic.denoisers.flow import clean_log_snr, drop, lift, sample_posterior
from diffodesic.denoisers.mixture import GaussianMixture
from diffodesic.numerics.cost import counting
from support.checks import same

CLEAN = math.exp(-9.2 / 2)  # sigma at which data count as clean


@pytest.fixture
def mix() -> GaussianMixture:
    """Three overlapping components in the plane: the flow bends and compresses."""
    means = torch.tensor([[-0.8, 0.1], [0.6, -0.5], [0.3, 0.9]], dtype=torch.float64)
    return GaussianMixture(means, weights=torch.tensor([0.5, 0.2, 0.3]), std=0.3)


class Narrow(GaussianMixture):
    """A mixture that is trusted between two noise levels only."""

    log_snr_range = (-3.0, 5.0)


def gaussian_flow(z: Tensor, mean: Tensor, std: Tensor, start: float, stop: float) -> Tensor:
    """Closed form: the distance from the mean grows as the standard deviation of the noisy law."""
    return mean + (z - mean) * ((std**2 + stop**2) / (std**2 + start**2)).sqrt()


def orders(errors: list[float]) -> list[float]:
    """Observed orders of convergence of errors at doubled numbers of steps."""
    return [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]


@pytest.mark.parametrize("direction", ["lift", "drop"])
def test_flow_of_gaussian_data_converges_to_its_closed_form_at_order_two(draw, direction):
    mean, std = draw(3), draw(3).exp()
    law = GaussianMixture(mean[None], std=std[None])
    top, points = 1.4, mean + 2 * draw(5, 3)
    ends = (CLEAN, top) if direction == "lift" else (top, CLEAN)
    exact = gaussian_flow(points, mean, std, *ends)
    flow = lift if direction == "lift" else drop
    errors = [
        float((flow(law, points, -2 * math.log(top), steps=n) - exact).abs().max())
        for n in (32, 64, 128, 256)
    ]
    # the order is that of Heun's rule; .2 for terms of higher order at these steps
    assert orders(errors) == pytest.approx([2.0, 2.0, 2.0], abs=0.2)
    assert errors[-1] < 1e-3


def test_flow_carries_the_data_law_to_the_noisy_law(mix, rng):
    """In one dimension the flow is monotone, so it must carry quantiles to quantiles."""
    law = GaussianMixture(mix.means[:, :1], mix.log_weights.exp(), std=0.3)
    sigma, steps = 0.8, 400
    x = torch.linspace(-1.5, 1.5, 41, dtype=torch.float64)

    def below(points: Tensor, level: float) -> Tensor:
        std = math.sqrt(0.3**2 + level**2)
        return (
            torch.special.ndtr((points[:, None] - law.means[:, 0]) / std) * law.log_weights.exp()
        ).sum(-1)

    z = lift(law, x[:, None], -2 * math.log(sigma), steps=steps)[:, 0]
    # order 2 with a constant near 1: (1 / 400)^2 is 6e-6
    torch.testing.assert_close(below(z, sigma), below(x, CLEAN), rtol=0, atol=3e-5)


def test_round_trip_closes_at_the_order_of_the_flow(mix, draw):
    x = mix.sample(20, generator=torch.Generator().manual_seed(0))
    errors = []
    for steps in (24, 48, 96, 192):
        z = lift(mix, x, 0.5, steps=steps)
        errors.append(float((drop(mix, z, 0.5, steps=steps) - x).abs().max()))
    # at least 2; the two ways' leading errors cancel, so that 3 is seen
    assert min(orders(errors)) > 2
    assert errors[-1] < 1e-4


def test_every_point_has_its_own_level(mix, draw):
    x, levels = draw(2, 3, 2), torch.tensor([[-1.0, 0.0, 2.0], [1.0, 5.0, 9.2]]).double()
    for flow in (lift, drop):
        together = flow(mix, x, levels)
        for index in [(i, j) for i in range(2) for j in range(3)]:
            same(together[index], flow(mix, x[index], float(levels[index])))


def test_clean_points_stay_where_they_are(mix, draw):
    x = draw(4, 2)
    assert clean_log_snr(mix) == 9.2
    same(lift(mix, x, 9.2), x)
    same(drop(mix, x, 9.2), x)


@pytest.mark.parametrize("std", [0.3, 1e-3])
def test_samples_have_the_deviation_of_their_data_whatever_its_scale(std: float):
    law = GaussianMixture(torch.zeros(1, 3).double(), std=std)
    assert math.exp(-clean_log_snr(law) / 2) == pytest.approx(min(CLEAN, std / 10), rel=1e-3)
    noise = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0)).double()
    level = 2 - math.log(law.variance)
    z = math.sqrt(law.variance + math.exp(-level)) * noise
    # a standard error of .65 %, a hundredth of the variance for the clean level, the step of Heun
    assert float(drop(law, z, level).std()) == pytest.approx(std, rel=0.03)
    sampled = sample_posterior(law, z[0], level, samples=4000, seed=1)
    spread = math.sqrt(1 / (1 / law.variance + math.exp(level)))
    assert float(sampled.std(0).mean()) == pytest.approx(spread, rel=0.05)


def test_flow_costs_two_evaluations_per_step_and_point(mix, draw):
    with counting() as cost:
        lift(mix, draw(5, 2), 1.0, steps=7)
    assert cost.evaluations == 2 * 7 * 5


def test_flow_is_differentiable(mix, draw):
    z, v, h = draw(2), draw(2), 1e-5
    slope = torch.func.jvp(lambda p: drop(mix, p, 1.0, steps=8), (z,), (v,))[1]
    ahead, behind = (drop(mix, z + step * v, 1.0, steps=8) for step in (h, -h))
    # a central difference is off by h^2 times a third derivative, and by rounding over h
    torch.testing.assert_close(slope, (ahead - behind) / (2 * h), rtol=1e-6, atol=1e-7)


def exact_posterior(mix: GaussianMixture, z: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    level, eye = torch.tensor(sigma).double(), torch.eye(mix.dim, dtype=z.dtype)
    return mix(z, level), mix.covariance(z, level, eye)


@pytest.mark.parametrize(("point", "log_snr"), [((0.1, 0.2), 1.0), ((-0.2, 0.0), -2.0)])
def test_samples_have_the_moments_of_the_posterior(mix, point, log_snr):
    z, count = torch.tensor(point).double(), 10_000
    mean, covariance = exact_posterior(mix, z, math.exp(-log_snr / 2))
    x = sample_posterior(mix, z, log_snr, samples=count, steps=64, seed=3)
    products = (x - mean).unsqueeze(-1) * (x - mean).unsqueeze(-2)
    # Five z-scores (two of the mean, three of the covariance): all stay below 3.5 with probability
    # 0.998; the seed is fixed.  The discretisation, order 2 in 64 steps, is far below the errors.
    for samples, exact in ((x, mean), (products.flatten(1), covariance.flatten())):
        score = (samples.mean(0) - exact) / (samples.std(0) / math.sqrt(count))
        assert float(score.abs().max()) < 3.5


def test_samples_of_a_discrete_law_are_its_points(rng):
    points = torch.tensor([[-1.0, 0.0], [1.0, 0.5], [0.0, 1.0]]).double()
    law, z, count = GaussianMixture(points, std=0.0), torch.tensor([0.2, 0.4]).double(), 8_000
    x = sample_posterior(law, z, 0.0, samples=count, seed=1)
    apart, nearest = torch.cdist(x, points).min(-1)
    assert float(apart.max()) < 1e-6
    exact = (-(z - points).square().sum(-1) / 2).softmax(-1)
    found = nearest.bincount(minlength=3) / count
    # three binomial z-scores below 3.5: probability 0.999, seed fixed
    assert float(((found - exact) / (exact * (1 - exact) / count).sqrt()).abs().max()) < 3.5


def test_shared_noise_gives_equal_points_equal_samples(mix, draw):
    z = draw(1, 2).expand(3, 2)
    shared = sample_posterior(mix, z, 0.5, samples=4, shared=True)
    own = sample_posterior(mix, z, 0.5, samples=4)
    assert shared.shape == own.shape == (4, 3, 2)
    assert torch.equal(shared[:, 0], shared[:, 1])
    assert torch.equal(shared[:, 0], shared[:, 2])
    assert float((own[:, 0] - own[:, 1]).abs().min()) > 1e-3
    assert float((shared[0] - shared[1]).abs().min()) > 1e-3


def test_a_seed_is_the_sample(mix, draw):
    z = draw(3, 2)
    first, again, other = (sample_posterior(mix, z, 1.0, seed=seed) for seed in (7, 7, 8))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_levels_of_samples_are_their_own(mix, draw):
    """Clean points are their own posterior: only the noisy ones may move."""
    z, levels = draw(2, 2), torch.tensor([9.2, 0.0]).double()
    x = sample_posterior(mix, z, levels, samples=50)
    # what is left of the noise at the cleanest level: sigma = .01, ten times over
    assert float((x[:, 0] - z[0]).abs().max()) < 0.1
    assert float(x[:, 1].std(0).min()) > 0.1


@pytest.mark.parametrize("log_snr", [-3.1, 5.1, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("flow", [lift, drop, sample_posterior])
def test_levels_outside_the_range_are_refused(draw, flow, log_snr):
    law = Narrow(draw(2, 2))
    with pytest.raises(ValueError, match="log SNR must be finite and between -3 and 5"):
        flow(law, draw(2, 2), torch.tensor([0.0, log_snr]).double())


@pytest.mark.parametrize("flow", [lift, drop])
def test_levels_cleaner_than_clean_are_refused(mix, draw, flow):
    with pytest.raises(ValueError, match=r"between -inf and 9\.2"):
        flow(mix, draw(2), 9.3)


def test_numbers_below_one_are_refused(mix, draw):
    for flow in (lift, drop):
        with pytest.raises(ValueError, match="at least 1 step, got 0"):
            flow(mix, draw(2), 1.0, steps=0)
    for samples, steps in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="samples and steps must be at least 1"):
            sample_posterior(mix, draw(2), 1.0, samples=samples, steps=steps)


def test_points_of_another_dimension_are_refused(mix, draw):
    with pytest.raises(ValueError, match="its last axis must be 2"):
        lift(mix, draw(4, 3), 1.0)
