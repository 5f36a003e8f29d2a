"""Energies along splines: those of the metric on their points, with a true gradient."""

from __future__ import annotations

import pytest
import torch

from diffodesic import Conformal, GaussianMixture, Relax, Spacetime, geodesic
from diffodesic.geometry.energy import Problem, discrete_energy
from diffodesic.geometry.metric import MetricEnergy
from diffodesic.geometry.solvers.spline_search import SplineEnergy
from diffodesic.numerics.curves import Spline


def _hills(dim: int) -> Conformal:
    return Conformal(lambda x: 1 + 4 * torch.exp(-x.square().sum(-1)), dim)


@pytest.mark.parametrize("pieces", [1, 2, 3])
def test_the_energy_is_that_of_the_points_on_the_spline(pieces, draw):
    metric, x = _hills(2), draw(4, 7, 2)
    splines = SplineEnergy(metric.energy(), pieces)
    points = Spline(x)(torch.linspace(0, 1, 6 * pieces + 1, dtype=torch.float64))
    torch.testing.assert_close(splines.fine(x), points)
    found = splines.evaluate(x, order=0)
    torch.testing.assert_close(found.energy, discrete_energy(metric.squared_steps(points)))
    if pieces == 1:
        torch.testing.assert_close(found.squared_steps, metric.squared_steps(x))


def test_the_gradient_is_that_of_the_energy(draw):
    splines, x = SplineEnergy(_hills(3).energy(), 3), draw(2, 6, 3)
    found = splines.evaluate(x).gradient
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(splines.evaluate(leaf, order=0).energy.sum(), leaf)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_points_on_the_bound_have_no_slope(draw):
    energy = MetricEnergy(_hills(2))
    energy.bounds = (torch.tensor([-9.0, -0.1]).double(), torch.tensor([9.0, 9.0]).double())
    splines, x = SplineEnergy(energy, 2), draw(1, 6, 2)
    x[:, 2:4, 1] = -0.5
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(splines.evaluate(leaf, order=0).energy.sum(), leaf)
    torch.testing.assert_close(splines.evaluate(x).gradient, expected, rtol=1e-9, atol=1e-9)


def test_few_nodes_on_splines_hide_nothing_between_them():
    # round a narrow hill: four segments with free nodes cut it where no midpoint looks
    metric = Conformal(lambda x: 1 + 50 * torch.exp(-200 * x.square().sum(-1)), 2)
    a, b = torch.tensor([[-1.0, 0.05], [1.0, 0.05]], dtype=torch.float64)
    best = float(geodesic(metric, a, b, nodes=128).length)
    energies = (metric.energy(), SplineEnergy(metric.energy(), 8))
    free, smooth = (Relax().solve(Problem(each, a[None], b[None], 4)).nodes for each in energies)
    s = torch.linspace(0, 1, 257, dtype=torch.float64)
    lengths = [float(metric.squared_steps(Spline(x)(s)).sqrt().sum()) for x in (free, smooth)]
    assert lengths[1] < 1.05 * best
    assert lengths[1] < 0.9 * lengths[0]


def test_a_solver_that_begins_with_splines_ends_on_nodes(draw):
    metric = _hills(2)
    a, b = torch.tensor([[-2.0, 0.1], [2.0, 0.2]], dtype=torch.float64)
    plain = geodesic(metric, a, b, nodes=32)
    found = geodesic(metric, a, b, nodes=32, solver=Relax(splines=(6, 3, 200)))
    assert found.nodes.shape == (33, 2)
    assert found.status.name == "CONVERGED"
    assert float(found.length) == pytest.approx(float(plain.length), rel=1e-4)
    again = geodesic(metric, a, b, nodes=32, solver=Relax(splines=(6, 3, 200)), init=plain.nodes)
    assert float(again.length) == pytest.approx(float(plain.length), rel=1e-4)


def test_splines_are_left_out_where_they_do_not_belong(draw):
    space = Spacetime(GaussianMixture(draw(3, 2), std=0.4))
    a, b = space.point(draw(2, 2), 0.5)
    plain = geodesic(space, a, b, nodes=16)
    found = geodesic(space, a, b, nodes=16, solver=Relax(splines=(8, 2, 30)))
    assert torch.equal(plain.nodes, found.nodes)


def test_metrics_with_curves_of_their_own_are_refused(draw):
    law = GaussianMixture(draw(3, 2), std=0.4)
    with pytest.raises(ValueError, match="straight segments"):
        SplineEnergy(Spacetime(law).energy(), 2)
    with pytest.raises(ValueError, match="at least 1"):
        SplineEnergy(_hills(2).energy(), 0)
    with pytest.raises(ValueError, match="splines must be at least 1"):
        Relax(splines=(8, 0, 30))
    closure = Spacetime(law, estimator="closure").energy()
    assert SplineEnergy(closure, 2).coarsest == 8
