"""Training: targets without bias, levels, errors against quadrature, resuming, refusals."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from diffodesic import Denoiser, Potential
from diffodesic.cli import main as cli
from diffodesic.models.folder import write_model
from diffodesic.transitions.coordinate_training import (
    CoordinateSettings,
    _CoordinateTraining,
    _scales,
    forces_hold,
    train_denoiser,
    wrapped,
)
from diffodesic.transitions.grid_denoiser import GridDenoiser
from diffodesic.transitions.learned import (
    CoordinateNet,
    Coordinates,
    LearnedDenoiser,
    describe,
    load_denoiser,
)
from diffodesic.transitions.own_potentials import from_callable
from diffodesic.transitions.potentials import DoubleWell, MuellerBrown
from diffodesic.transitions.sampling import boltzmann
from diffodesic.transitions.surfaces import alanine
from support.training import interrupted

TURN = 2 * math.pi
TINY = CoordinateSettings(
    steps=8, batch=64, warmup=2, samples=500, width=16, layers=1, harmonics=2, name="tiny"
)
SHORT = CoordinateSettings(
    steps=250, batch=128, warmup=20, lr=5e-3, samples=4096, width=32, layers=2, ema=0.97
)


def run(
    potential: Potential, settings: CoordinateSettings, folder: Path, *, forces: bool
) -> _CoordinateTraining:
    x, slope = boltzmann(potential, settings.samples, seed=1)
    known = slope if forces else None
    coordinates = _scales(x, known, potential.period, settings, potential)
    return _CoordinateTraining(coordinates, x, known, settings, folder)


def samples_of(grid: GridDenoiser, count: int, generator: torch.Generator) -> Tensor:
    """Points of the distribution on a grid, spread over the cells of its nodes."""
    nodes = torch.stack(torch.meshgrid(*grid.axes, indexing="ij"), -1).reshape(-1, grid.dim)
    index = torch.multinomial(
        grid.weights.reshape(-1), count, replacement=True, generator=generator
    )
    cell = torch.stack([axis[1] - axis[0] for axis in grid.axes])
    return nodes[index] + cell * (torch.rand(count, grid.dim, generator=generator).double() - 0.5)


def error(denoiser: Denoiser, grid: GridDenoiser, sigma: float) -> float:
    """RMS of m - m_exact in units of sigma, over noisy points."""
    generator = torch.Generator().manual_seed(5)
    x = samples_of(grid, 1000, generator)
    z = x + sigma * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    level = torch.tensor(sigma, dtype=torch.float64)
    return float((denoiser(z, level) - grid(z, level)).square().sum(-1).mean().sqrt()) / sigma


def test_the_wrapped_kernel_is_the_sum_over_images(uniform):
    sigma = torch.tensor([0.05, 0.3, 1.0, 1.49, 1.51, 3.0, 6.0], dtype=torch.float64)
    y = uniform(-9, 9, 7, 200)
    log, shift = wrapped(y, sigma * 3 / TURN, 3.0)
    images = y.unsqueeze(-1) + 3 * torch.arange(-40, 41)
    exponent = -((images / (sigma[:, None, None] * 3 / TURN)) ** 2) / 2
    expected = (torch.softmax(exponent, -1) * images).sum(-1)
    # the series are cut at 1e-6 of the shift, whose size at much noise is e^{-sigma^2/2}
    size = (
        sigma[:, None] * (1 + 2 * sigma[:, None] ** 2).sqrt() * (-(sigma[:, None] ** 2) / 2).exp()
    )
    assert float(((shift - expected).abs() / size).max()) < 1e-6
    level = torch.logsumexp(exponent, -1) - log
    torch.testing.assert_close(level, level[:, :1].expand_as(level), rtol=0, atol=1e-6)


def cut(slope: float, *, period: float | None = None) -> Potential:
    """U = slope x on [0, 1]: hard walls, unless it is a circle."""
    return from_callable(
        lambda x: slope * x[..., 0], dim=1, kT=1.0, box=((0.0, 1.0),), unit="kT",
        period=(period,), name="cut",
    )  # fmt: skip


@pytest.mark.parametrize("forces", [True, False])
@pytest.mark.parametrize(
    "potential", [DoubleWell(barrier=3.0), alanine(), cut(3.0)], ids=lambda p: p.name
)
def test_targets_have_the_posterior_mean(potential, forces, tmp_path):
    # above the cells of the grid, in which the points below are uniform
    settings = replace(TINY, batch=128, sigma_min=0.1)
    course = run(potential, settings, tmp_path, forces=forces)
    grid, found = GridDenoiser(potential, points=128), []
    # a pool so large that hardly a point is drawn twice
    x = samples_of(grid, 1 << 17, torch.Generator().manual_seed(2))
    course.x = (x - course.centre.double()).float()
    if forces:
        course.force = -(potential.gradient(x)[1] / potential.kT).float()
    for course.step in range(64):
        z, sigma, _, _, target, scale = course.draw()
        point, level = (z + course.centre).double(), sigma.double()
        skip, _, _ = course.coordinates.precondition(level)
        exact = grid(point, level) - point + (1 - skip) * z
        off = (target - exact) / scale
        # against functions of z: none, waves, and the exact answer itself
        probes = [torch.ones_like(off), z.sin(), (2 * z).cos(), exact / scale]
        found.append(torch.stack([(off * p).mean(0) for p in probes]))
        assert float(off.square().mean()) < 1.2
    batches = torch.stack(found)
    error = batches.std(0) / 8
    assert float((batches.mean(0).abs() / error).max()) < 4


@pytest.mark.parametrize("seed", range(3))
def test_forces_are_used_where_the_density_vanishes(seed):
    for potential, held in (
        (DoubleWell(barrier=3.0), [True, True]),
        (MuellerBrown(), [True, True]),
        (alanine(), [True, True]),
        (cut(1.0), [False]),
        (cut(0.0), [False]),
        (cut(0.0, period=1.0), [True]),
    ):
        x, slope = boltzmann(potential, 2000, seed=seed)
        assert forces_hold(x, slope, potential).tolist() == held
        coordinates = _scales(x, slope, potential.period, TINY, potential)
        assert [width > 0 for width in coordinates.width] == held
        # no force at all says nothing of scales beyond those of the box
        assert 0 < coordinates.sigma_min < 0.2


def test_flat_potentials_train(tmp_path):
    for period in (None, 1.0):
        folder = train_denoiser(
            cut(0.0, period=period), tmp_path / str(period), settings=TINY, progress=False
        )
        assert load_denoiser(folder).coordinates.sigma_min <= 1 / 8
    assert (
        "No forces along coordinates 0, where the box cuts"
        in (tmp_path / "None" / "CARD.md").read_text()
    )


def test_mixed_scales_train(tmp_path, draw):
    # sigma goes up to 50, where the first wave of the circle is e^-1250
    x = draw(2000, 2) * torch.tensor([1.0, 5.0])
    folder = train_denoiser(
        x, tmp_path, period=(TURN, None), settings=replace(TINY, steps=3), progress=False
    )
    learned = load_denoiser(folder)
    assert learned.coordinates.sigma_max > 40
    level = torch.tensor(learned.coordinates.sigma_max)
    assert bool(learned(x[:5], level).isfinite().all())


def test_levels_are_drawn_as_they_are_weighted(tmp_path):
    course = run(DoubleWell(), TINY, tmp_path, forces=True)
    course.noise = torch.linspace(0, 2, len(course.noise)) ** 2
    n = 24_000
    sigma, share, bins = course.levels((torch.arange(n) + 0.5) / n)
    assert float(sigma.min()) >= course.coordinates.sigma_min * (1 - 1e-5)
    assert float(sigma.max()) <= course.coordinates.sigma_max * (1 + 1e-5)
    assert bool((sigma.diff() > -1e-6).all())
    # weights undo the draw: every bin counts the same
    weight = torch.zeros(24).index_add(0, bins, 1 / share) * 24 / n
    torch.testing.assert_close(weight, torch.ones(24), rtol=0.01, atol=0)
    assert float(share.max()) / float(share.min()) > 2.5


def angle() -> Potential:
    """Two unequal wells on a circle."""
    return from_callable(
        lambda x: 2 * (2 * x[..., 0]).cos() + x[..., 0].sin(),
        dim=1, kT=1.0, box=((-math.pi, math.pi),), unit="kT", period=(TURN,), name="angle",
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Short runs on a circle and on the line."""
    return {
        potential.name: train_denoiser(
            potential, tmp_path_factory.mktemp(potential.name), settings=SHORT, progress=False
        )
        for potential in (angle(), DoubleWell())
    }


