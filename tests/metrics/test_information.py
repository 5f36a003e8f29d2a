"""The information-estimation metric against closed forms, and as a metric."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import diffodesic as dd
from diffodesic.images.information import IemOptions
from diffodesic.numerics.quadrature import legendre

KIND = torch.float64


def gaussian(dim: int, spread: float) -> tuple[dd.GaussianMixture, Tensor]:
    """Gaussian data whose deviations are spread over e^(+-spread), and the deviations."""
    generator = torch.Generator().manual_seed(dim)
    c = 0.7 * torch.exp(spread * torch.randn(dim, generator=generator, dtype=KIND))
    return dd.GaussianMixture(torch.zeros(1, dim, dtype=KIND), std=c[None]), c


def mixture(dim: int, seed: int, components: int = 4) -> dd.GaussianMixture:
    generator = torch.Generator().manual_seed(seed)
    means = 2 * torch.randn(components, dim, generator=generator, dtype=KIND)
    return dd.GaussianMixture(means, std=0.2 + torch.rand(components, generator=generator).double())


def points(dim: int, count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(count, dim, generator=generator, dtype=KIND)


@pytest.mark.parametrize("spread", [0.0, 1.0])
@pytest.mark.parametrize("dim", [2, 16, 128, 1000])
def test_gaussian_data_give_mahalanobis_and_the_closed_form(dim: int, spread: float):
    law, c = gaussian(dim, spread)
    a, b = c * points(dim, 3), c * points(dim, 3, seed=1)
    for snr in (None, 100.0, 1.0):
        share = 1.0 if snr is None else 1 - 1 / (1 + snr * c**2)
        expected = (((a - b) / c) ** 2 * share).sum(-1).sqrt()
        found = dd.iem(law, a, b, snr=snr)
        # the tolerance of the levels is 2 %; the rule that meets it has a tenth of that error
        torch.testing.assert_close(found.distance, expected, rtol=2e-3, atol=0)
        assert bool((found.error <= 1e-6 * found.distance).all())  # nothing depends on the noise


def dense(law: dd.GaussianMixture, a: float, b: float, gamma: float) -> float:
    """The integral in one dimension, by 400 x 400 nodes of Gauss."""
    s, weights = legendre(400, torch.zeros((), dtype=KIND))
    u, shares = legendre(400, torch.zeros((), dtype=KIND))
    eps, density = 16 * u - 8, 16 * shares * torch.exp(-((16 * u - 8) ** 2) / 2)
    density = density / math.sqrt(2 * math.pi)
    low, high = -16.0, math.log(gamma)
    levels = low + (high - low) * s
    sigma = (-levels / 2).exp().unsqueeze(-1)
    error = [x - law((x + sigma * eps).unsqueeze(-1), sigma).squeeze(-1) for x in (a, b)]
    integrand = ((error[0] - error[1]) ** 2) @ density
    return math.sqrt(float((high - low) * (weights * levels.exp()) @ integrand))


@pytest.mark.parametrize("pair", [(-2.0, 2.0), (0.1, 0.4), (-5.0, 1.0)])
def test_mixtures_agree_with_dense_quadrature(pair: tuple[float, float]):
    means = torch.tensor([[-2.5], [0.5], [2.5]], dtype=KIND)
    law = dd.GaussianMixture(means, torch.tensor([0.275, 0.45, 0.275], dtype=KIND), std=0.3)
    a, b = (torch.tensor([x], dtype=KIND) for x in pair)
    expected = dense(law, *pair, 200.0)
    found = dd.iem(law, a, b, snr=200.0, options=IemOptions(noises=400, rtol=1e-3))
    assert abs(float(found.distance) - expected) <= 4 * float(found.error) + 1e-3 * expected
    assert float(found.error) < 0.02 * expected


def test_standard_errors_are_those_of_other_noises():
    law, a, b = mixture(8, 3), points(8, 6), points(8, 6, seed=1)
    options = IemOptions(snr=50.0, levels=17)
    runs = [dd.iem(law, a, b, options=options.but(seed=s)) for s in range(30)]
    values = torch.stack([run.distance for run in runs])
    claimed = torch.stack([run.error for run in runs]).square().mean(0).sqrt()
    ratio = values.std(0) / claimed
    assert bool(((ratio > 0.6) & (ratio < 1.7)).all())


def test_the_triangle_inequality_holds_to_the_last_digit():
    worst, count = 0.0, 0
    for seed, dim in enumerate((1, 2, 3, 8, 64)):
        law = mixture(dim, seed)
        i, j = torch.triu_indices(12, 12, 1)
        far = torch.zeros(12, 12, dtype=KIND)
        # far from the data too, and few noises: neither may matter
        pairs = IemOptions(rtol=0.5).among(law, 3 * points(dim, 12, seed))
        far[i, j] = far[j, i] = pairs.distance
        x, y, z = torch.combinations(torch.arange(12), 3).T
        for p, q, r in ((x, y, z), (y, z, x), (z, x, y)):
            worst = max(worst, float((far[p, q] / (far[p, r] + far[r, q])).max()))
            count += len(p)
    assert count > 3000
    assert worst <= 1 + 1e-12


def test_all_pairs_are_what_single_pairs_are_and_equal_points_are_at_zero():
    law, data = mixture(5, 1), points(5, 20)
    data[3] = data[11]
    options = IemOptions(levels=17, snr=100.0)
    i, j = torch.triu_indices(20, 20, 1)
    together = options.among(law, data)
    alone = dd.iem(law, data[i], data[j], options=options)
    torch.testing.assert_close(together.distance, alone.distance, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(together.error, alone.error, rtol=1e-6, atol=1e-9)
    same = (i == 3) & (j == 11)
    assert float(together.distance[same]) == float(alone.distance[same]) == 0
    assert not bool(together.error[same].isnan().any())


def test_points_that_data_never_are_have_no_distance_without_an_snr():
    law = dd.GaussianMixture(points(3, 5), std=0.0)
    a, b = points(3, 2, seed=9)
    with pytest.raises(ValueError, match=r"grows without bound with the SNR.*give snr"):
        dd.iem(law, a, b)
    assert math.isfinite(float(dd.iem(law, a, b, snr=10.0).distance))


def test_bad_input_says_what_to_change():
    law, (a, b) = mixture(3, 0), points(3, 2)
    with pytest.raises(ValueError, match="last axis must be 3"):
        dd.iem(law, a[:2], b)
    with pytest.raises(ValueError, match="snr must be above 0"):
        dd.iem(law, a, b, snr=0.0)
    with pytest.raises(ValueError, match=r"levels must be one of \[9, 17"):
        IemOptions(levels=10)
    with pytest.raises(ValueError, match="noises must be at least 2"):
        IemOptions(noises=1)
    with pytest.raises(ValueError, match="all pairs need 2 points"):
        IemOptions().among(law, a[None])
    with pytest.raises(ValueError, match="not finite"):
        dd.iem(law, a, b * torch.nan)
