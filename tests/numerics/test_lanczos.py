"""Block Lanczos against dense eigenvalues."""

from __future__ import annotations

import pytest
import torch

from diffodesic.numerics.lanczos import block_lanczos
from support.checks import Draw, same


def _symmetric(values: torch.Tensor, draw: Draw) -> torch.Tensor:
    turn = torch.linalg.qr(draw(len(values), len(values))).Q
    return turn * values @ turn.T


@pytest.mark.parametrize("copies", [1, 3, 5])
def test_eigenvalues_are_found_as_often_as_they_occur(copies: int, draw: Draw):
    values = torch.zeros(30, dtype=torch.float64)
    values[:copies], values[copies : 2 * copies] = 1.0, 0.3
    matrix = _symmetric(values, draw)
    found = block_lanczos(lambda v: v @ matrix, draw(5, 30), steps=9)
    # three different eigenvalues: the space is exhausted after three steps, without rounding in it
    same(found.values[: 2 * copies], values[: 2 * copies])
    assert len(found.values) == 2 * copies + 5
    assert float(found.residuals.max()) < 1e-12
    same(found.vectors @ found.vectors.T, torch.eye(len(found.values)).double())


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_polynomials_of_degree_below_twice_the_steps_are_exact(steps: int, draw: Draw):
    matrix = _symmetric(torch.linspace(-0.3, 1.1, 40, dtype=torch.float64), draw)
    start = draw(4, 40)
    found = block_lanczos(lambda v: v @ matrix, start, steps=steps)
    shares = (start @ found.vectors.T).square()
    for degree in range(2 * steps + 1):
        exact = ((start @ torch.linalg.matrix_power(matrix, degree)) * start).sum(-1)
        by_nodes = shares @ found.values**degree
        if degree < 2 * steps:
            same(by_nodes, exact)
        else:
            assert float((by_nodes - exact).abs().max()) > 1e-3


def test_residuals_bound_the_error_of_eigenvalues(draw: Draw):
    matrix = _symmetric(torch.linspace(0, 1, 60, dtype=torch.float64) ** 4, draw)
    found = block_lanczos(lambda v: v @ matrix, draw(6, 60), steps=4)
    apart = (found.values[:, None] - torch.linalg.eigvalsh(matrix)).abs().amin(-1)
    assert bool((apart <= found.residuals + 1e-12).all())


def test_of_a_skew_operator_the_symmetric_part_counts(draw: Draw):
    symmetric = _symmetric(torch.linspace(0, 1, 12, dtype=torch.float64), draw)
    skew = draw(12, 12)
    matrix = symmetric + (skew - skew.T) / 10
    found = block_lanczos(lambda v: v @ matrix, draw(4, 12), steps=3)  # the whole space
    same(found.values.flip(0), torch.linspace(0, 1, 12, dtype=torch.float64))
