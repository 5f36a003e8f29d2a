"""Baselines: ends, norms, angles, likelihoods, and the cases that none of them is defined in."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from diffodesic.geometry.boundary_value import geodesic
from diffodesic.images.baselines.between import Baseline, baseline_curve
from diffodesic.images.baselines.latent import (
    MixtureOptions,
    chi_length,
    lerp,
    nao,
    noise_diffusion,
    slerp,
    with_norm,
)
from diffodesic.images.lifting import Lifting
from diffodesic.metrics.elementary import Conformal
from support.checks import same
from support.tiny import pictures, tiny_model

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


def same_within(actual: Tensor, expected: float, atol: float) -> None:
    torch.testing.assert_close(actual, torch.full_like(actual, expected), rtol=0, atol=atol)


def unlikely(x: Tensor, dim: int) -> Tensor:
    """-log of the chi density at |x|, by torch's own chi-squared law: r = sqrt(q), dq = 2 r dr."""
    square = x.square().sum(-1)
    law = torch.distributions.Chi2(torch.tensor(float(dim), dtype=x.dtype))
    return -(law.log_prob(square) + math.log(2) + square.log() / 2)


def test_nao_is_the_geodesic_of_unlikeliness(draw):
    # another solver, in all of R^D, on the metric as torch.distributions has it
    a, b = draw(2, 5)
    path = nao(a, b, torch.linspace(0, 1, 129, dtype=torch.float64), sigma=1.0, power=0.0)
    metric = Conformal(lambda x: unlikely(x, 5).square(), 5)
    other = geodesic(metric, a, b, nodes=64)
    length = float(chi_length(path, sigma=1.0, power=0.0))
    # both are of second order in the nodes: 1/64^2 of the length, times a few
    assert length == pytest.approx(float(other.length), rel=2e-3)
    assert float(torch.cdist(path, other(S)).amin(0).max()) < 0.02


@pytest.mark.parametrize("dim", [2, 10, 784, 16384])
@pytest.mark.parametrize("size", [0.8, 1.0, 1.3])
def test_nao_is_likelier_than_lerp_and_slerp(draw, dim, size):
    a, b = draw(2, dim)
    a = size * a
    s = torch.linspace(0, 1, 65, dtype=torch.float64)
    with torch.no_grad():
        found = chi_length(nao(a, b, s, sigma=1.0, power=0.0), sigma=1.0, power=0.0)
    for path in (lerp, slerp):
        assert found <= chi_length(path(a, b, s), sigma=1.0, power=0.0) * (1 + 1e-3)


def test_nao_between_likely_norms_stays_on_the_shell_and_is_nearly_slerp(draw):
    dim, sigma, power = 1000, 0.7, 0.5
    radius = math.sqrt(dim * (power + sigma**2))
    a, b = (radius * x / x.norm() for x in draw(2, dim))
    path = nao(a, b, S, sigma=sigma, power=power)
    same(path[[0, -1]], torch.stack([a, b]))
    # least r (-log K): -log K is log(pi)/2 + (r - sqrt(D-1))^2 near its least, up to 1/D
    best = math.sqrt(dim - 1) - math.log(math.pi) / (4 * math.sqrt(dim))
    # 64 chords on a quarter of a circle dip by r (pi/2)^2/(8 64^2), and nodes move out by as much
    tolerance = 1 / dim + math.sqrt(dim) * (math.pi / 2) ** 2 / (8 * 64**2)
    same_within(path[1:-1].norm(dim=-1) * math.sqrt(dim) / radius, best, tolerance)
    assert float(torch.rad2deg(angle(path, slerp(a, b, S))).max()) < 0.1


def test_nao_returns_to_the_shell_between_norms_that_left_it(draw):
    a, b = 0.8 * draw(2, 1000)
    path = nao(a, b, S, sigma=1.0, power=0.0)
    same(path[[0, -1]], torch.stack([a, b]))
    middle = float(path[4].norm() / math.sqrt(1000))
    assert middle == pytest.approx(1.0, abs=0.01)
    assert float(slerp(a, b, S)[4].norm() / math.sqrt(1000)) < 0.85


def test_nao_takes_batches_pair_by_pair_at_constant_speed(draw):
    a, b = draw(2, 3, 20), draw(3, 20)
    path = nao(a, b, S, sigma=1.0)
    assert path.shape == (2, 3, 9, 20)
    # all pairs are searched together, and a path is as sharp as the root of its length's tolerance
    alone = nao(a[1, 2], b[2], S, sigma=1.0)
    torch.testing.assert_close(path[1, 2], alone, rtol=0, atol=2e-3)
    fine = nao(a[0, 0], b[0], torch.linspace(0, 1, 65, dtype=torch.float64), sigma=1.0)
    steps = fine.diff(dim=0).norm(dim=-1)
    assert float(steps.std() / steps.mean()) < 0.01


def test_a_chord_with_the_norm_of_slerp_is_slerp_in_other_places(draw):
    """Direction by direction: the same great circle, at other parameters; the ends stay."""
    a, b = draw(3, 20), draw(3, 20)
    found = with_norm(lerp(a, b, S), a, b, S)
    torch.testing.assert_close(found.norm(dim=-1), slerp(a, b, S).norm(dim=-1))
    same(found[:, [0, -1]], torch.stack([a, b], 1))
    torch.testing.assert_close(
        found / found.norm(dim=-1, keepdim=True),
        lerp(a, b, S) / lerp(a, b, S).norm(dim=-1, keepdim=True),
    )


