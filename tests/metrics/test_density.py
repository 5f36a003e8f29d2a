"""Conformal metrics of the density and of the score, pullbacks, the likely path, a graph start."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra
from torch import Tensor

from diffodesic import (
    Denoiser,
    Euclidean,
    GaussianMixture,
    Pullback,
    Relax,
    ScoreMetric,
    counting,
    geodesic,
)
from diffodesic.geometry.graph_start import graph_path
from diffodesic.geometry.metric import MetricEnergy
from diffodesic.images.baselines.likely import likely_path
from diffodesic.metrics.density import DensityMetric, InverseDensity, ScoreSize
from diffodesic.metrics.one_level import AtNoise
from support.checks import Draw, same

Kind = DensityMetric | InverseDensity | ScoreSize


def _all(law: Denoiser) -> list[Kind]:
    return [
        DensityMetric(law, log_snr=0.5, power=0.3),
        InverseDensity(law, log_snr=0.5, scale=0.7, floor=0.2),
        ScoreSize(law, log_snr=0.5, weight=0.9),
    ]


class _Silent(Denoiser):
    """A law's denoiser that does not know its density."""

    def __init__(self, law: GaussianMixture) -> None:
        self.law, self.dim, self.mean = law, law.dim, law.mean

    def posterior_mean(self, z: Tensor, sigma: Tensor) -> Tensor:
        return self.law.posterior_mean(z, sigma)


def _clairaut(radius: float, turn: float, rate: float) -> float:
    """Length of the geodesic of ``exp(rate r^2) I`` between points of one radius, by quadrature.

    Clairaut: c r^2 theta' = J for unit speed, so with the nearest radius r0, J = sqrt(c(r0)) r0.
    With r = r0 + w^2 the integrands are smooth.
    """

    def sums(r0: float) -> tuple[float, float]:
        def c(r: float) -> float:
            return math.exp(rate * r * r)

        square = c(r0) * r0 * r0

        def root(r: float) -> float:
            return math.sqrt(max(c(r) * r * r - square, 1e-300))

        top = math.sqrt(radius - r0)
        swept = quad(
            lambda w: 2 * w * math.sqrt(square) / ((r0 + w * w) * root(r0 + w * w)), 0, top
        )
        length = quad(lambda w: 2 * w * c(r0 + w * w) * (r0 + w * w) / root(r0 + w * w), 0, top)
        return 2 * swept[0], 2 * length[0]

    r0 = brentq(lambda r: sums(r)[0] - turn, 1e-3, radius * (1 - 1e-9), xtol=1e-13)
    return sums(r0)[1]


def test_a_geodesic_of_gaussian_density_is_clairauts():
    law = GaussianMixture(torch.zeros(1, 2).double(), std=0.8)
    metric = DensityMetric(law, log_snr=2.0, power=0.4)
    variance = 0.64 + metric.sigma**2
    radius, turn = 1.5, 1.2
    ends = torch.tensor([[1.0, 0.0], [math.cos(turn), math.sin(turn)]]).double() * radius
    exact = _clairaut(radius, turn, 0.4 / variance)
    found = [
        float(geodesic(metric, *ends, nodes=n, solver=Relax(rtol=1e-10)).length) for n in (32, 64)
    ]
    # the steps are of second order, on the certificate's grid of 8 n
    assert found[1] == pytest.approx(exact, rel=2e-4)
    assert (found[0] - exact) / (found[1] - exact) == pytest.approx(4, rel=0.2)
    # Yu's equation: the curvature is the score across the path, a times
    path = geodesic(metric, *ends, nodes=128, solver=Relax(rtol=1e-12))
    x = path.nodes[40:90]
    u = (x[2:] - x[:-2]) / 2
    bent = (x[2:] - 2 * x[1:-1] + x[:-2]) / u.square().sum(-1, keepdim=True)
    residual = bent + 0.4 * 2 * metric.score(x[1:-1]) / 2
    unit = u / u.norm(dim=-1, keepdim=True)
    residual = residual - (residual * unit).sum(-1, keepdim=True) * unit
    assert float(residual.norm(dim=-1).max()) < 5e-3 * float(bent.norm(dim=-1).max())


@pytest.mark.parametrize("place", range(3))
def test_closed_forms_against_derivatives_of_the_tensor(place: int, draw: Draw):
    metric = _all(GaussianMixture(draw(4, 3), std=0.6))[place]
    x, u, v, p = (draw(3) for _ in range(4))
    tensor = metric.matrix(x)
    same(metric.sharp(x, p), torch.linalg.solve(tensor, p))
    same(metric.log_volume(x), torch.logdet(tensor) / 2)
    slope = torch.autograd.functional.jacobian(metric.matrix, x)
    lower = (
        torch.einsum("jki->kij", slope)
        + torch.einsum("ikj->kij", slope)
        - torch.einsum("ijk->kij", slope)
    ) / 2
    expected = torch.linalg.solve(tensor, torch.einsum("kij,i,j->k", lower, u, v))
    same(metric.christoffel(x, u, v), expected)