@pytest.mark.parametrize(
    ("potential", "allowed"), [(angle(), 0.1), (DoubleWell(), 0.2)], ids=lambda p: str(p)[:4]
)
def test_a_short_run_comes_close_to_quadrature(potential, allowed, trained):
    learned, grid = load_denoiser(trained[potential.name]), GridDenoiser(potential)
    learned.check(potential)
    fresh = LearnedDenoiser(CoordinateNet(learned.coordinates, width=8))
    for sigma in (0.2, 0.5):
        assert error(learned, grid, sigma) < min(allowed, error(fresh, grid, sigma) / 2)


def test_a_trajectory_teaches_without_forces(tmp_path):
    x, _ = boltzmann(angle(), 8192, seed=2)
    np.save(tmp_path / "x.npy", x.numpy())
    folder = train_denoiser(
        tmp_path / "x.npy", tmp_path / "out", period=(TURN,), settings=SHORT, progress=False
    )
    learned, grid = load_denoiser(folder), GridDenoiser(angle())
    assert learned.coordinates.potential is None
    assert learned.coordinates.width == (0.0,)
    for sigma in (0.2, 0.5, 1.0):
        assert error(learned, grid, sigma) < 0.15


def test_a_folder_holds_the_average_and_a_card(tmp_path):
    folder = train_denoiser(MuellerBrown().at(20.0), tmp_path, settings=TINY, progress=False)
    config = json.loads((folder / "config.json").read_text())
    assert config["law"]["kT"] == 20.0
    assert config["training"]["steps_done"] == 8
    card = (folder / "CARD.md").read_text()
    assert "exp(-U/kT) of mueller-brown at kT = 20 reduced" in card
    assert "diffodesic train --potential mueller-brown --kT 20 --outdir OUTDIR --steps 8" in card
    course = run(MuellerBrown().at(20.0), TINY, tmp_path, forces=True)
    weights = load_denoiser(folder).network.state_dict()
    assert set(weights) == set(course.net.state_dict())
    course.step = 8
    coordinates = load_denoiser(folder).coordinates
    assert 0 < coordinates.sigma_min < min(coordinates.width) < coordinates.sigma_max


