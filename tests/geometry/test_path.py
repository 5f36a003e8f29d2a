"""The verbs against closed forms: exp, log, transport; the certificate; errors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.problems import from_native, toy
from diffodesic import (
    Conformal,
    Euclidean,
    GaussianMixture,
    Relax,
    Spacetime,
    Status,
    distance,
    exp,
    geodesic,
    log,
    mean,
    transport,
)
from diffodesic.geometry.boundary_value import UntilSettled
from diffodesic.geometry.status import SearchWarning
from diffodesic.metrics.spacetime.gaussian import Hyperbolic
from support.checks import Draw, status_is_looked_at


def half_plane() -> Conformal:
    """Poincare's half plane, |dx|^2 / y^2 with y the second coordinate."""
    return Conformal(lambda x: x[..., 1] ** -2, 2)


@pytest.fixture
def hyperbolic(draw: Draw) -> tuple[Hyperbolic, Tensor, Tensor]:
    """Spacetime of Gaussian data in D = 2, and three pairs of points in it."""
    space = Hyperbolic(2, variance=1.5)
    z, lam = 0.6 * draw(2, 3, 2), 1.5 + 0.4 * draw(2, 3)
    return space, *space.point(z, lam)


@pytest.mark.parametrize("length", [0.5, 2.0])
def test_exp_runs_along_the_circles_of_the_half_plane(length: float):
    # unit speed from (x, y): up, (x, y e^t); sideways, (x + y tanh t, y / cosh t)
    x = torch.tensor([[0.3, 0.8], [0.3, 0.8]], dtype=torch.float64)
    v = length * 0.8 * torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    expected = torch.tensor(
        [
            [0.3, 0.8 * math.exp(length)],
            [0.3 + 0.8 * math.tanh(length), 0.8 / math.cosh(length)],
        ],
        dtype=torch.float64,
    )
    # the integrator holds 1e-9 per step, over some thirty steps
    torch.testing.assert_close(exp(half_plane(), x, v), expected, rtol=1e-7, atol=1e-7)


def test_exp_of_nothing_stays(draw: Draw):
    x = draw(4, 2).abs()
    torch.testing.assert_close(exp(half_plane(), x, torch.zeros_like(x)), x)


def test_exp_in_flat_space_is_addition(draw: Draw):
    x, v = draw(2, 4, 3)
    torch.testing.assert_close(exp(Euclidean(3), x, v), x + v, rtol=1e-12, atol=1e-12)


def test_log_has_the_length_and_direction_of_the_closed_geodesic(
    hyperbolic: tuple[Hyperbolic, Tensor, Tensor],
):
    space, a, b = hyperbolic
    v = log(space, a, b, nodes=24)
    torch.testing.assert_close(space.norm(a, v), space.distance(a, b), rtol=1e-6, atol=0)
    middle = space.path(a, b, 2)[:, 1]
    torch.testing.assert_close(exp(space, a, v / 2), middle, rtol=1e-6, atol=1e-6)


