"""Constraints on curves: against closed forms, against bounds, and verified between the nodes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.denoisers.mixture import GaussianMixture
from diffodesic.geometry.boundary_value import geodesic
from diffodesic.geometry.constraints import Verdict, constrained_geodesic, verify
from diffodesic.geometry.solvers.lagrangian import AugmentedLagrangian, Constraint
from diffodesic.geometry.solvers.relax import Relax
from diffodesic.geometry.status import Status
from diffodesic.metrics.elementary import Euclidean
from diffodesic.metrics.spacetime.constraints import AvoidRegion, MinLogSNR
from diffodesic.metrics.spacetime.metric import Spacetime
from support.checks import Draw, same, status_is_looked_at

NODES = 12
CENTRES = torch.tensor([[-1.5, -0.5], [1.5, -0.5], [0.0, 1.2], [0.0, 0.0]], dtype=torch.float64)


@pytest.fixture(scope="module")
def space() -> Spacetime:
    """Four modes in the plane; paths from the first to the second pass by the others."""
    return Spacetime(GaussianMixture(CENTRES, std=0.35))


def ends(space: Spacetime, anchor: float) -> tuple[Tensor, Tensor]:
    return space.point(CENTRES[0], anchor), space.point(CENTRES[1], anchor)


def outside_disc(x: Tensor) -> Tensor:
    return x.norm(dim=-1) - 1


def test_a_string_round_a_disc_on_either_side():
    # from (-2, 0) to (2, 0) round the unit disc: two tangents and the arc between them
    exact = 2 * math.sqrt(3) + math.pi - 2 * math.acos(1 / 2)
    a = torch.tensor([-2.0, 0.0], dtype=torch.float64)
    s = torch.linspace(0, 1, NODES + 1, dtype=torch.float64)
    bow = torch.stack([4 * s - 2, 0.2 * torch.sin(math.pi * s)], -1)
    both = torch.stack([bow, bow * torch.tensor([1.0, -1.0], dtype=torch.float64)])
    ends = a.expand(2, 2), -a.expand(2, 2)
    path = constrained_geodesic(Euclidean(2), *ends, [outside_disc], nodes=32, init=both)
    assert path.verdicts == (Verdict.KEPT, Verdict.KEPT)
    assert bool((path.nodes[0, 1:-1, 1] > 0).all() and (path.nodes[1, 1:-1, 1] < 0).all())
    # from above, by the margin and by what a spline loses at the corners of the curvature
    assert bool((path.length >= exact).all())
    torch.testing.assert_close(path.length, path.length.new_full((2,), exact), rtol=5e-3, atol=0)


@pytest.mark.parametrize("anchor", [4.0, 7.0])
@status_is_looked_at
def test_low_variance_is_the_geodesic_of_a_bounded_range(space, anchor):
    a, b = ends(space, anchor)
    free = verify(geodesic(space, a, b, nodes=NODES), [MinLogSNR(3.0)])
    assert free.verdict is Verdict.BROKEN
    path = constrained_geodesic(space, a, b, [MinLogSNR(3.0)], nodes=NODES)
    assert path.verdict is Verdict.KEPT
    fine = path.geodesic(torch.linspace(0, 1, 8 * NODES + 1, dtype=torch.float64))
    assert float(fine[:, -1].min()) >= 3
    bounded = geodesic(Spacetime(space.denoiser, log_snr_range=(3, 20)), a, b, nodes=NODES)
    # it may be shorter between the bound's clamped nodes, and longer by its margin; both are small
    torch.testing.assert_close(path.length, bounded.length, rtol=5e-3, atol=0)


@pytest.mark.parametrize("anchor", [4.0, 7.0])
def test_a_region_is_avoided_wherever_the_anchor_is(space, anchor):
    a, b = ends(space, anchor)
    region = AvoidRegion(space, space.point(CENTRES[3], 4.0), kl_at_least=5.0)
    free = geodesic(space, a, b, nodes=NODES)
    assert verify(free, [region]).verdict is Verdict.BROKEN
    path = constrained_geodesic(space, a, b, [region], nodes=NODES)
    assert path.verdict is Verdict.KEPT
    fine = path.geodesic(torch.linspace(0, 1, 8 * NODES + 1, dtype=torch.float64))
    lowest = float(region.kl(fine).min())
    assert 5 <= lowest < 5.1
    assert float(path.length) > float(free.length)


def test_two_constraints_at_once_and_a_batch_of_pairs(space):
    a, b = (torch.stack(pair) for pair in zip(*(ends(space, x) for x in (4.0, 5.0)), strict=True))
    centre = space.point(CENTRES[3] + 0.2, 4.0)
    both: list[Constraint] = [MinLogSNR(-1.0), AvoidRegion(space, centre, kl_at_least=4.0)]
    path = constrained_geodesic(
        space, a, b, both, nodes=12, method=AugmentedLagrangian(solver=Relax(rtol=1e-4))
    )
    assert path.verdicts == (Verdict.KEPT, Verdict.KEPT)
    assert path.margins.shape == (2, 2)
    alone = constrained_geodesic(
        space, a[1], b[1], both, nodes=12, method=AugmentedLagrangian(solver=Relax(rtol=1e-4))
    )
    # company changes the order of sums, and many rounds amplify it, within the tolerance
    torch.testing.assert_close(alone.length, path.length[1], rtol=1e-4, atol=0)


def test_entropy_of_a_region_is_that_of_the_integral(space, draw: Draw):
    a, b = space.point(draw(2, 2), torch.tensor([3.0, 1.0], dtype=torch.float64))
    region = AvoidRegion(space, a, kl_at_least=1.0)
    eta, mu = space.eta(a), space.mu(a)

    def posterior(x: Tensor, at: Tensor) -> Tensor:
        h, k = at[:-1] * at[-1].exp(), at[-1].exp()
        return (x @ h - k * x.square().sum(-1) / 2) - space.denoiser.log_partition(h, k)

    # log of the density ratio is linear in the statistic, whose mean under z* is mu
    expected = (eta - space.eta(b)) @ mu
    zero = torch.zeros(1, 2, dtype=torch.float64)
    expected = expected + (posterior(zero, a) - posterior(zero, b))[0]
    same(region.kl(b[None])[0], expected)
    assert float(region.kl(a[None])) == pytest.approx(0, abs=1e-12)


class Opaque(Denoiser):
    """A mixture that does not tell its log-partition."""

    closed_form = True

    def __init__(self, mixture: GaussianMixture) -> None:
        self.mixture, self.dim = mixture, mixture.dim
        self.mean, self.variance = mixture.mean, mixture.variance

    def posterior_mean(self, z: Tensor, sigma: Tensor) -> Tensor:
        return self.mixture.posterior_mean(z, sigma)

    def moments(self, z: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return self.mixture.moments(z, sigma)


def test_entropy_along_a_curve_needs_no_log_partition(space):
    opaque = Spacetime(Opaque(space.denoiser))
    a, b = ends(space, 4.0)
    centre = space.point(CENTRES[3], 4.0)
    errors = []
    for count in (64, 128):
        curve = space.gaussian.path(a, b, count)
        exact = AvoidRegion(space, centre, kl_at_least=1.0).kl(curve)
        found = AvoidRegion(opaque, centre, kl_at_least=1.0).kl(curve)
        errors.append(float((found - exact).abs().max() / exact.max()))
    # the trapezoidal rule is of order 2
    assert errors[1] < errors[0] / 3.5
    assert errors[1] < 1e-2


def test_a_constraint_that_the_geodesic_keeps_changes_nothing(space):
    a, b = ends(space, 4.0)
    free = geodesic(space, a, b, nodes=NODES)
    path = constrained_geodesic(
        space, a, b, [MinLogSNR(-9.0)], nodes=NODES, method=AugmentedLagrangian(solver=Relax())
    )
    assert path.verdict is Verdict.INERT
    same(path.nodes, free.nodes)


def test_an_end_that_breaks_a_constraint_is_named(space):
    a, b = ends(space, 4.0)
    pairs = torch.stack([a, a]), torch.stack([b, space.point(CENTRES[1], 2.0)])
    path = constrained_geodesic(space, *pairs, [MinLogSNR(3.0)], nodes=12)
    assert path.verdicts == (Verdict.KEPT, Verdict.END_BREAKS)
    assert path.verdict is Verdict.END_BREAKS
    assert "end point" in path.verdict.value


def test_too_few_rounds_are_found_out(space):
    a, b = ends(space, 4.0)
    path = constrained_geodesic(
        space, a, b, [MinLogSNR(3.0)], nodes=12, method=AugmentedLagrangian(rounds=1)
    )
    assert path.verdict is Verdict.BROKEN
    assert float(path.margins) < 0
    # the inner solve converged, the constrained one did not
    assert path.geodesic.status is Status.ITERATION_LIMIT


def test_a_constraint_that_is_no_number_is_not_kept(space):
    a, b = ends(space, 4.0)
    path = geodesic(space, a, b, nodes=12)
    found = verify(path, [lambda x: (x[..., 0] - 1e3).sqrt()])
    assert found.verdict is Verdict.END_BREAKS


def test_bad_constraints_are_refused(space):
    a, b = ends(space, 4.0)
    with pytest.raises(ValueError, match="constraints is empty"):
        constrained_geodesic(space, a, b, [])
    with pytest.raises(ValueError, match="positive"):
        AvoidRegion(space, a, kl_at_least=0.0)
    with pytest.raises(ValueError, match="shape"):
        AvoidRegion(space, a[:-1], kl_at_least=1.0)
