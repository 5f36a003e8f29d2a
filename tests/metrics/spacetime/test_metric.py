"""Spacetime against closed forms: hyperbolic space, Figure 1 of 2505.17517, Gaussian laws."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from benchmarks.problems import from_native, to_native, toy, toy_mixture, toy_point
from diffodesic import GaussianMixture, Relax, Spacetime, Status, counting, exp, geodesic, log
from diffodesic.metrics.spacetime.estimators.two_point import TwoPoint
from diffodesic.metrics.spacetime.gaussian import Hyperbolic
from diffodesic.metrics.spacetime.metric import EstimatorName
from support.checks import Draw, same


def _gaussian_pairs(
    dim: int, count: int, draw: Draw, uniform: Draw
) -> tuple[Spacetime, Tensor, Tensor]:
    """Gaussian data, and random noisy points whose geodesics stay at finite noise.

    The apex is kept below a posterior deviation of 0.9 of the data's (noise 2.1 times it): there
    the chart (z, log SNR) ends, and no fixed number of nodes is fine enough.
    """
    mix = GaussianMixture(draw(1, dim), std=1.3)
    space = Spacetime(mix)
    lam = uniform(-1, 4, 4 * count, 2)
    noise = torch.exp(-lam / 2).unsqueeze(-1) * draw(4 * count, 2, dim)
    x = space.point(mix.means + 1.3 * draw(4 * count, 2, dim) + noise, lam)
    apex = space.gaussian.posterior(space.gaussian.path(x[:, 0], x[:, 1], 100))[1].amax(-1)
    inside = ~space.gaussian.escapes(x[:, 0], x[:, 1]) & (apex < 0.9 * 1.3)
    assert int(inside.sum()) >= count
    return space, x[inside][:count, 0], x[inside][:count, 1]


@pytest.mark.parametrize("dim", [1, 3, 8, 64])
@pytest.mark.parametrize("start", ["own", "chord"])
def test_gaussian_data_are_hyperbolic(dim: int, start: str, draw: Draw, uniform: Draw):
    space, a, b = _gaussian_pairs(dim, 6, draw, uniform)
    # the space's own starts hold the answer; from the chord the solver must find it
    init = None if start == "own" else Hyperbolic(dim).energy().starts(a, b, 10)["chord"]
    path = geodesic(space, a, b, nodes=64, init=init)
    assert set(path.statuses) == {Status.CONVERGED}
    exact = space.gaussian.distance(a, b)
    torch.testing.assert_close(path.length, exact, rtol=1e-4, atol=0)
    # the polyline bounds the distance from above
    assert bool((path.certificate.discrete_length > exact).all())


def test_a_pair_close_to_escaping_is_solved():
    # the apex has sixteen times the noise of the data's deviation
    space = Spacetime(GaussianMixture(torch.zeros(1, 1, dtype=torch.float64), std=1.3))
    a, b = torch.tensor([[3.2616, 2.2033], [-0.1079, -0.2325]], dtype=torch.float64)
    assert not bool(space.gaussian.escapes(a, b))
    path = geodesic(space, a, b, nodes=64)
    assert float(path.length) == pytest.approx(float(space.gaussian.distance(a, b)), rel=1e-2)


def test_hyperbolic_path_is_its_own_geodesic(draw: Draw, uniform: Draw):
    space, a, b = _gaussian_pairs(3, 6, draw, uniform)
    exact = space.gaussian.distance(a, b)
    errors = []
    for n in (32, 64, 128):
        path = space.gaussian.path(a, b, n)
        assert torch.equal(path[:, 0], a)
        assert torch.equal(path[:, -1], b)
        errors.append((space.gaussian.squared_steps(path).sqrt().sum(-1) - exact).abs())
        speed = space.squared_steps(path).sqrt()
        # constant speed, up to what a step of length L/n misses
        assert float((speed / speed.mean(-1, keepdim=True) - 1).abs().max()) < 30 / n**2
    order = torch.log2(errors[0] / errors[2]) / 2
    torch.testing.assert_close(order, torch.full_like(order, 2), rtol=0, atol=0.1)


def test_hyperbolic_is_spacetime_of_gaussian_data(draw: Draw):
    mix = GaussianMixture(draw(1, 4), std=0.8)
    space, (x, u, v) = Spacetime(mix), draw(3, 6, 5)
    closed = Hyperbolic(4, variance=0.64, mean=mix.means[0])
    same(space.inner(x, u, v), closed.inner(x, u, v))
    same(space.gaussian.inner(x, u, v), closed.inner(x, u, v))


def test_the_published_value_between_two_narrow_posteriors():
    # posteriors N(-1, .1^2) and N(1, .1^2) of data so wide that their law does not matter
    wide = GaussianMixture(torch.zeros(1, 1, dtype=torch.float64), std=1e3)
    space = Spacetime(wide)
    k = 1 / 0.1**2 - 1e-6
    x = space.point(torch.tensor([[-1.0], [1.0]], dtype=torch.float64) / 0.1**2 / k, math.log(k))
    assert float(space.gaussian.distance(x[0], x[1])) == pytest.approx(7.506990, abs=2e-6)
    path = geodesic(space, x[0], x[1], nodes=128, solver=Relax(rtol=1e-9))
    assert float(path.length) == pytest.approx(7.506990, rel=1e-4)
    spread = space.gaussian.posterior(path(torch.linspace(0, 1, 401, dtype=torch.float64)))[1]
    assert float(spread.max()) == pytest.approx(0.714, abs=1e-3)


@pytest.mark.parametrize("dim", [1, 5])
def test_gauss_newton_with_exact_covariances_takes_fewer_steps(dim: int, draw: Draw):
    mix = GaussianMixture(2 * draw(4, dim), std=0.5)
    space = Spacetime(mix)
    a, b = space.point(mix.means[:2], 1.0), space.point(mix.means[2:], 1.0)
    plain, newton = (
        geodesic(space, a, b, nodes=24, solver=Relax(rtol=1e-9, newton=newton))
        for newton in (False, True)
    )
    assert set(newton.statuses) == {Status.CONVERGED}
    # rtol is the predicted decrease of one round; a slow descent has some hundred of them left
    torch.testing.assert_close(newton.energy, plain.energy, rtol=1e-6, atol=0)
    assert int(newton.iterations.sum()) < int(plain.iterations.sum())


def test_the_tensor_of_the_two_point_form_is_the_inner_product(draw: Draw):
    mix, x = GaussianMixture(draw(4, 3), std=0.5), draw(2, 5, 4)
    space = Spacetime(mix)
    torch.testing.assert_close(TwoPoint(mix).matrix(x), space.matrix(x), rtol=1e-10, atol=1e-12)


def test_vertical_distance(draw: Draw):
    closed = Hyperbolic(3, variance=2.0)
    m = draw(3)
    s = torch.tensor([0.2, 1.0], dtype=torch.float64)
    k = s**-2 - 0.5
    x = closed.point(m / s[:, None] ** 2 / k[:, None], k.log())
    expected = math.sqrt(6) * math.log(5)
    assert float(closed.distance(x[0], x[1])) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("ratio", "excess"), [(0.5, 0.0089), (1, 0.0040), (2, 0), (4, 0.0071)])
def test_probability_flow_is_a_geodesic_only_on_one_sphere(ratio: float, excess: float):
    # N(0, I) under VP: x_t is constant; its posterior is N(alpha x, s^2), s from .1 to 1. Outside
    # the sphere |x|^2 = 2 D the pair escapes, and the distance is the infimum
    dim = 8
    closed = Hyperbolic(dim)
    theta = torch.linspace(math.asin(0.1), math.pi / 2 - 1e-3, 20_001, dtype=torch.float64)
    x = torch.full((dim,), math.sqrt(ratio), dtype=torch.float64)
    path = closed.point(x / torch.cos(theta)[:, None], -2 * torch.log(torch.tan(theta)))
    length = closed.squared_steps(path).sqrt().sum()
    # the angle cut at 1e-3 leaves out that much of a length of 3 sqrt(2 D)
    assert float(length / closed.distance(path[0], path[-1])) - 1 == pytest.approx(excess, abs=2e-4)


@pytest.mark.slow
def test_exp_undoes_log_on_the_toy():
    space, x = toy().space, toy_point(-2.3, 0.35)
    v = torch.tensor([0.5, -0.6], dtype=torch.float64)
    v = v / space.norm(x, v)
    y = exp(space, x, v)
    found = log(space, x, y, nodes=16, tol=1e-7)
    assert float(space.norm(y, exp(space, x, found) - y)) < 1e-6
    torch.testing.assert_close(found, v, rtol=1e-6, atol=1e-6)


def test_metric_tensor_of_the_toy_as_printed():
    # in the published coordinates (x_t, t)
    x = toy_point(-2.3, 0.35)
    jacobian = torch.autograd.functional.jacobian(from_native, to_native(x))
    metric = jacobian.T @ toy().space.matrix(x) @ jacobian
    printed = torch.tensor([[19.42, -25.29], [-25.29, 202.95]], dtype=torch.float64)
    torch.testing.assert_close(metric, printed, rtol=0, atol=0.005)


@pytest.mark.parametrize(
    ("points", "length"), [(17, 6.4951), (33, 6.4302), (65, 6.4136), (129, 6.4095)]
)
def test_lengths_of_the_toy(points: int, length: float):
    problem = toy()
    path = geodesic(problem.space, problem.a, problem.b, nodes=points - 1, solver=Relax(rtol=1e-8))
    assert path.status is Status.CONVERGED
    assert float(path.certificate.discrete_length) == pytest.approx(length, abs=1e-4)
    if points >= 33:
        assert float(path.length) == pytest.approx(6.408, abs=0.002)
    apex = to_native(path(torch.linspace(0, 1, 401, dtype=torch.float64)))[:, 1].max()
    assert float(apex) == pytest.approx(0.617, abs=5e-4 + 1.5 / points**2)


def test_bounds_of_a_short_pair():
    # 2 arccos BC <= distance <= one chord, on the toy's mixture
    law = toy_mixture()
    space = Spacetime(law)
    a, b = toy_point(-2.3, 0.35), toy_point(-1.9, 0.35)
    chord = space.squared_steps(torch.stack([a, b])).sqrt()
    assert float(chord) == pytest.approx(1.7682, abs=1e-4)
    path = geodesic(space, a, b, nodes=64)
    assert float(path.length) == pytest.approx(1.6693, abs=2e-4)
    psi = [
        law.log_partition(eta[:-1], -2 * eta[-1])
        for eta in (space.eta(a), space.eta(b), (space.eta(a) + space.eta(b)) / 2)
    ]
    affinity = torch.exp(psi[2] - (psi[0] + psi[1]) / 2)
    assert float(2 * torch.acos(affinity)) == pytest.approx(1.6551, abs=1e-4)


def test_a_step_is_the_jeffreys_divergence():
    # by quadrature of the two posterior densities of the toy
    law = toy_mixture()
    space = Spacetime(law)
    x = torch.stack([toy_point(-2.3, 0.35), toy_point(0.4, 0.5), toy_point(3.0, 0.4)])
    grid = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    spread = torch.distributions.Normal(law.means[:, 0], 0.75).log_prob(grid[:, None])
    prior = torch.logsumexp(law.log_weights + spread, -1)
    logits = []
    for z, lam in zip(*space.split(x), strict=True):
        logits.append(torch.log_softmax(prior - lam.exp() * (grid - z) ** 2 / 2, -1))
    # sum (p - q)(log p - log q)
    jeffreys = [((p.exp() - q.exp()) * (p - q)).sum() for p, q in itertools.pairwise(logits)]
    # the trapezoid rule is spectral for smooth densities that vanish at the ends
    torch.testing.assert_close(space.squared_steps(x), torch.stack(jeffreys), rtol=1e-8, atol=1e-8)


def test_polylines_bound_the_energy_from_above(draw: Draw):
    # halving every segment of an eta-polyline leaves its curve, and lowers its energy
    space = Spacetime(toy_mixture())
    x = draw(6, 2)
    for _ in range(4):
        eta = space.eta(x)
        mid = (eta[1:] + eta[:-1]) / 2
        k = -2 * mid[:, 1]
        between = torch.stack([mid[:, 0] / k, k.log()], -1)
        finer = torch.cat([torch.stack([x[:-1], between], 1).flatten(0, 1), x[-1:]])
        energies = [(len(path) - 1) * float(space.squared_steps(path).sum()) for path in (x, finer)]
        assert energies[1] <= energies[0] * (1 + 1e-12)
        x = finer


@pytest.mark.parametrize("estimator", ["closure", "secant"])
def test_estimators_of_networks_are_exact_for_gaussian_laws(
    estimator: EstimatorName, draw: Draw, uniform: Draw
):
    mix = GaussianMixture(draw(1, 3), std=uniform(0.2, 1.5, 1, 3))
    frame = math.sqrt(3) * torch.linalg.qr(draw(3, 3)).Q  # a basis: |J|_F^2 without error
    space = Spacetime(mix, estimator=estimator, probes=frame)
    x, u, v = draw(3, 8, 4)
    same(space.inner(x, u, v), Spacetime(mix).inner(x, u, v))
    same(space.inner(x, u, u), Spacetime(mix).inner(x, u, u))


def test_a_full_frame_of_probes_is_the_exact_divergence(draw: Draw):
    mix = GaussianMixture(draw(4, 3), std=0.4)
    frame = math.sqrt(3) * torch.linalg.qr(draw(3, 3)).Q
    space = Spacetime(mix, estimator="hutchinson", probes=frame)
    x = draw(6, 4)
    same(space.mu(x), Spacetime(mix).mu(x))
    same(space.squared_steps(x), Spacetime(mix).squared_steps(x))


def test_hutchinson_is_unbiased(draw: Draw):
    mix = GaussianMixture(draw(4, 5), std=0.4)
    x = draw(4, 6)
    count = 150
    estimates = torch.stack(
        [
            Spacetime(mix, estimator="hutchinson", probes=1, seed=seed).mu(x)[:, -1]
            for seed in range(count)
        ]
    )
    error = (estimates.mean(0) - Spacetime(mix).mu(x)[:, -1]) * math.sqrt(count)
    # 4 comparisons at 4 standard errors: wrong in 1 draw of the points in 4000
    assert float((error / estimates.std(0)).abs().max()) < 4


def test_probes_are_fixed_for_the_life_of_a_space(draw: Draw):
    mix = GaussianMixture(draw(4, 5), std=0.4)
    x = draw(3, 6)
    space = Spacetime(mix, estimator="hutchinson", probes=2, seed=1)
    torch.rand(7)  # what others draw does not matter
    assert torch.equal(space.squared_steps(x), space.squared_steps(x))
    again, other = (Spacetime(mix, estimator="hutchinson", probes=2, seed=s) for s in (1, 2))
    assert torch.equal(space.squared_steps(x), again.squared_steps(x))
    assert not torch.equal(space.squared_steps(x), other.squared_steps(x))


@pytest.mark.parametrize(
    ("estimator", "evaluations", "derivatives"),
    [("exact", 1, 0), ("hutchinson", 4, 4), ("secant", 5, 3), ("closure", 6, 5)],
)
def test_cost_of_inner(estimator: str, evaluations: int, derivatives: int, draw: Draw):
    # per point, with three probes: a mixture knows its covariance; else the derivative of mu
    # counts beside what it differentiates
    mix = GaussianMixture(draw(4, 2), std=0.4)
    space = Spacetime(mix, estimator=estimator, probes=3)
    x, u = draw(2, 5, 3)
    with counting() as cost:
        space.inner(x, u, u)
    assert (cost.evaluations, cost.derivatives) == (5 * evaluations, 5 * derivatives)


def test_errors_say_which_argument_is_wrong(draw: Draw):
    mix = GaussianMixture(draw(4, 3))
    space = Spacetime(mix, log_snr_range=(-5.0, 5.0))
    with pytest.raises(ValueError, match="unknown estimator 'guess'; choose one of exact"):
        Spacetime(mix, estimator="guess")
    for probes in (0, draw(2, 4), draw(3)):
        with pytest.raises(ValueError, match=r"must be \(P, 3\)"):
            Spacetime(mix, probes=probes)
    for empty in ((2.0, 2.0), (3.0, -3.0)):
        with pytest.raises(ValueError, match="log_snr_range is empty"):
            Spacetime(mix, log_snr_range=empty)
    with pytest.raises(ValueError, match="last axis must be 3"):
        space.point(draw(4), 1.0)
    for level in (6.0, -6.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="between -5 and 5"):
            space.point(draw(3), level)


def test_points_are_packed_and_unpacked(draw: Draw):
    space = Spacetime(GaussianMixture(draw(4, 3)))
    z, lam = draw(2, 5, 3), draw(5)
    x = space.point(z, lam)
    assert x.shape == (2, 5, 4)
    torch.testing.assert_close(space.split(x)[0], z)
    torch.testing.assert_close(space.split(x)[1], lam.expand(2, 5))


def test_the_lower_bound_is_one_at_any_scale(draw: Draw):
    mix = GaussianMixture(draw(5, 8), std=0.5)
    space = Spacetime(mix)
    a = space.point(draw(20, 8), 3.0)
    for scale in (1e-9, 1e-6, 1e-3, 1e-1):
        b = a + scale * torch.nn.functional.pad(draw(20, 8), (0, 1))
        chord = space.squared_steps(torch.stack([a, b], 1))[:, 0].clamp(min=0).sqrt()
        assert bool((space.energy().lower_bound(a, b) <= chord + 1e-12).all())
    # and says something where it can
    near = a + 1e-2 * torch.nn.functional.pad(draw(20, 8), (0, 1))
    assert bool((space.energy().lower_bound(a, near) > 0).all())


def test_distances_of_close_points_keep_their_digits():
    closed = Hyperbolic(3)
    a = torch.tensor([0.2, 0.1, -0.3, 0.5], dtype=torch.float64)
    u = torch.tensor([1.0, -2.0, 0.5, 0.7], dtype=torch.float64)
    for scale in (1e-3, 1e-6, 1e-9):
        expected = scale * float(closed.norm(a, u))
        found = float(closed.distance(a - scale / 2 * u, a + scale / 2 * u))
        assert found == pytest.approx(expected, rel=1e-6)


def test_the_path_estimator_has_no_forward_gradient():
    mix = GaussianMixture(torch.zeros(2, 1, dtype=torch.float64) + torch.tensor([[0.0], [1.0]]))
    with pytest.raises(ValueError, match="reverse-mode gradients only"):
        Spacetime(mix, estimator="path", gradient="forward")


def test_a_pair_whose_flow_is_not_finite_begins_with_its_chord():
    class Refusing(GaussianMixture):
        learned, closed_form = True, False

        def posterior_mean(self, z: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
            if float(z.abs().max()) > 50:
                raise FloatingPointError("too far")
            return super().posterior_mean(z, sigma)

    law = Refusing(torch.eye(3).double(), std=0.5)
    ends = torch.tensor([[[0.5, 0, 0, 1], [90, 0, 0, 1]], [[0, 0.5, 0, 1], [0, 90, 0, 1]]]).double()
    energy, (a, b) = Spacetime(law).energy(), ends
    both = energy.starts(a, b, 4)
    alone = energy.starts(a[:1], b[:1], 4)
    assert both.keys() == alone.keys()
    for name, path in both.items():
        torch.testing.assert_close(path[0], alone[name][0])
        torch.testing.assert_close(path[1], both["chord"][1])
    assert list(energy.starts(a[1:], b[1:], 4)) == ["chord"]
