"""ODE steps, linear solves, and the count of what they cost."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from diffodesic import Pullback
from diffodesic.denoisers.mixture import GaussianMixture
from diffodesic.numerics.cost import Cost, counting, record
from diffodesic.numerics.derivatives import jvp, track_vjp, untransformed
from diffodesic.numerics.linear import conjugate_gradient
from diffodesic.numerics.ode import rk45
from support.checks import Draw


def _pendulum(_: float, y: Tensor) -> Tensor:
    return torch.stack([y[..., 1], -torch.sin(y[..., 0])], -1)


def test_rk45_meets_its_tolerance_on_a_known_solution():
    # y' = -2 t y^2 from 1: y(1) = 1/2; y' = i 4 y as a rotation: exact by sine and cosine
    def field(t: float, y: Tensor) -> Tensor:
        return torch.stack([-2 * t * y[..., 0] ** 2, -4 * y[..., 2], 4 * y[..., 1]], -1)

    start = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)
    exact = torch.tensor([0.5, math.cos(4), math.sin(4)], dtype=torch.float64)
    for rtol in (1e-5, 1e-7, 1e-9, 1e-11):
        error = (rk45(field, start, rtol=rtol) - exact).abs().max()
        # errors of a few tens of steps add up: an order of magnitude above one step's
        assert float(error) < 20 * rtol


def test_rk45_takes_steps_as_a_method_of_order_five():
    # an error per step held at tol takes 1/h ~ tol^(-1/5) steps: 1000 times tighter, 4 times more
    calls = []
    for rtol in (1e-6, 1e-9, 1e-12):
        count = 0

        def field(t: float, y: Tensor) -> Tensor:
            nonlocal count
            count += 1
            return 10 * _pendulum(t, y)

        rk45(field, torch.tensor([2.0, 0.5], dtype=torch.float64), rtol=rtol, atol=1e-14)
        calls.append(count)
    slope = math.log(calls[2] / calls[0]) / math.log(1e6)
    assert slope == pytest.approx(1 / 5, abs=0.03)


def test_rk45_on_a_batch_is_rk45_on_each(draw: Draw):
    start = draw(3, 4, 2)
    together = rk45(_pendulum, start, rtol=1e-10)
    alone = torch.stack([rk45(_pendulum, y, rtol=1e-10) for y in start.reshape(-1, 2)])
    # the batch shares one step size, at most as long as each would take
    torch.testing.assert_close(together.reshape(-1, 2), alone, rtol=1e-8, atol=1e-8)


def test_rk45_says_when_it_cannot_go_on():
    one = torch.ones(1, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="did not reach its end in 3 steps"):
        rk45(lambda _, y: 50 * torch.cos(50 * y), one, max_steps=3)
    with pytest.raises(RuntimeError, match=r"finite|did not reach"):
        rk45(lambda _, y: 2 * y**2, one, max_steps=500)  # y = 1/(1 - 2t) ends at t = 1/2


@pytest.mark.parametrize("dim", [1, 3, 12])
def test_conjugate_gradient_is_the_dense_solution(draw: Draw, dim: int):
    factor = draw(5, dim, dim)
    matrix = factor @ factor.mT + 0.5 * torch.eye(dim, dtype=torch.float64)
    b = draw(5, dim)
    b[2] = 0  # an entry that is solved before it starts
    x = conjugate_gradient(lambda p: (matrix @ p.unsqueeze(-1)).squeeze(-1), b).x
    exact = torch.linalg.solve(matrix, b.unsqueeze(-1)).squeeze(-1)
    # the residual is 1e-12; the condition number of these matrices is some hundreds
    torch.testing.assert_close(x, exact, rtol=1e-9, atol=1e-9)


def test_conjugate_gradient_solves_entries_of_very_different_size(draw: Draw):
    scale = torch.tensor([1e-6, 1.0, 1e8], dtype=torch.float64).unsqueeze(-1)
    diagonal = scale * torch.tensor([1.0, 3.0, 10.0], dtype=torch.float64)
    b = draw(3, 3)
    x = conjugate_gradient(lambda p: diagonal * p, b).x
    torch.testing.assert_close(x * diagonal, b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("diagonal", [(1.0, 0.0), (1.0, -1.0)], ids=["singular", "indefinite"])
def test_conjugate_gradient_tells_what_is_not_positive_definite(diagonal: tuple[float, float]):
    matrix = torch.tensor(diagonal, dtype=torch.float64)
    one = torch.ones(2, dtype=torch.float64)
    found = conjugate_gradient(lambda p: matrix * p, one)
    assert not bool(found.solved)
    assert not bool(found.positive)
    metric = Pullback(lambda x: x[..., :1], 2)  # blind to the second coordinate
    with pytest.raises(RuntimeError, match="singular or not positive definite"):
        metric.sharp(torch.zeros(2, dtype=torch.float64), one)


def test_conjugate_gradient_with_an_exact_inverse_takes_one_product(draw: Draw):
    diagonal, b, calls = 1 + draw(4, 3).square(), draw(2, 4, 3), []

    def operator(p):
        calls.append(p)
        return diagonal * p

    found = conjugate_gradient(operator, b, inverse=lambda r: r / diagonal, axes=2)
    assert len(calls) == 1
    torch.testing.assert_close(found.x, b / diagonal)


def test_jvp_is_the_derivative_along_the_tangent(draw: Draw):
    x, v = draw(2, 4)
    value, slope = jvp(lambda p: torch.sin(p).prod(-1), (x,), (v,))
    exact = torch.sin(x).prod() * (v / torch.tan(x)).sum()
    torch.testing.assert_close(value, torch.sin(x).prod())
    torch.testing.assert_close(slope, exact)


def test_scopes_nest_and_close():
    with counting() as outer:
        record(evaluations=1)
        with counting() as inner:
            record(evaluations=2, derivatives=3, node_gradients=0.5)
        record(derivatives=10)
    record(evaluations=100)
    assert inner == Cost(2, 3, 0.5)
    assert outer == Cost(3, 13, 0.5)


def test_a_scope_closes_when_its_block_fails():
    with pytest.raises(KeyError), counting() as cost:
        raise KeyError
    record(evaluations=1)
    assert cost == Cost()


def test_backward_passes_are_counted_in_the_scope_of_the_forward_pass(draw: Draw):
    x = draw(3).requires_grad_()
    with counting() as cost:
        y = track_vjp(x**2, 3)
        assert cost.derivatives == 0
        y.sum().backward(retain_graph=True)
        assert cost.derivatives == 3
        y.sum().backward()
        assert cost.derivatives == 6
    with counting() as cost:
        track_vjp((2 * x).detach(), 3)  # nothing to differentiate
        track_vjp(2 * x, 3)  # differentiable, but never differentiated
    assert cost.derivatives == 0


@pytest.mark.parametrize("count", [1, 7])
def test_a_denoiser_counts_points_not_calls(draw: Draw, count: int):
    mix = GaussianMixture(draw(4, 3))
    z, sigma = draw(count, 3), torch.tensor(0.7, dtype=torch.float64)
    with counting() as cost:
        mix(z, sigma)
    assert cost == Cost(evaluations=count)
    with counting() as cost:
        mix.jvp(z, sigma, z)
    assert cost == Cost(evaluations=count, derivatives=count)
    with counting() as cost:
        mix.moments(z, sigma)  # in closed form
    assert cost == Cost(evaluations=count)
    with counting() as cost:
        mix(z.requires_grad_(), sigma).sum().backward()
    assert cost == Cost(evaluations=count, derivatives=count)


def test_untransformed_gives_the_values_inside() -> None:
    x = torch.arange(3.0)
    seen: list[Tensor] = []

    def look(y: Tensor) -> Tensor:
        seen.append(untransformed(y))
        return y.sum()

    torch.func.vmap(torch.func.grad(look))(x.unsqueeze(-1))
    torch.testing.assert_close(seen[0], x.unsqueeze(-1))
