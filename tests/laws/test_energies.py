"""Laws of path energies: every wrapper answers like what it wraps, and evaluations agree."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from diffodesic import GaussianMixture, Relax
from diffodesic.geometry.boundary_value import search
from diffodesic.geometry.energy import PathEnergy
from diffodesic.geometry.solvers.lagrangian import AugmentedLagrangian, Multipliers, PenalisedEnergy
from diffodesic.geometry.solvers.spline_search import SplineEnergy
from diffodesic.geometry.wrappers import EnergyWrapper
from diffodesic.metrics.density import DensityMetric
from support.cases import CASES, Case
from support.checks import Draw
from support.laws import Opaque

CASES_2 = [case for case in CASES if case.dim == 2]
EVERY = pytest.mark.parametrize("case", CASES_2, ids=lambda case: case.name)


def _penalised(energy: PathEnergy) -> PenalisedEnergy:
    """A penalty that is zero: its constraint is kept everywhere."""
    one = torch.ones(1, dtype=torch.float64)
    state = Multipliers(0 * one, torch.zeros(1, 25).double(), one, one)
    method = AugmentedLagrangian((lambda x: x[..., 0] * 0 + 1,))
    ends = torch.zeros(1, energy.dim).double()
    return PenalisedEnergy(energy, method, ends, ends, state, torch.tensor([0]))


# a wrapper, and the names that it changes on purpose
WRAPPERS: dict[str, tuple[Callable[[PathEnergy], EnergyWrapper], set[str]]] = {
    "plain": (EnergyWrapper, set()),
    "splines": (
        lambda e: SplineEnergy(e, 2),
        {"cheap_hessian", "coarsest", "resolves", "evaluate"},
    ),
    "penalised": (
        _penalised,
        {"cheap_hessian", "default_solver", "lower_bound"},
    ),
}


def _answers(energy: PathEnergy, x: Tensor) -> dict[str, object]:
    """What an energy says of everything but stages, on paths (B, n+1, d)."""
    a, b, s = x[:, 0], x[:, -1], torch.linspace(0, 1, 5, dtype=x.dtype)
    steps = torch.ones_like(x[:, 1:, 0])
    found = energy.evaluate(x)
    return {
        "dim": energy.dim,
        "bounds": energy.bounds,
        "coarsest": energy.coarsest,
        "exact_segments": energy.exact_segments,
        "cheap_hessian": energy.cheap_hessian,
        "tolerance": energy.tolerance,
        "doubt": energy.doubt,
        "default_solver": energy.default_solver,
        "evaluate": (found.squared_steps, found.doubtful, found.gradient),
        "inner": energy.inner(a, b, b),
        "blocks": energy.blocks,
        "weights": energy.weights(x),
        "preconditioner": energy.preconditioner(x, steps).solve(x),
        "segment_sizes": energy.segment_sizes(x, steps),
        "starts": energy.starts(a, b, 4),
        "detours": energy.detours(a, b, 4),
        "hops": energy.hops(a, b, 4),
        "curve": energy.curve(x)(s),
        "segments": energy.segments(x)(s),
        "confine": energy.confine(10 * x),
        "longest_step": energy.longest_step(10 * x),
        "resolves": energy.resolves(10 * x),
        "outside": energy.outside(10 * x),
        "lower_bound": energy.lower_bound(a, b),
        "redrawn": energy.redrawn(3).inner(a, b, b),
        "fitted": energy.fitted,
        "judge": energy.judge(x, 3),
        "noise_ratio": energy.noise_ratio(x),
        "doubts": energy.doubts(),
    }


def test_the_answers_are_those_of_every_public_name():
    names = {n for n in {**PathEnergy.__annotations__, **vars(PathEnergy)} if n[0] != "_"}
    energy = CASES_2[0].metric.energy()
    assert set(_answers(energy, torch.rand(1, 4, 2).double())) == names - {"stages", "settled"}


@EVERY
@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapper_answers_like_what_it_wraps(case: Case, name: str, rng: torch.Generator):
    make, changed = WRAPPERS[name]
    energy = case.metric.energy()
    if name == "splines" and energy.exact_segments:
        with pytest.raises(ValueError, match="straight segments"):
            make(energy)
        return
    x = case.points(2, 4, rng=rng)
    own, wrapped = _answers(energy, x), _answers(make(energy), x)
    for key in own.keys() - changed:
        if _tensors(own[key]):
            torch.testing.assert_close(wrapped[key], own[key], equal_nan=True)
        else:
            assert wrapped[key] == own[key], key


def _tensors(value: object) -> bool:
    if isinstance(value, dict):
        return all(map(_tensors, value.values()))
    return isinstance(value, Tensor) or (isinstance(value, tuple) and all(map(_tensors, value)))


@EVERY
def test_stages_are_wrapped_one_by_one_and_end_with_the_wrapper(case: Case):
    energy = case.metric.energy()
    wrapper = EnergyWrapper(energy)
    stages = wrapper.stages()
    assert len(stages) == len(energy.stages())
    assert stages[-1] is wrapper
    assert all(isinstance(stage, EnergyWrapper) for stage in stages)


@EVERY
def test_the_orders_of_an_evaluation_agree(case: Case, rng: torch.Generator):
    energy, x = case.metric.energy(), case.points(2, 5, rng=rng)
    zero, one, two = (energy.evaluate(x, order=order) for order in (0, 1, 2))
    assert zero.gradient is None
    assert zero.hessian is None
    assert one.hessian is None
    for found in (one, two):
        torch.testing.assert_close(found.squared_steps, zero.squared_steps)
        assert torch.equal(found.doubtful, zero.doubtful)
        assert found.slope.shape == x.shape
    assert two.hessian is not None
    direction = two.hessian.solve(two.slope)
    # an approximate Hessian that is positive: a step against it descends
    assert bool(((direction * two.slope).flatten(1).sum(-1) > 0).all())


@pytest.mark.parametrize("splines", [None, (6, 2, 60)])
def test_a_density_without_log_density_converges(splines, draw: Draw):
    """A spline search that drops the tolerance of the gradient ends STALLED here."""
    law = GaussianMixture(draw(4, 2), std=0.6)
    metric = DensityMetric(Opaque(law), log_snr=2.0, power=1.0)
    a, b = draw(2, 12, 2)
    solver = Relax(rtol=1e-5, splines=splines)
    found = search(metric, a, b, nodes=24, solver=solver)
    assert {status.name for status in found.statuses} == {"CONVERGED"}
