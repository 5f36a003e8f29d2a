"""The descent on its own: how far the steps of Newton's model are believed."""

from __future__ import annotations

import pytest

from benchmarks.problems import c_shape
from diffodesic.geometry.solvers.descent import Descent
from diffodesic.geometry.solvers.starts import candidates


def test_a_newton_step_after_a_cut_one_is_at_most_four_times_as_long():
    problem = c_shape(2)
    energy, a, b = problem.space.energy(), problem.a[None], problem.b[None]
    start = candidates(energy, a, b, 32, 2)["arc"]
    descent = Descent(energy, start, rtol=1e-4, iterations=100, memory=12, newton=True)
    tried, cut = [], 0
    while descent.active:
        share, before = float(descent.now.t), int(descent.now.taken)
        descent.round()
        taken = bool(descent.active) and int(descent.now.taken) > before
        cut += bool(descent.active) and not taken
        if taken:
            tried.append((share, float(descent.now.t)))
    assert cut > 0  # the curvature of the score is not in the model
    for accepted, following in tried:
        assert following == pytest.approx(min(1.0, 4 * accepted))
