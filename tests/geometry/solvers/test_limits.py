"""Other limits for any solver that has limits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from diffodesic.geometry.solvers.limits import limited
from diffodesic.geometry.solvers.redraw import Redraw
from diffodesic.geometry.solvers.reference.adam_spline import AdamSpline
from diffodesic.geometry.solvers.relax import Relax
from diffodesic.metrics.one_level import NETWORK_SEARCH


def test_rounds_are_those_of_the_search():
    # in whole judgements; the search among splines is another one
    assert limited(Redraw(), 25) == Redraw(judgements=3)
    assert limited(NETWORK_SEARCH, 5) == replace(NETWORK_SEARCH, splines=(8, 2, 5))
    assert limited(Relax(), 5) == Relax(iterations=5)


@pytest.mark.parametrize("solver", [Relax(), Redraw(), NETWORK_SEARCH])
def test_the_tolerance_is_that_of_the_search(solver):
    assert limited(solver, rtol=0.25) == replace(solver, rtol=0.25)
    assert limited(solver) is solver


def test_a_fixed_budget_has_no_limits():
    solver = AdamSpline()
    assert limited(solver) is solver
    with pytest.raises(ValueError, match=r"no options of AdamSpline, .*: leave them out"):
        limited(solver, rtol=0.1)