def test_cards_print_commands_that_run(capsys, tmp_path):
    for potential, runs in (
        (DoubleWell().at(1.5), True), (DoubleWell(barrier=3.0), False), (angle(), False),
    ):  # fmt: skip
        folder = tmp_path / f"{potential.name}{runs}"
        train_denoiser(potential, folder, settings=replace(TINY, steps=2), progress=False)
        card = (folder / "CARD.md").read_text()
        assert ("diffodesic train" in card) is runs
        if runs:
            (line,) = (line for line in card.splitlines() if "diffodesic train" in line)
            words = line.replace("OUTDIR", str(tmp_path / "again")).split()[1:]
            assert command(capsys, *words)[0] == 0
            assert weights(tmp_path / "again") == weights(folder)


def weights(folder: Path) -> bytes:
    return (folder / "weights.safetensors").read_bytes()


def test_resume_is_exact(tmp_path):
    settings = replace(TINY, checkpoint_minutes=0.0)
    whole = train_denoiser(alanine(), tmp_path / "whole", settings=settings, progress=False)
    with interrupted(_CoordinateTraining, step=5):
        train_denoiser(alanine(), tmp_path / "broken", settings=settings, progress=False)
    broken = train_denoiser(alanine(), tmp_path / "broken", settings=settings, progress=False)
    assert weights(broken) == weights(whole)
    other = replace(settings, seed=1)
    assert weights(train_denoiser(alanine(), tmp_path / "other", settings=other)) != weights(whole)
    # a checkpoint of another potential is refused
    with pytest.raises(ValueError, match="other settings"):
        train_denoiser(alanine().at(3.0), tmp_path / "broken", settings=settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": None}, "either steps or minutes"),
        ({"batch": 1}, "batch = 1"),
        ({"samples": 50}, "at least 100"),
        ({"layers": 0}, "layers = 0"),
        ({"sigma_min": 50.0}, "sigma_min < sigma_max"),
        ({"sigma_min": 0.0}, "sigma_min < sigma_max"),
        ({"lr": math.inf}, "lr = inf"),
    ],
)
def test_settings_that_cannot_be(change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        train_denoiser(DoubleWell(), tmp_path, settings=replace(TINY, **change), progress=False)


def test_sources_that_cannot_be(draw, tmp_path):
    with pytest.raises(ValueError, match="period of the coordinates is not given"):
        train_denoiser(draw(200, 2), tmp_path, settings=TINY)
    with pytest.raises(ValueError, match="looks like degrees"):
        train_denoiser(100 * draw(200, 2), tmp_path, period=(TURN, TURN), settings=TINY)
    with pytest.raises(ValueError, match="knows its period"):
        train_denoiser(alanine(), tmp_path, period=(None, None), settings=TINY)


def command(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = cli.main([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


FEW = ("--steps", 4, "--samples", 500, "--batch", 32, "--width", 16, "--layers", 1)


def test_the_command_trains_on_a_potential(capsys, tmp_path):
    out = tmp_path / "model"
    code, said, err = command(
        capsys, "train", "--potential", "double-well", "--outdir", out, *FEW
    )  # fmt: skip
    assert code == 0, err
    assert f"diffodesic paths --potential double-well --model {out}" in said
    assert load_denoiser(out).coordinates.potential == "double-well"


@pytest.mark.slow
def test_paths_follow_the_model(capsys, tmp_path, trained):
    words = (
        "paths", "--potential", "double-well", "--from", "-1,0", "--to", "1,0", "--paths", 30,
        "--nodes", 8, "--langevin-steps", 4,
    )  # fmt: skip
    lengths = []
    for name, model in (("learned", ("--model", trained["double-well"])), ("exact", ())):
        code, _, err = command(capsys, *words, *model, "--outdir", tmp_path / name)
        assert code == 0, err
        content = json.loads((tmp_path / name / "result.json").read_text())
        lengths.append(content["geodesic"]["length"])
    assert lengths[0] != lengths[1]
    assert lengths[0] == pytest.approx(lengths[1], rel=0.3)
    code, _, err = command(
        capsys, *words, "--model", trained["double-well"], "--kT", 2, "--outdir", tmp_path / "no"
    )
    assert code == 2
    assert "with kT 1.0; double-well has kT 2.0" in err


def test_the_command_reads_a_trajectory(capsys, tmp_path, draw):
    angles = torch.remainder(draw(300, 2), TURN).numpy()
    np.savez(tmp_path / "a.npz", angles=angles, more=angles)
    out = tmp_path / "model"
    code, _, err = command(
        capsys, "train", f"{tmp_path}/a.npz:angles", "--period", "6.2832,6.2832", "--outdir", out,
        *FEW,
    )  # fmt: skip
    assert code == 0, err
    coordinates = load_denoiser(out).coordinates
    assert coordinates.period == (6.2832, 6.2832)
    assert "--period 6.2832,6.2832" in (out / "CARD.md").read_text()
    # 2 pi to the digits that people write; kT is not known
    load_denoiser(out).check(alanine())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("a.npy",), "For a trajectory say --period"),
        (("a.npy", "--period", "6.2832"), "with 1 periods"),
        (("a.npy", "--period", "none", "--kT", 1), "--kT belongs to --potential"),
        (("a.npy", "--potential", "alanine"), "give either DATA"),
        ((), "give either DATA"),
        (
            ("a.npy", "--period", "none", "--rotation", 3),
            "--rotation: no option of a model of coo",
        ),
        (("a.npy", "--period", "x"), "--period takes a number or none"),
        (("--potential", "nowhere"), "no potential 'nowhere'"),
        (("b.npy", "--period", "none"), "NaN or infinity, first in row 2"),
        (("c.npy", "--period", "none"), "no trajectory at c.npy"),
    ],
)
def test_what_the_command_refuses(words, message, capsys, tmp_path, monkeypatch, draw):
    monkeypatch.chdir(tmp_path)
    points = draw(200, 2).numpy()
    np.save("a.npy", points)
    points[2] = math.nan
    np.save("b.npy", points)
    code, out, err = command(capsys, "train", *words, "--outdir", "out")
    assert code == 2
    assert out == ""
    assert len(err.splitlines()) == 1
    assert message in err


@pytest.mark.parametrize(("key", "value"), [("blocks", 10**9), ("width", 10**12), ("harmonics", 9)])
def test_sizes_that_no_weights_bear_out_are_refused_before_they_are_made(tmp_path, key, value):
    network = CoordinateNet(Coordinates((None,), (0.0,), (1.0,), (0.0,), 0.1, 1.0), 8, 1, 2)
    write_model(tmp_path, describe(network), network)
    config = json.loads((tmp_path / "config.json").read_text())
    config["network"][key] = value
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ValueError, match=r"no trained denoiser .*(at most 1000|other tensors|Storage size)"
    ):
        load_denoiser(tmp_path)
