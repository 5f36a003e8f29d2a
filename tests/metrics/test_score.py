"""The score metric: graph of log-density, score-only Gauss-Newton, continuation, score Jacobian."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from diffodesic import (
    GaussianMixture,
    Relax,
    ScoreJacobian,
    ScoreMetric,
    Status,
    counting,
    geodesic,
)
from diffodesic.numerics.curves import Spline
from support.checks import Draw, status_is_looked_at
from support.laws import ScoreGraph, bow, bow_ends


@pytest.mark.parametrize(("weight", "nodes"), [(1.0, 64), (1000.0, 64)])
def test_score_only_gauss_newton_finds_the_geodesic_of_the_graph(weight: float, nodes: int):
    law = bow()
    metric = ScoreMetric(law, log_snr=3.0, weight=weight)
    with counting() as cost:
        path = geodesic(metric, *bow_ends(law), nodes=nodes)
    assert path.status is Status.CONVERGED
    assert cost.derivatives == 0  # scores alone
    exact = geodesic(ScoreGraph(metric), *bow_ends(law), nodes=nodes, init=path.nodes)
    # both are second order in the number of nodes
    assert float(path.length) == pytest.approx(float(exact.length), rel=2e-3)
    # an energy of the exact graph: no path through the same ends has less, but for the solver's
    s = torch.linspace(0, 1, 1025, dtype=torch.float64)
    assert float(
        ScoreGraph(metric).squared_steps(Spline(path.nodes)(s)).sqrt().sum()
    ) < 1.002 * float(exact.length)


def test_the_score_only_gradient_is_that_of_the_change_of_log_density(draw: Draw):
    law = bow()
    metric = ScoreMetric(law, log_snr=3.0, weight=2.0)
    errors = []
    for n in (40, 80):
        s = torch.linspace(0, 1, n + 1, dtype=torch.float64).unsqueeze(-1)
        x = (torch.cat([(3 * s).cos(), (3 * s).sin()], -1) * (1 + 0.1 * s))[None]
        found = metric.energy().evaluate(x, order=2)
        exact = ScoreGraph(metric).energy().evaluate(x)
        assert abs(float(found.energy / exact.energy) - 1) < 20 / n**2
        gap = (found.slope - exact.slope)[:, 1:-1].norm()
        errors.append(float(gap / exact.slope[:, 1:-1].norm()))
    assert math.log2(errors[0] / errors[1]) > 1.5  # order two
    assert errors[1] < 0.02


@pytest.mark.parametrize("rank", [1, 3])
def test_sharp_undoes_flat_at_every_rank(rank: int, draw: Draw):
    law = GaussianMixture(draw(4, 5), std=0.5)
    metric, x, p = ScoreMetric(law, log_snr=1.0, weight=3.0, rank=rank), draw(6, 5), draw(6, 5)
    torch.testing.assert_close(metric.flat(x, metric.sharp(x, p)), p, rtol=1e-9, atol=1e-9)


def test_rank_counts_the_directions_that_are_charged(draw: Draw):
    law = GaussianMixture(draw(4, 5), std=0.5)
    for rank in (1, 2, 4):
        metric = ScoreMetric(law, log_snr=1.0, weight=3.0, rank=rank)
        tensor = metric.matrix(draw(5)) - torch.eye(5).double()
        assert int(torch.linalg.matrix_rank(tensor, hermitian=True)) == rank


def test_a_rank_k_geodesic_is_solved_by_the_same_machinery():
    law = bow(6)
    metric = ScoreMetric(law, log_snr=3.0, weight=5.0, rank=3)
    # from the chord, since the default goes on from hops to a path of half the length
    path = geodesic(metric, *bow_ends(law), nodes=48, solver=Relax(explore=False))
    slow = geodesic(metric, *bow_ends(law), nodes=48, solver=Relax(newton=False), init=path.nodes)
    assert path.status is Status.CONVERGED
    assert float(path.length) == pytest.approx(float(slow.length), rel=2e-3)


@pytest.mark.parametrize("bad", [0, 3])
def test_a_rank_that_cannot_be(bad: int):
    with pytest.raises(ValueError, match=r"rank must be (between 1 and 2|at least 1)"):
        ScoreMetric(bow(), log_snr=3.0, rank=bad)


def test_the_score_jacobian_by_truncated_conjugate_gradients():
    law = bow()
    metric = ScoreJacobian(law, log_snr=2.0, eps=0.5)
    slow = geodesic(metric, *bow_ends(law), nodes=32)
    quick = geodesic(metric, *bow_ends(law), nodes=32, solver=Relax(newton=True))
    assert quick.status is Status.CONVERGED
    assert float(quick.length) == pytest.approx(float(slow.length), rel=1e-4)


class _Refusing(ScoreMetric):
    """A score metric whose denoiser refuses one path of a batch."""

    def scores(self, x: Tensor) -> Tensor:
        if bool((x[..., 1] > 5).any()):
            raise FloatingPointError("the network's output is not finite")
        return super().scores(x)


@status_is_looked_at
def test_a_refused_pair_costs_its_neighbour_nothing():
    law = bow()
    metric = _Refusing(law, log_snr=3.0, weight=1.0)
    a, b = bow_ends(law)
    high = torch.tensor([0.0, 9.0], dtype=torch.float64)
    both = geodesic(metric, torch.stack([a, high]), torch.stack([b, high + 1]), nodes=32)
    alone = geodesic(metric, a, b, nodes=32)
    assert both.statuses[1] is Status.NON_FINITE
    assert both.statuses[0] is alone.status
    torch.testing.assert_close(both.nodes[0], alone.nodes, rtol=1e-9, atol=1e-9)


@status_is_looked_at
def test_a_heavy_weight_in_single_precision_ends_in_a_status(draw: Draw):
    law = GaussianMixture(draw(4, 8).float(), std=0.5)
    metric = ScoreMetric(law, log_snr=2.0, weight=1e4)
    path = geodesic(metric, law.means[0], law.means[1], nodes=32, solver=Relax(iterations=20))
    assert bool(torch.isfinite(path.nodes).all())
    assert path.nodes.dtype == torch.float32


@status_is_looked_at
def test_no_path_has_less_energy_than_the_floor_and_a_straight_graph_has_it():
    """A Gaussian far out has a score that hardly turns: its graph is nearly a plane there."""
    law = bow()
    metric = ScoreMetric(law, log_snr=3.0, weight=2.0)
    x = geodesic(metric, *bow_ends(law), nodes=64).nodes
    assert float(metric.energy_floor(x)) < float(metric.squared_steps(x).sum()) * 32
    wide = ScoreMetric(GaussianMixture(torch.zeros(1, 2).double(), std=1e3), log_snr=0.0)
    line = torch.tensor([[900.0, 0.0], [900.5, 0.1], [901.0, 0.2]], dtype=torch.float64)
    assert float(wide.energy_floor(line)) == pytest.approx(
        float(wide.squared_steps(line).sum()), rel=1e-9
    )
