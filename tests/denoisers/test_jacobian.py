"""Spectrum and asymmetry of the Jacobian of a posterior mean, against dense matrices."""

from __future__ import annotations

import math

import pytest
import torch

from diffodesic import GaussianMixture, counting
from diffodesic.denoisers.jacobian import Jacobian
from support.checks import Draw, same
from support.laws import Linear


def test_products_are_those_of_the_matrix(draw: Draw):
    matrix = draw(5, 5)
    jacobian = Jacobian(Linear(matrix), draw(5), 0.3)
    v = draw(3, 5)
    same(jacobian.push(v), v @ matrix.T)
    with torch.no_grad():
        same(jacobian.pull(v), v @ matrix)


def test_the_spectrum_of_gaussian_data_is_known(rng: torch.Generator, draw: Draw):
    std = torch.tensor([[2.0, 1.0, 0.3, 0.0, 0.0]], dtype=torch.float64)
    law, sigma = GaussianMixture(torch.zeros(1, 5).double(), std=std), 0.5
    with counting() as cost:
        found = Jacobian(law, draw(5), sigma).spectrum(5, generator=rng)
    same(found.values, (law.variances / (law.variances + sigma**2))[0])
    same(found.left[:3].abs(), torch.eye(5).double()[:3])
    assert cost.derivatives == 5


@pytest.mark.parametrize("symmetric", [True, False])
def test_few_directions_find_the_leading_values_of_a_falling_spectrum(
    rng: torch.Generator, draw: Draw, symmetric: bool
):
    dim, rank = 60, 6
    u = torch.linalg.qr(draw(dim, dim)).Q
    v = u if symmetric else torch.linalg.qr(draw(dim, dim)).Q
    values = torch.exp(-torch.arange(dim, dtype=torch.float64) / 2)
    with counting() as cost:
        found = Jacobian(Linear(u * values @ v.T), draw(dim), 1.0).spectrum(rank, generator=rng)
    assert found.values.shape == (rank,)
    assert cost.derivatives == 4 * (rank + 8)
    # Halko et al. 2011, Sec. 10: one round leaves about (s_{r+9}/s_r)^3 = e^-13 of a value
    torch.testing.assert_close(found.values, values[:rank], rtol=1e-5, atol=0)
    same((found.left * u[:, :rank].T).sum(-1).abs(), torch.ones(rank).double())
    same((found.right * v[:, :rank].T).sum(-1).abs(), torch.ones(rank).double())


def test_asymmetry_tells_its_blocks_apart(rng: torch.Generator, draw: Draw):
    d, dim = 3, 40
    skews = [torch.zeros(dim, dim).double() for _ in range(3)]
    skews[0][0, 1], skews[1][0, d], skews[2][d, d + 1] = 0.2, 0.2, 0.2
    base = draw(dim, dim)
    base = base + base.T
    tangent = torch.eye(dim, dtype=torch.float64)[:d]
    for block, skew in enumerate(skews):
        jacobian = Jacobian(Linear(base + skew - skew.T), draw(dim), 1.0)
        found = jacobian.asymmetry(tangent, probes=2000, generator=rng)
        ratios = torch.tensor([found.tangent, found.cross, found.normal]).double()
        parts = (base[:d, :d], base[:d, :d], base[d:, d:])
        # two entries of .2 against a block and its transpose; the cross block has one of the two
        size = 0.2 if block == 1 else 0.2 * math.sqrt(2)
        expected = torch.zeros(3).double()
        expected[block] = size / parts[block].norm()
        # norms of the normal block from 2,000 probes: 5 standard errors are below 10 per cent
        torch.testing.assert_close(ratios, expected, rtol=0.1, atol=1e-10)


def test_a_block_that_is_zero_has_no_asymmetry(rng: torch.Generator, draw: Draw):
    matrix = torch.diag(torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64))
    tangent = torch.eye(4, dtype=torch.float64)[:2]
    found = Jacobian(Linear(matrix), draw(4), 1.0).asymmetry(tangent, probes=3, generator=rng)
    assert found.tangent == 0
    assert found.cross == 0
    assert math.isnan(found.normal)
