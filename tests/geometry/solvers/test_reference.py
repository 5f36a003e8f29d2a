"""Reference solvers: known minimisers, one law each, every way to end, and what is spent."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from diffodesic import (
    Conformal,
    Euclidean,
    GaussianMixture,
    Metric,
    Pullback,
    Relax,
    Spacetime,
    Status,
    counting,
    geodesic,
)
from diffodesic.geometry.energy import Problem, Solver
from diffodesic.geometry.solvers.reference.elastic_band import Neb
from diffodesic.geometry.solvers.reference.first_order import LBFGS, AdamNodes
from diffodesic.geometry.solvers.reference.georce import Georce, _left_gradient
from diffodesic.metrics.spacetime.gaussian import Hyperbolic
from support.checks import Draw, status_is_looked_at

ITERATIVE: list[Solver] = [LBFGS(rtol=1e-8), Georce(rtol=1e-8), Neb(rtol=1e-8)]
names = pytest.mark.parametrize("solver", ITERATIVE, ids=lambda solver: type(solver).__name__)


class Constant(Metric):
    """One symmetric matrix everywhere."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor, self.dim = tensor, len(tensor)

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return ((u @ self.tensor) * v).sum(-1)


def warp(x: Tensor) -> Tensor:
    """A triangular diffeomorphism of the plane."""
    a, b = x.unbind(-1)
    return torch.stack([a, b + torch.sin(2 * a)], -1)


def unwarp(y: Tensor) -> Tensor:
    a, b = y.unbind(-1)
    return torch.stack([a, b - torch.sin(2 * a)], -1)


def plane() -> Conformal:
    """The hyperbolic half-plane."""
    return Conformal(lambda x: x[..., 1] ** -2, 2)


def apart(a: Tensor, b: Tensor) -> Tensor:
    """Distance in the half-plane."""
    return torch.acosh(1 + (a - b).square().sum(-1) / (2 * a[..., 1] * b[..., 1]))


END = torch.tensor([[-1.0, 0.5], [1.5, 1.0]], dtype=torch.float64)


@names
def test_the_distance_in_a_hyperbolic_spacetime(solver: Solver):
    space = Hyperbolic(2, variance=1.0)
    a = space.point(torch.tensor([0.6, -0.2], dtype=torch.float64), 1.0)
    b = space.point(torch.tensor([-0.5, 0.4], dtype=torch.float64), 2.0)
    path = geodesic(space, a, b, nodes=12, solver=solver)
    assert path.status is Status.CONVERGED
    exact = float(space.distance(a, b))
    # nothing is shorter; at 12 segments the discrete minimiser is long by the order of n^-2
    assert -1e-6 < float(path.length) / exact - 1 < 1e-3


@pytest.mark.parametrize("solver", [LBFGS(rtol=1e-13), Neb(rtol=1e-13, iterations=4000)])
def test_the_minimiser_of_a_pullback_is_met_exactly(solver: Solver, draw: Draw):
    # equally spaced points of the chord, pulled back: equal lengths and no force across
    a, b = draw(2, 1, 2)
    path = geodesic(Pullback(warp, 2), a, b, nodes=8, solver=solver)
    s = torch.linspace(0, 1, 9, dtype=torch.float64).unsqueeze(-1)
    exact = unwarp(torch.lerp(warp(a)[:, None], warp(b)[:, None], s))
    torch.testing.assert_close(path.nodes, exact, rtol=0, atol=1e-5)  # the root of rtol, and room
    assert path.statuses == (Status.CONVERGED,)


def test_georce_converges_with_the_number_of_nodes():
    exact = float(apart(*END))
    errors = [
        float(geodesic(plane(), *END, nodes=n, solver=Georce(rtol=1e-10)).length) - exact
        for n in (8, 16, 32)
    ]
    # its rule is of first order; the length at the minimiser moves with the square of that
    assert errors[0] / errors[1] > 3
    assert errors[1] / errors[2] > 3


@names
def test_the_same_path_as_the_default_on_a_mixture(solver: Solver):
    means = torch.tensor([[-1.0, 0.0], [0.5, 0.8], [0.9, -0.7]], dtype=torch.float64)
    space = Spacetime(GaussianMixture(means, std=0.6))
    a, b = space.point(torch.tensor([[-0.8, 0.1], [0.6, 0.5]], dtype=torch.float64), 0.0)
    best = geodesic(space, a, b, nodes=12, solver=Relax(rtol=1e-9))
    path = geodesic(space, a, b, nodes=12, solver=solver)
    assert path.status is Status.CONVERGED
    # Georce minimises another rule on the same nodes
    within = 1e-2 if isinstance(solver, Georce) else 1e-6
    assert float(path.length) == pytest.approx(float(best.length), rel=within)


# Georce -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dense", [128, 0], ids=["dense", "iterative"])
def test_georce_solves_a_constant_metric_in_one_round(dense: int, draw: Draw):
    root = draw(3, 3)
    metric = Constant(root @ root.T + torch.eye(3, dtype=torch.float64))
    a, b = draw(2, 3)
    bent = torch.lerp(a, b, torch.linspace(0, 1, 7, dtype=torch.float64)[:, None])
    bent = bent + torch.nn.functional.pad(draw(5, 3), (0, 0, 1, 1))
    solver = Georce(rtol=1e-20, dense=dense, cg_rtol=1e-13)
    path = geodesic(metric, a, b, nodes=6, solver=solver, init=bent)
    chord = torch.lerp(a, b, torch.linspace(0, 1, 7, dtype=torch.float64)[:, None])
    torch.testing.assert_close(path.nodes, chord, rtol=1e-9, atol=1e-9)
    assert int(path.iterations) <= 2  # the second is rounding


