"""Passes and minimum-energy paths against stationary points that are known."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from diffodesic.numerics.cost import counting
from diffodesic.transitions.minimum_energy import lowest_pass, string
from diffodesic.transitions.own_potentials import from_callable
from diffodesic.transitions.potentials import DoubleWell, MuellerBrown, Potential
from diffodesic.transitions.stationary import relax
from diffodesic.transitions.surfaces import read_grid


def point(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# stationary points of the surface to eight digits, computed independently
UPPER, LOWER = point(-0.55822363, 1.44172584), point(0.6234994, 0.02803776)
SADDLE, HEIGHT = point(-0.82200156, 0.6243128), -40.6648


def torus() -> Potential:
    """Two states, (-2, 0) and (2, 0): the pass over phi = 0 is 2, that over the seam only 1/2."""

    def energy(x: Tensor) -> Tensor:
        phi, psi = x.unbind(-1)
        return 2 * torch.cos(phi / 2) ** 4 + 0.5 * torch.sin(phi / 2) ** 40 + 1 - torch.cos(psi)

    side = (-math.pi, math.pi)
    period = (2 * math.pi,) * 2
    return from_callable(energy, dim=2, kT=1, box=(side, side), unit="kT", period=period)


def test_the_pass_converges_to_the_saddle():
    potential = MuellerBrown()
    widths = torch.tensor([high - low for low, high in potential.box])
    for nodes in (65, 129, 257):
        found = lowest_pass(potential, UPPER, LOWER, nodes=nodes)
        # the nearest grid points are half a cell off, and curvatures at the saddle below 1,600
        cell = float((widths / (nodes - 1)).square().sum())
        assert abs(found.energy - HEIGHT) < 1600 / 2 * cell
        assert float((found.top - SADDLE).norm()) < 0.1
        assert found.evaluations == nodes**2


def test_the_pass_is_exact_where_the_grid_has_its_top():
    # the pass of a straight wall is exact on any grid that has its lowest point
    potential = DoubleWell(2, barrier=7.0)
    found = lowest_pass(potential, point(-1, 0), point(1, 0), nodes=(41, 31))
    assert found.energy == pytest.approx(7.0, abs=1e-12)
    torch.testing.assert_close(found.top, point(0, 0))
    torch.testing.assert_close(found.path[[0, -1]], torch.stack([point(-1, 0), point(1, 0)]))


def test_the_pass_finds_the_way_over_the_seam():
    potential = torus()
    a, b = point(-2, 0), point(2, 0)
    found = lowest_pass(potential, a, b, nodes=64)
    assert found.energy == pytest.approx(0.5, abs=1e-12)
    # unwrapped: it ends at the image of the second state across the seam
    torch.testing.assert_close(found.path[-1], b - point(2 * math.pi, 0))
    steps = (found.path[1:] - found.path[:-1]).abs()
    assert float(steps.max()) < 2 * math.pi / 64 * 1.5 + 1e-9


def test_one_and_three_dimensions():
    for dim in (1, 3):
        potential = DoubleWell(dim, barrier=3.0)
        a, b = torch.zeros(2, dim, dtype=torch.float64)
        a[0], b[0] = -1, 1
        assert lowest_pass(potential, a, b, nodes=25).energy == pytest.approx(3.0, abs=1e-12)


@pytest.mark.parametrize(
    ("potential", "a", "b", "nodes", "message"),
    [
        (MuellerBrown(), point(9, 9), LOWER, 21, "outside the box"),
        (MuellerBrown(), UPPER, LOWER, 1, "at least 2 nodes"),
        (DoubleWell(4), point(1, 0, 0, 0), point(-1, 0, 0, 0), 5, "at most 3"),
    ],
)
def test_the_pass_says_what_is_wrong(potential, a, b, nodes, message):
    with pytest.raises(ValueError, match=message):
        lowest_pass(potential, a, b, nodes=nodes)


@pytest.mark.parametrize("images", [17, 65])
def test_the_string_is_a_minimum_energy_path(images: int):
    potential = MuellerBrown()
    with counting() as spent:
        found = string(potential, torch.stack([UPPER, LOWER]), images=images)
    assert found.converged
    assert found.evaluations == spent.energies
    assert found.saddle is not None
    torch.testing.assert_close(found.saddle, SADDLE, rtol=0, atol=1e-7)
    assert float(potential(found.saddle)) == pytest.approx(HEIGHT, abs=1e-4)
    # a minimum-energy path crosses no higher point, and passes the minimum between its two saddles
    assert float(found.energies.max()) < HEIGHT + 0.05
    middle = (found.nodes - point(-0.05001082, 0.4666941)).norm(dim=-1).min()
    spacing = (found.nodes[1] - found.nodes[0]).norm()
    assert float(middle) < float(spacing)


def test_images_stand_at_equal_distance():
    found = string(MuellerBrown(), torch.stack([UPPER, LOWER]), images=33)
    gaps = (found.nodes[1:] - found.nodes[:-1]).norm(dim=-1)
    # equal on the polyline before: chords of its corners are shorter
    assert float(gaps.std() / gaps.mean()) < 0.02


def test_the_string_of_a_straight_valley_is_known_at_once():
    found = string(DoubleWell(2, barrier=5.0), torch.stack([point(-1, 0), point(1, 0)]), images=11)
    assert found.iterations == 0
    assert found.saddle is not None
    torch.testing.assert_close(found.saddle, point(0, 0))


def test_the_string_says_what_is_wrong():
    with pytest.raises(ValueError, match="start has shape"):
        string(MuellerBrown(), UPPER)
    kink = from_callable(
        lambda x: (x[..., 0] ** 2 - 1) ** 2 * (2 + x[..., 0].abs().sqrt()) + x[..., 1] ** 2,
        dim=2, kT=1, unit="kT", box=((-2, 2), (-2, 2)),
    )  # fmt: skip
    for step in (None, 1e-3):
        with pytest.raises(ValueError, match="not finite at"):
            string(kink, torch.stack([point(-1, 0), point(1, 0)]), images=5, step=step)


@pytest.mark.parametrize(
    ("potential", "ends", "message"),
    [
        # the well at -1 lies 10 ((.4)^2 - 1)^2 + 10 (.3)^2 below
        (
            DoubleWell(),
            [(-0.4, 0.3), (0.5, -0.3)],
            r"first end .* no minimum .* 7\.956 above",
        ),
        (DoubleWell(), [(-1, 0), (-0.6, 0)], r"last end of start is no .* lies 4\.096 above"),
        (DoubleWell(), [(-1, 0), (0, 0)], "last end of start is no .* lies 10 above"),
        (MuellerBrown(), [UPPER.tolist(), SADDLE.tolist()], "last end of start is no minimum"),
        (DoubleWell(), [(-1, 0), (0.5, 0.5), (-1, 0.001)], "both ends of start belong to"),
    ],
)
def test_the_string_joins_two_minima(potential: Potential, ends: list, message: str):
    with pytest.raises(ValueError, match=message):
        string(potential, torch.tensor(ends, dtype=torch.float64))


def test_ends_of_two_digits_are_minima_and_so_are_two_images_of_one():
    found = string(MuellerBrown(), torch.stack([point(-0.56, 1.44), point(0.62, 0.03)]), images=17)
    assert found.converged
    assert found.saddle is not None
    torch.testing.assert_close(found.saddle, SADDLE, rtol=0, atol=1e-7)
    start = relax(torus(), point(-2.3, 0))
    round_it = string(torus(), torch.stack([start, start + point(2 * math.pi, 0)]))
    assert round_it.converged
    assert round_it.saddle is not None
    torch.testing.assert_close(round_it.saddle, point(0, 0), rtol=0, atol=1e-6)


def test_a_string_that_steps_over_its_passes_is_not_converged():
    # three wells in a row, each a little higher: barriers at +-.577
    stairs = from_callable(
        lambda x: 5 * x[..., 0] ** 2 * (x[..., 0] ** 2 - 1) ** 2 + 0.1 * x[..., 0],
        dim=1, kT=1, unit="kT", box=((-2, 2),),
    )  # fmt: skip
    ends = relax(stairs, torch.stack([point(-1), point(1)]))
    coarse, fine = (string(stairs, ends, images=images) for images in (3, 33))
    assert coarse.energies.argmax() == 2
    assert (coarse.saddle, coarse.converged) == (None, False)
    assert fine.converged
    assert fine.saddle is not None
    # U'' = -40/3 at 1/sqrt(3): the tilt of .1 moves the barrier by .1 / (40/3), to its square
    assert float(fine.saddle) == pytest.approx(3**-0.5 + 0.1 * 3 / 40, abs=1e-4)


def test_the_papers_surface(data_folder: Path):
    surface = read_grid(data_folder / "alanine" / "final_frame.dat", kT=1.0)
    a, b = point(-2.55, 2.7), point(0.95, -0.4)
    found = lowest_pass(surface, a, b, nodes=89)
    # at the table's own points: 36.33 within the rounding of that number, or of the spline's ends
    assert found.energy == pytest.approx(36.33, abs=0.01)
    # it leads over phi = 0, not over the seam
    torch.testing.assert_close(found.path[-1], b)
    assert lowest_pass(surface, a, b, nodes=178).energy == pytest.approx(36.33, abs=0.01)
