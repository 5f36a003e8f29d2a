"""Straight lines in eta and in mu."""

from __future__ import annotations

import math

import pytest
import torch

from diffodesic import Denoiser, GaussianMixture, Spacetime, counting, geodesic
from diffodesic.metrics.spacetime.posterior_divergences import jeffreys
from diffodesic.metrics.spacetime.straight_lines import e_geodesic, from_mu, m_geodesic
from support.checks import Draw, same

S = torch.linspace(0, 1, 33, dtype=torch.float64)


@pytest.fixture
def space(draw: Draw) -> Spacetime:
    return Spacetime(GaussianMixture(2 * draw(4, 2), std=0.6))


def _pair(space: Spacetime, draw: Draw) -> tuple[torch.Tensor, torch.Tensor]:
    """Two points of little noise: the mixtures of their posteriors are posteriors of some noise."""
    assert isinstance(space.denoiser, GaussianMixture)
    near = space.denoiser.means[0] + 0.5 * draw(2, space.data_dim)
    a, b = space.point(near, torch.tensor([1.0, 2.0], dtype=torch.float64))
    return a, b


def test_e_geodesics_are_straight_in_eta_and_cost_nothing(space: Spacetime, draw: Draw):
    a, b = _pair(space, draw)
    with counting() as cost:
        line = e_geodesic(space, a, b, S)
    assert cost.evaluations == 0
    same(space.eta(line), torch.lerp(space.eta(a), space.eta(b), S[:, None]))
    same(e_geodesic(space, a, b, 0.5), line[16])


def test_between_equal_noise_the_e_geodesic_is_the_chord(space: Spacetime, draw: Draw):
    a, b = space.point(draw(2, 2), 1.5)
    same(e_geodesic(space, a, b, S), torch.lerp(a, b, S[:, None]))


@pytest.mark.parametrize("dim", [1, 2, 16])
def test_m_geodesics_are_straight_in_mu(dim: int, draw: Draw):
    space = Spacetime(GaussianMixture(draw(4, dim), std=0.6))
    a, b = _pair(space, draw)
    line = m_geodesic(space, a, b, S)
    expected = torch.lerp(space.mu(a), space.mu(b), S[:, None])
    torch.testing.assert_close(space.mu(line), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(line[[0, -1]], torch.stack([a, b]), rtol=1e-7, atol=1e-7)
    same(m_geodesic(space, a, b, 0.25), line[8])


def test_both_lines_have_the_energy_of_one_chord(space: Spacetime, draw: Draw):
    a, b = _pair(space, draw)
    both = jeffreys(space, a, b)
    length = geodesic(space, a, b, nodes=64).length
    for line in (e_geodesic(space, a, b, S), m_geodesic(space, a, b, S)):
        # with one of eta and mu straight, the sum of steps telescopes
        torch.testing.assert_close(32 * space.squared_steps(line).sum(), both, rtol=1e-8, atol=0)
        assert float(length) < float(space.squared_steps(line).sqrt().sum())


def test_mean_parameters_are_inverted(space: Spacetime, draw: Draw, uniform: Draw):
    x = space.point(2 * draw(20, 2), uniform(-2, 3, 20))
    start = space.point(torch.zeros(20, 2, dtype=torch.float64), 0.0)
    found = from_mu(space, space.mu(x), start)
    torch.testing.assert_close(found, x, rtol=1e-6, atol=1e-6)


def test_a_line_that_leaves_spacetime_is_said():
    # the half-way mixture of posteriors at -6 and 6 has variance 36, and the data have 1
    space = Spacetime(GaussianMixture(torch.zeros(1, 1, dtype=torch.float64), std=1.0))
    a, b = space.point(torch.tensor([[-9.0], [9.0]], dtype=torch.float64), math.log(2))
    with pytest.raises(ValueError, match="leaves spacetime"):
        m_geodesic(space, a, b, 0.5)


def test_a_network_does_not_know_psi(space: Spacetime, draw: Draw):
    class Network(Denoiser):
        dim = 2

        def posterior_mean(self, z: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
            return z / (1 + sigma.unsqueeze(-1) ** 2)

    x = space.point(draw(3, 2), 0.0)
    with pytest.raises(ValueError, match="does not know in closed form"):
        from_mu(Spacetime(Network(), estimator="exact"), space.mu(x), x)
