"""Monotone interpolation: through the data, monotone between, inverted exactly."""

from __future__ import annotations

import pytest
import torch

from diffodesic.numerics.monotone_cubic import MonotoneCubic

X = torch.tensor([0.0, 0.5, 0.6, 2.0, 5.0], dtype=torch.float64)
RISING = torch.tensor([-1.0, 0.0, 3.0, 3.1, 9.0], dtype=torch.float64)


@pytest.mark.parametrize("sign", [1, -1])
def test_it_runs_through_the_data_monotonically_and_back(sign: int):
    cubic = MonotoneCubic(X, sign * RISING)
    torch.testing.assert_close(cubic(X), sign * RISING, rtol=0, atol=1e-14)
    x = torch.linspace(0, 5, 1001, dtype=torch.float64)[:-1]
    y = cubic(x)
    assert bool((sign * y.diff() > 0).all())
    segment = torch.searchsorted(X, x, right=True) - 1
    torch.testing.assert_close(cubic.inverse(y, segment), x, rtol=1e-12, atol=1e-12)


def test_its_inverse_has_the_inverse_derivative():
    cubic, x = MonotoneCubic(X, RISING), torch.tensor([0.2, 1.0, 4.0], dtype=torch.float64)
    slope = torch.func.vmap(torch.func.grad(cubic))(x)
    y, segment = cubic(x).requires_grad_(), torch.tensor([0, 2, 3])
    (back,) = torch.autograd.grad(cubic.inverse(y, segment).sum(), y)
    torch.testing.assert_close(back, 1 / slope)
