"""CONVERGED is a promise: saddles are left, detours found, lengths agree with what is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import diffodesic as dd
from diffodesic.denoisers import SphereDenoiser
from diffodesic.geometry import Status, search
from diffodesic.geometry.solvers.second_order import lower_beside, lowest_curvature
from diffodesic.metrics import DensityMetric, InverseDensity, ScoreSize
from support.cases import CASES, Case, mixture
from support.checks import Draw, status_is_looked_at
from support.rings import METRICS, conformal, ring

EVERY = pytest.mark.parametrize("name", METRICS)
NODES = {"score Jacobian": 16}  # a closer look at them is dear; else 32


def _points(metric: dd.Metric, law: dd.GaussianMixture) -> Tensor:
    return metric.point(law.means, 3.0) if isinstance(metric, dd.Spacetime) else law.means


@pytest.mark.parametrize(("count", "turn"), [(8, 0.0), (8, 0.3), (12, 0.0), (12, 0.3)])
@EVERY
def test_triangles_close_on_a_ring(name: str, count: int, turn: float):
    law = ring(count, turn)
    metric = METRICS[name](law)
    x = _points(metric, law)
    i, j = torch.triu_indices(count, count, 1)
    path = search(metric, x[i], x[j], nodes=NODES.get(name, 32))
    assert path.ok
    d = torch.zeros(count, count, dtype=torch.float64)
    d[i, j] = d[j, i] = path.length
    through = (d[:, :, None] + d[None, :, :]).amin(1)
    assert float((d / through.clamp(min=1e-300) - 1)[i, j].max()) < 1e-3


@EVERY
def test_ends_that_move_by_little_change_no_length_by_much(name: str):
    law = ring(8)
    metric = METRICS[name](law)
    x = _points(metric, law)
    moved = x[4].clone()
    moved[:2] += 1e-4
    for end in (x[3], x[4]):
        near = moved - x[4] + end
        path = search(metric, x[0], torch.stack([end, near]), nodes=NODES.get(name, 32))
        assert path.ok
        assert float(path.length[1] / path.length[0]) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("dim", [2, 3, 10])
def test_opposite_points_of_a_sphere(dim: int):
    law = SphereDenoiser(dim, sphere=min(2, dim - 1))
    metric = dd.ScoreMetric(law, log_snr=3.0, weight=1.0)
    a = torch.zeros(dim, dtype=torch.float64)
    a[0] = 1.0
    path = search(metric, a, -a, nodes=32)
    assert path.status is Status.CONVERGED
    # by symmetry a geodesic lies in a plane: from a half circle, on a finer path
    angle = torch.linspace(0, math.pi, 129, dtype=torch.float64)
    half = torch.zeros(129, dim, dtype=torch.float64)
    half[:, 0], half[:, 1] = angle.cos(), angle.sin()
    truth = search(metric, a, -a, nodes=128, init=half)
    assert float(path.length) == pytest.approx(float(truth.length), rel=1e-3)


def test_the_shortest_way_in_a_chart_leads_over_its_pole():
    def sphere(x: Tensor) -> Tensor:
        polar, turn = x.unbind(-1)
        return torch.stack([polar.sin() * turn.cos(), polar.sin() * turn.sin(), polar.cos()], -1)

    a = torch.tensor([[0.3, 0.0], [0.8, 0.0], [0.5, 0.0]], dtype=torch.float64)
    b = torch.tensor([[0.3, 3.0], [0.8, 3.0], [0.5, 2.5]], dtype=torch.float64)
    path = search(dd.Pullback(sphere, 2), a, b, nodes=32)
    exact = torch.acos((sphere(a) * sphere(b)).sum(-1))
    assert path.ok
    torch.testing.assert_close(path.length, exact, rtol=1e-3, atol=0)


# Second order ---------------------------------------------------------------------------------


def test_the_lowest_curvature_is_that_of_the_dense_hessian(draw: Draw):
    metric = conformal(ring(8))
    energy = metric.energy()
    x = torch.lerp(-torch.ones(2), torch.ones(2), torch.linspace(0, 1, 6)[:, None]).double()

    def value(inner: Tensor) -> Tensor:
        path = torch.cat([x[:1], inner.reshape(-1, 2), x[-1:]])
        return energy.evaluate(path, order=0).energy

    hessian = torch.autograd.functional.hessian(value, x[1:-1].flatten())
    inverse = energy.preconditioner(x[None], energy.evaluate(x[None], order=0).squared_steps)
    columns = []
    for unit in torch.eye(8).double():
        g = torch.nn.functional.pad(unit.reshape(1, 4, 2), (0, 0, 1, 1))
        columns.append(inverse.solve(g)[0, 1:-1].flatten())
    exact = torch.linalg.eigvals(torch.stack(columns) @ hessian).real.min()
    found, direction = lowest_curvature(energy, x[None], 8)
    assert float(exact) < 0
    assert float(found) == pytest.approx(float(exact), rel=1e-3)
    assert not bool(direction[0, [0, -1]].any())


def test_a_saddle_has_lower_paths_beside_it_and_a_minimum_has_none():
    metric = METRICS["density"](ring(8))
    energy, law = metric.energy(), ring(8)
    saddle = torch.lerp(law.means[0], law.means[4], torch.linspace(0, 1, 17)[:, None].double())
    best = search(metric, law.means[0], law.means[4], nodes=16).nodes
    paths = torch.stack([saddle, best])
    lower, rows = lower_beside(energy, paths)
    assert rows.tolist() == [0]
    before = energy.evaluate(paths, order=0).energy
    assert float(energy.evaluate(lower, order=0).energy[0]) < float(before[0])


@pytest.mark.parametrize("name", ["score", "density", "score size"])
def test_a_detour_leads_through_where_data_are_dense(name: str):
    """Half a ring of modes: the chord between its ends leads through nothing."""
    angle = torch.linspace(0, math.pi, 9, dtype=torch.float64)
    law = dd.GaussianMixture(torch.stack([angle.cos(), angle.sin()], -1), std=0.2)
    energy = METRICS[name](law).energy()
    a, b = law.means[:2], law.means[-2:]
    path = energy.detours(a, b, 32)["detour"]
    assert torch.equal(path[:, 0], a)
    torch.testing.assert_close(path[:, -1], b)
    straight = energy.evaluate(energy.starts(a, b, 32)["chord"], order=0).energy
    assert bool((energy.evaluate(path, order=0).energy < 0.9 * straight).all())


def _along_a_u() -> dd.GaussianMixture:
    """Modes along a U, 3 wide and 4 deep: bows between its ends cross what is empty."""
    side = torch.stack([torch.zeros(9), torch.linspace(0, -4, 9)], -1).double()
    floor = torch.tensor([[x, -4.0] for x in (0.5, 1.0, 1.5, 2.0, 2.5)]).double()
    other = side.flip(0) + torch.tensor([3.0, 0.0])
    return dd.GaussianMixture(torch.cat([side, floor, other]), std=0.2)


@pytest.mark.parametrize("name", ["score", "density", "score size"])
def test_hops_find_a_way_that_no_parabola_finds(name: str):
    law = _along_a_u()
    energy = METRICS[name](law).energy()
    a, b = law.means[:1], law.means[-1:]
    named = {**energy.starts(a, b, 64), **energy.detours(a, b, 64)}
    value = {one: float(energy.evaluate(path, order=0).energy) for one, path in named.items()}
    assert value["hops"] < 0.9 * min(value["chord"], value["detour"])


@pytest.mark.parametrize("name", ["score", "density", "score size"])
def test_a_search_goes_on_from_hops_that_are_shorter_than_its_end(name: str):
    """From the chord it ends in a valley beside it, up to 13 times as long."""
    law = _along_a_u()
    a, b = law.means[[0, 0]], law.means[[-1, 3]]
    found = search(METRICS[name](law), a, b, nodes=32)
    for path in found.objective.hops(a, b, 32).values():
        steps = found.objective.evaluate(path, order=0).squared_steps
        assert bool((found.length <= steps.sqrt().sum(-1)).all())
    assert found.start[0] == "hops"
    assert found.statuses == (Status.CONVERGED, Status.CONVERGED)


def test_a_network_has_no_detours_to_try():
    network = dd.Denoiser.from_callable(ring(8).posterior_mean, dim=2, variance=0.5)
    network.learned = True
    metric = dd.ScoreMetric(network, log_snr=3.0)
    assert metric.energy().detours(torch.zeros(1, 2), torch.ones(1, 2), 8) == {}


# Honest lengths -------------------------------------------------------------------------------


MANY = [pytest.param(count, marks=pytest.mark.slow) for count in (32, 64)]


@pytest.mark.parametrize("nodes", [8, 16, *MANY])
@pytest.mark.parametrize("weight", [1.0, 10.0, 100.0, 1000.0])
def test_whoever_says_ok_has_a_refined_length_that_its_nodes_know(weight: float, nodes: int):
    law = SphereDenoiser(3)
    a = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64).expand(3, 3)
    b = torch.tensor([[0.5, 0.8, 0.3], [-0.2, 1.0, 0.0], [-1.0, 0.0, 0.0]], dtype=torch.float64)
    b = b / b.norm(dim=-1, keepdim=True)
    for metric in (
        dd.ScoreMetric(law, log_snr=4.0, weight=weight),
        ScoreSize(law, log_snr=4.0, weight=weight),
    ):
        found = search(metric, a, b, nodes=nodes)
        rated = found.certificate
        for i, status in enumerate(found.statuses):
            if status.ok:
                assert float(rated.length[i]) <= 1.02 * float(rated.discrete_length[i])


def test_no_path_is_longer_than_the_given_one():
    """A search on few nodes of a steep metric ends at a longer curve than it began with."""
    law = SphereDenoiser(3)
    metric = dd.ScoreMetric(law, log_snr=4.0, weight=1000.0)
    a = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    angle = torch.linspace(0, math.pi / 2, 257, dtype=torch.float64)
    circle = torch.stack([angle.cos(), angle.sin(), 0 * angle], -1)
    best = float(metric.squared_steps(circle).sqrt().sum())
    for nodes in (8, 16, 32):
        found = search(metric, a, circle[-1], nodes=nodes, init=circle)
        kept = found.objective.curve(circle)(torch.linspace(0, 1, nodes + 1).double())
        curve = found.objective.curve(kept)(torch.linspace(0, 1, 8 * nodes + 1).double())
        given = float(metric.squared_steps(curve).sqrt().sum())
        assert float(found.length) <= given * (1 + 1e-9)
        assert given == pytest.approx(best, rel=0.2)


def test_a_search_from_a_good_path_still_ends_at_the_least_energy(draw: Draw):
    """A given path shorter in the last digits alone does not take the place of the solution."""
    metric, solver = METRICS["conformal"](ring(8)), dd.Relax(rtol=1e-9)
    a, b = draw(2, 4, 2) / 2
    free = search(metric, a, b, nodes=16, solver=solver)
    finer = search(metric, a, b, nodes=96, solver=solver)
    found = search(metric, a, b, nodes=16, solver=solver, init=finer.nodes)
    assert found.status is Status.CONVERGED
    # a pair that is searched between its nodes has another energy
    lower = found.energy <= free.energy * (1 + 1e-7)
    assert bool((lower | (found.length <= free.length * (1 + 1e-3))).all())


def test_a_path_is_never_longer_than_the_one_segment_of_its_upper_bound(draw: Draw):
    law = dd.GaussianMixture(3 * draw(6, 2), std=0.3)
    space = dd.Spacetime(law)
    a, b = space.point(law.means[:3], 2.0), space.point(law.means[3:], 2.0)
    for solver in (None, dd.Relax(iterations=1)):
        found = search(space, a, b, nodes=12, solver=solver)
        assert bool((found.length <= found.certificate.upper * (1 + 1e-3)).all())


@pytest.mark.parametrize("nodes", [8, 24])
@status_is_looked_at
def test_a_path_that_jumps_over_where_a_metric_is_infinite_is_not_called_converged(
    nodes: int, draw: Draw
):
    """The half-plane through a callable, whose factor is finite again beyond the boundary."""
    metric = dd.Conformal(lambda x: x[..., 1] ** -2, 2)
    a, b = draw(2, 8, 2)
    a[:, 1], b[:, 1] = (a[:, 1] - 3).exp(), (b[:, 1] - 3).exp()
    found = search(metric, a, b, nodes=nodes)
    exact = torch.acosh(1 + (a - b).square().sum(-1) / (2 * a[:, 1] * b[:, 1]))
    for status, excess in zip(found.statuses, (found.length / exact - 1).tolist(), strict=True):
        assert status in (Status.CONVERGED, Status.TOO_COARSE)
        if status.ok:
            assert abs(excess) < 5e-3


PLANE = [case for case in CASES if case.dim == 2]


@pytest.mark.parametrize(
    "nodes", [8, *(pytest.param(count, marks=pytest.mark.slow) for count in (16, 32, 64))]
)
@pytest.mark.parametrize("case", PLANE, ids=lambda case: case.name)
@status_is_looked_at
def test_whoever_says_ok_is_no_longer_than_its_nodes_its_starts_and_its_bound(
    case: Case, nodes: int, rng: torch.Generator
):
    a, b = case.points(2, 3, rng=rng)
    _nobody_says_ok_too_soon(case.metric, a, b, nodes)


def _nobody_says_ok_too_soon(metric: dd.Metric, a: Tensor, b: Tensor, nodes: int) -> int:
    """Whoever says ok is no longer than its nodes know, its starts and its bound; how many do."""
    found = search(metric, a, b, nodes=nodes)
    rated, energy = found.certificate, found.objective
    bounds = torch.minimum((1 + 1e-3) * rated.upper, 1.02 * rated.discrete_length)
    starts = []
    for start in energy.starts(a, b, nodes).values():
        fine = energy.curve(start)(torch.linspace(0, 1, 8 * nodes + 1, dtype=torch.float64))
        starts.append(energy.evaluate(fine, order=0).squared_steps.clamp(min=0).sqrt().sum(-1))
    least = torch.minimum(bounds, (1 + 1e-3) * torch.stack(starts).amin(0))
    for i, status in enumerate(found.statuses):
        if status.ok:
            assert float(rated.length[i]) <= float(least[i])
    return sum(status.ok for status in found.statuses)


HEAVY = {
    "score size": lambda law, snr, w: ScoreSize(law, log_snr=snr, weight=w),
    "inverse density": lambda law, snr, w: InverseDensity(law, log_snr=snr, scale=w),
    "density": lambda law, snr, w: DensityMetric(law, log_snr=snr, power=math.log10(10 * w) / 4),
    "flat Jacobian": lambda law, snr, w: dd.ScoreJacobian(law, log_snr=snr, eps=w),
    "score Jacobian": lambda law, snr, w: dd.ScoreJacobian(law, log_snr=snr, eps=1 / w),
    "conformal": lambda law, snr, w: dd.Conformal(lambda x: 1 + w * x.sum(-1).sin() ** 2, 2),
    "pullback": lambda law, snr, w: dd.Pullback(lambda x: _graph(x, w), 2),
}


def _graph(x: Tensor, weight: float) -> Tensor:
    """A surface of waves over the plane."""
    return torch.cat([x, math.sqrt(weight) / 2 * (x + x.roll(1, -1)).sin()], -1)


@pytest.mark.slow
@pytest.mark.parametrize("name", HEAVY)
@pytest.mark.parametrize("nodes", [8, 16, 32, 64])
@pytest.mark.parametrize("weight", [10.0, 100.0, 1000.0])
@status_is_looked_at
def test_whoever_says_ok_under_a_heavy_weight_is_no_longer_either(
    name: str, nodes: int, weight: float, draw: Draw
):
    """Modes that overlap, and modes apart."""
    apart = ring(8)
    for law, snr, a, b in (
        (mixture(torch.eye(2).double()), 0.5, *draw(2, 3, 2)),
        (apart, 3.0, apart.means[[0, 0, 1]], apart.means[[1, 3, 5]]),
    ):
        assert _nobody_says_ok_too_soon(HEAVY[name](law, snr, weight), a, b, nodes)


CLOUD = [case for case in CASES if case.dim == 5]


@pytest.mark.parametrize("case", CLOUD, ids=lambda case: case.name)
def test_triangles_close_in_a_random_cloud_and_pairs_do_not_see_their_company(
    case: Case, rng: torch.Generator
):
    """All pairs of a few points in five dimensions, for every metric of the table."""
    x = case.points(6, rng=rng)
    i, j = torch.triu_indices(6, 6, 1)
    path = search(case.metric, x[i], x[j], nodes=32)
    assert path.ok
    d = torch.zeros(6, 6, dtype=torch.float64)
    d[i, j] = d[j, i] = path.length
    through = (d[:, :, None] + d[None, :, :]).amin(1)
    assert float((d / through.clamp(min=1e-300) - 1)[i, j].max()) < 1e-3
    alone = search(case.metric, x[i[7]], x[j[7]], nodes=32)
    assert float(alone.length / path.length[7]) == pytest.approx(1, abs=1e-6)