@pytest.mark.parametrize("place", [0, 1])
def test_the_score_only_gradient_is_that_of_the_steps(place: int, draw: Draw):
    metric = _all(GaussianMixture(draw(4, 3), std=0.6))[place]
    x = draw(2, 6, 3)
    found, exact = metric.energy().evaluate(x), MetricEnergy(metric).evaluate(x)
    torch.testing.assert_close(found.squared_steps, exact.squared_steps, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.slope, exact.slope, rtol=1e-9, atol=1e-9)
    with counting() as cost:
        metric.energy().evaluate(x)
    assert cost.derivatives == 0


@pytest.mark.parametrize("place", [0, 1])
def test_without_a_density_it_is_integrated_from_scores(place: int, draw: Draw):
    law = GaussianMixture(draw(4, 3), std=1.0)
    known, silent = _all(law)[place], _all(_Silent(law))[place]
    x = draw(5, 3)
    # one piece of 15 nodes on a smooth integrand
    torch.testing.assert_close(silent.factor(x), known.factor(x), rtol=1e-6, atol=1e-9)
    s = torch.linspace(0, 1, 201, dtype=torch.float64).unsqueeze(-1)
    path = torch.lerp(x[0], x[1], s)
    torch.testing.assert_close(
        silent.squared_steps(path), known.squared_steps(path), rtol=1e-3, atol=0
    )


@pytest.mark.parametrize("level", [2.0, 4.0, 6.0])
def test_lengths_of_pairs_compare_where_density_is_integrated_between_narrow_modes(level: float):
    """The quadrature changes a length by 1e-3 at most, and the path by its tolerance of 1e-3."""
    law = GaussianMixture(torch.tensor([[-2.0, 0.0], [2.0, 0.0], [0.0, 3.0]]).double(), std=0.1)
    a = torch.tensor([[-2.0, 0.0], [0.0, 3.0]]).double()
    known, silent = (
        geodesic(DensityMetric(one, log_snr=level), a, a + 0.1, nodes=16)
        for one in (law, _Silent(law))
    )
    torch.testing.assert_close(silent.length, known.length, rtol=3e-3, atol=0)
    assert float(silent.length[0] / silent.length[1]) == pytest.approx(1, abs=5e-3)
    metric = InverseDensity(_Silent(law), log_snr=level)
    exact = InverseDensity(law, log_snr=level).height(a)
    torch.testing.assert_close(metric.height(a), exact, rtol=0, atol=metric.nats)


def test_a_density_that_quadrature_does_not_reach_is_said():
    """A score that jumps a thousand times along every chord."""

    def jumps(z: Tensor, sigma: Tensor) -> Tensor:
        return z + (1e3 * z.sum(-1, keepdim=True)).sin().sign() * 1e3

    metric = DensityMetric(Denoiser.from_callable(jumps, dim=2, variance=1.0), log_snr=0.0)
    with pytest.warns(RuntimeWarning, match=r"log-density at 1 of 1 points is known to .* only"):
        metric.height(torch.tensor([1.0, 2.0]).double())


def test_a_search_integrates_a_chord_once():
    law = GaussianMixture(torch.zeros(1, 2).double(), std=1.0)
    energy = DensityMetric(_Silent(law), log_snr=2.0).energy()
    x = torch.linspace(0, 1, 5).double().unsqueeze(-1).expand(5, 2)
    spent = []
    for _ in range(2):
        with counting() as cost:
            energy.evaluate(x)
        spent.append(cost.evaluations)
    assert spent == [20, 5]


def test_by_the_default_power_volume_is_inverse_density(draw: Draw):
    law = GaussianMixture(draw(4, 3), std=0.6)
    metric, x = DensityMetric(law, log_snr=0.5), draw(7, 3)
    same(metric.log_volume(x), -metric.height(x))


