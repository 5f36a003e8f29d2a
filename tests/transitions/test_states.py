"""States: balls by the nearest image, minima, and points that are neither."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from diffodesic.transitions.potentials import DoubleWell, from_callable
from diffodesic.transitions.states import Basin, checked_states


def point(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_states_at_minima_are_left_alone():
    states = torch.stack([point(-1, 0), point(1, 0)])
    checked, notices = checked_states(DoubleWell(), states, descend=False)
    assert torch.equal(checked, states)
    assert notices == ()


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (point(-1, 0), point(math.nan, 0), "second state .* lies outside"),
        (point(-1, 0, 0), point(1, 0, 0), "have 3 coordinates"),
        (point(-1, 0.9), point(1, 0), r"first state is no minimum: .* U = 8\.1"),
        (point(-1, 0), point(-1.01, 0), "both states belong to the minimum"),
    ],
)
def test_states_that_cannot_be(a: Tensor, b: Tensor, message: str):
    with pytest.raises(ValueError, match=message):
        checked_states(DoubleWell(), torch.stack([a, b]), descend=False)


def test_states_of_several_minima_and_periods():
    ring = from_callable(
        lambda x: 1 - torch.cos(x[..., 0]),
        dim=1, kT=1, unit="kT", box=((-math.pi, math.pi),), period=(2 * math.pi,),
    )  # fmt: skip
    state = Basin(torch.tensor([[3.0], [1.0]], dtype=torch.float64), 0.3)
    x = torch.tensor([[-3.1], [1.2], [2.0]], dtype=torch.float64)
    assert state.holds(ring, x).tolist() == [True, True, False]
    torch.testing.assert_close(state.distance(ring, x)[0], point(2 * math.pi - 6.1)[0])
