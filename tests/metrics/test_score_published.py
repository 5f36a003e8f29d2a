"""The published recipe of the score metric: what a score that is not differentiated costs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from diffodesic import ScoreMetric, geodesic
from diffodesic.geometry.boundary_value import search
from diffodesic.geometry.solvers.reference.first_order import AdamNodes
from diffodesic.metrics.score_published import FrozenScore
from diffodesic.numerics.curves import Spline
from support.laws import ScoreGraph, bow, bow_ends


def _energy(metric: ScoreMetric, nodes: Tensor) -> float:
    """Of the exact graph of log-density at constant speed, on a grid 16 times as fine."""
    s = torch.linspace(0, 1, 1025, dtype=torch.float64)
    return float(ScoreGraph(metric).squared_steps(Spline(nodes)(s)).sqrt().sum()) ** 2 / 2


@pytest.mark.parametrize(("weight", "low", "high"), [(1.0, 1.06, 1.08), (10.0, 1.45, 1.6)])
def test_a_frozen_score_does_not_give_geodesics(weight: float, low: float, high: float):
    law = bow()
    metric = ScoreMetric(law, log_snr=3.0, weight=weight)
    frozen = FrozenScore(law, log_snr=3.0, weight=weight)
    solver = AdamNodes(learning_rate=0.003, steps=3000)
    wrong = search(frozen, *bow_ends(law), nodes=64, solver=solver)
    # the geodesic of the same side of the bow
    right = search(metric, *bow_ends(law), nodes=64, init=wrong.nodes)
    assert low < _energy(metric, wrong.nodes) / _energy(metric, right.nodes) < high


def test_what_the_recipe_settles_at_moves_with_a_constant_covector():
    """Where the gradient of the frozen energy vanishes, g(m_i) u_i is the same on all segments."""
    law = bow()
    frozen = FrozenScore(law, log_snr=1.0, weight=1.0)
    path = geodesic(frozen, *bow_ends(law), nodes=16, solver=AdamNodes(0.003, 3000))
    _, pull = frozen.at_middles(path.nodes)
    assert float((pull - pull.mean(0)).norm(dim=-1).max()) < 0.02 * float(pull.mean(0).norm())


def test_the_rule_is_the_midpoint_rule_and_the_gradient_leaves_the_score_alone(rng):
    law = bow()
    frozen = FrozenScore(law, log_snr=1.0, weight=2.0, rank=2)
    x = torch.randn(3, 5, 2, generator=rng, dtype=torch.float64).requires_grad_()
    middle = ((x[:, 1:] + x[:, :-1]) / 2).detach()
    u = x.diff(dim=1)
    s = frozen.scores(middle)
    expected = u.square().sum(-1) + 2.0 * (s * u.unsqueeze(-2)).sum(-1).square().mean(-1)
    (grad,) = torch.autograd.grad(2 * expected.sum(), x)  # n/2 = 2 times the sum of the steps
    found = frozen.energy().evaluate(x.detach())
    torch.testing.assert_close(found.squared_steps, expected.detach())
    torch.testing.assert_close(found.gradient, grad)
    assert not bool(found.doubtful.any())
