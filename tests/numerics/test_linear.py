"""Conjugate gradients against dense solutions; products that do not see their batch."""

from __future__ import annotations

import pytest
import torch

from diffodesic import Pullback
from diffodesic.numerics.linear import conjugate_gradient, product
from support.checks import Draw


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


@pytest.mark.parametrize("size", [3, 15, 16, 31])
def test_a_product_is_the_same_alone_and_in_a_batch(draw: Draw, size: int):
    left, points = draw(6, 2, size, size)[:, 1], draw(6, size + 2, 4)[:, 1:-1, :3]
    together = product(left, points)
    torch.testing.assert_close(together, left @ points, rtol=1e-12, atol=1e-12)
    for i in range(6):
        assert torch.equal(product(left[i : i + 1], points[i : i + 1])[0], together[i])
    shared = draw(3, 7)
    rows = product(points.reshape(-1, 3), shared).reshape(6, size, 7)
    for i in range(6):
        assert torch.equal(product(points[i], shared), rows[i])