def test_the_two_ways_of_georce_agree(draw: Draw):
    x = torch.cat([draw(2, 7, 1), 2 + draw(2, 7, 1).tanh()], -1)
    steps, grad = _left_gradient(plane().energy(), x)
    dense, _ = Georce()._direction(plane().energy(), x, steps, grad)
    iterative, positive = Georce(dense=0, cg_rtol=1e-13)._direction(
        plane().energy(), x, steps, grad
    )
    assert bool(positive.all())
    torch.testing.assert_close(dense, iterative, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("dense", [128, 0], ids=["dense", "iterative"])
@status_is_looked_at
def test_georce_names_a_metric_that_is_not_positive(dense: int):
    metric = Constant(torch.diag(torch.tensor([1.0, -2.0], dtype=torch.float64)))
    bent = torch.tensor([[0.0, 0.0], [1.0, 0.5], [3.0, 0.0]], dtype=torch.float64)
    path = geodesic(metric, bent[0], bent[2], nodes=2, solver=Georce(dense=dense), init=bent)
    assert path.status is Status.NEGATIVE_STEPS


# How a solve ends ---------------------------------------------------------------------------


@names
def test_a_pair_does_not_depend_on_its_company(solver: Solver):
    a = torch.tensor([[-1.0, 0.5], [0.0, 2.0], [1.0, 1.0]], dtype=torch.float64)
    b = torch.tensor([[1.5, 1.0], [0.3, 1.0], [1.0, 1.5]], dtype=torch.float64)
    together = geodesic(plane(), a, b, nodes=8, solver=solver)
    assert set(together.statuses) == {Status.CONVERGED}
    torch.testing.assert_close(together.length, apart(a, b), rtol=5e-3, atol=0)
    for i in range(3):
        alone = geodesic(plane(), a[i], b[i], nodes=8, solver=solver)
        torch.testing.assert_close(together.nodes[i], alone.nodes, rtol=1e-9, atol=1e-9)
        assert int(together.iterations[i]) == int(alone.iterations)


@names
def test_a_straight_line_is_left_alone(solver: Solver, draw: Draw):
    a, b = draw(2, 3)
    path = geodesic(Euclidean(3), a, b, nodes=5, solver=solver)
    assert path.status is Status.CONVERGED
    torch.testing.assert_close(path.length, (a - b).norm(), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "solver",
    [LBFGS(rtol=1e-14, iterations=5), Georce(rtol=1e-14, iterations=2), Neb(1e-14, iterations=5)],
)
@status_is_looked_at
def test_iteration_limit(solver: Solver):
    path = geodesic(plane(), *END, nodes=8, solver=solver)
    assert path.status is Status.ITERATION_LIMIT


@names
@status_is_looked_at
def test_non_finite_at_the_first_path(solver: Solver):
    metric = Conformal(lambda x: torch.where(x[..., 0].abs() < 0.3, torch.nan, 1.0), 2)
    path = geodesic(metric, *END, nodes=8, solver=solver)
    assert path.status is Status.NON_FINITE


@pytest.mark.parametrize(
    "solver",
    [LBFGS(1e-8, iterations=100), Georce(1e-8), Neb(1e-8, iterations=200)],
    ids=lambda solver: type(solver).__name__,
)
@status_is_looked_at
def test_a_wall_of_nan_is_not_crossed(solver: Solver):
    # the geodesic of the half-plane rises above 1.2, where this one is not defined
    def factor(x: Tensor) -> Tensor:
        return torch.where(x[..., 1] > 1.2, torch.nan, x[..., 1] ** -2)

    path = geodesic(Conformal(factor, 2), *END, nodes=8, solver=solver)
    assert bool(torch.isfinite(path.energy))
    # its nodes keep out, the smooth curve through them does not
    assert path.status is Status.NON_FINITE
    start = geodesic(Conformal(factor, 2), *END, nodes=8, solver=AdamNodes(steps=0))
    assert float(path.energy) < float(start.energy)


@pytest.mark.parametrize(
    "solver", [*ITERATIVE, AdamNodes(steps=5)], ids=lambda solver: type(solver).__name__
)
@status_is_looked_at
def test_progress_is_told_of_copies(solver: Solver):
    lines = []

    def spoil(line: str, x: Tensor) -> None:
        lines.append(line)
        x.fill_(torch.nan)

    told, alone = (
        geodesic(plane(), *END, nodes=8, solver=solver, progress=p) for p in (spoil, None)
    )
    assert lines
    assert torch.equal(told.nodes, alone.nodes)


def test_adam_spends_what_it_was_given():
    solver = AdamNodes(learning_rate=0.01, steps=7)
    with counting() as cost:
        found = solver.solve(Problem(plane().energy(), END[:1], END[1:], 8))
    assert cost.node_gradients == 8 * 9  # and one for the judgement
    assert found.statuses == [Status.FIXED_BUDGET]


def test_adam_descends():
    long = geodesic(plane(), *END, nodes=8, solver=AdamNodes(steps=0))
    path = geodesic(plane(), *END, nodes=8, solver=AdamNodes(0.02, 300))
    assert float(path.energy) < float(long.energy)
    assert float(path.length) == pytest.approx(float(apart(*END)), rel=5e-3)


def test_a_given_path_is_where_they_start():
    best = geodesic(plane(), *END, nodes=8, solver=LBFGS(rtol=1e-9))
    again = geodesic(plane(), *END, nodes=8, solver=LBFGS(rtol=1e-6), init=best.nodes)
    assert again.start == ("given",)
    assert int(again.iterations) == 0
