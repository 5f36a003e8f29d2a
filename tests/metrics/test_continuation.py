"""Paths continued past their end: closed forms, alarms, what ends a path."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from diffodesic import (
    Denoiser,
    Euclidean,
    GaussianMixture,
    Pullback,
    Relax,
    ScoreMetric,
    Spacetime,
    counting,
    exp,
    geodesic,
)
from diffodesic.denoisers.sphere import SphereDenoiser, great_circle_angle
from diffodesic.metrics.continuation import Alarm, Continuation, Stop, continue_path
from diffodesic.metrics.spacetime.gaussian import Hyperbolic
from diffodesic.numerics.ode import IntegrationError, rk45
from support.checks import Draw, status_is_looked_at

TIGHT = Relax(rtol=1e-12)
NEVER = Alarm(density=None, dimension=None, curvature=None)


def _wave(x: Tensor) -> Tensor:
    """A diffeomorphism of the plane."""
    return torch.stack([x[..., 0] + 0.3 * torch.sin(x[..., 1]), x[..., 1]], -1)


def _back(y: Tensor) -> Tensor:
    return torch.stack([y[..., 0] - 0.3 * torch.sin(y[..., 1]), y[..., 1]], -1)


def test_a_chord_continues_straight(draw: Draw):
    a, b = draw(3), draw(3)
    found = continue_path(geodesic(Euclidean(3), a, b), 0.7, points=7)
    assert found.stop is Stop.COMPLETE
    assert found.reached == pytest.approx(0.7)
    torch.testing.assert_close(found.points, a + found.s[:, None] * (b - a), rtol=1e-5, atol=1e-5)
    assert not found.watched


def test_under_a_diffeomorphism_it_is_the_preimage_of_the_line():
    a, b = torch.tensor([[-1.0, -0.5], [0.4, 1.2]], dtype=torch.float64)
    path = geodesic(Pullback(_wave, 2), a, b, nodes=128, solver=TIGHT)
    found = continue_path(path, 1.0, points=4, rtol=1e-9)
    exact = _back(_wave(a) + found.s[:, None] * (_wave(b) - _wave(a)))
    torch.testing.assert_close(found.points, exact, rtol=1e-4, atol=1e-4)


def test_pieces_are_the_exponential_map(draw: Draw):
    law = GaussianMixture(draw(3, 2), std=0.7)
    metric = ScoreMetric(law, log_snr=1.0, weight=0.5)
    path = geodesic(metric, *law.means[:2], nodes=64)
    found = continue_path(path, 0.5, points=5, alarm=NEVER, rtol=1e-9)
    whole = exp(metric, path.nodes[-1], 0.5 * path.velocity(1.0))
    torch.testing.assert_close(found.points[-1], whole, rtol=1e-6, atol=1e-6)


def test_a_continued_geodesic_is_a_geodesic_of_the_whole():
    """Shortest from a to the end of the continuation: it passes where the first part ended."""
    space = Hyperbolic(2, variance=4.0)
    a, b = torch.tensor([[-0.5, 0.0, 2.0], [0.3, 0.2, 2.2]], dtype=torch.float64)
    path = geodesic(space, a, b, nodes=128, solver=TIGHT)
    found = continue_path(path, 0.5, points=4, rtol=1e-9)
    end = found.points[-1]
    assert float(space.distance(a, end)) == pytest.approx(
        float(space.distance(a, b) + space.distance(b, end)), rel=1e-6
    )
    assert float(space.distance(a, end)) == pytest.approx(1.5 * float(path.length), rel=1e-4)


def test_on_a_sphere_the_stepper_stays_on_the_great_circle():
    law = SphereDenoiser(4)
    metric = ScoreMetric(law, log_snr=0.0, weight=200.0)
    a, b = torch.eye(4, dtype=torch.float64)[:2]
    path = geodesic(metric, a, b, nodes=40)
    found = continue_path(path, 1.0, method="score-guided", points=32)
    assert found.stop is Stop.COMPLETE
    radius = found.points.norm(dim=-1)
    # a step of h leaves the circle by h^2/2 before it is led back
    assert float((radius - 1).abs().max()) < (math.pi / 2 / 32) ** 2
    assert float(great_circle_angle(found.points, a, b).max()) < 1e-6
    # half a turn in all, by steps of equal length
    assert float((found.points[-1] + a).norm()) < 0.02


def _arc() -> GaussianMixture:
    """Data along a quarter of a circle, from (1, 0) to (0, 1): they end there."""
    angle = torch.linspace(0, math.pi / 2, 25, dtype=torch.float64)
    return GaussianMixture(torch.stack([angle.cos(), angle.sin()], -1), std=0.1)


def test_the_alarm_rings_where_the_data_end():
    law = _arc()
    metric = ScoreMetric(law, log_snr=3.5, weight=0.05)
    path = geodesic(metric, law.means[2], law.means[12], nodes=32)
    quiet = continue_path(path, 0.8, points=16)
    assert quiet.stop is Stop.COMPLETE
    found = continue_path(path, 4.0, points=40, alarm=Alarm(dimension=None, curvature=None))
    assert found.stop is Stop.DENSITY
    # the data end 12 of 10 segments later: never before, and not long after
    assert 1.0 < found.reached < 2.2
    # what rang is the last of what was watched, and is not among the points
    heights = found.watched["log_density"]
    assert len(heights) == len(found.points) + 1
    assert float(heights[-1]) < -3.0
    sigma = torch.tensor(metric.sigma).double()
    exact = law.log_density(found.points, sigma) - law.log_density(path.nodes[-1], sigma)
    torch.testing.assert_close(heights[:-1], exact, rtol=0.05, atol=0.05)


def test_the_other_alarms():
    law = _arc()
    metric = ScoreMetric(law, log_snr=3.5, weight=0.05)
    path = geodesic(metric, law.means[2], law.means[12], nodes=32)
    strict = Alarm(density=None, curvature=None, dimension=1.05)
    assert continue_path(path, 4.0, points=40, alarm=strict).stop is Stop.DIMENSION
    # at the end of the data a level set of their density turns back
    only = Alarm(density=None, dimension=None)
    found = continue_path(path, 4.0, points=80, method="score-guided", alarm=only)
    assert found.stop is Stop.CURVATURE
    assert float(found.watched["curvature"][-1]) > 3 > float(found.watched["curvature"][:-1].max())


class _Cliff(Denoiser):
    """N(0, 1) whose posterior mean is NaN beyond x = 1."""

    dim = 1

    def posterior_mean(self, z: Tensor, sigma: Tensor) -> Tensor:
        mean = z / (1 + sigma.unsqueeze(-1) ** 2)
        return torch.where(z > 1, torch.nan, mean)


@pytest.mark.parametrize("method", ["exponential", "score-guided"])
def test_what_stops_being_finite_ends_there(method):
    metric = ScoreMetric(_Cliff(), log_snr=0.0, weight=1.0)
    a, b = torch.tensor([[-0.5], [0.5]], dtype=torch.float64)
    path = geodesic(metric, a, b, nodes=8)
    found = continue_path(path, 1.0, points=8, method=method, alarm=NEVER)
    assert found.stop is Stop.NON_FINITE
    assert bool((found.points <= 1).all())
    assert found.reached > 0.3


@pytest.mark.parametrize("rank", [1, 2])
@status_is_looked_at
def test_a_metric_that_is_not_finite_keeps_the_points_before(rank: int):
    """Several scores are solved by Cholesky, a pullback by conjugate gradients: both say so."""

    class Cliff(_Cliff):
        dim = 2

    a, b = torch.tensor([[-0.5, 0.0], [0.5, 0.1]], dtype=torch.float64)
    metrics = [
        ScoreMetric(Cliff(), log_snr=2.0, weight=1.0, rank=rank),
        Pullback(lambda x: torch.where(x > 1, torch.nan, x), 2),
    ]
    for metric in metrics:
        path = geodesic(metric, a, b, nodes=8)
        assert continue_path(path, 1.0, points=8, alarm=NEVER).stop is Stop.NON_FINITE


def test_too_stiff_ends_there_and_other_errors_are_not_hidden(draw: Draw, monkeypatch):
    path = geodesic(Euclidean(2), draw(2), draw(2), nodes=4)

    def fails(error: Exception):
        def sharp(x: Tensor, p: Tensor) -> Tensor:
            raise error

        return sharp

    with pytest.raises(IntegrationError, match="did not reach its end") as stiff:
        rk45(lambda _, y: 50 * torch.cos(50 * y), draw(1), max_steps=3)
    for error in (stiff.value, FloatingPointError("NaN")):
        monkeypatch.setattr(path.metric, "sharp", fails(error))
        assert continue_path(path).stop is Stop.NON_FINITE
    for text in ("mat1 and mat2 shapes cannot be multiplied", "out of memory"):
        monkeypatch.setattr(path.metric, "sharp", fails(RuntimeError(text)))
        with pytest.raises(RuntimeError, match=text):
            continue_path(path)


def test_a_path_out_of_the_noise_range_says_so():
    law = GaussianMixture(torch.zeros(1, 1).double(), std=1.0)
    space = Spacetime(law, log_snr_range=(-1.0, 3.0))
    a, b = torch.tensor([[0.0, 1.0], [0.0, 2.0]], dtype=torch.float64)
    found = continue_path(geodesic(space, a, b, nodes=16), 2.0, points=8)
    assert found.stop is Stop.LEFT_DOMAIN
    assert 0 < found.reached < 2


def test_bad_input_is_said(draw: Draw):
    a, b = draw(2), draw(2)
    flat = geodesic(Euclidean(2), a, b, nodes=4)
    with pytest.raises(ValueError, match="the ends are the same point"):
        continue_path(geodesic(Euclidean(2), a, a))
    with pytest.raises(ValueError, match="unknown method 'sideways'"):
        continue_path(flat, method="sideways")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Euclidean has none"):
        continue_path(flat, method="score-guided")
    for amount in (0.0, -1.0, math.inf):
        with pytest.raises(ValueError, match="amount must be positive"):
            continue_path(flat, amount)
    with pytest.raises(ValueError, match="a continuation is of one pair"):
        continue_path(geodesic(Euclidean(2), draw(3, 2), b, nodes=4))
    with pytest.raises(ValueError, match="gain must be in"):
        continue_path(flat, gain=0.0)
    with pytest.raises(ValueError, match="dimension must be None or at least 1"):
        Alarm(dimension=0.5)


def test_cost_beyond_the_end_is_counted(draw: Draw):
    law = _arc()
    path = geodesic(ScoreMetric(law, log_snr=3.0, weight=0.1), law.means[2], law.means[8], nodes=16)
    with counting() as cost:
        found = continue_path(path, 0.2, points=3, method="score-guided")
    assert isinstance(found, Continuation)
    assert found.cost.evaluations == cost.evaluations > 0
