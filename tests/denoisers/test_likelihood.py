"""Log densities against closed forms: Gaussians behind networks, mixtures, no posterior means."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from diffodesic import GaussianMixture, Spacetime
from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.denoisers.likelihood import (
    denoising_likelihood,
    flow_density,
    flow_likelihood,
)
from diffodesic.denoisers.network import Prediction, from_network
from diffodesic.denoisers.schedules import EDM, VP
from diffodesic.metrics.spacetime import log_density
from support.checks import Draw, same
from support.disguise import disguised
from support.laws import Linear

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")

LAM = 5.0
SIGMA = math.exp(-LAM / 2)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _modes(dim: int, draw: Draw) -> GaussianMixture:
    """Six modes, well apart for many coordinates and overlapping for few."""
    return GaussianMixture(1.5 * draw(6, dim), std=0.3)


def _exact(law: GaussianMixture, x: Tensor) -> Tensor:
    """Mean log density under the noise of LAM: 4,000 draws, their |eps|^2 taken off."""
    noise = torch.randn(4_000, 1, law.dim, generator=_generator(9), dtype=torch.float64)
    values = law.log_density(x + SIGMA * noise, x.new_tensor(SIGMA))
    return (values + (noise.square().sum(-1) - law.dim) / 2).mean(0)


@pytest.mark.parametrize("prediction", get_args(Prediction))
def test_a_gaussian_behind_every_parametrisation(prediction: Prediction, draw: Draw):
    law = GaussianMixture(draw(1, 6), std=0.5)
    network = from_network(
        disguised(law, prediction, schedule := EDM() if prediction == "edm" else VP(), 0.8),
        shape=(2, 3),
        schedule=schedule,
        prediction=prediction,
        sigma_data=0.8,
        mean=law.mean,
        variance=law.variance,
    )
    x = law.sample(3, generator=_generator())
    z = x + SIGMA * draw(3, 6)
    spread = 0.25 + SIGMA**2
    away = (z - law.means).square().sum(-1)
    closed = -(away / spread + 6 * math.log(2 * math.pi * spread)) / 2
    space = Spacetime(network, estimator="exact")
    by_psi = log_density(space, space.point(z[:1], LAM), rtol=1e-6)
    torch.testing.assert_close(by_psi, closed[:1], rtol=0, atol=1e-5)
    found = flow_density(network, z, LAM, steps=16, probes=None, generator=_generator())
    assert float((found - closed).abs().max()) < 6e-3  # 1e-3 per dimension
    # under the noise the mean of |z - mean|^2 is known as well
    average = closed - ((x - law.means).square().sum(-1) + 6 * SIGMA**2 - away) / spread / 2
    likely = denoising_likelihood(network, x, log_snr=LAM, draws=32)
    assert bool(((likely.nats - average).abs() < 4 * likely.error).all())


@pytest.mark.parametrize("dim", [2, 16, 64])
def test_mixtures(dim: int, draw: Draw):
    law = _modes(dim, draw)
    x = law.sample(4, generator=_generator())
    z = x + SIGMA * draw(4, dim)
    closed = law.log_density(z, z.new_tensor(SIGMA))
    found = [
        flow_density(law, z, LAM, steps=steps, probes=None, generator=_generator())
        for steps in (24, 48)
    ]
    off = [float((each - closed).abs().max()) for each in found]
    assert off[1] < 1e-3 * dim
    assert off[0] / off[1] > 8  # order 4 has 16
    blind = Denoiser.from_callable(
        law.posterior_mean, dim=dim, mean=law.mean, variance=law.variance
    )
    space = Spacetime(blind, estimator="exact")
    by_psi = log_density(space, space.point(z[:1], LAM), rtol=1e-6)
    torch.testing.assert_close(by_psi, closed[:1], rtol=0, atol=1e-5)
    exact = _exact(law, x)
    for likely in (
        denoising_likelihood(law, x, log_snr=LAM, levels=32, draws=32),
        flow_likelihood(law, x, log_snr=LAM, steps=24, probes=2, draws=8),
    ):
        assert bool(((likely.nats - exact).abs() < 4 * likely.error + 1e-3 * dim).all())


def test_standard_errors_are_those_of_the_scatter(draw: Draw):
    law = _modes(16, draw)
    x = law.sample(1, generator=_generator())
    runs = [denoising_likelihood(law, x, log_snr=LAM, draws=8, seed=seed) for seed in range(40)]
    scatter = torch.cat([run.nats for run in runs]).std()
    said = torch.cat([run.error for run in runs]).square().mean().sqrt()
    assert float(scatter / said) == pytest.approx(1, abs=4 / math.sqrt(2 * 40))


def test_the_flow_is_exact_for_what_is_no_posterior_mean(draw: Draw):
    # m = c z at every level: z grows as sigma^(1 - c), and the divergence is D (1 - c)
    dim, c = 5, 0.4
    law = Linear(c * torch.eye(dim, dtype=torch.float64))
    z = draw(3, dim)
    low = -math.log(dim) - 10.0
    growth = (1 - c) * (LAM - low) / 2
    spread = 1 + math.exp(-low)
    far = -(z * math.exp(growth)).square().sum(-1) / spread / 2
    closed = far - dim * math.log(2 * math.pi * spread) / 2 + dim * growth
    found = flow_density(law, z, LAM, steps=32, probes=None, generator=_generator())
    torch.testing.assert_close(found, closed, rtol=0, atol=1e-3)


def test_denoising_errors_of_what_is_no_posterior_mean(draw: Draw):
    dim, c = 5, 0.4
    law = Linear(c * torch.eye(dim, dtype=torch.float64))
    x = draw(3, dim)
    low = -math.log(dim) - 10.0
    first, last = math.exp(low), math.exp(LAM)
    # k E|x - c (x + sigma eps)|^2 = (1 - c)^2 k |x|^2 + c^2 D, and the Gaussian's below
    size = x.square().sum(-1)
    lost = ((1 - c) ** 2 * size * (last - first) + c**2 * dim * (LAM - low)) / 2
    gain = first / (1 + first)
    lost = lost + (size * gain + dim * (math.log1p(first) - gain)) / 2
    closed = -dim / 2 * (math.log(2 * math.pi * math.e) - LAM) - lost
    found = denoising_likelihood(law, x, log_snr=LAM, levels=256, draws=64)
    assert bool(((found.nats - closed).abs() < 4 * found.error).all())


def test_pictures_share_their_noise(draw: Draw):
    law = _modes(8, draw)
    x = law.sample(3, generator=_generator())
    together = denoising_likelihood(law, x, log_snr=LAM)
    same(denoising_likelihood(law, x[1], log_snr=LAM).nats, together.nats[1])
    same(denoising_likelihood(law, x.reshape(3, 1, 8), log_snr=LAM).nats[:, 0], together.nats)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"draws": 1}, "draws at least 2"),
        ({"levels": 0}, "levels must be at least 1"),
        ({"log_snr": -30.0}, "log_snr must be above"),
        ({"log_snr": math.nan}, "log_snr must be above"),
    ],
)
def test_bad_numbers_are_named(words: dict[str, Any], message: str, draw: Draw):
    with pytest.raises(ValueError, match=message):
        denoising_likelihood(_modes(3, draw), draw(2, 3), **words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"draws": 1}, "draws must be at least 2"),
        ({"steps": 0}, "steps and probes must be at least 1"),
        ({"probes": 0}, "steps and probes must be at least 1"),
    ],
)
def test_bad_numbers_of_the_flow_are_named(words: dict[str, Any], message: str, draw: Draw):
    with pytest.raises(ValueError, match=message):
        flow_likelihood(_modes(3, draw), draw(2, 3), **words)


def test_the_full_trace_is_right_in_float32_far_from_the_origin():
    law = GaussianMixture(torch.full((1, 64), 50.0).double(), std=0.5)
    x = law.sample(2, generator=_generator())
    exact, coarse = (flow_likelihood(law, points, probes=None) for points in (x, x.float()))
    # float32 rounds the points by 4e-6, .01 of the last noise, each of 64 coordinates
    assert float((coarse.nats - exact.nats).abs().max()) < 0.1


def test_noise_that_does_not_hide_the_data_has_no_likelihood(draw: Draw):
    law = GaussianMixture(torch.tensor([[-2.0], [2.0]]).double(), std=0.3)

    def known_from(low: float) -> Denoiser:
        return Denoiser.from_callable(
            law.posterior_mean, dim=1, variance=law.variance, log_snr_range=(low, 12.0)
        )

    x = draw(3, 1)
    for likelihood in (denoising_likelihood, flow_likelihood):
        with pytest.raises(ValueError, match=r"log SNR -1, which .* needs one that .* -3\.71"):
            likelihood(known_from(-1.0), x)
        assert bool(likelihood(known_from(-4.0), x).nats.isfinite().all())


def test_periodic_data_have_no_likelihood(draw: Draw):
    class Turning(GaussianMixture):
        period = (2 * math.pi,)

    for likelihood in (denoising_likelihood, flow_likelihood):
        with pytest.raises(ValueError, match="are periodic"):
            likelihood(Turning(draw(2, 1), std=0.3), draw(3, 1))
