"""Samples of a Boltzmann law against quadrature, and trajectories that cannot be used."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from diffodesic import Potential
from diffodesic.numerics.cost import counting
from diffodesic.transitions.grid_denoiser import GridDenoiser
from diffodesic.transitions.own_potentials import from_callable
from diffodesic.transitions.potentials import DoubleWell, MuellerBrown
from diffodesic.transitions.sampling import boltzmann, check_samples, load_trajectory
from diffodesic.transitions.surfaces import alanine

TURN = 2 * math.pi


def tilted() -> Potential:
    """Two wells 8 kT deep, the right one favoured by 2 kT."""
    return from_callable(
        lambda x: 8 * (x[..., 0] ** 2 - 1) ** 2 - x[..., 0],
        dim=1, kT=1.0, box=((-2.0, 2.0),), unit="kT",
    )  # fmt: skip


@pytest.mark.parametrize(
    "potential", [tilted(), DoubleWell(), MuellerBrown(), alanine()], ids=lambda p: p.name
)
def test_averages_are_those_of_quadrature(potential):
    count = 8192
    x, slope = boltzmann(potential, count, seed=1)
    grid = GridDenoiser(potential)
    nodes = torch.stack(torch.meshgrid(*grid.axes, indexing="ij"), -1)
    for axis, (low, high) in enumerate(potential.box):
        assert float(x[:, axis].min()) >= low
        assert float(x[:, axis].max()) <= high
        # smooth in every coordinate, periodic or not
        waves = [(f, k) for f in (torch.sin, torch.cos) for k in (1, 2)]
        for wave, order in waves:
            rate = order * TURN / (high - low)
            exact = float((grid.weights * wave(rate * nodes[..., axis])).sum())
            seen = wave(rate * x[:, axis])
            # resampling keeps the populations of basins to some standard errors of N free draws
            assert abs(float(seen.mean()) - exact) < 6 * float(seen.std()) / math.sqrt(count)
    # what the score of the law must do: E grad U = 0
    assert bool((slope.mean(0).abs() < 5 * slope.std(0) / math.sqrt(count)).all())


def test_slopes_belong_to_the_points_and_the_seed_to_both():
    with counting() as spent:
        x, slope = boltzmann(MuellerBrown(), 500, seed=3)
    assert spent.energies < 500 * 400
    torch.testing.assert_close(slope, MuellerBrown().gradient(x)[1] / 15)
    assert torch.equal(x, boltzmann(MuellerBrown(), 500, seed=3)[0])
    assert not torch.equal(x, boltzmann(MuellerBrown(), 500, seed=4)[0])


def test_many_coordinates_and_the_box():
    x, _ = boltzmann(DoubleWell(dim=6), 2000, seed=0)
    share = float((x[:, 0] > 0).double().mean())
    assert abs(share - 0.5) < 6 * 0.5 / math.sqrt(2000)
    flat = from_callable(
        lambda x: 0 * x[..., 0], dim=1, kT=1, box=((0.0, 1.0),), unit="kT", name="flat"
    )
    x, _ = boltzmann(flat, 1000, seed=0)
    assert 0 <= float(x.min()) < float(x.max()) <= 1
    assert float(x.std()) == pytest.approx(1 / math.sqrt(12), rel=0.1)


def test_potentials_that_cannot_be_sampled():
    with pytest.raises(ValueError, match="at least 100"):
        boltzmann(DoubleWell(), 99)
    needle = from_callable(
        lambda x: 1e8 * (x**2).sum(-1), dim=3, kT=1, box=((-1.0, 1.0),) * 3, unit="kT", name="pin"
    )
    with pytest.raises(ValueError, match="pin fill too little of its box"):
        boltzmann(needle, 200)


def test_trajectories_are_read(tmp_path):
    points = np.random.default_rng(0).normal(size=(120, 2)).astype("float32")
    np.save(tmp_path / "a.npy", points)
    np.savez(tmp_path / "b.npz", points)
    np.savez(tmp_path / "c.npz", one=points[:5], two=points.reshape(4, 30, 2))
    for name in ("a.npy", "b.npz", "c.npz:two"):
        torch.testing.assert_close(
            load_trajectory(f"{tmp_path}/{name}"), torch.from_numpy(points).double()
        )
    np.save(tmp_path / "d.npy", points[:, 0])
    np.save(tmp_path / "e.npy", np.array([["a", "b"]]))
    (tmp_path / "f.npy").write_bytes(b"x")
    whole = (tmp_path / "b.npz").read_bytes()
    (tmp_path / "h.npz").write_bytes(whole[:200])
    (tmp_path / "i.npz").write_bytes(whole[:300] + b"x" + whole[301:])
    np.savez(tmp_path / "j.npz")
    for name, message in (
        ("c.npz", r"arrays one, two: say which one, .*c\.npz:one"),
        ("d.npy", r"shape \(120,\)"),
        ("e.npy", "numbers"),
        ("f.npy", "numpy.save"),
        ("h.npz", r"h\.npz is no array"),
        ("i.npz", r"i\.npz is no array"),
        ("j.npz", "holds no array"),
    ):
        with pytest.raises(ValueError, match=message):
            load_trajectory(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="no trajectory"):
        load_trajectory(tmp_path / "g.npy")


def test_archives_are_closed(tmp_path, monkeypatch):
    np.savez(tmp_path / "a.npz", np.zeros((5, 2)))
    opened = []
    load = np.load

    def spy(file: Any, **how: Any) -> Any:
        opened.append(load(file, **how))
        return opened[-1]

    monkeypatch.setattr(np, "load", spy)
    load_trajectory(tmp_path / "a.npz")
    assert opened[0].zip.fp.closed


def test_samples_that_nothing_can_be_learned_from(draw):
    x = draw(200, 2)
    check_samples(x, (None, TURN))
    check_samples(60 * x, (360.0, None))
    broken = x.clone()
    broken[7, 1] = math.nan
    cases = [
        (broken, (None, None), "NaN or infinity, first in row 7"),
        (x[:, 0], (None, None), r"shape \(200,\)"),
        (x, (None,), "with 1 periods"),
        (x[:50], (None, None), "50 samples are too few"),
        (60 * x, (TURN, TURN), "looks like degrees"),
        (x, (-1.0, None), "period of coordinate 0 is -1"),
        (x * torch.tensor([1.0, 0.0]), (None, None), "coordinate 1 never changes"),
    ]
    for samples, period, message in cases:
        with pytest.raises(ValueError, match=message):
            check_samples(samples, period)
