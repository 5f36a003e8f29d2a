"""Solvers: known minimisers, every way to end, and the exact account of what was spent."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from benchmarks.problems import toy
from diffodesic import (
    Conformal,
    Denoiser,
    Euclidean,
    GaussianMixture,
    Pullback,
    Relax,
    Spacetime,
    Status,
    counting,
    geodesic,
)
from diffodesic.geometry.boundary_value import search
from diffodesic.geometry.energy import Evaluation, Order, PathEnergy, Problem
from diffodesic.geometry.metric import MetricEnergy
from diffodesic.geometry.solvers.reference.adam_spline import AdamSpline
from diffodesic.geometry.solvers.starts import first_paths
from diffodesic.geometry.wrappers import EnergyWrapper
from support.checks import Draw, status_is_looked_at


def warp(x: Tensor) -> Tensor:
    """A triangular diffeomorphism of R^3."""
    a, b, c = x.unbind(-1)
    return torch.stack([a, b + torch.sin(2 * a), torch.exp(0.3 * a) * c + a * b], -1)


def unwarp(y: Tensor) -> Tensor:
    a, b, c = y.unbind(-1)
    b = b - torch.sin(2 * a)
    return torch.stack([a, b, (c - a * b) / torch.exp(0.3 * a)], -1)


@pytest.mark.parametrize("nodes", [2, 10, 40])
def test_geodesics_of_a_pullback_are_preimages_of_chords(nodes: int, draw: Draw):
    # the discrete minimiser is F^-1 of equally spaced points of the chord, for every n
    a, b = draw(2, 5, 3)
    free = Relax(rtol=1e-14, explore=False)  # nodes alone: what lies between two is not looked at
    path = search(Pullback(warp, 3), a, b, nodes=nodes, solver=free)
    s = torch.linspace(0, 1, nodes + 1, dtype=torch.float64).unsqueeze(-1)
    exact = unwarp(torch.lerp(warp(a)[:, None], warp(b)[:, None], s))
    # the energy is met to rtol, the path to its square root, 1e-7 of the length
    torch.testing.assert_close(path.nodes, exact, rtol=0, atol=1e-5)
    squared = (warp(a) - warp(b)).square().sum(-1)
    torch.testing.assert_close(2 * path.energy, squared, rtol=1e-12, atol=0)
    # splines through two or ten points are longer than their chords by more than 2 %
    assert set(path.statuses) <= {Status.CONVERGED, *((Status.TOO_COARSE,) if nodes < 40 else ())}


@pytest.mark.parametrize("rtol", [1e-3, 1e-5, 1e-7])
def test_the_tolerance_is_on_the_energy(rtol: float, draw: Draw):
    a, b = draw(2, 8, 3)
    path = geodesic(Pullback(warp, 3), a, b, nodes=20, solver=Relax(rtol=rtol))
    squared = (warp(a) - warp(b)).square().sum(-1)
    # the solver stops at one predicted decrease below rtol; where it converges slowly (this map
    # shears by 2 to 10) those still to come add up to tens of it
    assert float((2 * path.energy / squared - 1).max()) < 100 * rtol


def test_a_given_path_is_where_the_solver_starts(draw: Draw):
    a, b = draw(2, 3)
    metric = Pullback(warp, 3)
    first = geodesic(metric, a, b, nodes=20, solver=Relax(rtol=1e-10))
    again = geodesic(metric, a, b, nodes=20, solver=Relax(rtol=1e-6, coarsest=20), init=first.nodes)
    assert again.start == ("given",)
    assert int(again.iterations) <= 2
    torch.testing.assert_close(again.length, first.length, rtol=1e-6, atol=0)


def test_levels_end_at_the_nodes_asked_for():
    for nodes in (2, 7, 10, 11, 64, 200):
        levels = Relax().levels(nodes, 6)
        assert levels[-1] == nodes
        assert all(low < high for low, high in itertools.pairwise(levels))


# How a solve ends ---------------------------------------------------------------------------


def _half_plane() -> Conformal:
    return Conformal(lambda x: x[..., 1] ** -2, 2)


END = torch.tensor([[-1.0, 0.5], [1.5, 1.0]], dtype=torch.float64)


def test_converged():
    path = geodesic(_half_plane(), *END, nodes=16)
    assert path.status is Status.CONVERGED
    assert float(path.certificate.gradient_norm) < 5e-3  # of the order of sqrt(rtol)


@status_is_looked_at
def test_iteration_limit():
    path = geodesic(_half_plane(), *END, nodes=16, solver=Relax(rtol=1e-14, iterations=2))
    assert path.status is Status.ITERATION_LIMIT
    assert "raise `iterations`" in path.status.value


def test_fixed_budget():
    path = geodesic(_half_plane(), *END, nodes=16, solver=AdamSpline(3, ((8, 3),)))
    assert path.status is Status.FIXED_BUDGET


def test_same_point():
    path = geodesic(_half_plane(), END, torch.stack([END[0], END[0]]), nodes=8)
    assert path.statuses == (Status.SAME_POINT, Status.CONVERGED)
    assert float(path.length[0]) == 0
    assert torch.equal(path.nodes[0], END[0].expand(9, 2))


@status_is_looked_at
def test_non_finite_in_one_pair_leaves_the_others_alone():
    def factor(x: Tensor) -> Tensor:  # undefined for x < -5
        return torch.where(x[..., 0] < -5, torch.nan, x[..., 1] ** -2)

    a = torch.stack([END[0], END[0] - 10, END[1]])
    b = torch.stack([END[1], END[1] - 10, END[0]])
    path = geodesic(Conformal(factor, 2), a, b, nodes=16)
    assert path.statuses == (Status.CONVERGED, Status.NON_FINITE, Status.CONVERGED)
    assert path.status is Status.NON_FINITE
    alone = geodesic(_half_plane(), a[0], b[0], nodes=16)
    torch.testing.assert_close(path.length[0], alone.length)


class _Guided(Denoiser):
    """Guidance, m + w (m - m_0): no posterior mean."""

    closed_form = False

    def __init__(self, mix: GaussianMixture, plain: GaussianMixture, weight: float) -> None:
        self.dim, self.variance = mix.dim, mix.variance
        self.mix, self.plain, self.weight = mix, plain, weight

    def posterior_mean(self, z: Tensor, sigma: Tensor) -> Tensor:
        m = self.mix.posterior_mean(z, sigma)
        return m + self.weight * (m - self.plain.posterior_mean(z, sigma))


@status_is_looked_at
def test_negative_steps(draw: Draw):
    narrow = GaussianMixture(torch.zeros(1, 2, dtype=torch.float64), std=0.3)
    wide = GaussianMixture(torch.zeros(1, 2, dtype=torch.float64), std=2.0)
    space = Spacetime(_Guided(narrow, wide, 4.0), estimator="exact")
    a, b = space.point(draw(2, 2), log_snr=1.0)
    path = geodesic(space, a, b, nodes=8)
    assert path.status is Status.NEGATIVE_STEPS
    assert float(path.certificate.negative_fraction) > 0


class _WrongGradient(Euclidean):
    """Steps of a flat metric with the gradient of another: no step descends."""

    def energy(self) -> PathEnergy:
        class Wrong(MetricEnergy):
            def evaluate(self, x: Tensor, *, order: Order = 1) -> Evaluation:
                found = super().evaluate(x, order=order)
                return (
                    found if not order else replace(found, gradient=torch.sin(50 * x) - found.slope)
                )

        return Wrong(self)


@status_is_looked_at
def test_a_false_gradient_is_found_out():
    path = geodesic(_WrongGradient(2), *END, nodes=8)
    assert path.status is Status.NOT_DIFFERENTIABLE


class _Rounded(Conformal):
    """A half plane whose squared lengths are known to seven digits."""

    def squared_steps(self, x: Tensor) -> Tensor:
        steps = super().squared_steps(x)
        return steps + ((1e7 * steps).round() / 1e7 - steps).detach()


@status_is_looked_at
def test_stalled():
    metric = _Rounded(lambda x: x[..., 1] ** -2, 2)
    path = geodesic(metric, *END, nodes=8, solver=Relax(rtol=1e-15))
    assert path.status is Status.STALLED


class _Broken(Conformal):
    """A half plane that stops being finite, or refuses to go on, above a height."""

    raises = False

    def squared_steps(self, x: Tensor) -> Tensor:
        high = (x[..., 1] > 1.2)[..., 1:]
        if self.raises and bool(high.any()):
            raise FloatingPointError("the network's output is not finite")
        return torch.where(high, torch.nan, super().squared_steps(x))


@pytest.mark.parametrize("raises", [False, True])
@status_is_looked_at
def test_a_metric_that_breaks_on_the_way_ends_in_a_status_with_a_path(raises: bool):
    metric = _Broken(lambda x: x[..., 1] ** -2, 2)
    metric.raises = raises
    # the second pair stays low
    a, b = END[:1].expand(2, 2), END[1:].expand(2, 2).clone()
    b[1] = torch.tensor([-0.9, 0.5], dtype=torch.float64)
    path = geodesic(metric, a, b, nodes=8)
    assert path.statuses[0] is Status.NON_FINITE
    assert path.statuses[1] is Status.CONVERGED
    assert bool(torch.isfinite(path.nodes).all())
    energy = _half_plane().energy()
    chord = energy.starts(a[0], b[0], 8)["chord"]
    assert float(path.energy[0]) <= float(energy.evaluate(chord, order=0).energy)


@status_is_looked_at
def test_a_failed_pair_does_not_hide_in_a_batch():
    a, b = END[:1].expand(3, 2), END[1:].expand(3, 2).clone()
    b[1] = a[1]
    path = geodesic(_half_plane(), a, b, nodes=8, solver=Relax(rtol=1e-14, iterations=1))
    assert path.status is Status.ITERATION_LIMIT
    assert path.statuses[1] is Status.SAME_POINT


def test_statuses_are_sentences_with_advice():
    assert [s.name for s in Status][-1] == "NON_FINITE"
    for status in Status:
        assert status.value == status.value.strip()
        assert len(status.value) >= 9


# What a solve costs ---------------------------------------------------------------------------


class _Counting(EnergyWrapper):
    """An energy that keeps its own account of nodes with and without gradient."""

    def __init__(self, wrapped: PathEnergy) -> None:
        super().__init__(wrapped)
        self.nodes, self.gradients = 0, 0

    def evaluate(self, x: Tensor, *, order: Order = 1) -> Evaluation:
        if order:
            self.gradients += x[..., 0].numel()
        else:
            self.nodes += x[..., 0].numel()
        return self.wrapped.evaluate(x, order=order)


@pytest.mark.parametrize(
    "solver", [Relax(), AdamSpline(3, ((8, 5), (16, 2)))], ids=["relax", "adam"]
)
def test_node_gradients_are_counted_exactly(solver: Relax | AdamSpline):
    problem = toy()
    energy = _Counting(problem.space.energy())
    with counting() as cost:
        solver.solve(Problem(energy, problem.a[None], problem.b[None], 24))
    assert cost.node_gradients == pytest.approx(energy.gradients + energy.nodes / 3, rel=1e-12)
    # an exact mixture: one evaluation per node, with or without the closed form of its gradient
    assert cost.evaluations == energy.gradients + energy.nodes
    assert cost.derivatives == 0
    if isinstance(solver, AdamSpline):
        assert energy.gradients == 8 * 5 + 16 * 2 + 25


def test_a_geodesic_counts_its_certificate_too(monkeypatch: pytest.MonkeyPatch):
    problem = toy()
    energy = _Counting(problem.space.energy())
    monkeypatch.setattr(problem.space, "energy", lambda: energy)
    path = geodesic(problem.space, problem.a, problem.b, nodes=10)
    assert path.evaluations == energy.gradients + energy.nodes
    assert path.derivatives == 0
    starts = len(first_paths(energy.starts, problem.a[None], problem.b[None], 10))
    # fine grid, nodes, the one segment between the ends, and the starts, none of which is near
    certificate = 8 * 10 + 1 + 11 + 2 + 11 * starts
    assert path.node_gradients == pytest.approx(energy.gradients + (energy.nodes - certificate) / 3)


def test_finished_pairs_leave_the_batch():
    # a batch costs what its pairs cost alone: no pair is evaluated after it has ended
    space = toy().space
    a = torch.stack([toy().a, toy().a, toy().b])
    b = torch.stack([toy().b, toy().a + 0.1, toy().b - 0.3])
    together = geodesic(space, a, b, nodes=16)
    alone = [geodesic(space, *pair, nodes=16) for pair in zip(a, b, strict=True)]
    assert len({path.node_gradients for path in alone}) > 1
    assert together.node_gradients == pytest.approx(sum(path.node_gradients for path in alone))
    assert together.evaluations == sum(path.evaluations for path in alone)


def test_progress_is_a_line_and_the_paths_per_round():
    lines: list[str] = []
    paths: list[Tensor] = []

    def progress(line: str, x: Tensor) -> None:
        lines.append(line)
        paths.append(x)

    path = geodesic(_half_plane(), *END, nodes=24, progress=progress)
    assert len(lines) >= int(path.iterations)
    assert lines[-1].startswith("24 nodes, round ")
    assert all(x.shape[0] == 1 and torch.equal(x[0, 0], END[0]) for x in paths)
    torch.testing.assert_close(paths[-1][0], path.nodes)


# The published recipe -----------------------------------------------------------------------


def test_recipe_takes_no_first_path():
    with pytest.raises(ValueError, match="takes no init"):
        geodesic(_half_plane(), *END, nodes=8, solver=AdamSpline(), init=END)


def test_recipe_finds_a_straight_line_in_its_chart():
    # a chart in which the geodesic is the chord: Adam has nothing to do but jitter, its step is
    # a tenth however small the gradient
    path = geodesic(
        Pullback(warp, 3),
        torch.zeros(3).double(),
        torch.ones(3).double(),
        nodes=16,
        solver=AdamSpline(3, ((16, 20),), chart=(warp, unwarp)),
    )
    squared = float(warp(torch.ones(3).double()).square().sum())
    assert float(2 * path.energy) == pytest.approx(squared, rel=1e-3)


def test_settings_are_the_published_ones():
    toy_settings, images = AdamSpline.toy(), AdamSpline.images()
    assert (toy_settings.edges, toy_settings.schedule) == (1, ((128, 1000),))
    assert (images.edges, images.schedule) == (7, ((16, 350), (64, 250)))
    assert sum(math.prod(phase) for phase in images.schedule) == 21_600


def test_several_starts_keep_the_best():
    problem = toy()
    one, many = (
        geodesic(problem.space, problem.a, problem.b, nodes=24, solver=Relax(starts=count))
        for count in (1, 4)
    )
    # a batch of pairs chooses for each
    both = geodesic(
        problem.space,
        torch.stack([problem.a, problem.b]),
        torch.stack([problem.b, problem.a]),
        nodes=24,
        solver=Relax(starts=4),
    )
    assert many.status is Status.CONVERGED
    assert float(many.energy) <= float(one.energy) * (1 + 1e-5)
    assert many.node_gradients > one.node_gradients
    assert many.start[0] in problem.space.energy().starts(problem.a, problem.b, 6)
    torch.testing.assert_close(both.energy, many.energy.expand(2), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    "options", [{"rtol": 0.0}, {"refine": 1.0}, {"starts": 0}, {"iterations": 0}, {"coarsest": 0}]
)
def test_settings_that_cannot_be(options: dict[str, float]):
    with pytest.raises(ValueError, match="must be"):
        Relax(**options)  # type: ignore[arg-type]
