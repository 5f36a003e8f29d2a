"""The integrator against known solutions, and its order."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

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
