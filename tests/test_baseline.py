"""LERP and SLERP: ends, norms, angles, and the cases where no great circle is singled out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from conftest import same
from diffodesic.baseline import lerp, slerp

S = torch.linspace(0, 1, 9, dtype=torch.float64)


def angle(a: Tensor, b: Tensor) -> Tensor:
    """Between (..., d) and (..., d), by the half-angle formula."""
    u, v = (x / x.norm(dim=-1, keepdim=True) for x in (a, b))
    return 2 * torch.atan2((u - v).norm(dim=-1), (u + v).norm(dim=-1))


@pytest.mark.parametrize("path", [lerp, slerp])
def test_ends_and_shape(draw, path):
    a, b = draw(2, 3, 5), 3 * draw(2, 3, 5)
    points = path(a, b, S)
    assert points.shape == (2, 3, 9, 5)
    same(points[..., 0, :], a)
    same(points[..., -1, :], b)


@pytest.mark.parametrize("path", [lerp, slerp])
def test_a_batch_is_its_pairs(draw, path):
    a, b = draw(4, 5), draw(4, 5)
    same(path(a, b, S), torch.stack([path(*pair, S) for pair in zip(a, b, strict=True)]))


@pytest.mark.parametrize("path", [lerp, slerp])
def test_backwards_is_the_same_path(draw, path):
    a, b = draw(5), draw(5)
    same(path(b, a, 1 - S), path(a, b, S))


def test_lerp_is_straight_at_constant_speed(draw):
    a, b = draw(5), draw(5)
    same(lerp(a, b, S).diff(dim=0), ((b - a) / 8).expand(8, 5))


def test_slerp_turns_at_constant_speed_in_one_plane_and_blends_the_norm(draw):
    a, b = draw(6), 4 * draw(6)
    points = slerp(a, b, S)
    same(points.norm(dim=-1), torch.lerp(a.norm(), b.norm(), S))
    same(angle(points[:-1], points[1:]), (angle(a, b) / 8).expand(8))
    outside = torch.linalg.qr(torch.stack([a, b], 1)).Q
    same(points - points @ outside @ outside.T, torch.zeros_like(points))


def test_slerp_of_equal_norms_keeps_the_norm_that_lerp_loses(draw):
    a, b = (x / x.norm() for x in draw(2, 500))
    same(slerp(a, b, S).norm(dim=-1), torch.ones(9).double())
    # nearly orthogonal in 500 dimensions: the middle of the chord is at 1/sqrt(2), give or take 10%
    assert float(lerp(a, b, S)[4].norm()) == pytest.approx(math.sqrt(0.5), rel=0.1)


@pytest.mark.parametrize("turn", [0.0, 1e-12, 1e-8, 1e-6, 1.01e-6, 1e-4, 1e-2])
def test_slerp_of_nearly_parallel_vectors_is_lerp_to_second_order(turn):
    a = torch.tensor([1.0, 0.0], dtype=torch.float64)
    b = 2 * torch.tensor([math.cos(turn), math.sin(turn)], dtype=torch.float64)
    apart = float((slerp(a, b, S) - lerp(a, b, S)).norm(dim=-1).max())
    # the chord leaves the circle by turn^2/8, and moves along it by as much as turn * |b - a|/2
    assert apart <= turn + 1e-15
    direction = torch.stack([(S * turn).cos(), (S * turn).sin()], -1)
    expected = direction * (1 + S).unsqueeze(-1)
    # below 1e-6 the directions are blended linearly, off by turn^2/8 < 2e-13
    torch.testing.assert_close(slerp(a, b, S), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_slerp_of_identical_vectors_stays(draw, dtype):
    a = draw(3, 7).to(dtype)
    points = slerp(a, a, S.to(dtype))
    assert points.dtype == dtype
    torch.testing.assert_close(points, a.unsqueeze(-2).expand(3, 9, 7))


def test_slerp_of_wide_angles_is_accurate():
    turn = math.pi - 1e-3
    a = torch.tensor([1.0, 0.0], dtype=torch.float64)
    b = torch.tensor([math.cos(turn), math.sin(turn)], dtype=torch.float64)
    expected = torch.stack([(S * turn).cos(), (S * turn).sin()], -1)
    same(slerp(a, b, S), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_slerp_refuses_opposite_vectors(draw, dtype):
    a = draw(2, 7).to(dtype)
    b = torch.stack([a[0].flip(0), -3 * a[1]])  # one bad pair of the batch is enough
    with pytest.raises(ValueError, match="opposite"):
        slerp(a, b, S.to(dtype))


@pytest.mark.parametrize("side", [0, 1])
def test_slerp_refuses_zero_vectors(draw, side):
    ends = [draw(3), draw(3)]
    ends[side] = torch.zeros(3).double()
    with pytest.raises(ValueError, match="zero vector"):
        slerp(ends[0], ends[1], S)
