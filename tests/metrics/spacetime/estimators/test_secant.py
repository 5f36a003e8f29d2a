"""The secant estimator: exact where it must be, its gradients, its floor, and what it is for."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from diffodesic import GaussianMixture, Spacetime, counting
from diffodesic.metrics.spacetime.estimators.closure import Closure
from diffodesic.metrics.spacetime.estimators.secant import Secant
from diffodesic.metrics.spacetime.estimators.two_point import TwoPoint
from diffodesic.metrics.spacetime.gaussian import Hyperbolic
from support.checks import Draw
from support.laws import Opaque, relative, three_modes, two_paths


def _frame(dim: int) -> Tensor:
    """Probes that make ``|J|_F^2`` exact."""
    return math.sqrt(dim) * torch.eye(dim, dtype=torch.float64)


def test_steps_at_one_noise_level_are_exact_whatever_the_law(draw: Draw):
    # nothing is closed there: the trace of the covariance has no part in the step
    law = three_modes(draw, 4, 0.15)
    x = two_paths(draw, law)
    x[..., -1] = 0.7
    found = Secant(law, _frame(4), floor=0.0).steps(x)[0]
    torch.testing.assert_close(found, TwoPoint(law).steps(x)[0], rtol=1e-12, atol=1e-12)


def test_steps_of_a_gaussian_law_are_exact_to_second_order_in_log_snr(draw: Draw):
    law = GaussianMixture(draw(1, 3), std=0.8)
    ends = draw(2, 4)
    errors = []
    for pieces in (8, 16):
        x = torch.lerp(ends[0], ends[1], torch.linspace(0, 1, pieces + 1).double()[:, None])
        estimators = Secant(law, _frame(3), floor=0.0), TwoPoint(law)
        found, exact = (each.steps(x)[0].sum() * pieces for each in estimators)
        errors.append(float(found - exact))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)


@pytest.mark.parametrize("dim", [1, 2, 5])
@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_gradients_agree_with_differentiated_steps(dim: int, floor: float, draw: Draw):
    law = three_modes(draw, dim, 0.7)
    x = two_paths(draw, law)
    leaf = x.clone().requires_grad_()
    reverse = Secant(law, _frame(dim), floor=floor)
    steps = reverse.steps(leaf)[0]
    (expected,) = torch.autograd.grad(steps.sum(), leaf)
    forward = Secant(Opaque(law), _frame(dim), gradient="forward", floor=floor)
    for estimator, tol in ((reverse, 1e-12), (forward, 1e-5)):
        found, grad, _ = estimator.steps_and_slope(x)
        torch.testing.assert_close(found, steps.detach(), rtol=1e-7, atol=1e-9)
        assert relative(grad, expected) < tol


@pytest.mark.parametrize("gradient", ["reverse", "forward"])
def test_pieces_of_nodes_give_the_gradient_of_the_whole(gradient, draw: Draw):
    law = three_modes(draw, 3, 0.7)
    x = two_paths(draw, law)
    whole = Secant(law, _frame(3), gradient=gradient).steps_and_slope(x)
    law.chunk = 21  # three nodes
    parts = Secant(law, _frame(3), gradient=gradient).steps_and_slope(x)
    for found, expected in zip(parts, whole, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_paths_that_fit_in_a_piece_cost_what_they_cost_alone(draw: Draw):
    law = three_modes(draw, 3, 0.7)
    x = two_paths(draw, law)
    metric = Secant(law, _frame(3))
    law.chunk = 7 * 7  # seven nodes; an evaluation and two for each of three probes
    with counting() as together:
        found = metric.steps_and_slope(x)
    with counting() as alone:
        expected = [metric.steps_and_slope(path) for path in x]
    assert together.evaluations == alone.evaluations
    assert together.derivatives == alone.derivatives
    for part, each in zip(found, zip(*expected, strict=True), strict=True):
        torch.testing.assert_close(part, torch.stack(each), rtol=0, atol=0)


def test_the_floor_is_the_metric_of_gaussian_data(draw: Draw):
    law = three_modes(draw, 3, 0.7)
    bare, held = (Secant(law, _frame(3), floor=floor) for floor in (0.0, 0.25))
    ground = Hyperbolic(3, 0.25 * law.variance, law.mean)
    x, u, v = draw(3, 6, 4)
    extra = held.inner(x, u, v) - bare.inner(x, u, v)
    torch.testing.assert_close(extra, ground.inner(x, u, v), rtol=1e-9, atol=1e-9)
    gauss = GaussianMixture(ground._centre(x)[None], std=ground.variance**0.5)
    extra = held.steps(x)[0] - bare.steps(x)[0]
    torch.testing.assert_close(extra, TwoPoint(gauss).steps(x)[0], rtol=1e-9, atol=1e-9)


def test_networks_have_a_floor_and_laws_in_closed_form_have_none(draw: Draw):
    law = three_modes(draw, 3, 0.7)
    known = Spacetime(law, estimator="secant")
    network = Spacetime(Opaque(law), gradient="forward")
    assert network.estimator == "secant"
    x = draw(5, 4)
    with_floor = Secant(law, network.probes)
    torch.testing.assert_close(
        known.squared_steps(x), Secant(law, known.probes, floor=0).steps(x)[0]
    )
    torch.testing.assert_close(
        network.squared_steps(x), with_floor.steps(x)[0], rtol=1e-6, atol=1e-6
    )
    with pytest.raises(ValueError, match="floor is -1"):
        Secant(law, network.probes, floor=-1.0)


def test_a_path_from_mode_to_mode_is_charged_for_it_on_few_nodes():
    """Narrow modes: at no node does the covariance reach from one to the other."""
    law = GaussianMixture(torch.tensor([[-2.0, 0.0], [2.0, 0.0]]).double(), std=0.2)
    x = torch.zeros(4, 3, dtype=torch.float64)
    x[:, 0] = torch.tensor([-2.0, -0.7, 0.7, 2.0])
    exact = float(TwoPoint(law).steps(x)[0].sum())
    closed = float(Closure(law, _frame(2)).steps(x)[0].sum())
    secant = float(Secant(law, _frame(2), floor=0.0).steps(x)[0].sum())
    assert secant == pytest.approx(exact, rel=1e-12)
    assert closed < 0.7 * exact
