"""Potentials against their stationary points, finite differences and their own periods."""

from __future__ import annotations

import math

import pytest
import torch

from diffodesic.numerics.cost import counting
from diffodesic.transitions.potentials import (
    DoubleWell,
    DualChannel,
    MuellerBrown,
    Ring,
)
from diffodesic.transitions.stationary import relax
from diffodesic.transitions.surfaces import PeriodicSurface, alanine, read_grid
from support.checks import same
from tools.fit_surface import fit_surface, held_out

TURN = 2 * math.pi


def points(*rows: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def angles(n: int) -> torch.Tensor:
    return -math.pi + TURN / n * torch.arange(n, dtype=torch.float64)


def waves(x: torch.Tensor) -> torch.Tensor:
    """A smooth periodic energy that tells phi from psi."""
    phi, psi = x.unbind(-1)
    return torch.sin(phi) + 2 * torch.cos(2 * psi) + torch.sin(phi + psi)


def surface(n: int, m: int | None = None) -> PeriodicSurface:
    grid = torch.stack(torch.meshgrid(angles(n), angles(m or n), indexing="xy"), -1)
    return PeriodicSurface(waves(grid), kT=1.0)


EVERY = [DoubleWell(), DoubleWell(dim=3), MuellerBrown(), DualChannel(), Ring(), alanine()]


@pytest.mark.parametrize("potential", EVERY, ids=lambda p: f"{p.name}-{p.dim}")
def test_gradients_are_those_of_the_energy(potential, uniform):
    low, high = (
        torch.tensor(side, dtype=torch.float64) for side in zip(*potential.box, strict=True)
    )
    x = low + (high - low) * uniform(0.2, 0.8, 20, potential.dim)
    energy, slope = potential.gradient(x)
    same(energy, potential(x))
    for axis in range(potential.dim):
        step = torch.zeros(potential.dim, dtype=torch.float64)
        step[axis] = 1e-5
        numeric = (potential(x + step) - potential(x - step)) / 2e-5
        # central differences: 1e-10 times the third derivative, and rounding of 1e-16/1e-5
        scale = slope.abs().max() + energy.abs().max()
        assert float((slope[..., axis] - numeric).abs().max()) < 1e-7 * float(scale)
    same(potential.force(x), -slope)


def test_mueller_brown_has_its_published_minima():
    found = relax(MuellerBrown(), points((-0.5, 1.4), (0.6, 0.0), (0.0, 0.5)))
    expected = points((-0.55822363, 1.44172584), (0.6234994, 0.02803776), (-0.05001082, 0.4666941))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(
        MuellerBrown()(found), points((-146.6995, -108.1667, -80.7678))[0], rtol=0, atol=1e-4
    )


def test_double_well_in_closed_form():
    well = DoubleWell(dim=3, barrier=7.0, stiffness=3.0)
    x = points((1, 0, 0), (-1, 0, 0), (0, 0, 0), (1, 2, 1))
    same(well(x), points((0, 0, 7, 7.5))[0])


def test_dual_channel_has_a_wall_and_two_gaps():
    channel = DualChannel()
    wall, upper, lower = channel(points((0, 0), (0, 1.2), (0, -1.2))).tolist()
    # 2 + 30 at the wall; a gap leaves 30 (1 - depth) beside the basins' own 2 + y^2/2
    assert abs(wall - 32) < 0.05
    assert abs(upper - (2 + 0.72 + 1.5)) < 1e-3
    assert abs(lower - (2 + 0.72 + 4.5)) < 1e-3


def test_ring_stands_round_its_crest():
    ring = Ring(crest=40, barrier=6, tilt=1)
    same(ring(points((0, 0), (1, 0), (0, 1), (0, -1))), points((40, 0, 7, 5))[0])


def test_spline_meets_its_grid_and_is_periodic(uniform):
    spline = surface(12, 10)
    grid = torch.stack(torch.meshgrid(angles(12), angles(10), indexing="xy"), -1)
    same(spline(grid), waves(grid))
    x = uniform(-9, 9, 50, 2)
    same(spline(x), spline(x + points((TURN, -2 * TURN))))
    same(spline.gradient(x)[1], spline.gradient(spline.wrap(x))[1])


def test_spline_is_of_fourth_order(uniform):
    x = uniform(-3, 3, 200, 2)
    errors = [float((surface(n)(x) - waves(x)).abs().max()) for n in (24, 48)]
    # halving the spacing: 16 times less, to a tenth
    assert 14.4 < errors[0] / errors[1] < 17.6


def test_spline_has_continuous_second_derivatives():
    spline = surface(9)
    line = angles(9)[4]
    for axis in (0, 1):
        x = points((0.3, 0.4)).repeat(4, 1)
        h = 1e-4
        x[:, axis] = line + h * torch.tensor([-2.0, -1.0, 1.0, 2.0], dtype=torch.float64)
        slope = spline.gradient(x)[1][:, axis]
        before, after = slope[1] - slope[0], slope[3] - slope[2]
        # they differ by the third derivative times 3 h
        assert abs(float((after - before) / h)) < 3 * h * 20


def test_second_derivatives_come_by_autograd():
    spline, x = surface(40), points((0.3, -1.1))
    hessian = torch.autograd.functional.hessian(lambda y: spline.energy(y).sum(), x)[0, :, 0]
    truth = torch.autograd.functional.hessian(lambda y: waves(y).sum(), x)[0, :, 0]
    # a cubic spline's second derivative errs by h^2/12 of the fourth, here at most 34
    torch.testing.assert_close(hessian, truth, rtol=0, atol=34 / 12 * (TURN / 40) ** 2)


def test_tables_are_read_with_psi_in_rows(tmp_path):
    n = 6
    grid = torch.stack(torch.meshgrid(angles(n), angles(n), indexing="xy"), -1)
    rows = [(*point, float(waves(point))) for point in grid.reshape(-1, 2)]
    file = tmp_path / "table.dat"
    file.write_text("# phi psi z\n" + "\n".join(" ".join(f"{float(v)!r}" for v in r) for r in rows))
    found = read_grid(file, kT=1.0)
    same(found(grid), waves(grid))
    swapped = tmp_path / "swapped.dat"
    swapped.write_text("\n".join(f"{float(q)} {float(p)} {float(e)}" for p, q, e in rows))
    with pytest.raises(ValueError, match="second column runs fastest"):
        read_grid(swapped, kT=1.0)


def test_the_papers_grid(data_folder):
    found = read_grid(data_folder / "alanine" / "final_frame.dat", kT=1.0)
    assert found.values.shape == (89, 89)
    assert float(found.values.min()) == 0
    # its states, as published: near minima, the second a few units up the slope
    a, b = points((-2.55, 2.7), (0.95, -0.4))
    assert float(found(a)) < 1
    assert 6 < float(found(relax(found, b))) < float(found(b)) < 9


def test_shipped_surface_is_that_of_the_samples(data_folder):
    np = pytest.importorskip("numpy")
    data = np.load(data_folder / "alanine" / "md" / "phipsi.npz")
    x = torch.cat([torch.from_numpy(data[run]).double() for run in data])
    found = alanine()
    assert found.unit == "kJ/mol"
    grid = torch.stack(torch.meshgrid(angles(192), angles(192), indexing="xy"), -1)
    law = torch.softmax(-found(grid).reshape(-1) / found.kT, 0)
    phi = grid[..., 0].reshape(-1)
    for inside, share in ((phi > 0, x[:, 0] > 0), (phi < -2, x[:, 0] < -2)):
        # 10 %: the fit is not the sample, and the rare side holds 150 of 60,000
        assert abs(float(law[inside].sum()) / float(share.double().mean()) - 1) < 0.1


def test_evaluations_are_counted_where_they_happen():
    ring = Ring()
    with counting() as outer:
        ring(points((0, 0)))
        with counting() as inner:
            ring.gradient(torch.zeros(3, 4, 2, dtype=torch.float64))
    assert outer.energies == 13
    assert inner.energies == 12


def test_nearest_images():
    found = alanine()
    a, b = points((3.0, -3.0)), points((-3.0, 3.0))
    same(found.difference(a, b), points((6 - TURN, TURN - 6)))
    same(found.wrap(points((3.5, -10.0))), points((3.5 - TURN, 2 * TURN - 10)))
    ring = Ring()
    same(ring.difference(a, b), a - b)
    same(ring.wrap(5 * a), 5 * a)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="last axis must be 2"):
        Ring()(torch.zeros(3, dtype=torch.float64))
    with pytest.raises(ValueError, match="kT must be a positive"):
        Ring().at(-1.0)
    with pytest.raises(ValueError, match="at least 4 x 4"):
        PeriodicSurface(torch.zeros(3, 5), kT=1.0)


def test_a_surface_is_fitted_to_samples_of_a_known_law(rng):
    truth = surface(48)
    grid = torch.stack(torch.meshgrid(angles(96), angles(96), indexing="xy"), -1).reshape(-1, 2)
    law = torch.softmax(-truth(grid), 0)
    runs = [grid[torch.multinomial(law, 4000, True, generator=rng)] for _ in range(2)]
    scores = held_out(runs, [1e-3, 0.3, 100.0], points=16)
    assert max(scores, key=lambda s: scores[s]) == 0.3
    found = fit_surface(torch.cat(runs), kT=1.0, smoothness=0.3, points=16)
    other = torch.softmax(-found(grid), 0)
    # KL of the fit: of the order of effective parameters over twice the samples, 100/16,000
    assert float((law * (law / other).log()).sum()) < 0.015
    with pytest.raises(ValueError, match="not in degrees"):
        fit_surface(points((170.0, 20.0)), kT=1.0, smoothness=1.0)
    with pytest.raises(ValueError, match="at least 2 runs"):
        held_out(runs[:1], [1.0])
