"""Curves: exact ends, true C2, order four, constant speed, and the spline space."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from diffodesic.numerics.curves import Polyline, Spline, constant_speed, spline_basis
from support.checks import Draw

KINDS = pytest.mark.parametrize("kind", [Polyline, Spline])


def _knots(uniform: Draw, *batch: int, pieces: int) -> Tensor:
    """Unequal knots from 0 to 1 (*batch, pieces + 1)."""
    widths = uniform(0.3, 1.0, *batch, pieces)
    arc = torch.cat([torch.zeros_like(widths[..., :1]), widths.cumsum(-1)], -1)
    return arc / arc[..., -1:]


@KINDS
@pytest.mark.parametrize("pieces", [1, 2, 3, 9])
def test_curves_pass_through_their_nodes(
    kind: type[Polyline], pieces: int, draw: Draw, uniform: Draw
):
    nodes, knots = draw(2, pieces + 1, 3), _knots(uniform, 2, pieces=pieces)
    curve = kind(nodes, knots)
    torch.testing.assert_close(curve(knots), nodes, rtol=1e-12, atol=1e-12)
    assert torch.equal(curve(0.0), nodes[:, 0])
    assert torch.equal(curve(1.0), nodes[:, -1])


@KINDS
def test_shapes_of_a_call(kind: type[Polyline], draw: Draw, uniform: Draw):
    curve = kind(draw(2, 4, 6, 3))
    s = uniform(0, 1, 5)
    assert curve(0.3).shape == curve.velocity(0.3).shape == (2, 4, 3)
    assert curve(s).shape == curve.velocity(s).shape == (2, 4, 5, 3)
    own = uniform(0, 1, 2, 4, 5)
    alone = kind(curve.nodes[1, 2])(own[1, 2])
    torch.testing.assert_close(curve(own)[1, 2], alone, rtol=1e-12, atol=1e-12)


@KINDS
def test_velocity_is_the_derivative(kind: type[Polyline], draw: Draw, uniform: Draw):
    curve = kind(draw(8, 3), _knots(uniform, pieces=7))
    s = uniform(0.01, 0.99, 20)
    h = 1e-6
    numeric = (curve(s + h) - curve(s - h)) / (2 * h)
    # h^2 of truncation and 1e-16/h of rounding; a knot inside the difference costs h for splines
    far = ((s[:, None] - curve.knots).abs() > h).all(-1)
    torch.testing.assert_close(curve.velocity(s)[far], numeric[far], rtol=1e-6, atol=1e-6)


def _one_sided_derivatives(curve: Spline, knot: Tensor, side: int, reach: float) -> Tensor:
    """Value and three derivatives at a knot, from the cubic on one side of it; (4, d)."""
    t = side * reach * torch.arange(1, 5, dtype=torch.float64) / 5
    powers = torch.stack([t**p / math.factorial(p) for p in range(4)], -1)
    return torch.linalg.solve(powers, curve(knot + t))


@pytest.mark.parametrize("pieces", [2, 3, 4, 9])
def test_splines_have_two_continuous_derivatives(pieces: int, draw: Draw, uniform: Draw):
    knots = _knots(uniform, pieces=pieces)
    curve = Spline(draw(pieces + 1, 3), knots)
    reach = float(knots.diff().min())
    for i in range(1, pieces):
        left, right = (_one_sided_derivatives(curve, knots[i], side, reach) for side in (-1, 1))
        # the fit of the third derivative loses reach^-3, a few thousand, of rounding
        torch.testing.assert_close(left[:3], right[:3], rtol=1e-8, atol=1e-8)
        if pieces > 2 and i in (1, pieces - 1):  # not-a-knot: the two end pieces are one cubic
            torch.testing.assert_close(left[3], right[3], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("pieces", [3, 5, 10])
@given(coefficients=st.lists(st.floats(-3, 3), min_size=4, max_size=4))
def test_cubics_are_reproduced_exactly(pieces: int, coefficients: list[float]):
    knots = torch.linspace(0, 1, pieces + 1, dtype=torch.float64) ** 1.3
    powers = torch.arange(4)
    c = torch.tensor(coefficients, dtype=torch.float64)

    def cubic(s: Tensor) -> Tensor:
        return (s.unsqueeze(-1) ** powers @ c).unsqueeze(-1)

    s = torch.linspace(0, 1, 41, dtype=torch.float64)
    curve = Spline(cubic(knots), knots)
    torch.testing.assert_close(curve(s), cubic(s), rtol=1e-11, atol=1e-11)


def test_two_nodes_are_the_chord_and_three_the_parabola(draw: Draw):
    s = torch.linspace(0, 1, 11, dtype=torch.float64)
    a, b = draw(2, 3)
    torch.testing.assert_close(Spline(torch.stack([a, b]))(s), torch.lerp(a, b, s[:, None]))
    knots = torch.tensor([0, 0.3, 1], dtype=torch.float64)
    parabola = Spline((knots**2 - knots).unsqueeze(-1), knots)
    torch.testing.assert_close(parabola(s)[:, 0], s**2 - s)


@pytest.mark.parametrize(("kind", "order"), [(Polyline, 2), (Spline, 4)])
def test_order_of_approximation(kind: type[Polyline], order: int):
    def smooth(s: Tensor) -> Tensor:
        return torch.stack([torch.sin(3 * s), torch.exp(s) * torch.cos(2 * s)], -1)

    s = torch.linspace(0, 1, 1601, dtype=torch.float64)
    errors = []
    for n in (20, 40, 80):
        knots = torch.linspace(0, 1, n + 1, dtype=torch.float64)
        errors.append(float((kind(smooth(knots))(s) - smooth(s)).abs().max()))
    observed = math.log2(errors[0] / errors[-1]) / 2
    assert observed == pytest.approx(order, abs=0.15)


@KINDS
def test_curves_reject_what_they_cannot_be(kind: type[Polyline], draw: Draw):
    with pytest.raises(ValueError, match="n >= 1"):
        kind(draw(1, 3))
    with pytest.raises(ValueError, match="n >= 1"):
        kind(draw(3))
    with pytest.raises(ValueError, match="knots have shape"):
        kind(draw(4, 3), torch.linspace(0, 1, 3))
    for outside in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="between 0 and 1"):
            kind(draw(4, 3))(outside)


@KINDS
def test_curves_do_not_change_their_arguments(kind: type[Polyline], draw: Draw):
    nodes = draw(5, 2)
    before = nodes.clone()
    curve = kind(nodes)
    first = curve(0.4)
    constant_speed(curve, torch.ones(4, dtype=torch.float64), 7)
    assert torch.equal(nodes, before)
    assert torch.equal(curve(0.4), first)


def test_constant_speed_spaces_a_circle_equally():
    # a circle run with uneven speed, whose arc is known
    s = torch.linspace(0, 1, 65, dtype=torch.float64)
    angle = 2 * s**2 + 0.5 * s
    nodes = torch.stack([torch.cos(angle), torch.sin(angle)], -1)
    spaced = constant_speed(Spline(nodes), angle.diff(), 20)
    assert spaced.shape == (21, 2)
    assert torch.equal(spaced[0], nodes[0])
    assert torch.equal(spaced[-1], nodes[-1])
    chords = spaced.diff(dim=0).norm(dim=-1)
    # every segment is given 1e-6 of the mean more, 5e-6 of the shortest; the spline's own error
    # is (longest segment)^4 / 384 = 6e-8 beside chords of .125
    torch.testing.assert_close(chords, chords.mean().expand(20), rtol=5e-6, atol=0)


def test_lengths_that_are_wrong_do_not_lead_points_off_the_curve():
    # the first coordinate of this curve is its parameter; its longest step is said to be nothing
    s = torch.linspace(0, 1, 17, dtype=torch.float64)
    curve = Spline(torch.stack([s, torch.sin(7 * s)], -1))
    wrong = curve.nodes.diff(dim=0).norm(dim=-1)
    wrong[10] = 0
    on = constant_speed(curve, wrong, 16, estimated=True)
    torch.testing.assert_close(curve(on[:, 0]), on)
    assert bool((on.diff(dim=0)[:, 0] > 0).all())
    swung = constant_speed(curve, wrong, 16)  # whose knots all but coincide there
    assert float(swung[:, 0].diff().min()) < 0


def test_estimated_lengths_that_are_right_space_a_circle_equally():
    s = torch.linspace(0, 1, 65, dtype=torch.float64)
    angle = 2 * s**2 + 0.5 * s
    nodes = torch.stack([torch.cos(angle), torch.sin(angle)], -1)
    chords = (
        constant_speed(Spline(nodes), angle.diff(), 20, estimated=True).diff(dim=0).norm(dim=-1)
    )
    # the parameter is linear in the arc between knots, which misses it by 4 / (8 64^2) at most;
    # a chord of 1/8 has two ends
    torch.testing.assert_close(chords, chords.mean().expand(20), rtol=2e-3, atol=0)


def test_constant_speed_survives_segments_of_length_zero(draw: Draw):
    nodes = draw(2, 5, 3)
    nodes[0, 2] = nodes[0, 1]
    nodes[1] = nodes[1, :1]  # a path that stands still
    for kind in (Polyline, Spline):
        curve = kind(nodes)
        spaced = constant_speed(curve, nodes.diff(dim=-2).norm(dim=-1), 8)
        assert bool(torch.isfinite(spaced).all())
        assert torch.equal(spaced[:, 0], nodes[:, 0])
        assert torch.equal(spaced[:, -1], nodes[:, -1])
        torch.testing.assert_close(spaced[1], nodes[1, :1].expand(9, 3))


@pytest.mark.parametrize("edges", [1, 2, 5])
def test_spline_basis_vanishes_at_the_ends(edges: int):
    basis = spline_basis(edges, torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert basis.shape == (2, edges + 1)
    assert float(basis.abs().max()) < 1e-12


@pytest.mark.parametrize("edges", [2, 3, 7])
def test_spline_basis_is_twice_differentiable(edges: int):
    # on each side of a joint a function of the space is one cubic: four samples determine it
    for joint in range(1, edges):
        sides = []
        for side in (-1, 1):
            t = side * torch.arange(1, 5, dtype=torch.float64) / (5 * edges)
            powers = torch.stack([t**p for p in range(4)], -1)
            sides.append(torch.linalg.solve(powers, spline_basis(edges, joint / edges + t)))
        torch.testing.assert_close(sides[0][:3], sides[1][:3], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("edges", [1, 2, 5])
def test_spline_basis_spans_every_such_spline(edges: int, draw: Draw):
    # edges + 1 columns, independent; and every C2 cubic on the pieces with zero ends is met:
    # cubic bubbles and one truncated power per joint, made to vanish at 1
    s = torch.linspace(0, 1, 60, dtype=torch.float64)
    basis = spline_basis(edges, s)
    assert int(torch.linalg.matrix_rank(basis)) == edges + 1
    joints = torch.arange(1, edges, dtype=torch.float64) / edges
    truncated = (s[:, None] - joints).clamp(min=0) ** 3 - s[:, None] ** 3 * (1 - joints) ** 3
    target = torch.cat([(s * (1 - s))[:, None], (s**2 * (1 - s))[:, None], truncated], -1)
    assert target.shape[-1] == edges + 1
    fit = torch.linalg.lstsq(basis, target).solution
    torch.testing.assert_close(basis @ fit, target, rtol=1e-9, atol=1e-9)
