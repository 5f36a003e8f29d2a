"""Divergences against closed forms of psi, against sums over densities, and each other."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from benchmarks.problems import toy, toy_mixture, toy_point
from diffodesic import Denoiser, GaussianMixture, Relax, Spacetime, geodesic
from diffodesic.metrics.spacetime.posterior_divergences import (
    divergences,
    jeffreys,
    kl,
    kl_along,
    log_density,
    log_partition,
    sandwich,
)
from support.checks import Draw, same


class Blind(Denoiser):
    """A mixture that does not know its log-partition: what a network is to these functions."""

    closed_form = True

    def __init__(self, law: GaussianMixture, log_snr_range: tuple[float, float]) -> None:
        self.law, self.dim, self.log_snr_range = law, law.dim, log_snr_range
        self.mean, self.variance = law.mean, law.variance

    def posterior_mean(self, z: Tensor, sigma: Tensor) -> Tensor:
        return self.law.posterior_mean(z, sigma)

    def moments(self, z: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return self.law.moments(z, sigma)


ALL = (-math.inf, math.inf)


def _pairs(dim: int, spread: float, count: int, draw: Draw, uniform: Draw) -> tuple:
    """A mixture of four modes ``spread`` apart, and noisy points of its data."""
    law = GaussianMixture(spread * draw(4, dim), std=uniform(0.3, 0.8, 4))
    lam = uniform(-4, 4, count, 2)
    home = law.means[torch.randint(0, 4, (count, 2))]
    z = home + (-lam / 2).exp().unsqueeze(-1) * draw(count, 2, dim)
    space = Spacetime(law)
    return space, *space.point(z, lam).unbind(1)


def _closed(space: Spacetime, a: Tensor, b: Tensor) -> Tensor:
    rise = (space.eta(a) - space.eta(b)) * space.mu(a)
    return rise.sum(-1) - log_partition(space, a) + log_partition(space, b)


@pytest.mark.parametrize("dim", [1, 2, 16])
@pytest.mark.parametrize("spread", [1.0, 5.0, 20.0])
def test_quadrature_is_the_closed_form(dim: int, spread: float, draw: Draw, uniform: Draw):
    space, a, b = _pairs(dim, spread, 24, draw, uniform)
    found = divergences(space, a, b)
    # psi of separated modes reaches 10^5, so the closed form keeps 1e-11 of a KL of order one
    torch.testing.assert_close(found.forward, _closed(space, a, b), rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(found.backward, _closed(space, b, a), rtol=1e-7, atol=1e-9)
    assert bool((found.error <= 1e-8 * torch.minimum(found.forward, found.backward) + 1e-9).all())
    # the two ends, 30 nodes, and what the modes between them need
    assert 24 * 32 <= found.evaluations <= 24 * 1000


def test_kl_is_that_of_the_densities():
    # by a sum over x0 of the two posteriors of the toy; the trapezoid rule is spectral here
    law, space = toy_mixture(), Spacetime(toy_mixture())
    a, b = toy_point(-2.3, 0.35), toy_point(3.0, 0.4)
    grid = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    prior = torch.distributions.Normal(law.means[:, 0], 0.75).log_prob(grid[:, None])
    prior = torch.logsumexp(law.log_weights + prior, -1)
    p, q = (torch.log_softmax(prior - x[1].exp() * (grid - x[0]) ** 2 / 2, -1) for x in (a, b))
    found = divergences(space, a, b)
    assert float(found.forward) == pytest.approx(float((p.exp() * (p - q)).sum()), rel=1e-8)
    assert float(found.backward) == pytest.approx(float((q.exp() * (q - p)).sum()), rel=1e-8)
    affinity = float(((p + q) / 2).exp().sum())
    assert float(found.bhattacharyya) == pytest.approx(-math.log(affinity), rel=1e-8)
    same(found.jeffreys, jeffreys(space, a, b))
    same(kl(space, a, b), found.forward)


def test_a_point_is_at_no_distance_from_itself():
    x = toy_point(-2.3, 0.35)
    found = divergences(Spacetime(toy_mixture()), x, x)
    for value in (found.forward, found.backward, found.bhattacharyya, found.lower, found.upper):
        assert float(value) == 0


def test_gradient_of_kl(draw: Draw, uniform: Draw):
    # by the natural parameters of b it is mu_b - mu_a
    space, a, b = _pairs(2, 2.0, 3, draw, uniform)
    eta = space.eta(b).requires_grad_()
    point = torch.cat([eta[:, :-1] / (-2 * eta[:, -1:]), (-2 * eta[:, -1:]).log()], -1)
    (grad,) = torch.autograd.grad(kl(space, a, point).sum(), eta)
    torch.testing.assert_close(grad, space.mu(b) - space.mu(a), rtol=1e-6, atol=1e-6)


def test_kl_along_a_path_is_kl_at_its_nodes():
    problem, space = toy(), Spacetime(toy_mixture())
    errors: dict[str, list[float]] = {"trapezoid": [], "spline": []}
    point = toy_point(1.0, 0.5)
    fine = geodesic(space, problem.a, problem.b, nodes=128, solver=Relax(rtol=1e-9))
    for n in (32, 64):
        path = fine(torch.linspace(0, 1, n + 1, dtype=torch.float64))
        exact = divergences(space, point, path)
        for rule, found in errors.items():
            forward, backward = kl_along(space, point, path, rule=rule)  # type: ignore[arg-type]
            away = torch.stack([forward - exact.forward, backward - exact.backward])
            found.append(float(away.abs().max()))
            if rule == "trapezoid":
                same(forward + backward, exact.jeffreys)
    assert math.log2(errors["trapezoid"][0] / errors["trapezoid"][1]) == pytest.approx(2, abs=0.2)
    assert math.log2(errors["spline"][0] / errors["spline"][1]) > 3.5
    assert errors["spline"][1] < 1e-4


def test_energy_bound_falls_at_order_two():
    problem, limit = toy(), 6.40808**2 / 2
    excess = []
    for n in (16, 32, 64):
        path = geodesic(problem.space, problem.a, problem.b, nodes=n, solver=Relax(rtol=1e-9))
        excess.append(float(path.energy) - limit)
    assert excess[0] > excess[1] > excess[2] > 0
    assert math.log2(excess[0] / excess[2]) / 2 == pytest.approx(2, abs=0.1)


def test_sandwich_as_published():
    space = Spacetime(toy_mixture())
    a, b = toy_point(-2.3, 0.35), toy_point(-1.9, 0.35)
    low, high = sandwich(space, a, b)
    assert float(low) == pytest.approx(1.6551, abs=1e-4)
    assert float(high) == pytest.approx(1.7682, abs=1e-4)
    assert float(low) < float(geodesic(space, a, b, nodes=64).length) < float(high)
    # without psi in closed form, the same by quadrature
    blind = Spacetime(Blind(toy_mixture(), ALL))
    torch.testing.assert_close(torch.stack(sandwich(blind, a, b)), torch.stack((low, high)))


@pytest.mark.parametrize("dim", [1, 3])
def test_distances_lie_between_their_bounds(dim: int, draw: Draw, uniform: Draw):
    space, a, b = _pairs(dim, 2.0, 12, draw, uniform)
    near = a + 0.3 * (b - a)
    low, high = sandwich(space, a, near)
    path = geodesic(space, a, near, nodes=32)
    assert bool((low < path.certificate.discrete_length).all())
    assert bool((path.length < high * (1 + 1e-9)).all())
    assert bool((low <= math.pi).all())


def test_bounds_of_close_points_keep_their_digits():
    space, x = Spacetime(toy_mixture()), toy_point(-2.3, 0.35)
    u = torch.tensor([0.6, -0.8], dtype=torch.float64)
    found = divergences(space, x, x + 1e-5 * u)
    exact = 1e-5 * float(space.norm(x, u))
    assert float(found.lower) == pytest.approx(exact, rel=1e-4)
    assert float(found.upper) == pytest.approx(exact, rel=1e-4)


@pytest.mark.parametrize("dim", [1, 4])
def test_log_partition_by_quadrature(dim: int, draw: Draw, uniform: Draw):
    space, a, _ = _pairs(dim, 3.0, 8, draw, uniform)
    assert isinstance(space.denoiser, GaussianMixture)
    blind = Spacetime(Blind(space.denoiser, ALL))
    torch.testing.assert_close(
        log_partition(blind, a), log_partition(space, a), rtol=1e-7, atol=1e-7
    )
    z, lam = space.split(a)
    exact = space.denoiser.log_density(z, (-lam / 2).exp())
    same(log_density(space, a), exact)
    torch.testing.assert_close(log_density(blind, a), exact, rtol=1e-7, atol=1e-6)


@pytest.mark.parametrize("rtol", [1e-4, 1e-6])
def test_log_partition_keeps_to_its_tolerance_far_from_where_modes_part(rtol: float, draw: Draw):
    # modes of 64 coordinates part at a thousandth of the last k: equal steps in k overlook it
    law = GaussianMixture(1.5 * draw(6, 64), std=0.3)
    x = law.sample(4, generator=torch.Generator().manual_seed(0)) + math.exp(-2.5) * draw(4, 64)
    a = Spacetime(law).point(x, 5.0)
    exact = log_partition(Spacetime(law), a)
    found = log_partition(Spacetime(Blind(law, ALL)), a, rtol=rtol)
    assert float(((found - exact) / exact).abs().max()) < rtol


def test_noise_beyond_the_range_is_taken_for_gaussian(draw: Draw):
    # exact for Gaussian data; of others, what little is left of their shape at that noise
    law = GaussianMixture(draw(1, 3), std=0.7)
    x = Spacetime(law).point(draw(5, 3), 1.5)
    cut = Spacetime(Blind(law, (-3.0, 9.0)))
    torch.testing.assert_close(
        log_partition(cut, x), log_partition(Spacetime(law), x), rtol=1e-7, atol=1e-7
    )
    law = GaussianMixture(torch.tensor([[-1.0], [1.0]], dtype=torch.float64), std=0.3)
    x = Spacetime(law).point(torch.tensor([[0.4]], dtype=torch.float64), 2.0)
    exact = log_partition(Spacetime(law), x)
    errors = [
        float((log_partition(Spacetime(Blind(law, (low, 9.0))), x) - exact).abs())
        for low in (-2.0, -4.0, -6.0)
    ]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-4


def test_a_tolerance_that_is_not_reached_is_said():
    a, b = toy_point(-2.3, 0.2), toy_point(3.0, 0.8)
    with pytest.warns(RuntimeWarning, match="1 divergences did not reach rtol"):
        found = divergences(Spacetime(toy_mixture()), a, b, pieces=2)
    assert float(found.error) > 1e-8 * float(found.forward)


def test_shapes_broadcast(draw: Draw, uniform: Draw):
    space, a, b = _pairs(2, 1.0, 6, draw, uniform)
    table = divergences(space, a[:, None], b)
    assert table.forward.shape == table.error.shape == (6, 6)
    torch.testing.assert_close(table.forward.diagonal(), kl(space, a, b), rtol=1e-7, atol=1e-9)


def test_errors_say_which_argument_is_wrong():
    space, x = Spacetime(toy_mixture()), toy_point(0.0, 0.5)
    with pytest.raises(ValueError, match=r"b has shape \(3,\); its last axis must be 2"):
        kl(space, x, torch.zeros(3, dtype=torch.float64))
    with pytest.raises(ValueError, match="unknown rule 'simpson'"):
        kl_along(space, x, torch.stack([x, x]), rule="simpson")  # type: ignore[arg-type]