def test_float32_is_integrated_as_far_as_its_digits_go(
    hyperbolic: tuple[Hyperbolic, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
):
    space, a, b = hyperbolic
    sharp, stages = space.sharp, list[Tensor]()

    def counted(x: Tensor, p: Tensor) -> Tensor:
        stages.append(x)
        return sharp(x, p)

    monkeypatch.setattr(space, "sharp", counted)
    exact = log(space, a, b, nodes=24)
    fine = len(stages)
    x, y = a.float(), b.float()
    v = log(space, x, y, nodes=24)
    assert len(stages) - fine < fine
    # the miss is 1.2e-5 of the length; the velocity is as near as the ends are
    torch.testing.assert_close(v.double(), exact, rtol=1e-4, atol=1e-4)
    again = exp(space, x, v)
    assert float((space.norm(y, again - y) / space.norm(x, v)).max()) < 1.3e-5
    path = geodesic(space, x, y, nodes=24)
    moved = transport(path, v)
    torch.testing.assert_close(space.norm(y, moved), space.norm(x, v), rtol=1e-4, atol=0)


def test_a_tolerance_below_rounding_is_refused(draw: Draw):
    space, (x, y) = Euclidean(3), draw(2, 3).float()
    least = r"tol must be at least 1\.2e-06, .* got 1e-08$"
    with pytest.raises(ValueError, match="^r" + least):
        exp(space, x, y, rtol=1e-8)
    with pytest.raises(ValueError, match="^" + least):
        log(space, x, y, tol=1e-8)
    path = geodesic(space, x, y, nodes=4)
    with pytest.raises(ValueError, match=r"^rtol must be at least 1\.2e-06"):
        transport(path, y, rtol=1e-8)
    # 1e-3 apart, a thousand from zero: four digits of the difference are lost
    with pytest.raises(ValueError, match=r"^the digits of y in torch.float32 do not tell tol"):
        log(space, x + 1000, x + 1000.001)
    assert torch.equal(log(space, x + 1000, x + 1000), torch.zeros(3))


def test_transport_keeps_lengths_and_angles(draw: Draw):
    a, b = torch.tensor([[-1.0, 0.5], [1.5, 1.0]], dtype=torch.float64)
    metric = half_plane()
    path = geodesic(metric, a, b, nodes=64, solver=Relax(rtol=1e-10))
    u, v = draw(2, 2)
    moved = [transport(path, w) for w in (u, v)]
    before = torch.stack([metric.inner(a, *pair) for pair in ((u, u), (u, v), (v, v))])
    after = torch.stack(
        [
            metric.inner(b, *pair)
            for pair in ((moved[0], moved[0]), (moved[0], moved[1]), (moved[1], moved[1]))
        ]
    )
    # true along every curve: the error is the integrator's, 1e-8 per step in some hundred steps
    torch.testing.assert_close(after, before, rtol=5e-6, atol=5e-6)


def test_transport_takes_the_tangent_to_the_tangent():
    a, b = torch.tensor([[-1.0, 0.5], [1.5, 1.0]], dtype=torch.float64)
    errors = []
    for nodes in (32, 64):
        path = geodesic(half_plane(), a, b, nodes=nodes, solver=Relax(rtol=1e-12))
        miss = transport(path, path.velocity(0.0)) - path.velocity(1.0)
        errors.append(float(half_plane().norm(b, miss) / path.length))
    # the path is a geodesic to order two
    assert errors[1] < 2e-3
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.5)


# Results -------------------------------------------------------------------------------------


@pytest.fixture
def space(draw: Draw) -> Spacetime:
    return Spacetime(GaussianMixture(draw(3, 2), std=0.6))


@status_is_looked_at
def test_a_geodesic_is_a_path_with_exact_ends(space: Spacetime, draw: Draw):
    a, b = draw(2, 2, 3, 3)
    path = geodesic(space, a, b, nodes=12)
    assert path.nodes.shape == (2, 3, 13, 3)
    assert torch.equal(path(0.0), a)
    assert torch.equal(path(1.0), b)
    assert path(torch.linspace(0, 1, 5)).shape == (2, 3, 5, 3)
    assert path.velocity(0.5).shape == (2, 3, 3)
    assert path.length.shape == path.energy.shape == path.iterations.shape == (2, 3)
    assert len(path.statuses) == len(path.start) == 6


