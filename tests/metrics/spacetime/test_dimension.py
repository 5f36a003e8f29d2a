"""Local dimension on data whose dimension is known: planes, spheres, a swiss roll."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from diffodesic import Euclidean, GaussianMixture, Spacetime, geodesic
from diffodesic.metrics.spacetime.dimension import dimension_from_slope, flipd
from support.checks import Draw, same


def _plane(d: int, dim: int) -> GaussianMixture:
    """Unit Gaussian data on d of ``dim`` coordinates."""
    std = torch.zeros(1, dim, dtype=torch.float64)
    std[0, :d] = 1.0
    return GaussianMixture(torch.zeros(1, dim, dtype=torch.float64), std=std)


def _opposite(d: int, dim: int, draw: Draw) -> Tensor:
    """Two points of the plane, a typical distance 2 sqrt(d) apart."""
    w = draw(d)
    w = math.sqrt(d) * w / w.norm()
    return torch.nn.functional.pad(torch.stack([w, -w]), (0, dim - d))


def _sphere(d: int, dim: int, count: int, draw: Draw) -> Tensor:
    """Points of the unit sphere S^d, turned into R^dim."""
    u = draw(count, d + 1)
    return u / u.norm(dim=-1, keepdim=True) @ torch.linalg.qr(draw(dim, dim)).Q[: d + 1]


def _swiss_roll(count: int, uniform: Draw) -> Tensor:
    """A rolled up strip, two units between its layers and two wide."""
    t = 1.5 * math.pi * (1 + 2 * uniform(0, 1, count))
    return torch.stack([t * t.cos(), 21 * uniform(0, 1, count), t * t.sin()], -1) / 10


@pytest.mark.parametrize("d", [1, 3, 10])
def test_planes(d: int, draw: Draw):
    space = Spacetime(_plane(d, 12))
    z = _opposite(d, 12, draw)
    a, b = space.point(z, 10.0)
    # with x on the plane: k E|x0 - x|^2 = d kv/(1 + kv) + k |x|^2/(1 + kv)^2
    k = math.exp(10.0)
    exact = d * k / (1 + k) + k * z.square().sum(-1) / (1 + k) ** 2
    same(flipd(space, torch.stack([a, b])), exact)
    path = geodesic(space, a, b, nodes=64)
    assert float(dimension_from_slope(path)) == pytest.approx(d, rel=2e-3)


@pytest.mark.parametrize("d", [1, 3, 10])
def test_slope_is_the_derivative_of_the_length(d: int, draw: Draw):
    space = Spacetime(_plane(d, 12))
    z = _opposite(d, 12, draw)
    lengths = [float(geodesic(space, *space.point(z, lam), nodes=128).length) for lam in (5.9, 6.1)]
    path = geodesic(space, *space.point(z, 6.0), nodes=128)
    slope = (lengths[1] - lengths[0]) / 0.2
    assert float(dimension_from_slope(path)) == pytest.approx(slope**2 / 2, rel=2e-3)
    # and the published law: sqrt(2 d) for every unit of log SNR
    assert slope == pytest.approx(math.sqrt(2 * d), rel=0.01)


@pytest.mark.parametrize("d", [1, 2])
def test_spheres(d: int, draw: Draw):
    # noise of .37 and .14: below the radius, above the distance between neighbours
    data = _sphere(d, 5, 3000, draw)
    space = Spacetime(GaussianMixture.from_data(data, bandwidth=0.0))
    for lam in (2.0, 4.0):
        found = flipd(space, space.point(data[:100], lam))
        # noise sees the curvature with sigma^2, and the finite sample with its spacing
        assert float(found.mean()) == pytest.approx(d, abs=0.1)


def test_slope_on_a_sphere(draw: Draw):
    data = _sphere(2, 5, 2000, draw)
    space = Spacetime(GaussianMixture.from_data(data, bandwidth=0.0))
    far = data[(data @ data[0]).argmin()]
    path = geodesic(space, space.point(data[0], 4.0), space.point(far, 4.0), nodes=32)
    assert float(dimension_from_slope(path)) == pytest.approx(2, abs=0.3)


def test_swiss_roll(uniform: Draw):
    data = _swiss_roll(4000, uniform)
    space = Spacetime(GaussianMixture.from_data(data, bandwidth=0.0))
    # noise of .13: far below the gap between layers; a border is half a plane
    inner = (data[:, 1] > 0.4) & (data[:, 1] < 1.7)
    found = flipd(space, space.point(data[inner][:200], 4.0))
    assert float(found.median()) == pytest.approx(2, abs=0.15)


def test_flipd_is_a_by_product_of_a_path(draw: Draw):
    space = Spacetime(GaussianMixture(draw(3, 2), std=0.3))
    path = geodesic(space, space.point(draw(2), 1.0), space.point(draw(2), 1.0), nodes=12)
    x = path.nodes
    z, sigma = x[:, :-1], (-x[:, -1] / 2).exp()
    m, second = space.denoiser.moments(z, sigma)
    away = second - 2 * (m * z).sum(-1) + z.square().sum(-1)  # E|x0 - z|^2
    same(flipd(space, x), away / sigma**2)


def test_slope_needs_a_spacetime(draw: Draw):
    path = geodesic(Euclidean(2), draw(2), draw(2), nodes=4)
    with pytest.raises(ValueError, match="geodesics of a Spacetime"):
        dimension_from_slope(path)
