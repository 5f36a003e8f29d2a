"""Few states of a chain: no loops, small steps, the ends kept."""

import pytest
import torch

from diffodesic.transitions.structures import thin


def test_a_straight_chain_is_divided_evenly():
    states = torch.linspace(0, 1, 101, dtype=torch.float64)[:, None]
    assert thin(states, 11).tolist() == list(range(0, 101, 10))


def test_a_loop_is_left_out():
    angle = torch.linspace(0, 2 * torch.pi, 200, dtype=torch.float64)
    loop = torch.stack([angle.sin(), 1 - angle.cos()], -1)
    line = torch.stack([torch.linspace(0, 3, 50), torch.zeros(50)], -1).double()
    states = torch.cat([-line.flip(0), loop, line])
    # the circle stands on the line: from it the path goes on before the circle's upper half
    assert float(states[thin(states, 9)][:, 1].max()) < 1


def test_the_largest_step_is_the_smallest_possible_on_a_line_with_gaps():
    places = torch.tensor([0.0, 1, 1.5, 4, 4.5, 5, 9, 10], dtype=torch.float64)[:, None]
    chosen = thin(places, 5)
    steps = (places[chosen][1:] - places[chosen][:-1]).abs()
    assert float(steps.max()) == pytest.approx(4.0)
    assert len(chosen) <= 5


def test_a_random_walk_keeps_its_ends_and_its_reach():
    generator = torch.Generator().manual_seed(0)
    walk = torch.randn(5000, 2, generator=generator, dtype=torch.float64).cumsum(0)
    chosen = thin(walk, 33)
    assert chosen[0] == 0
    assert chosen[-1] == 4999
    assert len(chosen) <= 33
    assert bool((chosen[1:] > chosen[:-1]).all())
    # the largest step cannot be below an even share of the way, and no loop is longer than it
    steps = (walk[chosen][1:] - walk[chosen][:-1]).norm(dim=-1)
    assert float(steps.max()) >= float((walk[-1] - walk[0]).norm()) / 32
    for i, state in enumerate(chosen[:-2]):
        later = walk[chosen[i + 2 :]] - walk[state]
        assert float(later.norm(dim=-1).min()) > float(steps.max())


@pytest.mark.parametrize(("count", "length"), [(1, 10), (2, 1)])
def test_too_few(count: int, length: int):
    with pytest.raises(ValueError, match="at least"):
        thin(torch.zeros(length, 1), count)