def test_certificate(space: Spacetime, draw: Draw):
    a, b = draw(2, 4, 3)
    path = geodesic(space, a, b, nodes=12, refine=16)
    steps = space.squared_steps(path.nodes)
    found = path.certificate
    torch.testing.assert_close(found.discrete_length, steps.sqrt().sum(-1))
    torch.testing.assert_close(found.discrete_energy, 6 * steps.sum(-1))
    speed = steps.sqrt()
    torch.testing.assert_close(found.speed_spread, speed.std(-1, correction=0) / speed.mean(-1))
    fine = space.squared_steps(path(torch.linspace(0, 1, 16 * 12 + 1, dtype=torch.float64)))
    torch.testing.assert_close(found.length, fine.sqrt().sum(-1))
    torch.testing.assert_close(found.energy, 96 * fine.sum(-1))
    assert float(found.negative_fraction.abs().max()) == 0
    assert bool((found.gradient_norm < 1e-2).all())
    # L^2 <= 2E on every grid
    assert bool((found.length**2 <= 2 * found.energy).all())
    assert bool((found.discrete_length**2 <= 2 * found.discrete_energy).all())
    # nothing judges an exact law
    unknown = {"judged", "judged_error", "least_noise", "most_noise"}
    assert set(found.as_dict()) == set(type(found).__dataclass_fields__) - unknown
    torch.testing.assert_close(distance(space, a, b, nodes=12, refine=16), path.length)


@status_is_looked_at
def test_the_status_of_a_batch_is_its_worst(space: Spacetime, draw: Draw):
    a = draw(2, 3)
    b = torch.stack([a[0], draw(3)])
    assert geodesic(space, a, b, nodes=6).status is Status.SAME_POINT
    tight = Relax(rtol=1e-15, iterations=1)
    assert geodesic(space, a, b, nodes=6, solver=tight).status is Status.ITERATION_LIMIT


def test_points_broadcast(space: Spacetime, draw: Draw):
    a, b = draw(3), draw(2, 3)
    path = geodesic(space, a, b, nodes=6)
    assert path.nodes.shape == (2, 7, 3)
    assert torch.equal(path.nodes[1, 0], a)


def test_results_carry_no_graph(space: Spacetime, draw: Draw):
    a, b = draw(2, 3).requires_grad_()
    path = geodesic(space, a, b, nodes=6)
    assert not path.nodes.requires_grad
    assert not path.length.requires_grad


def test_single_precision_stays_single(draw: Draw):
    space = Spacetime(GaussianMixture(draw(3, 2).float(), std=0.6))
    a, b = draw(2, 3).float()
    path = geodesic(space, a, b, nodes=8, solver=Relax(rtol=1e-4))
    assert path.nodes.dtype == path.length.dtype == torch.float32
    double = Spacetime(GaussianMixture(space.denoiser.means.double(), std=0.6))  # type: ignore[attr-defined]
    exact = geodesic(double, a.double(), b.double(), nodes=8, solver=Relax(rtol=1e-4))
    torch.testing.assert_close(path.length.double(), exact.length, rtol=1e-3, atol=0)


@pytest.mark.parametrize("nodes", [1, 0, -3, 0.0, 8.0, "8"])
def test_too_few_nodes_are_an_error(nodes: Any, space: Spacetime, draw: Draw):
    with pytest.raises(ValueError, match=f"nodes must be at least 2, got {nodes!r}"):
        geodesic(space, *draw(2, 3), nodes=nodes)


def test_points_that_cannot_be_are_errors(space: Spacetime, draw: Draw):
    a, bad = draw(2, 3)
    for verb in (geodesic, distance, exp, log):
        with pytest.raises(ValueError, match="last axis must be 3"):
            verb(space, draw(4), a)
        with pytest.raises(ValueError, match="last axis must be 3"):
            verb(space, a, draw(2, 4))
        bad[1] = math.nan
        with pytest.raises(ValueError, match="not finite"):
            verb(space, a, bad)
        bad[1] = math.inf
        with pytest.raises(ValueError, match="not finite"):
            verb(space, bad, a)
    with pytest.raises(ValueError, match="not finite"):
        mean(space, torch.stack([a, bad]))


def test_batches_that_do_not_fit_are_an_error(space: Spacetime, draw: Draw):
    with pytest.raises((ValueError, RuntimeError), match=r"shape|size"):
        geodesic(space, draw(2, 3), draw(4, 3))


