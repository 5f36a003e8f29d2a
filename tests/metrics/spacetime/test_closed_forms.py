"""Closed forms of spacetime against the solver, and against each other, on random cases."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from diffodesic import GaussianMixture, Relax, Spacetime, Status, geodesic
from diffodesic.metrics.spacetime.closed_forms import AnisotropicGaussian, TwoPointData
from diffodesic.metrics.spacetime.gaussian import Hyperbolic
from support.checks import Draw, same, status_is_looked_at


def _noisy(variances: Tensor, mean: Tensor, count: int, draw: Draw, uniform: Draw) -> tuple:
    """Pairs of noisy points of Gaussian data."""
    lam = uniform(-1, 4, count, 2)
    spread = (variances + (-lam).exp().unsqueeze(-1)).sqrt()
    z = mean + spread * draw(count, 2, len(variances))
    return torch.cat([z, lam.unsqueeze(-1)], -1).unbind(1)


@pytest.mark.parametrize("dim", [1, 3, 8])
def test_equal_variances_are_hyperbolic_space(dim: int, draw: Draw, uniform: Draw):
    mean = draw(dim)
    closed = Hyperbolic(dim, variance=0.7, mean=mean)
    space = AnisotropicGaussian(torch.full((dim,), 0.7, dtype=torch.float64), mean)
    a, b = _noisy(1 / space.precisions, mean, 40, draw, uniform)
    b = torch.cat([2 * b[:, :-1], b[:, -1:]], -1)  # some far enough to escape
    same(space.distance(a, b), closed.distance(a, b))
    assert torch.equal(space.escapes(a, b), closed.escapes(a, b))
    u, v = draw(2, 40, dim + 1)
    same(space.inner(a, u, v), closed.inner(a, u, v))
    stay = ~closed.escapes(a, b)
    same(space.path(a[stay], b[stay], 10), closed.path(a[stay], b[stay], 10))


def test_metric_is_spacetime_of_the_mixture_with_one_component(draw: Draw, uniform: Draw):
    variances, mean = uniform(0.1, 3, 4), draw(4)
    space = AnisotropicGaussian(variances, mean)
    law = GaussianMixture(mean[None], std=variances.sqrt()[None])
    x, u, v = draw(3, 6, 5)
    same(space.inner(x, u, v), Spacetime(law).inner(x, u, v))


@pytest.mark.parametrize("precisions", [(1.0, 4.0), (0.5, 1.0, 9.0)])
def test_the_solver_finds_the_same_distance(precisions: tuple, draw: Draw, uniform: Draw):
    variances, mean = 1 / torch.tensor(precisions, dtype=torch.float64), draw(len(precisions))
    space = AnisotropicGaussian(variances, mean)
    law = GaussianMixture(mean[None], std=variances.sqrt()[None])
    a, b = _noisy(variances, mean, 6, draw, uniform)
    exact, stay = space.distance(a, b), ~space.escapes(a, b)
    # apexes above noise e^1.5 need more nodes than these
    apex = space.path(a[stay], b[stay], 64)[..., -1].amin(-1)
    a, b, exact = (x[stay][apex > -3] for x in (a, b, exact))
    assert len(a) >= 3
    coarse, fine = (
        geodesic(Spacetime(law), a, b, nodes=n, solver=Relax(rtol=1e-9)).certificate.discrete_length
        for n in (32, 64)
    )
    # polylines bound the distance from above with error c n^-2, which Richardson removes
    assert bool((coarse > fine).all() & (fine > exact).all())
    torch.testing.assert_close((4 * fine - coarse) / 3, exact, rtol=2e-6, atol=0)


def test_path_has_constant_speed_and_exact_ends(draw: Draw, uniform: Draw):
    variances, mean = uniform(0.2, 2, 3), draw(3)
    space = AnisotropicGaussian(variances, mean)
    a, b = _noisy(variances, mean, 8, draw, uniform)
    stay = ~space.escapes(a, b)
    a, b = a[stay], b[stay]
    errors = []
    for n in (64, 128):
        path = space.path(a, b, n)
        assert torch.equal(path[:, 0], a)
        assert torch.equal(path[:, -1], b)
        speed = space.squared_steps(path).sqrt()
        errors.append((speed.sum(-1) / space.distance(a, b) - 1).abs())
        assert float((speed / speed.mean(-1, keepdim=True) - 1).abs().max()) < 30 / n**2
    assert float(torch.log2(errors[0] / errors[1]).min()) > 1.8
    torch.testing.assert_close(space.path(b, a, 20).flip(-2), space.path(a, b, 20))


def test_distances_are_symmetric_and_obey_the_triangle(draw: Draw, uniform: Draw):
    variances, mean = uniform(0.1, 10, 3), draw(3)
    space = AnisotropicGaussian(variances, mean)
    a, b = _noisy(variances, mean, 30, draw, uniform)
    c, _ = _noisy(variances, mean, 30, draw, uniform)
    same(space.distance(a, b), space.distance(b, a))
    detour = space.distance(a, c) + space.distance(c, b)
    assert bool((space.distance(a, b) <= detour * (1 + 1e-10)).all())
    assert float(space.distance(a, a).abs().max()) < 1e-9


def test_vertical_distance(draw: Draw):
    # the same posterior mean: log noise alone, integrated per coordinate of unequal size
    space = AnisotropicGaussian(torch.tensor([1.0, 0.25], dtype=torch.float64))
    k = torch.tensor([0.5, 20.0], dtype=torch.float64)
    m = draw(2)
    z = m * (1 + space.precisions / k[:, None])
    a, b = space.point(z, k.log())
    grid = torch.linspace(math.log(0.5), math.log(20.0), 200_001, dtype=torch.float64)
    level = grid.exp()
    rate = ((level[:, None] + space.precisions) ** -2).sum(-1).div(2).sqrt() * level
    assert float(space.distance(a, b)) == pytest.approx(
        float(torch.trapezoid(rate, grid)), rel=1e-9
    )


@status_is_looked_at
def test_an_escaping_pair_has_an_infimum_and_no_path():
    variances = torch.tensor([1.0, 0.2], dtype=torch.float64)
    space = AnisotropicGaussian(variances)
    a, b = space.point(torch.tensor([[-5.0, 1.0], [6.0, 2.0]], dtype=torch.float64), 0.5)
    assert bool(space.escapes(a, b))
    with pytest.raises(ValueError, match="1 pairs have no shortest path"):
        space.path(a, b, 8)
    # paths that may rise higher into noise come closer to the infimum, and stay above it
    law = GaussianMixture(torch.zeros(1, 2, dtype=torch.float64), std=variances.sqrt()[None])
    infimum, lengths = float(space.distance(a, b)), []
    for lowest in (-1.0, -3.0):
        path = geodesic(Spacetime(law, log_snr_range=(lowest, 9.0)), a, b, nodes=32)
        assert path.status is Status.LEFT_DOMAIN
        lengths.append(float(path.certificate.discrete_length))
    assert lengths[0] > lengths[1] > infimum
    # the run at k = e^-3 costs sum (k + p_i) dm_i^2 instead of sum p_i dm_i^2
    assert lengths[-1] < 1.05 * infimum


def test_escaping_is_continuous(draw: Draw):
    # the distance along a ray has no jump or kink of its value where pairs begin to escape
    space = AnisotropicGaussian(torch.tensor([1.0, 0.3, 0.1], dtype=torch.float64))
    way = draw(3)
    out = torch.linspace(0.5, 8, 301, dtype=torch.float64)[:, None] * way / way.norm()
    a, b = space.point(-out, 1.0), space.point(out, 1.0)
    escapes, distance = space.escapes(a, b), space.distance(a, b)
    assert bool(escapes.any() and (~escapes).any())
    assert bool((escapes[1:] >= escapes[:-1]).all())
    bend = distance.diff().diff().abs()
    # a jump of the slope would be fifty times larger than what a step bends elsewhere
    assert float(bend.max()) < 1.5 * float(bend[:20].max())


def test_two_points_against_the_solver(draw: Draw, uniform: Draw):
    points, weight = draw(2, 3), 0.3
    weights = torch.tensor([weight, 1 - weight], dtype=torch.float64)
    law = GaussianMixture(points, weights, std=0.0)
    space, closed = Spacetime(law), TwoPointData(points, weight)
    a, b = space.point(draw(8, 3), uniform(-1, 2, 8)), space.point(draw(8, 3), uniform(-1, 2, 8))
    x, u, v = draw(3, 5, 4)
    same(space.inner(x, u, v), closed.inner(x, u, v))
    # there is one way to go: every path without return is a shortest one
    path = closed.energy().starts(a, b, 4000)["chord"]
    t = closed.logit(path)
    forward = (t.diff(dim=-1) > 0).all(-1) | (t.diff(dim=-1) < 0).all(-1)
    assert int(forward.sum()) >= 3
    length = space.squared_steps(path).clamp(min=0).sqrt().sum(-1)
    torch.testing.assert_close(
        length[forward], closed.distance(a, b)[forward], rtol=1e-6, atol=1e-7
    )
    assert bool((closed.distance(a, b) <= math.pi).all())
    # towards clean data the two values are at distance pi
    far = closed.distance(closed.point(points[0], 12.0), closed.point(points[1], 12.0))
    assert float(far) == pytest.approx(math.pi, abs=1e-6)


def test_errors_say_which_argument_is_wrong(draw: Draw):
    with pytest.raises(ValueError, match="vector"):
        AnisotropicGaussian(torch.ones(2, 2))
    with pytest.raises(ValueError, match="positive"):
        AnisotropicGaussian(torch.tensor([1.0, 0.0]))
    with pytest.raises(ValueError, match="two different rows"):
        TwoPointData(torch.ones(2, 3))
    with pytest.raises(ValueError, match="weight must lie between 0 and 1"):
        TwoPointData(draw(2, 3), 1.0)
