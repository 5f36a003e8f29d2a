"""``geodesic`` and ``distance``: defaults, warnings, and parts that a user brings."""

from __future__ import annotations

import inspect
import warnings
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import diffodesic as dd
from diffodesic.geometry import Evaluation, Order, Problem, Solution, Status
from diffodesic.geometry.solvers.redraw import Redraw
from diffodesic.metrics.one_level import NETWORK_SEARCH
from diffodesic.metrics.spacetime import SpacetimeEnergy
from diffodesic.metrics.spacetime.metric import ESTIMATORS
from support.checks import Draw
from support.tiny import tiny_model

A = torch.tensor([[-1.0, 0.5], [1.5, 1.0]], dtype=torch.float64)


def _half_plane() -> dd.Conformal:
    return dd.Conformal(lambda x: x[..., 1] ** -2, 2)


@pytest.mark.parametrize("verb", [dd.geodesic, dd.distance])
def test_a_search_that_did_not_end_well_warns_with_the_sentence_of_its_status(verb):
    with pytest.warns(RuntimeWarning, match="iteration limit"):
        verb(_half_plane(), *A, nodes=8, solver=dd.Relax(iterations=1, rtol=1e-14))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        verb(_half_plane(), *A, nodes=8)


def test_a_network_is_searched_as_networks_are():
    model = tiny_model()
    assert dd.Spacetime(model.denoiser).energy().default_solver == Redraw()
    for metric in (
        dd.metrics.ScoreSize(model.denoiser, log_snr=1.0),
        dd.ScoreJacobian(model.denoiser, log_snr=1.0),
    ):
        assert metric.energy().default_solver == NETWORK_SEARCH
    law = dd.GaussianMixture(torch.zeros(1, 3).double(), std=0.5)
    for exact in (dd.Spacetime(law), dd.metrics.ScoreSize(law, log_snr=1.0), dd.Euclidean(2)):
        assert exact.energy().default_solver is None


def test_metric_is_mathematics():
    """The house's promise: what a search needs is not in it."""
    members = {name for name in vars(dd.Metric) if not name.startswith("_")}
    members |= set(dd.Metric.__annotations__)
    assert members == {
        "dim", "inner", "squared_steps", "energy", "flat", "sharp", "norm", "matrix"
    }  # fmt: skip


def test_verbs_name_their_arguments_and_have_few():
    for verb in (dd.geodesic, dd.distance, dd.constrained_geodesic, dd.exp, dd.log, dd.mean):
        kinds = [p.kind for p in inspect.signature(verb).parameters.values()]
        assert inspect.Parameter.VAR_KEYWORD not in kinds
        assert len(kinds) <= 8


# What a user brings, each in one file ---------------------------------------------------------


@dataclass(frozen=True)
class GradientDescent:
    """A solver: plain descent along the preconditioned gradient."""

    steps: int = 200

    def solve(self, problem: Problem) -> Solution:
        energy, a, b = problem.energy, problem.a, problem.b
        x = problem.init
        if x is None:
            x = energy.starts(a, b, problem.nodes)["chord"]
        for _ in range(self.steps):
            found = energy.evaluate(x)
            step = energy.preconditioner(x, found.squared_steps).solve(found.slope)
            x = energy.confine(x - 0.5 * step)
        none = torch.full((len(a),), torch.nan)
        count = torch.full((len(a),), self.steps)
        return Solution(x, none, [Status.FIXED_BUDGET] * len(a), count, ["chord"] * len(a))


def test_a_solver_of_ones_own():
    found = dd.geodesic(_half_plane(), *A, nodes=16, solver=GradientDescent())
    exact = torch.acosh(1 + (A[0] - A[1]).square().sum() / (2 * A[0, 1] * A[1, 1]))
    assert found.ok
    assert float(found.length) == pytest.approx(float(exact), rel=5e-3)


class Chords(SpacetimeEnergy):
    """An estimator of spacetime: two-point steps of the mean alone, k dz.dm."""

    name = "chords"

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        raise AssertionError("a boundary-value search does not ask for it")

    def steps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        m = self.denoiser(x[..., :-1], (-x[..., -1] / 2).exp())
        k = x[..., -1:].exp()
        pull = ((k[..., 1:, :] + k[..., :-1, :]) / 2 * x[..., :-1].diff(dim=-2)).square()
        steps = (pull + m.diff(dim=-2).square()).sum(-1) + x[..., -1].diff(dim=-1).square()
        return steps, steps < 0

    def steps_and_slope(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            steps, doubtful = self.steps(leaf)
            (slope,) = torch.autograd.grad(steps.sum(), leaf)
        return steps.detach(), slope, doubtful


def test_an_estimator_of_ones_own(draw: Draw, monkeypatch: pytest.MonkeyPatch):
    law = dd.GaussianMixture(draw(3, 2), std=0.5)
    given = dd.Spacetime(law, estimator=Chords(law))
    monkeypatch.setitem(ESTIMATORS, "chords", lambda denoiser, *_: Chords(denoiser))
    named = dd.Spacetime(law, estimator="chords")
    a, b = given.point(draw(2, 2), 1.0)
    paths = [dd.geodesic(space, a, b, nodes=12) for space in (given, named)]
    assert all(path.ok for path in paths)
    assert torch.equal(paths[0].nodes, paths[1].nodes)
    assert given.estimator == named.estimator == "chords"


class Refusing(dd.Euclidean):
    """A metric that refuses paths with a coordinate above one."""

    def squared_steps(self, x: Tensor) -> Tensor:
        if bool((x > 1).any()):
            raise FloatingPointError("not finite there")
        return super().squared_steps(x)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_a_refused_path_has_nan_steps_and_its_neighbours_have_theirs(order: Order, draw: Draw):
    from diffodesic.geometry.energy import evaluate

    x = torch.sigmoid(draw(3, 5, 2))
    plain: Evaluation = evaluate(dd.Euclidean(2).energy(), x, order=order)
    x[1] += 2
    found = evaluate(Refusing(2).energy(), x, order=order)
    assert bool(found.squared_steps[1].isnan().all())
    for i in (0, 2):
        torch.testing.assert_close(found.squared_steps[i], plain.squared_steps[i])
        if order:
            torch.testing.assert_close(found.slope[i], plain.slope[i])
            assert not bool(found.slope[i, [0, -1]].any())
    assert (found.hessian is None) == (order < 2)
