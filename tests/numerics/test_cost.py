"""Work is counted once, in every open scope."""

from __future__ import annotations

import pytest
import torch

from diffodesic.denoisers.mixture import GaussianMixture
from diffodesic.numerics.cost import Cost, counting, expect, part, record, stage
from diffodesic.numerics.derivatives import track_vjp
from support.checks import Draw


def test_scopes_nest_and_close():
    with counting() as outer:
        record(evaluations=1)
        with counting() as inner:
            record(evaluations=2, derivatives=3, node_gradients=0.5)
        record(derivatives=10)
    record(evaluations=100)
    assert inner == Cost(2, 3, 0.5)
    assert outer == Cost(3, 13, 0.5)


def test_a_scope_closes_when_its_block_fails():
    with pytest.raises(KeyError), counting() as cost:
        raise KeyError
    record(evaluations=1)
    assert cost == Cost()


def test_backward_passes_are_counted_in_the_scope_of_the_forward_pass(draw: Draw):
    x = draw(3).requires_grad_()
    with counting() as cost:
        y = track_vjp(x**2, 3)
        assert cost.derivatives == 0
        y.sum().backward(retain_graph=True)
        assert cost.derivatives == 3
        y.sum().backward()
        assert cost.derivatives == 6
    with counting() as cost:
        track_vjp((2 * x).detach(), 3)  # nothing to differentiate
        track_vjp(2 * x, 3)  # differentiable, but never differentiated
    assert cost.derivatives == 0


@pytest.mark.parametrize("count", [1, 7])
def test_a_denoiser_counts_points_not_calls(draw: Draw, count: int):
    mix = GaussianMixture(draw(4, 3))
    z, sigma = draw(count, 3), torch.tensor(0.7, dtype=torch.float64)
    with counting() as cost:
        mix(z, sigma)
    assert cost == Cost(evaluations=count)
    with counting() as cost:
        mix.jvp(z, sigma, z)
    assert cost == Cost(evaluations=count, derivatives=count)
    with counting() as cost:
        mix.moments(z, sigma)  # in closed form
    assert cost == Cost(evaluations=count)
    with counting() as cost:
        mix(z.requires_grad_(), sigma).sum().backward()
    assert cost == Cost(evaluations=count, derivatives=count)


def test_the_share_counts_parts_and_what_is_expected_within_one():
    with counting() as cost:
        part(4)
        assert cost.share == 0
        with stage("searching"):
            record(evaluations=10)
        part(4)
        expect({"searching": 40})
        with stage("searching"):
            record(evaluations=20)
    assert cost.share == (1 + 20 / 40) / 4


def test_parts_that_an_earlier_run_did_count_for_nothing():
    with counting() as cost:
        for done in (False, False, True, True):
            part(4)
            if done:
                record(evaluations=1)
        assert cost.share == 1 / 2  # the last of two is not over yet


def test_more_parts_than_were_told_do_not_end_before_the_last():
    shares = []
    with counting() as cost:
        for _ in range(5):
            part(2)
            shares.append(cost.share)
            record(evaluations=1)
    assert shares == [0, 1 / 2, 2 / 3, 3 / 4, 4 / 5]
