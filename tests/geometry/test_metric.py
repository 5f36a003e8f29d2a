"""Metrics beyond the laws: closed forms of the score metric, known geodesics, errors."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from diffodesic import (
    Conformal,
    Euclidean,
    GaussianMixture,
    Pullback,
    Relax,
    ScoreJacobian,
    ScoreMetric,
    counting,
    geodesic,
)
from support.checks import Draw, same


@pytest.fixture
def mix(draw: Draw) -> GaussianMixture:
    return GaussianMixture(draw(4, 3), std=0.5)


def half_plane() -> Conformal:
    """Poincare's half plane, |dx|^2 / y^2 with y the second coordinate."""
    return Conformal(lambda x: x[..., 1] ** -2, 2)


def half_plane_distance(a: Tensor, b: Tensor) -> Tensor:
    gap = (b - a).square().sum(-1)
    return torch.acosh(1 + gap / (2 * a[..., 1] * b[..., 1]))


@pytest.mark.parametrize("weight", [0.1, 1.0, 1000.0])
def test_score_metric_has_its_closed_determinant_and_inverse(
    weight: float, mix: GaussianMixture, draw: Draw
):
    metric = ScoreMetric(mix, log_snr=1.0, weight=weight)
    x, p = draw(2, 5, 3)
    matrix = metric.matrix(x)
    s = mix.score(x, torch.tensor(math.exp(-0.5), dtype=torch.float64))
    total = 1 + weight * s.square().sum(-1)
    same(torch.linalg.det(matrix), total)
    inverse = torch.linalg.solve(matrix, p.unsqueeze(-1)).squeeze(-1)
    # a direct solve loses the condition number, up to 1000 |s|^2
    torch.testing.assert_close(metric.sharp(x, p), inverse, rtol=1e-9, atol=1e-9)


def test_score_metric_of_weight_zero_is_euclidean(mix: GaussianMixture, draw: Draw):
    x, u, v = draw(3, 5, 3)
    metric, plain = ScoreMetric(mix, log_snr=1.0, weight=0.0), Euclidean(3)
    torch.testing.assert_close(metric.inner(x, u, v), plain.inner(x, u, v))
    torch.testing.assert_close(metric.squared_steps(x), plain.squared_steps(x))
    torch.testing.assert_close(metric.sharp(x, u), u)


def test_score_metric_charges_the_change_of_log_density(mix: GaussianMixture, draw: Draw):
    # s = grad log p: (s.u) is the change of log p along u
    metric = ScoreMetric(mix, log_snr=1.0, weight=2.0)
    x, u = draw(2, 5, 3)
    sigma = torch.tensor(math.exp(-0.5), dtype=torch.float64)
    rise = torch.func.jvp(lambda y: mix.log_density(y, sigma), (x,), (u,))[1]
    expected = u.square().sum(-1) + 2 * rise**2
    same(metric.inner(x, u, u), expected)


def test_score_jacobian_is_the_square_of_the_derivative_of_the_score(
    mix: GaussianMixture, draw: Draw
):
    metric = ScoreJacobian(mix, log_snr=1.0, eps=0.3)
    x = draw(3)
    jacobian = torch.autograd.functional.jacobian(metric.score, x)
    expected = jacobian.T @ jacobian + 0.3 * torch.eye(3, dtype=torch.float64)
    same(metric.matrix(x), expected)


def test_pullback_of_an_isometry_is_euclidean(draw: Draw):
    rotation = torch.linalg.qr(draw(3, 3)).Q
    metric = Pullback(lambda x: x @ rotation + 1, 3)
    x, u, v = draw(3, 4, 3)
    same(metric.inner(x, u, v), (u * v).sum(-1))
    same(metric.squared_steps(x), x.diff(dim=0).square().sum(-1))


def test_euclidean_geodesics_are_chords(draw: Draw):
    a, b = draw(2, 3, 4)
    path = geodesic(Euclidean(4), a, b, nodes=12)
    s = torch.linspace(0, 1, 13, dtype=torch.float64)
    same(path(s), torch.lerp(a[:, None], b[:, None], s[:, None]))
    same(path.length, (a - b).norm(dim=-1))


def test_geodesics_of_the_half_plane(draw: Draw):
    # the midpoint rule has order two, and its error falls on the length with the same order
    a, b = draw(2, 6, 2)
    a[:, 1], b[:, 1] = a[:, 1].exp(), b[:, 1].exp()
    exact = half_plane_distance(a, b)
    errors = []
    for nodes in (16, 32, 64):
        path = geodesic(half_plane(), a, b, nodes=nodes, solver=Relax(rtol=1e-10))
        assert path.status.name == "CONVERGED"
        errors.append((path.length / exact - 1).abs())
    order = torch.log2(errors[0] / errors[2]) / 2
    torch.testing.assert_close(order, torch.full_like(order, 2), rtol=0, atol=0.2)
    assert float(errors[2].max()) < 2e-4


def test_a_half_plane_geodesic_is_a_circle(draw: Draw):
    a, b = torch.tensor([-1.0, 0.5]).double(), torch.tensor([1.5, 1.0]).double()
    centre = (b.square().sum() - a.square().sum()) / (2 * (b[0] - a[0]))
    radius = torch.hypot(a[0] - centre, a[1])
    path = geodesic(half_plane(), a, b, nodes=64, solver=Relax(rtol=1e-10))
    x = path(torch.linspace(0, 1, 50, dtype=torch.float64))
    off = torch.hypot(x[:, 0] - centre, x[:, 1]) / radius - 1
    assert float(off.abs().max()) < 1e-3  # order two: (2.6 / 64)^2 = 1.6e-3 of a length 2.6


def test_cost_of_inner(mix: GaussianMixture, draw: Draw):
    x, u, v = draw(3, 5, 3)
    with counting() as cost:
        ScoreMetric(mix, log_snr=1.0).inner(x, u, v)
    assert (cost.evaluations, cost.derivatives) == (5, 0)
    with counting() as cost:
        ScoreJacobian(mix, log_snr=1.0).inner(x, u, u)
    assert (cost.evaluations, cost.derivatives) == (5, 5)
    with counting() as cost:
        ScoreJacobian(mix, log_snr=1.0).inner(x, u, v)
    assert (cost.evaluations, cost.derivatives) == (10, 10)


def test_errors_say_which_argument_is_wrong(mix: GaussianMixture):
    with pytest.raises(ValueError, match="weight must be >= 0"):
        ScoreMetric(mix, log_snr=1.0, weight=-1.0)
    with pytest.raises(ValueError, match="weight must be >= 0"):
        ScoreMetric(mix, log_snr=1.0, weight=math.nan)
    with pytest.raises(ValueError, match="eps must be > 0"):
        ScoreJacobian(mix, log_snr=1.0, eps=0.0)
    for kind in (ScoreMetric, ScoreJacobian):
        with pytest.raises(ValueError, match="log_snr = inf is outside"):
            kind(mix, log_snr=math.inf)
    mix.log_snr_range = (-5.0, 5.0)
    with pytest.raises(ValueError, match="between -5 and 5"):
        ScoreMetric(mix, log_snr=6.0)
