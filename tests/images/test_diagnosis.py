"""Diagnostics on laws whose manifold, dimension, symmetry and trajectories are known."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from diffodesic import GaussianMixture, diagnose
from diffodesic.cli.main import main
from diffodesic.denoisers.flow import drop, lift, trajectory
from diffodesic.denoisers.jacobian import Jacobian
from diffodesic.denoisers.sphere import SphereDenoiser
from diffodesic.images.diagnosis import DiagnoseOptions
from diffodesic.metrics.spacetime.dimension import normal_bundle
from support.checks import Draw, same
from support.laws import Linear
from support.tiny import SIDE, pictures, tiny_model


def _plane(d: int, dim: int, basis: torch.Tensor | None = None) -> GaussianMixture:
    std = torch.zeros(1, dim, dtype=torch.float64)
    std[0, :d] = 1.0
    return GaussianMixture(torch.zeros(1, dim, dtype=torch.float64), std=std)


@pytest.mark.parametrize("d", [1, 3, 8])
def test_a_subspace_is_found_by_every_measure(d: int, rng: torch.Generator):
    dim, lam = 12, 6.0
    law = _plane(d, dim)
    x = law.sample(3, generator=rng)
    found = diagnose(law, x, log_snr=lam)
    (level,) = found.levels
    k = math.exp(lam)
    same(level.spectrum[:, :d], torch.full((3, d), k / (1 + k), dtype=torch.float64))
    same(level.spectrum[:, d:], torch.zeros(3, dim - d).double())
    same(level.dimension, torch.full((3,), d).double())
    same(level.bundle_dimension, torch.full((3,), d).double())
    exact = d * k / (1 + k) + k * x.square().sum(-1) / (1 + k) ** 2
    same(level.flipd, exact)
    # zero but for rounding, and the normal block of a plane is zero itself
    assert float(level.asymmetry_tangent.max()) < 1e-10
    assert bool(level.asymmetry_normal.isnan().all())
    # tangential scores are k/(1 + k) of sigma^2 times normal ones, and 4 D of them correlate a bit
    assert float(torch.deg2rad(level.basis_angle).max()) < 1 / k
    # score: tangential -z/(1 + s^2) of size one, normal -eps/s: s sqrt(d/(D - d)) apart
    assert float(level.score_angle.max()) < 20
    assert repr(found) == f"Diagnosis(GaussianMixture, 3 points: d = {d} at log SNR 6)"


def test_the_angle_of_score_and_normal_space_is_that_of_its_parts(rng: torch.Generator):
    law, lam = _plane(2, 5), 2.0
    sigma = math.exp(-lam / 2)
    x = law.sample(1, generator=rng)
    (level,) = diagnose(law, x, log_snr=lam, options=DiagnoseOptions(seed=3)).levels
    generator = torch.Generator().manual_seed(3)
    z = x[0] + sigma * torch.randn(5, generator=generator, dtype=torch.float64)
    tangential = z[:2] / (1 + sigma**2)
    expected = math.degrees(math.atan(float(tangential.norm() / (z[2:] / sigma**2).norm())))
    assert float(level.score_angle) == pytest.approx(expected, rel=1e-9)


def test_a_sphere_has_two_dimensions_and_tangent_planes_that_agree(rng: torch.Generator):
    law = SphereDenoiser(10)
    levels = [6.0, 8.0, 10.0]
    found = diagnose(law, law.sample(4, generator=rng), log_snr=levels)
    for level, lam in zip(found.levels, levels, strict=True):
        sigma = math.exp(-lam / 2)
        same(level.dimension, torch.full((4,), 2.0).double())
        same(level.bundle_dimension, torch.full((4,), 2.0).double())
        torch.testing.assert_close(
            level.flipd, torch.full((4,), 2.0).double(), rtol=0, atol=5 * sigma**2
        )
        # noise of size sigma along the sphere turns its tangent plane by about sigma
        assert float(torch.deg2rad(level.basis_angle).max()) < 3 * sigma
        # the score of a sphere is radial: all of it is normal
        assert float(level.score_angle.max()) < 1e-6


def test_two_points_have_no_dimension_up_close_and_one_from_afar():
    ends = torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]], dtype=torch.float64)
    near, far = diagnose(GaussianMixture(ends, std=0.0), ends, log_snr=[6.0, 0.0], rank=3).levels
    assert float(near.dimension.max()) == 0
    # J = p (1 - p) |x - y|^2/sigma^2 along the line
    generator = torch.Generator().manual_seed(0)
    z = ends[0] + torch.randn(3, generator=generator, dtype=torch.float64)
    p = torch.sigmoid(2 * z[0])
    same(far.spectrum[0, 0], 4 * p * (1 - p))
    same(far.spectrum[0, 1:], torch.zeros(2).double())


def test_a_skew_network_is_told_from_a_law(draw: Draw):
    dim, d = 20, 2
    matrix = torch.zeros(dim, dim).double()
    matrix[0, 0] = matrix[1, 1] = 1.0
    matrix[0, 1], matrix[1, 0] = 0.1, -0.1
    (level,) = diagnose(Linear(matrix), draw(dim), log_snr=1.0).levels
    # |skew| = .1 sqrt 2 over |symmetric| = sqrt 2
    assert float(level.asymmetry_tangent) == pytest.approx(0.1)
    assert float(level.dimension) == d


def test_trajectories_of_a_subspace_lie_in_planes(rng: torch.Generator):
    law = _plane(3, 12)
    x = law.sample(5, generator=rng)
    options = DiagnoseOptions(scores=0, flow_steps=256)
    found = diagnose(law, x, log_snr=4.0, options=options).trajectories
    # (z_T, z_N) = (a sqrt(1 + s^2), b s): two directions, a hyperbola
    same(found.dimension, torch.full((5,), 2.0).double())
    generator = torch.Generator().manual_seed(0)
    top = math.exp(-found.log_snr / 2)
    z = x[0] + top * torch.randn(12, generator=generator, dtype=torch.float64)
    s = torch.linspace(0.01, top, 200_001, dtype=torch.float64)
    scale = torch.cat(
        [
            ((1 + s**2) / (1 + top**2)).sqrt().unsqueeze(-1).expand(-1, 3),
            (s / top).unsqueeze(-1).expand(-1, 9),
        ],
        -1,
    )
    curve = scale * z
    length = curve.diff(dim=0).norm(dim=-1).sum()
    expected = float((curve[-1] - curve[0]).norm() / length)
    # Heun's rule and the polyline are of order two in 256 steps
    assert float(found.straightness[0]) == pytest.approx(expected, abs=1e-4)


def test_trajectories_of_a_point_are_straight():
    law = GaussianMixture(torch.zeros(1, 4).double(), std=0.0)
    law.variance = 1.0
    options = DiagnoseOptions(scores=0)
    found = diagnose(law, torch.zeros(4).double(), log_snr=4.0, options=options).trajectories
    assert float(found.dimension) == 1
    assert float(found.straightness) == pytest.approx(1.0, abs=1e-9)
    assert float(found.turning) < 1e-3


def test_a_trajectory_ends_where_the_flow_does(draw: Draw):
    law = GaussianMixture(draw(5, 3), std=0.2)
    z = lift(law, law.means, 0.0)
    path = trajectory(law, z, 0.0, steps=24)
    assert path.shape == (5, 25, 3)
    same(path[:, 0], z)
    same(path[:, -1], drop(law, z, 0.0, steps=24))


@pytest.mark.parametrize("sigma", [0.1, 0.5, 2.0])
def test_the_posterior_mean_of_data_is_a_mean_shift_step(draw: Draw, sigma: float):
    data, z = draw(7, 3), draw(4, 3)
    weights = torch.exp(-torch.cdist(z, data).square() / (2 * sigma**2))
    shifted = weights @ data / weights.sum(-1, keepdim=True)
    law = GaussianMixture.from_data(data, 0.0)
    same(law(z, z.new_tensor(sigma)), shifted)
    # and a kernel of width h blends it with the point: k = 1/sigma^2, v = h^2
    smooth = GaussianMixture.from_data(data, 0.3)
    width = math.hypot(sigma, 0.3)
    weights = torch.exp(-torch.cdist(z, data).square() / (2 * width**2))
    shifted = weights @ data / weights.sum(-1, keepdim=True)
    share = 0.09 / width**2
    same(smooth(z, z.new_tensor(sigma)), torch.lerp(shifted, z, share))


def test_a_point_is_diagnosed_as_in_any_company(rng: torch.Generator):
    law = SphereDenoiser(6)
    x = law.sample(3, generator=rng)
    together = diagnose(law, x, log_snr=4.0).levels[0]
    alone = diagnose(law, x[1], log_snr=4.0, options=DiagnoseOptions(seed=1)).levels[0]
    same(alone.spectrum[0], together.spectrum[1])
    same(alone.bundle_dimension[0], together.bundle_dimension[1])


def test_the_normal_bundle_takes_more_scores_than_coordinates(rng: torch.Generator):
    law = _plane(2, 5)
    with pytest.raises(ValueError, match="more than 5 scores"):
        normal_bundle(law, law.means[0], 4.0, scores=5, generator=rng)


def test_a_rank_that_is_all_above_one_half_is_said_to_be_a_bound(draw: Draw):
    (level,) = (
        found := diagnose(Linear(torch.eye(40).double()), draw(40), log_snr=1.0, rank=5)
    ).levels
    assert float(level.dimension) == 5
    assert "lower bound" in found.notices[0]


def test_of_many_coordinates_the_spectrum_is_found_by_block_lanczos(draw: Draw):
    few = diagnose(_plane(3, 100), draw(2, 100), log_snr=6.0)
    (level,) = few.levels
    same(level.dimension, torch.full((2,), 3).double())
    same(level.dimension_error, torch.zeros(2).double())
    k = math.exp(6.0)
    same(level.spectrum[:, :3], torch.full((2, 3), k / (1 + k), dtype=torch.float64))
    # 100 scores are the fewest beyond which there is a bundle: 4 D were taken
    same(level.bundle_dimension, level.dimension)
    assert "loss" in few.table()
    assert not few.notices
    many = diagnose(_plane(40, 300), draw(1, 300), log_snr=6.0)
    (level,) = many.levels
    assert abs(float(level.dimension) - 40) < 4 * float(level.dimension_error)
    assert "normal bundle was left out" in many.notices[0]
    assert "21 to 21 tangent directions" in many.notices[1]
    assert "bundle" not in many.table()


def test_networks_of_images_and_the_files(tmp_path: Path):
    model = tiny_model()
    options = DiagnoseOptions(probes=2, flow_steps=4)
    found = diagnose(model, pictures(2), log_snr=[1.0, 3.0], rank=60, options=options)
    folder = found.save(tmp_path / "new")
    content = json.loads((folder / "diagnosis.json").read_text())
    assert [len(level["spectrum"]) for level in content["levels"]] == [2, 2]
    assert content["cost"]["derivatives"] > 0
    assert (folder / "diagnosis.png").stat().st_size > 1000
    assert found.table().count("\n") == 3
    z = model.codec.encode(pictures(1))[0]
    noise = torch.randn(SIDE**2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = z + math.exp(-0.5) * noise
    dense = torch.linalg.svdvals(
        Jacobian(model.denoiser, z, math.exp(-0.5)).pull(torch.eye(SIDE**2).double())
    )
    torch.testing.assert_close(found.levels[0].spectrum[0], dense, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"log_snr": ()}, "log_snr must be within"),
        ({"log_snr": (math.nan,)}, "log_snr must be finite"),
        ({"log_snr": (math.inf,)}, "log_snr must be finite"),
        ({"rank": 0}, "rank must be at least 1"),
        ({"probes": 0}, "probes must be at least 1"),
        ({"scores": 3}, "scores must be 0 or more than D = 4"),
        ({"scores": -1}, "scores must be at least 0"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        diagnose(_plane(2, 4), torch.zeros(4).double(), options=DiagnoseOptions(**options))


def test_bad_points_are_named():
    law = _plane(2, 4)
    for x in (torch.zeros(2, 3), torch.zeros(0, 4), torch.full((1, 4), torch.nan)):
        with pytest.raises(ValueError, match="x must be"):
            diagnose(law, x.double(), log_snr=1.0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--log-snr", "0,x"), "argument --log-snr: 'x' is not a number"),
        (("--log-snr", "99"), "log_snr must be within"),
        (("--scores", "10"), "scores must be 0 or more than D"),
        (("missing.png",), "no picture at missing.png"),
    ],
)
def test_the_command_refuses_in_one_line(
    words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    try:
        code = main(["diagnose", *words, "--outdir", str(tmp_path / "out")])
    except SystemExit as stop:
        code = int(stop.code or 0)
    assert code == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_the_command_writes_a_diagnosis(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    code = main(
        ["diagnose", "--log-snr", "2", "--rank", "2", "--scores", "0", "--probes", "1"]
        + ["--flow-steps", "2", "--outdir", str(tmp_path)]
    )
    assert code == 0
    assert "| log SNR |" in capsys.readouterr().out
    written = ["diagnosis.json", "diagnosis.png", "run.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == written
