"""``score/sphere`` and ``score/surfaces``: what their numbers rest on, and the runs themselves."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from diffodesic import GaussianMixture, Relax, ScoreMetric, geodesic
from diffodesic.denoisers.flow import lift
from diffodesic.denoisers.schedules import Tabulated
from diffodesic.denoisers.sphere import SphereDenoiser, great_circle_angle
from diffodesic.experiments import sphere, surfaces
from diffodesic.experiments.common.points_network import learn_points
from diffodesic.experiments.common.statistics import mean_of
from diffodesic.experiments.experiment import Context
from support.checks import same


def test_acceptance_on_a_sphere():
    """Radius to 5e-4 and circle to 1e-3 (60 degrees), ODE to 1e-4, weight 0 is LERP."""
    rows, _ = sphere._single(sphere.Settings())
    found = {row.quantity.split(": ")[1]: row.measured for row in rows[:4]}
    assert found["largest deviation of the radius"] <= 5e-4
    assert found["largest distance to the great circle"] <= 1e-3
    assert found["geodesic equation against the boundary solver"] <= 1e-4
    assert found["weight 0 against LERP"] < 1e-12
    wide = {row.quantity.split(": ")[1]: row.measured for row in rows[4:]}
    assert wide["largest distance to the great circle"] <= 1e-3
    assert wide["geodesic equation against the boundary solver"] <= 1e-4


def test_the_deviation_from_the_sphere_is_the_weights_and_not_the_meshs():
    """Of order two in the segments about a limit that falls as one over the weight."""
    alpha, sigma = (float(v) for v in Tabulated.ddpm_linear().alpha_sigma(400))
    a, b = torch.eye(3, dtype=torch.float64)[:2]

    def dip(weight: float, nodes: int) -> float:
        metric = ScoreMetric.native(SphereDenoiser(3), alpha, sigma, weight=weight)
        path = geodesic(metric, a, b, nodes=nodes, solver=Relax(rtol=1e-10))
        return alpha * float(1 - path(0.5).norm())

    first, second, third = (dip(1000.0, n) for n in (20, 40, 80))
    assert (second - first) / (third - second) == pytest.approx(4, rel=0.05)
    limit = third + (third - second) / 3
    assert limit == pytest.approx(5.369e-4, rel=1e-3)
    assert dip(4000.0, 40) * 4 == pytest.approx(limit, rel=0.01)


def test_paired_differences_decide_what_means_cannot():
    shared = torch.linspace(0, 10, 8, dtype=torch.float64)
    row = mean_of("a minus b", shared + 0.1 - shared)
    same(torch.tensor([row.measured, row.error]).double(), torch.tensor([0.1, 0.0]).double())
    alone = mean_of("a", shared + 0.1)
    assert alone.error == pytest.approx(float(shared.std()) / math.sqrt(8))


@pytest.mark.parametrize(("dim", "t"), [(3, 50), (3, 200), (100, 100), (100, 400)])
def test_angles_between_score_and_radius(dim: int, t: int, rng: torch.Generator):
    for row in sphere._angles(sphere.Settings(samples=2000), dim, t, rng):
        assert row.expected is not None
        assert row.error is not None
        # four standard errors, and the rounding of the expected value
        assert row.measured == pytest.approx(row.expected, abs=4 * row.error + 1)


def test_the_probability_flow_turns_no_point_of_a_sphere(rng: torch.Generator):
    law = SphereDenoiser(6, radius=2.0)
    x = law.sample(5, generator=rng)
    z = lift(law, x, 0.0, steps=12)
    same(z / z.norm(dim=-1, keepdim=True), x / x.norm(dim=-1, keepdim=True))
    same(great_circle_angle(z[:1], x[:1], x[1:2]), torch.zeros(1).double())


def test_pairs_and_their_continuation_lie_on_one_circle(rng: torch.Generator):
    a, b = sphere._pairs(SphereDenoiser(7, radius=3.0), 4, rng)
    same(b.norm(dim=-1), torch.full((4,), 3.0).double())
    same(sphere._degrees(a, b), torch.full((4,), 60.0).double())
    on = sphere._turned(a[0], b[0], torch.tensor([0.0, 1.0, 3.0]).double())
    same(on, torch.stack([a[0], b[0], -a[0]]))


def test_the_roll_is_flat():
    """Its geodesics are straight in (arc length, height): a closed form."""
    roll = surfaces.SURFACES["swiss roll"]
    settings = surfaces.Settings(samples=20, pairs=3, grid=30, dim=3)
    generator = torch.Generator().manual_seed(0)
    problem = surfaces._Problem(roll, settings, torch.eye(3).double(), generator)
    first, last = problem.parameters

    def arc(u: torch.Tensor) -> torch.Tensor:  # of the spiral r = u/10
        return (u * (1 + u**2).sqrt() + torch.asinh(u)) / 20

    exact = torch.hypot(arc(last[:, 0]) - arc(first[:, 0]), (last - first)[:, 1])
    torch.testing.assert_close(problem.length, exact, rtol=1e-4, atol=0)


def test_samples_are_spread_by_area():
    torus = surfaces.SURFACES["torus"]
    settings = surfaces.Settings(samples=4000, pairs=2, grid=60, dim=3)
    generator = torch.Generator().manual_seed(0)
    problem = surfaces._Problem(torus, settings, torch.eye(3).double(), generator)
    # the outer half of a torus (v in -pi/2 .. pi/2) holds 1/2 + r/(pi R) of its area
    ring = (problem.data[:, :2] + _centre(problem)[:2]).norm(dim=-1)
    share = 0.5 + 0.4 / math.pi
    spread = math.sqrt(share * (1 - share) / 4000)
    assert float((ring > 1).double().mean()) == pytest.approx(share, abs=4 * spread + 0.01)


def _centre(problem: surfaces._Problem) -> torch.Tensor:
    """What was taken from the torus' points: the hole is where it was."""
    return surfaces.SURFACES["torus"].embed(torch.zeros(2).double()) - problem.embed(
        torch.zeros(2).double()
    )


def test_a_small_network_learns_a_gaussian(rng: torch.Generator):
    law = GaussianMixture(torch.zeros(1, 2).double(), std=0.5)
    net = learn_points(law.sample(2000, generator=rng), steps=300, sigma_range=(0.05, 2.0))
    z, sigma = law.sample(200, generator=rng), torch.tensor(0.5).double()
    z = z + sigma * torch.randn(z.shape, generator=rng, dtype=z.dtype)
    miss = (net(z, sigma) - law(z, sigma)).square().mean().sqrt()
    assert float(miss) < 0.1 * float(law(z, sigma).square().mean().sqrt())


@pytest.mark.slow
@pytest.mark.parametrize("run", [sphere.run, surfaces.run])
def test_quick_runs_end_to_end(run, tmp_path: Path):
    outcome = run(Context(tmp_path, quick=True, seed=1))
    assert all(math.isfinite(number.measured) for number in outcome.numbers)
    assert outcome.figure is not None
    outcome.figure(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1000
