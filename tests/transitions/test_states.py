"""States: balls by the nearest image, minima, and points that are neither."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from diffodesic.transitions.own_potentials import from_callable
from diffodesic.transitions.potentials import DoubleWell, Potential, Ring
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
        (
            point(0, 0),
            point(1, 0),
            r"first state is no minimum: \(0, 0\) with U = 10",
        ),
        (point(-1, 0), point(0, 1e-3), "second state is no minimum: .* with U = 10"),
        (point(-1, 0), point(-1.01, 0), "both states belong to the minimum"),
    ],
)
def test_states_that_cannot_be(a: Tensor, b: Tensor, message: str):
    with pytest.raises(ValueError, match=message):
        checked_states(DoubleWell(), torch.stack([a, b]), descend=False)


@pytest.mark.parametrize(("potential", "height"), [(DoubleWell(), "10"), (Ring(tilt=0.0), "40")])
def test_states_on_a_saddle_or_a_peak_are_moved_off_it_where_that_is_asked_for(potential, height):
    given = torch.stack([point(0, 0), point(-1, 0)])
    with pytest.raises(ValueError, match=f"first state is no minimum: .* U = {height} reduced"):
        checked_states(potential, given, descend=False)
    states, (notice,) = checked_states(potential, given, descend=True)
    torch.testing.assert_close(states, torch.stack([point(1, 0), point(-1, 0)]), rtol=0, atol=1e-5)
    assert f"U = {height} reduced; the minimum below it is (1, 0)" in notice
    with pytest.raises(ValueError, match="both states belong to the minimum"):
        checked_states(potential, -given, descend=True)


def test_states_of_several_minima_and_periods():
    ring = from_callable(
        lambda x: 1 - torch.cos(x[..., 0]),
        dim=1, kT=1, unit="kT", box=((-math.pi, math.pi),), period=(2 * math.pi,),
    )  # fmt: skip
    state = Basin(torch.tensor([[3.0], [1.0]], dtype=torch.float64), 0.3)
    x = torch.tensor([[-3.1], [1.2], [2.0]], dtype=torch.float64)
    assert state.holds(ring, x).tolist() == [True, True, False]
    torch.testing.assert_close(state.distance(ring, x)[0], point(2 * math.pi - 6.1)[0])


def torus(stretch: float = 1.0) -> Potential:
    """Minima at phi = 0 and 2 pi/3, with wide basins; ``stretch`` is radians per unit."""
    return from_callable(
        lambda x: (1 - torch.cos(3 * stretch * x)).sum(-1),
        dim=2, kT=1, unit="kT", box=((-math.pi / stretch, math.pi / stretch),) * 2,
        period=(2 * math.pi / stretch,) * 2,
    )  # fmt: skip


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("degrees", [29.0, 31.0, 55.0])
def test_relaxation_by_more_than_thirty_degrees_is_another_state(which: int, degrees: float):
    ends = torch.tensor([[0.0, 0.0], [2 * math.pi / 3, 0.0]], dtype=torch.float64)
    moved = ends.clone()
    moved[which, 0] += math.radians(degrees)
    if degrees < 30:
        states, (notice,) = checked_states(torus(), moved, descend=True)
        torch.testing.assert_close(states, ends, rtol=0, atol=1e-4)
        assert f"{degrees:.3g} degrees away" in notice
        return
    name = ("first", "second")[which]
    with pytest.raises(ValueError, match=rf"the {name} state .* {degrees:.3g} degrees away: .* 30"):
        checked_states(torus(), moved, descend=True)
    # lengths have no such measure
    checked_states(torus(2.0), moved / 2, descend=True)


@pytest.mark.parametrize("which", [0, 1])
def test_degrees_for_radians(which: int):
    radians = torch.tensor([[0.0, 0.0], [2 * math.pi / 3, 0.0]], dtype=torch.float64)
    given = radians.clone()
    given[which] = torch.rad2deg(radians[which] + torch.tensor([0.0, 2 * math.pi / 3]))
    name = ("first", "second")[which]
    with pytest.raises(
        ValueError, match=rf"the {name} state .* takes radians, .* \({2.094 * which:.4g}, 2"
    ):
        checked_states(torus(), given, descend=False)
    # the neighbouring images of a state are the state
    checked_states(torus(), radians + 2 * math.pi, descend=False)
