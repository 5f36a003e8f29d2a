"""Paths by short hops between data: which way they take, and that it is the cheapest."""

from __future__ import annotations

import math

import pytest
import torch

from diffodesic.geometry.graph_start import _cheapest, dense_path


def test_hops_lead_round_a_gap_between_data(rng: torch.Generator):
    """Three quarters of a ring of modes: hops follow it, one after another, from end to end."""
    angle = torch.linspace(0, 1.5 * math.pi, 40, dtype=torch.float64)
    ring = torch.stack([angle.cos(), angle.sin()], -1)
    data = ring[torch.randperm(40, generator=rng)]
    path = dense_path(data, ring[0], ring[-1], 64, power=3.0)
    assert torch.equal(path[[0, -1]], ring[[0, -1]])
    assert bool(((path.norm(dim=-1) - 1).abs() < 0.01).all())
    steps = path.diff(dim=0).norm(dim=-1)
    torch.testing.assert_close(steps, steps.mean().expand_as(steps), rtol=1e-2, atol=0)
    assert float(steps.sum()) == pytest.approx(1.5 * math.pi, rel=1e-2)


def test_hops_between_points_far_apart_do_not_overflow():
    """r^4 is infinite in float32 from r = 4e9."""
    data = torch.tensor([[0.0, 0.0], [1.0, 0.1], [2.0, 0.0]])
    near, far = (dense_path(x, x[0], x[2], 8, power=4.0) for x in (data, 1e15 * data))
    assert float(near[4, 1]) > 0.03
    torch.testing.assert_close(far / 1e15, near)


def test_hops_are_shorter_the_higher_the_power(rng: torch.Generator):
    data = torch.randn(300, 3, generator=rng, dtype=torch.float64)
    cost = torch.cdist(data, data)
    longest = []
    for power in (1.0, 2.0, 8.0):
        way = torch.tensor(_cheapest(cost**power))
        assert way[[0, -1]].tolist() == [0, 1]
        longest.append(float(cost[way[:-1], way[1:]].max()))
    assert longest[0] == float(cost[0, 1])
    assert longest[0] > longest[1] > longest[2]


def test_hops_are_the_cheapest_of_all_ways(rng: torch.Generator):
    """Against Floyd and Warshall's recursion over all pairs."""
    cost = torch.rand(20, 20, generator=rng, dtype=torch.float64)
    cost = cost + cost.T
    least = cost.clone()
    for i in range(20):
        least = torch.minimum(least, least[:, i : i + 1] + least[i])
    way = torch.tensor(_cheapest(cost))
    assert float(cost[way[:-1], way[1:]].sum()) == pytest.approx(float(least[0, 1]), rel=1e-12)