@pytest.mark.parametrize(("scale", "dtype"), [(1e-200, torch.float64), (1e-46, torch.float32)])
def test_inverse_density_where_the_density_itself_overflows(scale: float, dtype: torch.dtype):
    """Heights whose exponential is infinite: log c = -log(scale) - height, to rounding."""
    law = GaussianMixture(torch.zeros(1, 2, dtype=dtype), std=1.0)
    metric = InverseDensity(law, log_snr=0.0, scale=scale, floor=0.5)
    top = 1.5 * math.log(torch.finfo(dtype).max)
    height = torch.tensor([-math.inf, -top, top], dtype=dtype)
    assert bool(height.exp().isinf()[-1])
    c, rate = metric.of(height)
    expected = torch.tensor([math.log(2), math.log(2), -math.log(scale) - top], dtype=dtype)
    torch.testing.assert_close(c.log(), expected, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(rate, torch.tensor([0.0, 0.0, -0.5], dtype=dtype))
    flat = InverseDensity(law, log_snr=0.0, scale=0.0, floor=0.5).of(height)
    torch.testing.assert_close(flat[0], torch.full_like(height, 2.0))
    assert not bool(flat[1].any())


def test_inverse_density_that_underflows_is_said():
    law = GaussianMixture(torch.zeros(1, 2).double(), std=1.0)
    # log p/p_0 = 900 at the mean: |reference|^2 = 2 * 900 (1 + sigma^2)
    reference = torch.tensor([math.sqrt(1800 * 2), 0.0], dtype=torch.float64)
    path = torch.tensor([[0.0, 0.0], [0.5, 0.1], [1.0, 0.0]], dtype=torch.float64)
    far = InverseDensity(law, log_snr=0.0, reference=reference)
    assert float(far.height(path[0])) == pytest.approx(900)
    for ask in (far.factor, far.slope, far.squared_steps, far.energy().evaluate):
        with pytest.raises(ValueError, match=r"underflows to 0 .* log p/p_0 reaches 900; give"):
            ask(path)
    near = InverseDensity(law, log_snr=0.0, reference=path[0])
    assert bool((near.squared_steps(path) > 0).all())


def test_score_size_is_a_bound_of_the_score_metric(draw: Draw):
    law = GaussianMixture(draw(4, 3), std=0.6)
    big, own = ScoreSize(law, log_snr=0.5, weight=2.0), ScoreMetric(law, log_snr=0.5, weight=2.0)
    x, u = draw(9, 3), draw(9, 3)
    assert bool((big.inner(x, u, u) >= own.inner(x, u, u)).all())
    s = big.score(x)
    same(big.inner(x, s, s), own.inner(x, s, s))


def test_bad_settings_of_companions_are_said(draw: Draw):
    law = GaussianMixture(draw(4, 3), std=0.6)
    with pytest.raises(ValueError, match="power must be >= 0"):
        DensityMetric(law, log_snr=0.0, power=-1.0)
    with pytest.raises(ValueError, match="floor > 0"):
        InverseDensity(law, log_snr=0.0, floor=0.0)
    with pytest.raises(ValueError, match="weight must be >= 0 and finite"):
        ScoreSize(law, log_snr=0.0, weight=math.nan)
    with pytest.raises(ValueError, match="reference must be a finite point"):
        DensityMetric(law, log_snr=0.0, reference=draw(2))
    law.log_snr_range = (-1.0, 1.0)
    kinds: tuple[type[AtNoise], ...] = (DensityMetric, InverseDensity, ScoreSize)
    for kind in kinds:
        with pytest.raises(ValueError, match="outside the noise levels"):
            kind(law, log_snr=2.0)


def test_the_pullback_of_a_linear_map_has_chords_for_geodesics(draw: Draw):
    matrix, a, b = draw(5, 3), draw(3), draw(3)
    path = geodesic(Pullback(lambda x: x @ matrix.T, 3), a, b, nodes=16)
    same(path.length, (matrix @ (b - a)).norm())
    s = torch.linspace(0, 1, 17, dtype=torch.float64).unsqueeze(-1)
    torch.testing.assert_close(path.nodes, torch.lerp(a, b, s), rtol=1e-6, atol=1e-6)


def test_the_likely_path_of_a_gaussian_is_a_catenary_like_curve():
    """x'' = c x/tau^2 with tau^2 = v + sigma^2: hyperbolic sines, met at second order."""
    law = GaussianMixture(torch.zeros(1, 2).double(), std=0.7)
    a, b = torch.tensor([[1.0, 0.3], [-0.2, 1.4]], dtype=torch.float64)
    rate = math.sqrt(3.0 / (0.49 + math.exp(-1.0)))
    errors = []
    for n in (16, 32):
        found = likely_path(law, a, b, log_snr=1.0, weight=3.0, nodes=n, rtol=1e-16)
        assert bool(found.converged)
        s = torch.linspace(0, 1, n + 1, dtype=torch.float64).unsqueeze(-1)
        exact = (a * torch.sinh(rate * (1 - s)) + b * torch.sinh(rate * s)) / math.sinh(rate)
        errors.append(float((found.nodes - exact).abs().max()))
        same(found.nodes[[0, -1]], torch.stack([a, b]))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.1)
    straight = likely_path(law, a, b, log_snr=1.0, weight=0.0, nodes=4)
    same(straight.nodes, torch.lerp(a, b, torch.linspace(0, 1, 5).double().unsqueeze(-1)))


