"""Gaussian mixtures against definitions: Bayes' rule, automatic derivatives, sampling."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Categorical,
    Independent,
    MixtureSameFamily,
    Normal,
)

from diffodesic import GaussianMixture, Spacetime
from diffodesic.denoisers.denoiser import Denoiser
from support.checks import Draw, same

STDS: dict[str, Tensor | float] = {
    "number": 0.6,
    "per-component": torch.tensor([0.3, 0.8, 0.5], dtype=torch.float64),
    "per-coordinate": torch.tensor([[0.3, 0.8], [0.5, 0.2], [0.9, 0.4]], dtype=torch.float64),
    "some-zero": torch.tensor([0.0, 0.5, 0.0], dtype=torch.float64),
    "zero": 0.0,
}
EVERY_STD = pytest.mark.parametrize("std", STDS.values(), ids=STDS.keys())
MEANS = torch.tensor([[-1.0, 0.5], [0.7, 0.2], [0.3, -1.2]], dtype=torch.float64)
WEIGHTS = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)


def _noisy(uniform: Draw, draw: Draw, *shape: int) -> tuple[Tensor, Tensor]:
    """Points and noise levels between 0.3 and 3."""
    return 1.5 * draw(*shape, 2), torch.exp(uniform(-1.2, 1.1, *shape))


def _noisy_law(std: Tensor | float, sigma: Tensor) -> MixtureSameFamily:
    """The law of z at one noise level, by torch.distributions."""
    std = torch.as_tensor(std, dtype=torch.float64)
    std = std if std.ndim == 2 else std.expand(3).unsqueeze(-1).expand(3, 2)
    parts = Independent(Normal(MEANS, (std**2 + sigma**2).sqrt()), 1)
    return MixtureSameFamily(Categorical(WEIGHTS), parts)


@EVERY_STD
def test_log_density_is_that_of_the_noisy_mixture(std: Tensor | float, uniform: Draw, draw: Draw):
    mix = GaussianMixture(MEANS, WEIGHTS, std)
    z, sigma = _noisy(uniform, draw, 7)
    expected = torch.stack([_noisy_law(std, s).log_prob(p) for p, s in zip(z, sigma, strict=True)])
    same(mix.log_density(z, sigma), expected)


@EVERY_STD
def test_score_is_the_gradient_of_the_log_density(std: Tensor | float, uniform: Draw, draw: Draw):
    mix = GaussianMixture(MEANS, WEIGHTS, std)
    z, sigma = _noisy(uniform, draw, 7)
    z.requires_grad_()
    (slope,) = torch.autograd.grad(mix.log_density(z, sigma).sum(), z)
    same(mix.score(z, sigma), slope)


@EVERY_STD
def test_closed_moments_agree_with_the_divergence(std: Tensor | float, uniform: Draw, draw: Draw):
    mix = GaussianMixture(MEANS, WEIGHTS, std)
    z, sigma = _noisy(uniform, draw, 2, 4)
    for closed, general in zip(mix.moments(z, sigma), Denoiser.moments(mix, z, sigma), strict=True):
        same(closed, general)


def _eta(z: Tensor, sigma: Tensor) -> Tensor:
    k = sigma**-2
    return torch.cat([k.unsqueeze(-1) * z, -k.unsqueeze(-1) / 2], -1)


@EVERY_STD
def test_mu_is_the_gradient_of_psi_and_the_metric_its_hessian(
    std: Tensor | float, uniform: Draw, draw: Draw
):
    mix = GaussianMixture(MEANS, WEIGHTS, std)
    z, sigma = _noisy(uniform, draw, 5)

    def psi(eta: Tensor) -> Tensor:
        return mix.log_partition(eta[:-1], -2 * eta[-1])

    for point, level in zip(z, sigma, strict=True):
        eta = _eta(point, level)
        m, second = mix.moments(point, level)
        gradient = torch.autograd.functional.jacobian(psi, eta)
        same(gradient, torch.cat([m, second.reshape(1)]))
        # the covariance of T = (x0, |x0|^2), and by it the metric in (z, log SNR)
        covariance = torch.autograd.functional.hessian(psi, eta)
        v = draw(2)
        same(mix.covariance(point, level, v), covariance[:2, :2] @ v)


@EVERY_STD
def test_spacetime_metric_is_the_covariance_of_the_statistic(std: Tensor | float, draw: Draw):
    mix = GaussianMixture(MEANS, WEIGHTS, std)
    space = Spacetime(mix)
    x, u, v = draw(3, 3)

    def psi(eta: Tensor) -> Tensor:
        return mix.log_partition(eta[:-1], -2 * eta[-1])

    covariance = torch.autograd.functional.hessian(psi, space.eta(x))
    jacobian = torch.autograd.functional.jacobian(space.eta, x)
    expected = (jacobian @ u) @ covariance @ (jacobian @ v)
    same(space.inner(x, u, v), expected)


@EVERY_STD
def test_derivative_in_sigma_against_finite_differences(
    std: Tensor | float, uniform: Draw, draw: Draw
):
    # a denoiser's moments must be differentiable in the noise level, through solves and tables
    mix = GaussianMixture(MEANS, WEIGHTS, std)
    z, sigma = _noisy(uniform, draw, 5)
    sigma.requires_grad_()

    def total(level: Tensor) -> Tensor:
        m, second = mix.moments(z, level)
        return m.sum(-1) + second

    (slope,) = torch.autograd.grad(total(sigma).sum(), sigma)

    def central(h: float) -> Tensor:
        step = h * sigma
        return (total(sigma + step) - total(sigma - step)) / (2 * step)

    # Richardson at h = 1e-3 of sigma, the scale of a delta: truncation h^4, rounding 1e-16 / h
    numeric = (4 * central(5e-4) - central(1e-3)) / 3
    torch.testing.assert_close(slope, numeric, rtol=1e-8, atol=1e-8)


def _two_points(weight: float, dim: int, draw: Draw) -> tuple[GaussianMixture, Tensor, Tensor]:
    a, b = draw(2, dim)
    weights = torch.tensor([weight, 1 - weight], dtype=torch.float64)
    return GaussianMixture(torch.stack([a, b]), weights, std=0.0), a, b


@pytest.mark.parametrize("weight", [0.5, 0.1])
@pytest.mark.parametrize("dim", [1, 4])
def test_two_point_data_is_a_bernoulli_law(weight: float, dim: int, draw: Draw, uniform: Draw):
    # p = sigmoid(logit w + eta.(T(a) - T(b))); every quantity is one of Bernoulli(p)
    mix, a, b = _two_points(weight, dim, draw)
    space = Spacetime(mix)
    x = torch.cat([draw(6, dim), uniform(-1, 1, 6, 1)], -1)
    statistic = torch.cat([a - b, (a.square().sum() - b.square().sum()).reshape(1)])
    logit = math.log(weight / (1 - weight)) + space.eta(x) @ statistic
    p = torch.sigmoid(logit)
    m = space.mu(x)[:, :-1]
    same(m, p[:, None] * a + (1 - p[:, None]) * b)
    # a step is the Jeffreys divergence of the two laws
    law = [Bernoulli(logits=value) for value in logit]
    steps = torch.stack(
        [
            torch.distributions.kl_divergence(p, q) + torch.distributions.kl_divergence(q, p)
            for p, q in itertools.pairwise(law)
        ]
    )
    same(space.squared_steps(x), steps)
    # the metric has rank one: ds = d(2 arcsin sqrt p)
    u, v = draw(2, 6, dim + 1)
    angle = torch.stack(
        [
            _directional(lambda y: _angle(mix, space, y, statistic, weight), at, along)
            for at, along in zip(x.repeat(2, 1), torch.cat([u, v]), strict=True)
        ]
    )
    same(space.inner(x, u, v), angle[:6] * angle[6:])


def _angle(
    mix: GaussianMixture, space: Spacetime, x: Tensor, statistic: Tensor, weight: float
) -> Tensor:
    logit = math.log(weight / (1 - weight)) + space.eta(x) @ statistic
    return 2 * torch.asin(torch.sigmoid(logit).sqrt())


def _directional(function: Callable[[Tensor], Tensor], x: Tensor, v: Tensor) -> Tensor:
    return torch.func.jvp(function, (x,), (v,))[1]


def test_two_point_distance(draw: Draw):
    # refining a monotone path gives the closed distance 2|arcsin sqrt p1 - arcsin sqrt p2|
    mix, a, b = _two_points(0.4, 3, draw)
    space = Spacetime(mix)
    ends = space.point(torch.stack([a + 0.2, b - 0.1]), log_snr=0.5)
    statistic = torch.cat([a - b, (a.square().sum() - b.square().sum()).reshape(1)])
    angles = torch.stack([_angle(mix, space, x, statistic, 0.4) for x in ends])
    errors = []
    for n in (50, 100, 200):
        chord = torch.lerp(ends[0], ends[1], torch.linspace(0, 1, n + 1)[:, None].double())
        errors.append(
            float(space.squared_steps(chord).sqrt().sum() - (angles[0] - angles[1]).abs())
        )
    assert math.log2(errors[0] / errors[2]) / 2 == pytest.approx(2, abs=0.02)
    extrapolated = (16 * errors[2] - errors[1]) / 15
    assert abs(extrapolated) < abs(errors[2])


@EVERY_STD
def test_sample_has_the_moments_of_the_law(std: Tensor | float, rng: torch.Generator):
    mix = GaussianMixture(MEANS, WEIGHTS, std)
    count = 20_000
    x = mix.sample(count, generator=rng)
    assert x.shape == (count, 2)
    variances = torch.as_tensor(std, dtype=torch.float64) ** 2
    variances = variances if variances.ndim == 2 else variances.expand(3).unsqueeze(-1).expand(3, 2)
    mean = WEIGHTS @ MEANS
    second = WEIGHTS @ (MEANS**2 + variances)
    for sampled, exact in ((x, mean), (x**2, second)):
        error = (sampled.mean(0) - exact) / (sampled.std(0) / math.sqrt(count))
        # 20 such comparisons at 4.5 standard errors: a correct sampler fails 1 seed in 7000
        assert float(error.abs().max()) < 4.5


def test_sample_repeats_with_its_generator():
    mix = GaussianMixture(MEANS, WEIGHTS, 0.3)
    draws = [mix.sample(5, generator=torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*draws)


def test_summary_of_the_law():
    std = STDS["per-coordinate"]
    mix = GaussianMixture(MEANS, WEIGHTS, std)
    mean = WEIGHTS @ MEANS
    torch.testing.assert_close(mix.mean, mean)
    variance = WEIGHTS @ (MEANS**2 + torch.as_tensor(std) ** 2) - mean**2
    assert mix.variance == pytest.approx(float(variance.mean()))


def test_numbers_keep_the_precision_of_the_means():
    mix = GaussianMixture(MEANS, [0.1, 0.2, 0.7], std=0.8)  # type: ignore[arg-type]
    assert float(mix.variances[0]) == 0.8**2
    same(mix.log_weights.exp().tolist(), [0.1, 0.2, 0.7])


def test_weights_need_not_be_normalised(draw: Draw):
    z, sigma = draw(4, 2), torch.tensor(0.5, dtype=torch.float64)
    one, other = (GaussianMixture(MEANS, scale * WEIGHTS, 0.4) for scale in (1, 7))
    same(one(z, sigma), other(z, sigma))


def test_from_data_is_one_component_per_sample(draw: Draw):
    images = draw(6, 2, 3)
    mix = GaussianMixture.from_data(images, bandwidth=0.2)
    assert mix.dim == 6
    torch.testing.assert_close(mix.means, images.reshape(6, 6))
    # with no noise to speak of the posterior of a sample is the sample
    bare = GaussianMixture.from_data(images, bandwidth=0.0)
    same(bare(mix.means, torch.tensor(0.01)), mix.means)


def test_infinite_noise_leaves_the_data_law():
    mix = GaussianMixture(MEANS, WEIGHTS, 0.4)
    zero = torch.zeros(2, dtype=torch.float64)
    assert float(mix.log_partition(zero, torch.tensor(0.0))) == pytest.approx(0, abs=1e-15)
    far = mix(zero, torch.tensor(1e8, dtype=torch.float64))
    same(far, WEIGHTS @ MEANS)


def test_shapes_broadcast(draw: Draw):
    mix = GaussianMixture(MEANS, WEIGHTS, STDS["per-coordinate"])
    z, sigma = draw(3, 1, 2), torch.tensor([0.5, 1.0], dtype=torch.float64)
    m, second = mix.moments(z, sigma)
    assert m.shape == mix(z, sigma).shape == mix.score(z, sigma).shape == (3, 2, 2)
    assert second.shape == mix.log_density(z, sigma).shape == (3, 2)
    same(m[2, 1], mix(z[2, 0], sigma[1]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(3),), "means must be a floating"),
        ((torch.zeros(3, 2, dtype=torch.long),), "means must be a floating"),
        ((torch.zeros(3, 2), torch.ones(2)), "weights must be 3 positive"),
        ((torch.zeros(3, 2), torch.tensor([1.0, 0.0, 1.0])), "weights must be 3 positive"),
        ((torch.zeros(3, 2), torch.tensor([1.0, math.nan, 1.0])), "weights must be 3 positive"),
        ((torch.zeros(3, 2), None, torch.ones(2)), "std must be a number"),
        ((torch.zeros(3, 2), None, torch.ones(2, 2)), "std must be a number"),
        ((torch.zeros(3, 2), None, -0.1), "std non-negative"),
        ((torch.full((3, 2), math.inf), None, 0.1), "must be finite"),
    ],
)
def test_errors_say_which_argument_is_wrong(arguments: tuple, message: str):
    with pytest.raises(ValueError, match=message):
        GaussianMixture(*arguments)


def test_a_point_of_the_wrong_dimension_is_an_error(draw: Draw):
    mix = GaussianMixture(MEANS)
    for call in (mix, mix.score, mix.moments):
        with pytest.raises(ValueError, match="last axis must be 2"):
            call(draw(4, 3), torch.tensor(1.0))
