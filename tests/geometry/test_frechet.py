"""The Frechet mean: closed forms, first-order condition, batches, errors."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from diffodesic import (
    Conformal,
    Euclidean,
    GaussianMixture,
    Metric,
    Relax,
    ScoreMetric,
    Spacetime,
    counting,
    mean,
)
from diffodesic.geometry.boundary_value import search
from diffodesic.geometry.status import SearchWarning
from diffodesic.metrics.spacetime.gaussian import Hyperbolic
from support.checks import Draw, status_is_looked_at


def first_order_miss(metric: Metric, centre: Tensor, points: Tensor, nodes: int) -> Tensor:
    """Length of the average logarithm, from the curves, relative to the largest distance."""
    paths = search(metric, centre[..., None, :], points, nodes=nodes, solver=Relax(rtol=1e-12))
    average = paths.velocity(0.0).mean(-2)
    return metric.norm(centre, average) / paths.length.amax(-1)


@pytest.mark.parametrize("lam", [0.0, 1.5, 3.0])
@pytest.mark.parametrize("exact", [True, False], ids=["hyperbolic", "spacetime"])
def test_mean_of_two_points_is_the_middle(lam: float, exact: bool):
    # 1.5 to 6.7 apart: there steps of length 1 overshoot, by the curvature -1/4
    space = Hyperbolic(2)
    ends = torch.tensor([[-1.0, 0.0, lam], [1.0, 0.5, lam + 0.5]], dtype=torch.float64)
    metric = space if exact else Spacetime(GaussianMixture(torch.zeros(1, 2).double(), std=1.0))
    errors = []
    for nodes in (16, 32):
        found = mean(metric, ends, nodes=nodes)
        middle = space.path(ends[0], ends[1], 2)[1]
        errors.append(float(space.distance(found, middle) / space.distance(ends[0], ends[1])))
    # the discrete distances are of order two
    assert errors[1] < 3e-4
    assert errors[1] < errors[0] / 2.5


def test_mean_balances_the_weights(draw: Draw):
    space = Hyperbolic(2, variance=1.5)
    a, b = space.point(0.6 * draw(2, 2), 1.5 + 0.4 * draw(2))
    weights = torch.tensor([3.0, 1.0], dtype=torch.float64)
    found = mean(space, torch.stack([a, b]), weights=weights)
    near, far = space.distance(found, a), space.distance(found, b)
    assert float(near / (near + far)) == pytest.approx(0.25, abs=1e-3)


@pytest.mark.parametrize(("far", "miss"), [(8.0, 1.6e-4), (100.0, 7.6e-4)])
def test_the_first_order_condition_is_met_to_order_two_in_the_nodes(far: float, miss: float):
    """On the half-plane, where points above one another are log f apart; their tol is 1e-5."""
    plane = Conformal(lambda x: x[..., 1] ** -2, 2)
    points = torch.tensor([[0.0, 1.0], [0.0, far]], dtype=torch.float64)
    weights, misses = torch.tensor([2.0, 1.0], dtype=torch.float64), []
    for nodes in (32, 64):
        height = float(mean(plane, points, weights=weights, nodes=nodes)[1])
        logs = [-math.log(height), math.log(far / height)]
        misses.append(abs(2 * logs[0] + logs[1]) / 3 / max(map(abs, logs)))
    # each within tol of that of the polylines
    assert misses[0] == pytest.approx(miss, rel=0.05, abs=1e-5)
    assert misses[0] / 4 == pytest.approx(misses[1], rel=0.1, abs=1e-5)


def test_mean_in_flat_space_is_the_average(draw: Draw):
    points, weights = draw(2, 5, 3), draw(2, 5).abs()
    torch.testing.assert_close(mean(Euclidean(3), points, nodes=4), points.mean(-2))
    expected = (weights[..., None] * points).sum(-2) / weights.sum(-1, keepdim=True)
    torch.testing.assert_close(mean(Euclidean(3), points, weights=weights, nodes=4), expected)


def _mixture_metrics(draw: Draw) -> dict[str, tuple[Metric, Tensor]]:
    law = GaussianMixture(draw(5, 2), std=0.5)
    space = Spacetime(law)
    return {
        "spacetime": (space, space.point(law.means, 3.0)),
        "score": (ScoreMetric(law, log_snr=3.0, weight=1.0), law.means),
        "heavy score": (ScoreMetric(law, log_snr=3.0, weight=10.0), law.means),
    }


@pytest.mark.parametrize("name", ["spacetime", "score", "heavy score"])
def test_mean_of_the_means_of_a_mixture_meets_its_first_order_condition(name: str, draw: Draw):
    metric, points = _mixture_metrics(draw)[name]
    found = mean(metric, points, nodes=32)
    # velocities of the curves differ from the energies' by the order two of 64 segments
    assert float(first_order_miss(metric, found, points, 64)) < 5e-3


@pytest.mark.slow
def test_a_mean_settles_where_the_gradient_is_that_of_a_slightly_other_energy():
    """The energy of a score metric and its gradient agree to 1e-3: near the mean |v| decides."""
    generator = torch.Generator().manual_seed(0)
    law = GaussianMixture(torch.randn(5, 4, generator=generator, dtype=torch.float64), std=0.5)
    points = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    metric = ScoreMetric(law, log_snr=3.0, weight=1.0)
    found = mean(metric, points, nodes=32, tol=1e-4)
    assert float(first_order_miss(metric, found, points, 64)) < 5e-3


@pytest.mark.parametrize("count", [2, 7, 20])
def test_means_of_a_batch_are_the_means_one_by_one(count: int, draw: Draw):
    space = Spacetime(GaussianMixture(draw(1, 2), std=1.2))
    points = space.point(draw(2, 2, count, 2), 2 + 0.5 * draw(2, 2, count))
    together = mean(space, points, nodes=12)
    assert together.shape == (2, 2, 3)
    torch.testing.assert_close(
        mean(space, points[1, 0], nodes=12), together[1, 0], rtol=1e-4, atol=1e-4
    )


def test_mean_of_one_point_many_times_is_that_point():
    point = torch.tensor([0.3, -0.2, 1.0], dtype=torch.float64)
    assert torch.equal(mean(Hyperbolic(2), point.expand(3, 3), nodes=4), point)


def test_points_and_weights_that_do_not_fit_are_errors(draw: Draw):
    flat, points = Euclidean(2), draw(4, 2)
    with pytest.raises(ValueError, match=r"points has shape .* it must be \(\.\.\., N, d\)"):
        mean(flat, points[0])
    with pytest.raises(ValueError, match="one weight per point"):
        mean(flat, points, weights=torch.ones(3))
    with pytest.raises(ValueError, match="weights holds values that are not finite"):
        mean(flat, points, weights=torch.tensor([1, 1, 1, float("nan")]))
    for bad in ([1, 1, 1, -1], [0, 0, 0, 0]):
        with pytest.raises(ValueError, match="non-negative and not all zero"):
            mean(flat, points, weights=torch.tensor(bad))


def test_means_that_are_not_found_in_time_are_counted(draw: Draw):
    space = Hyperbolic(2)
    points = space.point(0.5 * draw(3, 4, 2), 1.5 + 0.4 * draw(3, 4))
    points[0] = points[0, :1]
    with pytest.raises(RuntimeError, match="2 of 3 means did not settle"):
        mean(space, points, nodes=8, iterations=1)


@status_is_looked_at
def test_a_mean_from_searches_that_did_not_end_well_warns(draw: Draw):
    space = Hyperbolic(2)
    points = space.point(0.5 * draw(4, 2), 1.5 + 0.4 * draw(4))
    with pytest.warns(SearchWarning, match="iteration limit"):
        mean(space, points, nodes=8, tol=0.1, solver=Relax(rtol=1e-16, iterations=3))


def _exact_mean(space: Hyperbolic, points: Tensor) -> Tensor:
    """Posterior mean and deviation at the Frechet mean of points (N, D + 1), on the hyperboloid.

    With u = cosh of a distance over sqrt(2D), half its square is concave in u, and u is linear on
    the hyperboloid: the minimum of the tangents' sum is their weighted sum, scaled back onto it.
    """
    m, s = space.posterior(points)
    y, s = m / (2 * space.data_dim) ** 0.5, s[:, None]
    size = y.square().sum(-1, keepdim=True) + s**2
    x = torch.cat([(size + 1) / (2 * s), (size - 1) / (2 * s), y / s], -1)
    sign = torch.ones(x.shape[-1]).double()
    sign[0] = -1

    def onto(v: Tensor) -> Tensor:
        return v / (-(sign * v * v).sum()).sqrt()

    centre = onto(x.sum(0))
    for _ in range(500):
        d = torch.acosh(-(sign * x * centre).sum(-1, keepdim=True))
        centre = onto((d / d.sinh() * x).sum(0))
    height = 1 / (centre[0] - centre[1])
    log_precision = -2 * height.log()
    return space.unchart(
        torch.cat([centre[2:] * height * (2 * space.data_dim) ** 0.5, log_precision[None]])
    )


@pytest.mark.parametrize("dim", [1, 2, 5])
@pytest.mark.parametrize("count", [2, 5, pytest.param(20, marks=pytest.mark.slow)])
def test_mean_on_a_gaussian_spacetime_is_the_exact_one(dim: int, count: int, draw: Draw):
    exact = Hyperbolic(dim, variance=1.44)
    points = exact.point(0.8 * draw(count, dim), 2 + 0.7 * draw(count))
    metric = Spacetime(GaussianMixture(torch.zeros(1, dim).double(), std=1.2))
    centre = _exact_mean(exact, points)
    if count == 2:
        torch.testing.assert_close(centre, exact.path(points[0], points[1], 2)[1])
    assert not bool(exact.escapes(centre, points).any())
    truth = exact.distance(centre, points)
    missed, excess = [], []
    for nodes in (8, 24):
        found = mean(metric, points, nodes=nodes, tol=1e-6)
        missed.append(float(exact.distance(found, centre) / truth.max()))
        excess.append(
            float(exact.distance(found, points).square().sum() / truth.square().sum()) - 1
        )
    # the discrete logarithms are of order two: nine times less
    assert missed[1] < 3e-4
    assert missed[0] / missed[1] == pytest.approx(9, rel=0.1)
    # at the minimum the objective is of order two in what the place misses
    assert -1e-12 < excess[1] < 1e-6


def test_mean_of_float32_is_that_of_float64_at_no_more_cost(rng: torch.Generator):
    law = GaussianMixture(torch.randn(5, 3, generator=rng, dtype=torch.float64), std=0.5)
    metric = ScoreMetric(law, log_snr=0.0, weight=0.1)
    points = torch.randn(4, 3, generator=rng)
    with counting() as fine:
        exact = mean(metric, points.double())
    with counting() as cost:
        found = mean(metric, points)
    # the energy is known to 1e-7: logarithms to 3e-4
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=3e-4)
    assert cost.node_gradients < 2 * fine.node_gradients