def _arc() -> GaussianMixture:
    angle = torch.linspace(0, math.pi, 40, dtype=torch.float64)
    return GaussianMixture(torch.stack([angle.cos(), angle.sin()], -1), std=0.1)


def test_every_step_towards_the_likely_path_descends():
    law = _arc()
    ends, sigma = law.means[[2, -3]], torch.tensor(math.exp(-1.0)).double()

    def energy(x: Tensor) -> float:
        kinetic = 20 / 2 * x.diff(dim=0).square().sum()
        return float(kinetic - 6.0 / 20 * law.log_density(x[1:-1], sigma).sum())

    values = []
    for count in range(1, 31):
        found = likely_path(
            law, *ends, log_snr=2.0, weight=6.0, nodes=20, iterations=count, rtol=1e-30
        )
        assert not bool(found.converged)
        values.append(energy(found.nodes))
    assert all(after < before for before, after in pairwise(values))


def test_the_likely_path_bends_with_the_data():
    law = _arc()
    ends = law.means[[2, -3]]
    with counting() as cost:
        found = likely_path(law, *ends, log_snr=2.0, weight=20.0, nodes=32)
    assert bool(found.converged)
    assert found.cost.evaluations == cost.evaluations == found.iterations * 31
    sigma = torch.tensor(math.exp(-1.0)).double()
    middle, chord = found.nodes[16], ends.mean(0)
    assert float(law.log_density(middle, sigma)) > float(law.log_density(chord, sigma)) + 1
    with pytest.raises(ValueError, match="weight must be >= 0 and nodes >= 2"):
        likely_path(law, *ends, log_snr=2.0, weight=-1.0)
    with pytest.raises(ValueError, match="log_snr must be finite"):
        likely_path(law, *ends, log_snr=math.nan, weight=1.0)


def test_the_graph_path_is_the_shortest_of_its_graph(draw: Draw):
    data, a, b = draw(60, 2), draw(2), draw(2)
    way = graph_path(Euclidean(2), data, a, b, neighbours=5)
    points = torch.cat([a[None], b[None], data])
    table = torch.cdist(points, points)
    near = table.topk(6, largest=False).indices[:, 1:]
    row = torch.arange(62).unsqueeze(1).expand_as(near)
    values = table[row, near].flatten().numpy()
    graph = coo_matrix((values, (row.flatten().numpy(), near.flatten().numpy())), (62, 62))
    exact = dijkstra(graph.tocsr(), directed=False, indices=0)[1]
    assert float(way.diff(dim=0).norm(dim=-1).sum()) == pytest.approx(float(exact), rel=1e-12)
    same(way[[0, -1]], torch.stack([a, b]))
    assert np.isfinite(exact)


def test_a_graph_start_goes_round_where_the_chord_does_not(rng: torch.Generator):
    """Two ends of an arc of 300 degrees: the chord crosses the gap, the graph does not."""
    angle = torch.linspace(-2.6, 2.6, 200, dtype=torch.float64)
    circle = torch.stack([angle.cos(), angle.sin()], -1)
    law = GaussianMixture(circle[::4], std=0.15)
    metric = ScoreSize(law, log_snr=3.0, weight=0.2)
    start = graph_path(metric, circle, circle[0], circle[-1], neighbours=4)
    found = geodesic(metric, circle[0], circle[-1], nodes=64, init=start)
    straight = geodesic(metric, circle[0], circle[-1], nodes=64)
    assert float(found.nodes[:, 0].max()) > 0.8  # through (1, 0), far from both ends
    assert float(straight.nodes[:, 0].max()) < 0
    assert float(found.length) > 0


def test_a_graph_that_does_not_join_is_said():
    data = torch.cat([torch.rand(20, 2).double(), 10 + torch.rand(20, 2).double()])
    with pytest.raises(ValueError, match="the graph of 3 neighbours does not join the ends"):
        graph_path(Euclidean(2), data, data[0] + 0.01, data[-1] + 0.01, neighbours=3)
    with pytest.raises(ValueError, match=r"data must be \(N, d\)"):
        graph_path(Euclidean(2), data[0], data[0], data[-1])
    with pytest.raises(ValueError, match="neighbours must be at least 1"):
        graph_path(Euclidean(2), data, data[0], data[-1], neighbours=0)
