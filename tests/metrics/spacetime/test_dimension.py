"""Local dimension on data whose dimension is known: planes, spheres, a swiss roll."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from diffodesic import Euclidean, GaussianMixture, Spacetime, geodesic
from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.denoisers.network import from_network
from diffodesic.denoisers.schedules import EDM
from diffodesic.denoisers.sphere import SphereDenoiser
from diffodesic.metrics.spacetime.dimension import (
    denoising_dimension,
    dimension_from_slope,
    flipd,
    spectral_dimension,
)
from support.checks import Draw, same
from support.laws import Linear, Product


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


def _roll() -> GaussianMixture:
    """The strip as an exact law: points .05 apart, which noise of .06 does not tell apart."""
    t = 1.5 * math.pi * torch.linspace(1, 3, 180, dtype=torch.float64)
    h = torch.linspace(0, 1, 21, dtype=torch.float64)
    t, h = (each.flatten() for each in torch.meshgrid(t, h, indexing="ij"))
    return GaussianMixture(torch.stack([t * t.cos(), 10 * h, t * t.sin()], -1) / 10, std=0.0)


def _known(kind: str, d: int) -> tuple[list[Denoiser], list[Tensor], float]:
    """Laws side by side of d dimensions in all, a point of each, and a level that resolves them."""
    if kind == "plane":
        return [_plane(d, d)], [torch.ones(d, dtype=torch.float64)], 7.0
    if kind == "sphere":
        law = SphereDenoiser(d + 2, sphere=d)
        return [law], [law.sample(1, generator=torch.Generator().manual_seed(d))[0]], 9.0
    roll = _roll()
    laws: list[Denoiser] = [roll]
    points = [roll.means[1900]]
    if d > 2:
        more, x, _ = _known("sphere", d - 2)
        laws, points = [*laws, *more], [*points, *x]
    return laws, points, -2 * math.log(0.06)


@pytest.mark.parametrize("dim", [100, 1000])
@pytest.mark.parametrize("d", [2, 5, 20])
@pytest.mark.parametrize("kind", ["plane", "sphere", "roll"])
def test_manifolds_of_known_dimension(kind: str, d: int, dim: int, draw: Draw):
    laws, points, lam = _known(kind, d)
    law = Product(*laws, dim=dim, draw=draw)
    x = torch.cat(points) @ law.basis
    z = x + math.exp(-lam / 2) * draw(dim)
    generator = torch.Generator().manual_seed(0)
    found = spectral_dimension(law, z, lam, generator=generator)
    assert (found.dimension, found.error) == (d, 0.0)
    assert found.tangent.shape == (d, dim)
    loss, error = denoising_dimension(law, x, lam, generator=generator, draws=200)
    # four standard errors, and the curvature over the noise: 10 % at most of d
    assert float((loss - d).abs()) < 4 * float(error) + 0.1 * d
    assert float(error) == pytest.approx(math.sqrt(2 * d / 200), rel=0.5)


def test_the_tangent_space_is_that_of_the_plane(draw: Draw):
    law = Product(_plane(7, 7), dim=300, draw=draw)
    found = spectral_dimension(law, draw(300), 6.0, generator=torch.Generator().manual_seed(0))
    same(found.tangent @ law.basis.T @ law.basis, found.tangent)


@pytest.mark.parametrize(("d", "dim"), [(1, 1), (2, 2), (1, 2), (3, 8), (20, 20), (30, 60)])
def test_of_few_coordinates_all_eigenvalues_are_counted(d: int, dim: int, draw: Draw):
    law = Product(_plane(d, d), dim=dim, draw=draw)
    generator = torch.Generator().manual_seed(0)
    found = spectral_dimension(law, draw(dim), 6.0, generator=generator)
    if dim <= 21:
        assert (found.dimension, found.error) == (d, 0.0)
    else:
        assert abs(found.dimension - d) < 4 * found.error


def test_more_dimensions_than_directions_are_estimated(draw: Draw):
    d, count = 60, 24
    law = Product(_plane(d, d), dim=400, draw=draw)
    found = [
        spectral_dimension(law, draw(400), 6.0, generator=torch.Generator().manual_seed(seed))
        for seed in range(count)
    ]
    values = torch.tensor([each.dimension for each in found])
    errors = torch.tensor([each.error for each in found])
    assert float((values.mean() - d).abs()) < 4 * float(errors.mean()) / math.sqrt(count)
    # the scatter is as large as it is said to be, to the error of a scatter
    assert float(values.std() / errors.mean()) == pytest.approx(1, abs=4 / math.sqrt(2 * count))
    assert float(errors.mean()) == pytest.approx(math.sqrt(2 * d / 21), rel=0.2)


def test_a_network_that_has_learned_nothing_has_the_dimension_of_its_skip(draw: Draw):
    """Its eigenvalues are all v/(v + sigma^2): below the cut none counts, above it each does."""
    z, ratio = draw(100), math.exp(2.0)
    for variance, eigenvalue in ((0.09, 0.399), (0.25, 0.649)):
        idle = from_network(
            lambda x, _: 0 * x,
            shape=(100,),
            schedule=EDM(0.01, 40.0),
            prediction="edm",
            sigma_data=math.sqrt(variance),
        )
        assert variance * ratio / (1 + variance * ratio) == pytest.approx(eigenvalue, abs=1e-3)
        generator = torch.Generator().manual_seed(0)
        found = spectral_dimension(idle, z, 2.0, generator=generator)
        s = eigenvalue**3 * (10 - 15 * eigenvalue + 6 * eigenvalue**2)
        expected = 0 if eigenvalue < 0.5 else 100 * s
        assert found.dimension == pytest.approx(expected, rel=0.01)


def test_errors_in_many_normal_directions_stay_below_the_cut(draw: Draw):
    # a trace takes 390 normal errors of -.2 for -78 dimensions; the spectrum counts 10
    basis = torch.linalg.qr(draw(400, 400)).Q
    values = torch.full((400,), -0.2, dtype=torch.float64)
    values[:10] = 0.95
    law = Linear(basis * values @ basis.T)
    found = spectral_dimension(law, draw(400), 2.0, generator=torch.Generator().manual_seed(0))
    assert found.dimension == 10
    assert float(values.sum()) < -68


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"directions": 1}, "directions must be 2 to D = 12"),
        ({"directions": 13}, "directions must be 2 to D = 12"),
        ({"steps": 2}, "steps at least 3"),
    ],
)
def test_bad_directions_are_named(words: dict[str, int], message: str, draw: Draw):
    with pytest.raises(ValueError, match=message):
        spectral_dimension(_plane(2, 12), draw(12), 2.0, generator=torch.Generator(), **words)


def test_a_batch_and_a_single_draw_are_refused(draw: Draw):
    with pytest.raises(ValueError, match="give one point"):
        spectral_dimension(_plane(2, 30), draw(3, 30), 2.0, generator=torch.Generator())
    with pytest.raises(ValueError, match="draws must be at least 2"):
        denoising_dimension(_plane(2, 30), draw(30), 2.0, generator=torch.Generator(), draws=1)
