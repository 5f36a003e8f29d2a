"""Estimators of steps: gradients from evaluations alone and in closed form against reverse mode."""

from __future__ import annotations

import pytest
import torch

from diffodesic import Denoiser, Relax, Spacetime, Status, counting, geodesic
from diffodesic.metrics.spacetime.estimators.base import Gradient
from diffodesic.metrics.spacetime.estimators.closure import Closure
from diffodesic.metrics.spacetime.estimators.two_point import TwoPoint
from diffodesic.metrics.spacetime.metric import EstimatorName
from support.checks import Draw
from support.laws import Opaque, relative, three_modes, two_paths


@pytest.mark.parametrize("dim", [1, 2, 5])
@pytest.mark.parametrize("std", [0.15, 0.7])  # narrow modes meet the bound w.Jw >= |Jw|^2 / 2
def test_closure_gradient_from_evaluations_is_that_of_reverse_mode(dim, std, draw: Draw):
    law, probes = three_modes(draw, dim, std), torch.eye(dim).double() * dim**0.5
    x = two_paths(draw, law)
    steps, grad, wrong = Closure(law, probes).steps_and_slope(x)
    found = Closure(Opaque(law), probes, gradient="forward").steps_and_slope(x)
    # second differences: the square root of the rounding unit, times (sigma / std)^2 of the modes
    torch.testing.assert_close(found[0], steps, rtol=1e-7, atol=1e-9)
    assert relative(found[1], grad) < 1e-5
    assert torch.equal(found[2], wrong)


def test_the_bound_of_the_closure_is_met_where_its_gradient_is_tested(draw: Draw):
    law = three_modes(draw, 5, 0.15)
    x = two_paths(draw, law)
    closure = Closure(law, torch.eye(5).double())
    sides = torch.stack([x.diff(dim=-2), x.diff(dim=-2)], -2)
    _, w, jw, _ = closure._push(x[:, :-1], sides)
    bound = (w * jw).sum(-1) < jw.square().sum(-1) / 2
    assert 0.05 < float(bound.double().mean()) < 0.95


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_two_point_gradients_agree(dim, draw: Draw):
    law, probes = three_modes(draw, dim, 0.7), torch.eye(dim).double() * dim**0.5
    x = two_paths(draw, law)
    exact = TwoPoint(law).steps_and_slope(x)  # in closed form
    reverse = TwoPoint(law, probes).steps_and_slope(x)
    forward = TwoPoint(Opaque(law), probes, gradient="forward").steps_and_slope(x)
    for (found, grad, _), tol in ((reverse, 1e-10), (forward, 1e-6)):
        torch.testing.assert_close(found, exact[0], rtol=10 * tol, atol=10 * tol)
        assert relative(grad, exact[1]) < tol


def test_covariance_of_the_statistic_by_derivatives_is_the_closed_form(draw: Draw):
    law, z, a, b, lam = three_modes(draw, 4, 0.6), draw(6, 4), draw(6, 4), draw(6), 0.5 * draw(6)
    sigma = (-lam / 2).exp()
    for found, exact in zip(
        Denoiser.statistic_covariance(law, z, sigma, a, b),
        law.statistic_covariance(z, sigma, a, b),
        strict=True,
    ):
        torch.testing.assert_close(found, exact, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("estimator", ["closure", "hutchinson"])
def test_a_geodesic_through_evaluations_alone(estimator: EstimatorName, draw: Draw):
    law, probes = three_modes(draw, 3, 0.8), torch.eye(3).double() * 3**0.5
    a, b = draw(2, 3)
    solve = Relax(rtol=1e-8)
    found = []
    kinds: tuple[tuple[Denoiser, Gradient], ...] = ((law, "reverse"), (Opaque(law), "forward"))
    for denoiser, gradient in kinds:
        space = Spacetime(denoiser, estimator=estimator, probes=probes, gradient=gradient)
        ends = space.point(a, 1.0), space.point(b, 1.0)
        with counting() as cost:
            found.append(geodesic(space, *ends, nodes=12, solver=solve))
    assert cost.derivatives == 0
    assert {path.status for path in found} == {Status.CONVERGED}
    torch.testing.assert_close(found[1].length, found[0].length, rtol=1e-6, atol=0)
    # lengths are second order in nodes
    reach = float(found[0].length) * 1e-6**0.5
    torch.testing.assert_close(found[1].nodes, found[0].nodes, rtol=0, atol=2 * reach)


def test_forward_gradients_of_a_single_precision_network(draw: Draw):
    law, probes = three_modes(draw, 5, 0.7), torch.eye(5).double() * 5**0.5
    x = two_paths(draw, law)
    exact = Closure(law, probes).steps_and_slope(x)[1]
    found = Closure(Opaque(law, torch.float32), probes, gradient="forward").steps_and_slope(x)[1]
    # second differences lose half the digits
    assert relative(found, exact) < 1e-2


def test_pieces_of_nodes_give_the_gradient_of_the_whole(draw: Draw):
    law, probes = three_modes(draw, 3, 0.7), torch.eye(3).double()
    x = two_paths(draw, law)
    for gradient in ("reverse", "forward"):
        whole = Closure(law, probes, gradient=gradient).steps_and_slope(x)
        parts = Closure(law, probes, gradient=gradient)
        parts.denoiser = Opaque(law) if gradient == "forward" else law
        parts.denoiser.chunk = 25
        for found, expected in zip(parts.steps_and_slope(x), whole, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
        law.chunk = None
