"""A function of one's own as a denoiser: the geometry of an exact law, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import diffodesic as dd
from support.checks import Draw

LAW = dd.GaussianMixture(
    torch.tensor([[-1.0, 0.0], [1.0, 0.5], [0.0, 1.5]], dtype=torch.float64), std=0.4
)


def law(z: Tensor, sigma: Tensor) -> Tensor:
    """E[x0 | z] of the same mixture, written out by Bayes' rule."""
    square, level = LAW.variances[0], sigma.unsqueeze(-1) ** 2
    distance = (z.unsqueeze(-2) - LAW.means).square().sum(-1)
    weight = (-distance / (2 * (square + level))).softmax(-1)
    return (level * (weight @ LAW.means) + square * z) / (square + level)


@pytest.fixture
def mine() -> dd.Denoiser:
    return dd.Denoiser.from_callable(law, dim=2, variance=LAW.variance, mean=LAW.mean)


def test_a_function_has_the_moments_and_products_of_the_exact_law(mine: dd.Denoiser, draw: Draw):
    z, v = draw(2, 5, 2)
    sigma = torch.tensor([0.1, 0.3, 1.0, 3.0, 9.0], dtype=torch.float64)
    for name, arguments in (("moments", ()), ("jvp", (v,)), ("covariance", (v,)), ("score", ())):
        found, exact = (getattr(d, name)(z, sigma, *arguments) for d in (mine, LAW))
        torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-9)
    with dd.counting() as cost:
        mine(z, sigma)
    assert cost.evaluations == 5


def test_without_noise_there_is_no_score(mine: dd.Denoiser, draw: Draw):
    for sigma in (torch.tensor(0.0), torch.tensor([0.1, 0.0])):
        with pytest.raises(ValueError, match="sigma must be above zero"):
            mine.score(draw(2, 2), sigma)


def spacetime(denoiser: dd.Denoiser) -> dd.Metric:
    return dd.Spacetime(denoiser, estimator="exact")


def score(denoiser: dd.Denoiser) -> dd.Metric:
    return dd.ScoreMetric(denoiser, log_snr=2.0, weight=0.5)


@pytest.mark.parametrize("metric", [spacetime, score])
def test_geodesics_are_those_of_the_exact_law(mine: dd.Denoiser, metric: Callable[..., dd.Metric]):
    paths = []
    for denoiser in (mine, LAW):
        space, (a, b) = metric(denoiser), LAW.means[:2]
        if isinstance(space, dd.Spacetime):
            a, b = space.point(a, log_snr=2.0), space.point(b, log_snr=2.0)
        paths.append(dd.geodesic(space, a, b, nodes=16))
    found, exact = paths
    assert found.ok
    assert exact.ok
    assert float(found.length) == pytest.approx(float(exact.length), rel=1e-5)
    torch.testing.assert_close(found.nodes, exact.nodes, rtol=0, atol=1e-2)


def test_spacetime_measures_a_function_as_it_measures_a_network(mine: dd.Denoiser):
    network = dd.from_network(
        law, shape=(2,), schedule=dd.schedules.EDM(), prediction="x0", variance=LAW.variance
    )
    lengths = []
    for space in (dd.Spacetime(mine), dd.Spacetime(network)):
        a, b = (space.point(z, log_snr=2.0) for z in LAW.means[:2])
        path = dd.geodesic(space, a, b, nodes=16, solver=dd.Relax())
        assert path.ok
        lengths.append(float(path.length))
    assert lengths[0] == pytest.approx(lengths[1], rel=1e-3)


@pytest.mark.parametrize(
    ("f", "change", "error", "words"),
    [
        (lambda z, s: z[:, :1], {}, ValueError, r"shape \(2, 1\) for z \(2, 4\)"),
        (lambda z, s: z[0], {}, ValueError, r"shape \(4,\)"),
        (lambda z, s: z.float(), {}, TypeError, r"torch\.float32 for z in torch\.float64"),
        (lambda z, s: (z, s), {}, TypeError, "f returned tuple"),
        (3, {}, TypeError, "f is a int; give a function"),
        (lambda z, s: z, {"dim": 0}, ValueError, "dim = 0"),
        (lambda z, s: z, {"variance": 0.0}, ValueError, r"variance = 0\.0"),
        (lambda z, s: z, {"variance": math.nan}, ValueError, "variance = nan"),
        (lambda z, s: z, {"mean": torch.zeros(3)}, ValueError, r"mean is \(3,\)"),
        (lambda z, s: z, {"log_snr_range": (2.0, 1.0)}, ValueError, "must increase"),
    ],
)
def test_what_is_no_denoiser_is_refused_at_once(f: Any, change: Any, error: Any, words: str):
    with pytest.raises(error, match=words):
        dd.Denoiser.from_callable(f, **{"dim": 4, "variance": 1.0, **change})


def test_a_noise_level_broadcast_over_coordinates_is_refused_in_two_dimensions():
    with pytest.raises((ValueError, RuntimeError)):
        dd.Denoiser.from_callable(lambda z, s: z / (1 + s**2), dim=2, variance=1.0)


def test_the_trial_has_the_dtype_of_the_mean():
    seen = []

    def f(z: Tensor, sigma: Tensor) -> Tensor:
        seen.append((z.dtype, sigma.dtype))
        return z

    dd.Denoiser.from_callable(f, dim=4, variance=1.0, mean=torch.zeros(4))
    dd.Denoiser.from_callable(f, dim=4, variance=1.0, mean=1.0)
    assert seen == [(torch.float32,) * 2, (torch.float64,) * 2]


def test_a_function_of_another_dimension_is_named():
    weight = torch.eye(2, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"from_callable: f fails on z \(2, 3\)"):
        dd.Denoiser.from_callable(lambda z, sigma: z @ weight, dim=3, variance=1.0)
