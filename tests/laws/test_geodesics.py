"""Laws of solved geodesics over every metric: exp and log, speed, symmetry, batches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from diffodesic import Metric, Relax, Status, exp, geodesic, log
from diffodesic.geometry.solvers.reference.adam_spline import AdamSpline
from support.cases import CASES, Case
from support.checks import status_is_looked_at

# Estimators whose steps may be negative have no geodesics.
SOLVABLE = [case for case in CASES if case.family.positive]
EXACT = [case for case in SOLVABLE if case.family.exact]
# Derivatives of derivatives cost seconds per shot: these run behind a marker.
_COSTLY = {f"{name}-{dim}" for name in ("score-jacobian", "spacetime") for dim in (1, 2, 5)}
_COSTLY |= {f"pullback-{dim}" for dim in (1, 2, 5)}


def _table(cases: list[Case], *, slow: frozenset[str] | set[str] = frozenset()):
    return pytest.mark.parametrize(
        "case",
        [
            pytest.param(case, id=case.name, marks=[pytest.mark.slow] if case.name in slow else [])
            for case in cases
        ],
    )


def _pairs(case: Case, lengths: list[float], rng: torch.Generator) -> tuple[Metric, Tensor, Tensor]:
    """Points and, from each, a vector of given metric length."""
    metric = case.metric
    x, v = case.points(2, len(lengths), rng=rng)
    size = torch.tensor(lengths, dtype=torch.float64) / metric.norm(x, v)
    return metric, x, size.unsqueeze(-1) * v


@_table(EXACT, slow=_COSTLY)
def test_exp_undoes_log(case: Case, rng: torch.Generator):
    metric, x, v = _pairs(case, [0.5, 2.0], rng)
    y = exp(metric, x, v)
    found = log(metric, x, y, nodes=24, tol=1e-7)
    again = exp(metric, x, found)
    assert float((metric.norm(y, again - y)).max()) < 1e-6
    # a geodesic of length 1/2 on these metrics is the only one
    torch.testing.assert_close(found[0], v[0], rtol=1e-6, atol=1e-6)


def _near(case: Case, count: int, rng: torch.Generator) -> tuple[Metric, Tensor, Tensor]:
    """Pairs about a unit of metric length apart."""
    metric, x, v = _pairs(case, [1.0] * count, rng)
    return metric, x, x + v


@_table(SOLVABLE)
def test_solved_geodesics_have_constant_speed(case: Case, rng: torch.Generator):
    # a discrete minimiser has equal steps up to order two, or exactly
    metric, a, b = _near(case, 2, rng)
    spreads = []
    for nodes in (8, 32):
        path = geodesic(metric, a, b, nodes=nodes, solver=Relax(rtol=1e-11))
        assert set(path.statuses) == {Status.CONVERGED}
        spreads.append(path.certificate.speed_spread)
    # order two would be 16 times less, seen at few nodes as at least 3; sqrt(rtol) is the solver's
    assert bool((spreads[1] <= spreads[0] / 3 + 1e-5).all())
    assert float(spreads[1].max()) < 0.02


@_table(SOLVABLE)
def test_distance_is_symmetric(case: Case, rng: torch.Generator):
    metric, a, b = _near(case, 2, rng)
    there, back = (
        geodesic(metric, *pair, nodes=12, solver=Relax(rtol=1e-9)) for pair in ((a, b), (b, a))
    )
    # rtol is the predicted decrease of one round, some hundred of which may be left; nodes are met
    # to its square root, and the spline's length is first order in
    # nodes, by its difference from the polyline that was minimised
    torch.testing.assert_close(there.length, back.length, rtol=3e-5, atol=0)
    torch.testing.assert_close(there.energy, back.energy, rtol=1e-6, atol=0)


@_table(SOLVABLE)
@status_is_looked_at
def test_a_batch_of_pairs_is_its_pairs_one_by_one(case: Case, rng: torch.Generator):
    metric, a, b = _near(case, 32, rng)
    together = geodesic(metric, a, b, nodes=8, refine=2)
    # all of them in one dimension, some in the others: the code is the same
    for i in range(0, 32, 1 if case.dim == 2 else 6):
        alone = geodesic(metric, a[i], b[i], nodes=8, refine=2)
        assert alone.status is together.statuses[i]
        assert alone.start == together.start[i : i + 1]
        torch.testing.assert_close(alone.length, together.length[i], rtol=1e-6, atol=0)
        # an energy that is met to e leaves its nodes free to the square root of e
        torch.testing.assert_close(alone.nodes, together.nodes[i], rtol=1e-5, atol=1e-5)


@_table([case for case in SOLVABLE if case.dim == 2])
def test_the_recipe_on_a_batch_is_the_recipe_on_each(case: Case, rng: torch.Generator):
    metric, a, b = _near(case, 32, rng)
    solver = AdamSpline(edges=3, schedule=((8, 4),))
    together = geodesic(metric, a, b, nodes=8, solver=solver, refine=1)
    for i in range(0, 32, 4):
        alone = geodesic(metric, a[i], b[i], nodes=8, solver=solver, refine=1)
        # an energy that is met to e leaves its nodes free to the square root of e
        torch.testing.assert_close(alone.nodes, together.nodes[i], rtol=1e-5, atol=1e-5)