def test_a_given_path_keeps_the_ends_that_were_asked_for():
    a, b = torch.tensor([[0.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    near = torch.tensor([[0.0, 0.0], [3.0, 1.0], [1.0001, 1.0]], dtype=torch.float64)
    path = geodesic(Euclidean(2), a, b, nodes=8, init=near)
    assert torch.equal(path.nodes[-1], b)
    assert float(path.length) == pytest.approx(math.sqrt(2), rel=1e-6)


def test_ends_outside_the_range_are_refused_and_integers_taken():
    space = Spacetime(GaussianMixture(torch.zeros(1, 2).double()), log_snr_range=(-2.0, 5.0))
    a = torch.tensor([0.0, 0.0, 7.0], dtype=torch.float64)
    with pytest.raises(ValueError, match="outside the range"):
        geodesic(space, a, a - 1)
    path = geodesic(Euclidean(2), torch.tensor([0, 0]), torch.tensor([3, 4]), nodes=4)
    assert float(path.length) == pytest.approx(5.0)


@status_is_looked_at
def test_a_path_that_the_metric_cannot_resolve_is_called_too_coarse():
    mix = GaussianMixture(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]).double(), std=0.5)
    space = Spacetime(mix, estimator="closure")
    a = space.point(torch.tensor([-1.0, 0.0]).double(), 8.0)
    b = space.point(torch.tensor([1.0, 0.0]).double(), -3.0)
    path = geodesic(space, a, b, nodes=6)
    assert not bool(path.objective.resolves(path.nodes))
    assert path.status is Status.TOO_COARSE


def test_nodes_are_doubled_until_the_length_settles():
    problem = toy()
    loose, tight = (
        geodesic(problem.space, problem.a, problem.b, nodes=UntilSettled(rtol))
        for rtol in (1e-2, 1e-4)
    )
    assert loose.nodes.shape[0] < tight.nodes.shape[0]
    assert {loose.status, tight.status} == {Status.CONVERGED}
    # the refined length falls at least as n^-2: what is left is less than what was just gained
    assert float(loose.length) == pytest.approx(6.408, rel=1e-2)
    assert float(tight.length) == pytest.approx(6.408, rel=1e-4)
    assert tight.cost.node_gradients > loose.cost.node_gradients > 0


def test_a_path_that_never_settles_is_too_coarse():
    problem = toy()
    with pytest.warns(SearchWarning, match="raise `nodes`"):
        path = geodesic(problem.space, problem.a, problem.b, nodes=UntilSettled(rtol=1e-9, most=32))
    assert path.status is Status.TOO_COARSE
    assert path.nodes.shape[0] == 33


def test_a_warm_start_is_not_thrown_away_on_coarse_levels():
    problem = toy()
    first = geodesic(problem.space, problem.a, problem.b, nodes=48)
    near = problem.b + torch.tensor([0.02, 0.01], dtype=torch.float64)
    cold = geodesic(problem.space, problem.a, near, nodes=48)
    warm = geodesic(problem.space, problem.a, near, nodes=48, init=first.nodes)
    assert float(warm.length) == pytest.approx(float(cold.length), rel=1e-5)
    assert warm.node_gradients < cold.node_gradients


def test_the_certificate_holds_the_distance_between_bounds():
    # one-dimensional mixture of 2505.17517, two close points
    problem = toy()
    a = torch.tensor([-2.3, 0.35], dtype=torch.float64)
    b = torch.tensor([-1.9, 0.35], dtype=torch.float64)
    path = geodesic(problem.space, from_native(a), from_native(b), nodes=64)
    found = path.certificate
    assert float(found.lower) == pytest.approx(1.6551, abs=1e-4)
    assert float(path.length) == pytest.approx(1.6693, abs=1e-4)
    assert float(found.upper) == pytest.approx(1.7682, abs=1e-4)
    assert {"lower", "upper"} < set(found.as_dict())
    flat = geodesic(Euclidean(2), a, b, nodes=4).certificate
    assert not {"lower", "upper"} & set(flat.as_dict())


def test_a_geodesic_prints_as_one_line():
    problem = toy()
    path = geodesic(problem.space, problem.a, problem.b, nodes=8)
    assert repr(path) == f"Geodesic(Spacetime, 8 segments, {float(path.length):.6g}, CONVERGED)"
