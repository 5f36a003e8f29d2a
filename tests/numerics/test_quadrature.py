"""Quadrature against integrals in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from diffodesic.numerics.quadrature import adaptive, clenshaw_curtis, legendre

EDGES = (0.0, 0.5, 1.0)


def _sigmoid(sharpness: Tensor, centre: float):
    """Steps of different sharpness: what a change of modes looks like."""

    def function(index: Tensor, s: Tensor) -> Tensor:
        return torch.sigmoid(sharpness[index, None] * (s - centre))

    exact = [
        (math.log1p(math.exp(k * (1 - centre))) - math.log1p(math.exp(-k * centre))) / k
        for k in sharpness.tolist()
    ]
    return function, torch.tensor(exact, dtype=torch.float64)


@pytest.mark.parametrize("centre", [0.5, 0.313])
def test_steep_functions_together_with_flat_ones(centre: float):
    sharpness = torch.tensor([1.0, 10.0, 100.0, 500.0], dtype=torch.float64)
    function, exact = _sigmoid(sharpness, centre)
    found = adaptive(function, exact, EDGES, goal=lambda p: p.sum(-1), rtol=1e-10)
    torch.testing.assert_close(found.panels.sum(-1), exact, rtol=1e-10, atol=0)
    assert bool(found.reached.all())
    assert bool((found.error <= 1e-10 * exact).all())
    # every panel is an integral of its own
    first = adaptive(function, exact, (0.0, 0.5), goal=lambda p: p.sum(-1), rtol=1e-12)
    torch.testing.assert_close(found.panels[:, :1], first.panels, rtol=1e-9, atol=1e-12)


def test_work_goes_where_it_is_needed():
    calls: list[Tensor] = []
    function, exact = _sigmoid(torch.tensor([1.0, 500.0], dtype=torch.float64), 0.313)

    def counted(index: Tensor, s: Tensor) -> Tensor:
        calls.append(index)
        return function(index, s)

    adaptive(counted, exact, EDGES, goal=lambda p: p.sum(-1), rtol=1e-10)
    flat, steep = torch.bincount(torch.cat(calls)).tolist()
    assert flat == 2  # its two panels
    assert steep > 10


def test_pieces_are_limited_and_what_is_missed_is_said():
    def noise(index: Tensor, s: Tensor) -> Tensor:
        return torch.sin(1e9 * s) + index.unsqueeze(-1)

    like = torch.zeros(2, dtype=torch.float64)
    found = adaptive(noise, like, EDGES, goal=lambda p: p.sum(-1), rtol=1e-12, pieces=50)
    assert not bool(found.reached.any())
    assert bool((found.error > 1e-3).all())
    assert float(found.panels.sum(-1)[1]) == pytest.approx(1, abs=float(found.error[1]))


def test_derivative_of_an_integral():
    slope = torch.tensor([3.0], dtype=torch.float64, requires_grad=True)

    def function(index: Tensor, s: Tensor) -> Tensor:
        return torch.exp(slope[index, None] * s)

    found = adaptive(function, slope.detach(), (0.0, 1.0), goal=lambda p: p.sum(-1), rtol=1e-12)
    (grad,) = torch.autograd.grad(found.panels.sum(), slope)
    # d/dk (e^k - 1)/k
    assert float(grad) == pytest.approx((3 * math.e**3 - math.e**3 + 1) / 9, rel=1e-12)


@pytest.mark.parametrize("count", [1, 3, 16])
def test_gauss_legendre_is_exact_to_its_degree(count: int):
    nodes, weights = legendre(count, torch.zeros(1, dtype=torch.float64))
    powers = torch.arange(2 * count, dtype=torch.float64)
    moments = (weights * nodes ** powers[:, None]).sum(-1)
    torch.testing.assert_close(moments, 1 / (powers + 1), rtol=1e-12, atol=0)
    assert bool((nodes.diff() > 0).all())


@pytest.mark.parametrize("count", [2, 4, 8, 16, 32])
def test_clenshaw_curtis_is_exact_to_its_degree_and_nested(count: int):
    like = torch.zeros((), dtype=torch.float64)
    nodes, weights = clenshaw_curtis(count, like)
    for degree in range(count + 1):
        assert float(weights @ nodes**degree) == pytest.approx(1 / (degree + 1), abs=1e-14)
    assert bool((weights > 0).all())
    torch.testing.assert_close(clenshaw_curtis(2 * count, like)[0][::2], nodes, atol=1e-15, rtol=0)


@pytest.mark.parametrize("count", [0, 3])
def test_clenshaw_curtis_refuses_odd_numbers_of_intervals(count: int):
    with pytest.raises(ValueError, match="even and at least 2"):
        clenshaw_curtis(count, torch.zeros(()))
