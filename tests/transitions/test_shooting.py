"""Two-way shooting against brute force, and against what reversibility and committors say."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from diffodesic.experiments.alanine.simulations import baselines
from diffodesic.numerics.cost import counting
from diffodesic.transitions.langevin import Langevin
from diffodesic.transitions.potentials import DoubleWell, Potential
from diffodesic.transitions.shooting import ShootingOptions, two_way_shooting
from diffodesic.transitions.simulation import PathEnsemble, plain_dynamics
from diffodesic.transitions.states import Basin
from support.langevin import trajectory


def point(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


WELL = DoubleWell(1, barrier=1.5)
LEFT, RIGHT, TOP = Basin(point(-1), 0.2), Basin(point(1), 0.2), point(0)
STEP = 0.02
NARROW: Potential = DoubleWell(1, barrier=1e6)


def shoot(
    potential: Potential = WELL, a: Basin = LEFT, b: Basin = RIGHT, **options: Any
) -> PathEnsemble:
    return two_way_shooting(potential, a, b, TOP, ShootingOptions(**{"step": STEP} | options))


def error_of_mean(ensemble: PathEnsemble, values: Tensor) -> float:
    """The standard error of a mean over paths, from the scatter between chains."""
    return PathEnsemble(values, ensemble.lengths, ensemble.chain, (), 0, 1, 1, 1).standard_error


def agree(a: float, b: float, *errors: float) -> None:
    # four standard errors: a correct sampler fails one seed in 16,000
    assert abs(a - b) < 4 * math.hypot(*errors)


@pytest.fixture(scope="module")
def plain() -> PathEnsemble:
    return plain_dynamics(WELL, LEFT, RIGHT, step=STEP, steps=1000, walkers=1000, seed=1)


@pytest.mark.parametrize("above", [None, 0.8])
def test_shooting_samples_the_paths_of_plain_dynamics(plain: PathEnsemble, above: float | None):
    shot = shoot(above=above, paths=2000, chains=500, burn_in=12, seed=2)
    assert len(plain.max_energy) > 1000
    for name in ("lengths", "max_energy"):
        ours, theirs = (getattr(e, name).double() for e in (shot, plain))
        errors = [error_of_mean(e, v) for e, v in ((shot, ours), (plain, theirs))]
        agree(float(ours.mean()), float(theirs.mean()), *errors)
    assert float(shot.max_energy.min()) > 1.2  # a step may jump the very top


@pytest.mark.slow
def test_time_on_transition_paths_is_weighted_by_the_committor():
    # p(x | on a path) ~ exp(-U) q (1 - q), with q' ~ exp(U): Hummer, J. Chem. Phys. 120, 516, 2004
    shot = shoot(step=2e-3, paths=200, chains=100, burn_in=15, above=0.8, seed=3)
    x = torch.linspace(-0.8, 0.8, 4001, dtype=torch.float64)
    u = WELL(x[:, None])
    q = torch.cumulative_trapezoid(u.exp(), x)
    q = torch.cat([point(0), q / q[-1]])
    weight = (-u).exp() * q * (1 - q)
    exact = float(torch.trapezoid(weight * x**2, x) / torch.trapezoid(weight, x))
    inner = [path[1:-1, 0] ** 2 for path in shot.examples]
    totals = torch.stack([point(float(f.sum()), len(f)) for f in inner])
    ratio = totals[:, 0].sum() / totals[:, 1].sum()
    # delta method for the ratio of sums over independent chains; runs overshoot the states by
    # order sqrt(step), .045 of x at their edge, and x^2 counts that twice
    off = totals[:, 0] - ratio * totals[:, 1]
    error = float(off.std() * math.sqrt(len(off)) / totals[:, 1].sum())
    assert abs(float(ratio) - exact) < 4 * error + 2 * math.sqrt(2e-3) * exact


def test_fixed_length_paths_are_windows_of_equilibrium():
    well, steps, step = DoubleWell(1, barrier=1.0), 20, 0.02
    left, right = Basin(point(-1), 0.5), Basin(point(1), 0.5)
    start = torch.where(torch.arange(6000) % 2 == 0, 1.0, -1.0)[:, None].double()
    chains, _ = trajectory(Langevin(well, step), start, steps=300, seed=4)
    windows = torch.cat([chains[:, 100 + i : 121 + i] for i in range(0, 180, 60)])
    joined = left.holds(well, windows[:, 0]) & right.holds(well, windows[:, -1])
    brute = well(windows[joined]).amax(-1)
    options = ShootingOptions(step, length=steps, paths=3000, chains=500, burn_in=10, seed=5)
    shot = two_way_shooting(well, left, right, point(0), options)
    assert set(shot.lengths.tolist()) == {steps + 1}
    assert len(brute) > 200
    spread = float(brute.std() / math.sqrt(len(brute)))
    agree(shot.mean, float(brute.mean()), shot.standard_error, spread)


def test_paths_run_from_the_first_state_to_the_second_and_nowhere_inside():
    shot = shoot(paths=50, chains=50, burn_in=2, seed=6)
    assert len(shot.examples) == 50
    for path, top in zip(shot.examples, shot.max_energy, strict=True):
        assert bool(LEFT.holds(WELL, path[0]))
        assert bool(RIGHT.holds(WELL, path[-1]))
        inside = LEFT.holds(WELL, path[1:-1]) | RIGHT.holds(WELL, path[1:-1])
        assert not bool(inside.any())
        assert float(WELL(path).max()) == float(top)


@pytest.mark.parametrize("length", [None, 30])
def test_evaluations_are_counted_and_seeds_repeat(length: int | None):
    wide: dict[str, Any] = {"a": Basin(point(-1), 0.5), "b": Basin(point(1), 0.5), "length": length}

    def counted(seed: int) -> tuple[PathEnsemble, int]:
        with counting() as spent:
            shot = shoot(**wide, paths=20, chains=10, burn_in=1, seed=seed)
        return shot, spent.energies

    (one, spent), (two, _), (other, _) = counted(0), counted(0), counted(1)
    assert one.evaluations == spent
    assert torch.equal(one.max_energy, two.max_energy)
    assert not torch.equal(one.max_energy, other.max_energy)
    if length is not None:
        # rounds of first paths, one of burn-in, two more: every run has all of its steps, and both
        # its halves evaluate the frame they start from
        assert one.evaluations % (10 * (length + 2)) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step": 0.0}, "step must be above 0"),
        ({"step": math.nan}, "step must be finite"),
        ({"b": Basin(point(-0.9), 0.2)}, "overlap"),
        ({"paths": 15}, "multiple of chains"),
        ({"length": 1}, "length must be at least 2"),
        ({"length": 3}, "join the states"),
        ({"potential": NARROW, "length": 200}, "smaller step"),
    ],
)
def test_shooting_says_what_is_wrong(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        shoot(**{"paths": 10, "chains": 10, "burn_in": 0} | options)


@pytest.mark.slow
def test_rows_of_the_other_methods_come_out():
    well = DoubleWell(2, barrier=6.0)
    rows = list(baselines(well, point(-1, 0), point(1, 0), quick=True))
    assert [row.method.split(",")[0] for row in rows] == [
        "lowest pass",
        "string",
        "two-way shooting",
        "two-way shooting",
        "plain dynamics",
        "plain dynamics",
    ]
    assert rows[0].max_energy == pytest.approx(6, abs=0.01)
    assert rows[1].max_energy == pytest.approx(6, abs=1e-9)
    for row in rows[2:4]:
        assert row.paths == 20
        assert row.error is not None
        assert 6 < row.max_energy < 12
    assert all(row.evaluations > 0 for row in rows)