def test_nao_of_identical_vectors_stays(draw):
    a = draw(2, 7).float()
    path = nao(a, a, S.float(), sigma=1.0)
    assert path.dtype == torch.float32
    torch.testing.assert_close(path, a.unsqueeze(-2).expand(2, 9, 7))


def test_nao_refuses_what_has_no_plane_and_what_has_no_direction(draw):
    a = draw(4)
    with pytest.raises(ValueError, match="opposite"):
        nao(a, -2 * a, S, sigma=1.0)
    with pytest.raises(ValueError, match="zero vector"):
        nao(a, 0 * a, S, sigma=1.0)
    with pytest.raises(ValueError, match="two coordinates"):
        nao(a[:1], a[:1], S, sigma=1.0)
    with pytest.raises(ValueError, match="sigma > 0"):
        nao(a, draw(4), S, sigma=0.0)


def latents(draw, dim: int, sigma: float) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    x0, y0 = draw(2, dim)
    a, b = (x + sigma * draw(dim) for x in (x0, y0))
    return a, b, (x0, y0)


def test_noise_diffusion_returns_the_ends_and_tends_to_them(draw):
    a, b, clean = latents(draw, 6, 0.7)
    s = torch.tensor([0, 1e-9, 1 - 1e-9, 1], dtype=torch.float64)
    options = MixtureOptions(signal=1.0, bound=100.0)
    points = noise_diffusion(a, b, s, clean=clean, sigma=0.7, options=options)
    same(points[[0, -1]], torch.stack([a, b]))
    torch.testing.assert_close(points[1:-1], torch.stack([a, b]), rtol=0, atol=1e-7)


def test_noise_diffusion_keeps_the_variance_of_the_noise_and_weighs_the_images(draw):
    dim, sigma, signal = 40_000, 0.5, 1.2
    a, b, (x0, y0) = latents(draw, dim, sigma)
    inner = S[1:-1]
    points = noise_diffusion(
        a,
        b,
        inner,
        clean=(x0, y0),
        sigma=sigma,
        noise=draw(7, dim),
        options=MixtureOptions(signal=signal, gamma=0.6, bound=100.0),
    )
    turn = inner.unsqueeze(-1) * math.pi / 2
    mu = signal * turn.cos() / (turn.cos() + turn.sin())
    rest = points - mu * x0 - (signal - mu) * y0
    variance = rest.square().mean(-1) / sigma**2
    # five standard errors of a variance from 40,000 draws: 3 in 10^7 per position
    same_within(variance, 1.0, 5 * 0.00708)


def test_noise_diffusion_is_the_published_mixture_in_its_own_coordinates(draw):
    # x_t = alpha_t z with alpha_t^2 + sigma_t^2 = 1: clip at 2, mu + nu = 1.2, no fresh noise
    sigma = 0.8
    alpha_t = 1 / math.sqrt(1 + sigma**2)
    a, b, (x0, y0) = latents(draw, 50, sigma)
    left, right = ((alpha_t * z).clamp(-2, 2) for z in (a, b))
    alpha, beta = math.cos(math.pi / 8), math.sin(math.pi / 8)
    mu, nu = 1.2 * alpha / (alpha + beta), 1.2 * beta / (alpha + beta)
    images = alpha_t * ((mu - alpha) * x0 + (nu - beta) * y0)
    expected = (alpha * left + beta * right + images).clamp(-2, 2)
    found = noise_diffusion(a, b, S[[2]], clean=(x0, y0), sigma=sigma)
    same(alpha_t * found[0], expected)
    assert bool((left != alpha_t * a).any())  # something was clipped


def test_noise_diffusion_says_what_is_missing(draw):
    a, b, clean = latents(draw, 6, 0.7)
    with pytest.raises(ValueError, match="give noise"):
        noise_diffusion(a, b, S, clean=clean, sigma=0.7, options=MixtureOptions(gamma=0.1))
    with pytest.raises(ValueError, match="gamma must be at most 1"):
        MixtureOptions(gamma=1.1)
    with pytest.raises(ValueError, match="bound must be above 0"):
        MixtureOptions(bound=0.0)


@pytest.mark.parametrize("name", get_args(Baseline))
def test_every_baseline_joins_the_ends_in_batches(name):
    lifting = Lifting(tiny_model(), 0.0, flow_steps=2)
    images = pictures(4).reshape(2, 2, 1, 8, 8)
    ends = lifting.lift(images)
    s = torch.linspace(0, 1, 5).double()
    curve = baseline_curve(name, lifting, (images[0], images[1]), (ends[0], ends[1]))
    points = curve(s)
    assert points.shape == (2, 5, 64)
    torch.testing.assert_close(points[:, [0, -1]], torch.stack([ends[0], ends[1]], 1))
    alone = baseline_curve(name, lifting, (images[0, 1], images[1, 1]), (ends[0, 1], ends[1, 1]))
    torch.testing.assert_close(alone(s), points[1], rtol=1e-4, atol=1e-4)
    if name == "SLERP":
        torch.testing.assert_close(points, slerp(ends[0], ends[1], s))


def test_an_unknown_baseline_is_named():
    lifting = Lifting(tiny_model(), 0.0)
    with pytest.raises(ValueError, match="unknown baseline 'pixel'; choose one of LERP, SLERP"):
        baseline_curve("pixel", lifting, (pictures(2)[0],) * 2, (torch.ones(64),) * 2)
