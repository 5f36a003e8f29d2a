"""Pairs without a shortest path at finite noise: their status, and the infimum of their lengths."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from benchmarks.problems import toy, toy_mixture
from diffodesic import GaussianMixture, Spacetime, Status, geodesic
from diffodesic.geometry.boundary_value import search
from support.checks import Draw, status_is_looked_at


@pytest.fixture(scope="module")
def escaping() -> tuple[GaussianMixture, Tensor]:
    """Unit Gaussian data and two points whose arc would pass sigma = infinity."""
    mix = GaussianMixture(torch.zeros(1, 1, dtype=torch.float64), std=1.0)
    return mix, Spacetime(mix).point(torch.tensor([[-6.0], [6.0]], dtype=torch.float64), 1.0)


def test_distance_of_an_escaping_pair_is_an_infimum(escaping: tuple[GaussianMixture, Tensor]):
    # up each side by cosh, across at sigma = infinity: paths that cross later get closer to it
    mix, (a, b) = escaping
    closed = Spacetime(mix).gaussian
    assert bool(closed.escapes(a, b))
    infimum = float(closed.distance(a, b))
    lengths = []
    for lowest in (-4, -6, -8, -10):
        lam = torch.full((1,), float(lowest), dtype=torch.float64)
        # at small k the posterior mean is k z: the points above the two feet of the arcs
        feet = []
        for end in (a, b):
            m, s = closed.posterior(end)
            foot = m - m.sign() * math.sqrt(2) * (1 - s**2).sqrt()
            feet.append(torch.cat([foot * (1 + lam.exp()) / lam.exp(), lam]))
        across = torch.lerp(feet[0], feet[1], torch.linspace(0, 1, 2001)[:, None].double())
        lengths.append(
            float(
                closed.distance(a, feet[0])
                + closed.distance(feet[1], b)
                + closed.squared_steps(across).sqrt().sum()
            )
        )
    assert all(x > y > infimum for x, y in itertools.pairwise(lengths))
    assert lengths[-1] == pytest.approx(infimum, rel=0.02)


@pytest.mark.parametrize("lowest", [-3.0, -1.0, 0.5])
@status_is_looked_at
def test_an_escaping_pair_is_never_called_converged(
    escaping: tuple[GaussianMixture, Tensor], lowest: float
):
    mix, (a, b) = escaping
    space = Spacetime(mix, log_snr_range=(lowest, 10.0))
    path = geodesic(space, a, b, nodes=32)
    assert path.status is Status.LEFT_DOMAIN
    assert float(path.nodes[:, -1].min()) >= lowest


@status_is_looked_at
def test_an_escaping_pair_ends_with_a_status_where_noise_is_unbounded(
    escaping: tuple[GaussianMixture, Tensor],
):
    mix, (a, b) = escaping
    path = geodesic(Spacetime(mix), a, b, nodes=32)
    assert path.status is not Status.CONVERGED


@pytest.mark.parametrize("lowest", [-1.0, 0.0])
@status_is_looked_at
def test_a_cut_noise_range_is_reported(lowest: float):
    # the toy's apex, t = .617, is at log SNR -2.3
    problem = toy()
    space = Spacetime(toy_mixture(), log_snr_range=(lowest, 20.0))
    path = geodesic(space, problem.a, problem.b, nodes=24)
    assert path.status is Status.LEFT_DOMAIN
    assert float(path.nodes[:, -1].min()) == lowest
    free = geodesic(problem.space, problem.a, problem.b, nodes=24)
    assert free.status is Status.CONVERGED
    assert float(path.length) > float(free.length)


@pytest.mark.parametrize("dim", [1, 3, 10])
def test_random_gaussian_pairs_end_at_their_distance_or_say_that_there_is_no_path(
    dim: int, draw: Draw
):
    """Exact distances and infima; some ends lie where nothing is left of the data."""
    space = Spacetime(GaussianMixture(draw(1, dim), std=0.8))
    a, b = space.point(2 * draw(2, 60, dim), (4 * draw(2, 60) + 1).clamp(-10, 12))
    exact, escapes = space.gaussian.distance(a, b), space.gaussian.escapes(a, b)
    found = search(space, a, b, nodes=64)
    excess = found.length / exact - 1
    ok = torch.tensor([status.ok for status in found.statuses])
    assert {found.statuses[i] for i in torch.nonzero(~ok)} == {Status.LEFT_DOMAIN}
    assert not bool((ok & escapes).any())
    assert int(ok.sum()) > 5
    assert float(excess.min()) > -1e-6
    assert float(excess[ok].max()) < 1e-3
    assert float(excess.max()) < 0.02
    assert float(excess[escapes].median()) < 0.005
