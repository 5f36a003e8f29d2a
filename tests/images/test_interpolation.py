"""Two images and a model: the paths, their frames, what is said of them, and what is left on disk.

Most runs use a tiny network; what is exact is held on a model around an exact mixture.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from diffodesic.denoisers.mixture import GaussianMixture
from diffodesic.geometry.solvers.relax import Relax
from diffodesic.geometry.status import Status
from diffodesic.images.baselines.between import Baseline
from diffodesic.images.baselines.latent import lerp
from diffodesic.images.interpolation import InterpolateOptions, interpolate
from diffodesic.images.result import Interpolation
from diffodesic.images.spaces import SPACES, ScoreSpace, SpacetimeSpace
from diffodesic.models.model import Model
from diffodesic.output.folder import replace_files
from diffodesic.output.manifest import Run
from support.tiny import exact_model, files, pictures, tiny_model

FRAMES, NODES = 4, 6
FAST = InterpolateOptions(frames=FRAMES, nodes=NODES, flow_steps=6)
SOUND = [name for name in SPACES if name != "score-published"]
OUTPUTS = {
    "filmstrip.png",
    "path.gif",
    "path.safetensors",
    "report.html",
    "result.json",
    "run.json",
}


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model()


@pytest.fixture(scope="module")
def results(model: Model) -> dict[str, Interpolation]:
    """One run in every metric, from the same two pictures."""
    a, b = pictures(2)
    return {name: interpolate(model, a, b, metric=name, options=FAST) for name in SPACES}


@pytest.fixture(scope="module")
def still(model: Model) -> dict[str, Interpolation]:
    """Between identical pictures."""
    a = pictures(1)[0]
    return {name: interpolate(model, a, a.clone(), metric=name, options=FAST) for name in SOUND}


@pytest.fixture
def exact() -> Model:
    """Three Gaussians on 2x2 pictures: the flow and every path are known to rounding."""
    means = torch.tensor([[-0.4, 0.2, 0.3, 0.1], [0.5, -0.1, 0.0, 0.2], [0.1, 0.3, -0.5, -0.2]])
    return exact_model(GaussianMixture(means.double(), std=0.15), (1, 2, 2))


def ends() -> tuple[Tensor, Tensor]:
    """Near two of the means, as pictures."""
    a = torch.tensor([[[0.32, 0.58], [0.66, 0.55]]], dtype=torch.float64)
    b = torch.tensor([[[0.74, 0.46], [0.51, 0.61]]], dtype=torch.float64)
    return a, b


@pytest.mark.parametrize("metric", SPACES)
def test_every_metric_gives_its_rows_of_frames(results, metric):
    result = results[metric]
    # between two pictures of a network the shortest path of spacetime is not the one to look at
    arch = ["arch"] if metric == "spacetime" else []
    assert list(result.paths) == [*arch, "geodesic", "LERP", "SLERP"]
    assert result.frames is result.paths[[*arch, "geodesic"][0]].frames
    assert torch.equal(result.inputs, pictures(2))
    for row in result.paths.values():
        assert row.frames.shape == (FRAMES, 1, 8, 8)
        assert float(row.frames.min()) >= 0
        assert float(row.frames.max()) <= 1
        assert row.log_snr.shape == (FRAMES,)
        assert len(row.curve_s) == len(row.curve_log_snr) == len(row.curve_speed) >= NODES
        assert math.isfinite(row.length)
        assert row.length > 0
        assert float(row.curve_speed.mean()) ** 2 <= 2 * row.energy * (1 + 1e-9)
        # ends are shared, so every row ends in the same two pictures
        torch.testing.assert_close(row.frames[[0, -1]], result.frames[[0, -1]])
    assert result.geodesic.nodes.shape[0] == NODES + 1
    assert result.settings["metric"] == metric


@pytest.mark.parametrize("metric", SOUND)
def test_the_geodesic_is_no_longer_than_the_baselines(results, metric):
    """By energy, which is what is minimised; a refined grid may take back a per cent."""
    rows = results[metric].paths
    assert rows["geodesic"].energy <= 1.01 * min(rows["LERP"].energy, rows["SLERP"].energy)


def test_levels_stay_at_the_anchor_but_in_spacetime(results):
    for metric in ("score", "euclidean"):
        for row in results[metric].paths.values():
            assert set(row.log_snr.tolist()) == {1.0}
    rows = results["spacetime"].paths
    assert rows["geodesic"].log_snr[[0, -1]].tolist() == [2.0, 2.0]
    assert float(rows["geodesic"].log_snr[1:-1].max()) < 2.0  # it rises into noise
    assert set(rows["LERP"].log_snr.tolist()) == {2.0}


@pytest.mark.parametrize("metric", SPACES)
def test_the_stated_end_error_is_the_one_made(results, metric):
    result = results[metric]
    made = (result.frames[[0, -1]] - pictures(2)).square().mean((1, 2, 3)).sqrt()
    assert result.end_error == pytest.approx(made.tolist())
    assert result.end_psnr == pytest.approx((-20 * made.log10()).tolist())
    told = any("the end frames differ" in notice for notice in result.notices)
    assert told == (max(result.end_error) > 0.05)


def test_ends_are_reproduced_to_the_grain_of_the_cleanest_level(exact):
    errors = [
        max(
            interpolate(
                exact, *ends(), metric="euclidean", options=InterpolateOptions(flow_steps=n)
            ).end_error
        )
        for n in (24, 48, 96)
    ]
    assert errors[0] < 0.02
    # sigma = .01 on [-1, 1] is .005 on [0, 1]; few pixels, so their rms scatters by about half.
    # The flow itself closes at order 2 (test_flow.py) and adds less and less to it.
    assert errors[2] < 0.01
    assert abs(errors[2] - errors[1]) < abs(errors[1] - errors[0]) + 1e-9


@pytest.mark.parametrize("source", ["tiny", "exact"])
def test_the_euclidean_geodesic_is_lerp(model, exact, source):
    chosen, pair = (model, pictures(2)) if source == "tiny" else (exact, torch.stack(ends()))
    result = interpolate(chosen, pair[0], pair[1], metric="euclidean", options=FAST)
    a, b = result.geodesic.nodes[0], result.geodesic.nodes[-1]
    s = torch.linspace(0, 1, 7, dtype=a.dtype)
    # constant-speed respacing of a straight line: rounding of the arc length
    torch.testing.assert_close(result.geodesic(s), lerp(a, b, s), rtol=0, atol=1e-9)
    assert result.paths["geodesic"].length == pytest.approx(float((b - a).norm()), rel=1e-9)
    assert result.paths["LERP"].length == pytest.approx(float((b - a).norm()), rel=1e-12)
    frames = (result.paths[name].frames for name in ("geodesic", "LERP"))
    torch.testing.assert_close(*frames, rtol=0, atol=1e-8)


def test_a_spacetime_path_of_exact_data_converges(exact):
    result = interpolate(exact, *ends(), frames=3, options=InterpolateOptions(nodes=12))
    assert result.geodesic.status is Status.CONVERGED
    assert result.notices == ()
    assert result.paths["geodesic"].length < 0.97 * result.paths["LERP"].length


@pytest.mark.parametrize("metric", ["spacetime", "score"])
def test_the_same_seed_gives_the_same_result(model, results, metric):
    again = interpolate(model, *pictures(2), metric=metric, options=FAST)
    first = results[metric]
    assert torch.equal(again.geodesic.nodes, first.geodesic.nodes)
    assert torch.equal(again.frames, first.frames)
    assert (again.settings, again.notices) == (first.settings, first.notices)


def test_another_seed_is_another_choice_of_probes(model, results):
    other = interpolate(model, *pictures(2), options=FAST.but(seed=1))
    assert not torch.equal(other.geodesic.nodes, results["spacetime"].geodesic.nodes)
    assert other.settings["seed"] == 1


def test_all_baselines_are_rows_of_one_call(model):
    a, b = pictures(2)
    names = get_args(Baseline)
    result = interpolate(model, a, b, metric="score", options=FAST.but(baselines=names))
    assert tuple(result.paths) == ("geodesic", *names)
    for row in result.paths.values():
        assert row.frames.shape == result.frames.shape
        assert row.floor is not None
        assert row.energy >= row.floor
    with pytest.raises(ValueError, match="unknown baselines 'CLERP'; choose one of LERP, SLERP"):
        FAST.but(baselines=("CLERP", "LERP"))


def test_the_published_recipe_says_what_it_is_and_misses_the_images(results):
    """One noise for both ends, which the probability flow does not take off again."""
    found = results["score-published"]
    assert found.settings["metric"] == "score-published"
    assert found.settings["weight"] == pytest.approx(1000 / 0.194, rel=5e-3)
    # its weight is far above what six segments resolve
    assert found.geodesic.status is Status.TOO_COARSE
    assert min(found.end_error) > 2 * max(results["score"].end_error)


@pytest.mark.parametrize("metric", SOUND)
def test_identical_images_give_a_path_of_length_zero(still, tmp_path, metric):
    result = still[metric]
    assert result.geodesic.status is Status.SAME_POINT
    assert float(result.geodesic.certificate.speed_spread) == 0
    for row in result.paths.values():
        # SLERP divides by the norm and multiplies it back: rounding
        assert row.length == pytest.approx(0, abs=1e-6)
        torch.testing.assert_close(row.frames, row.frames[:1].expand_as(row.frames))
    result.save(tmp_path)
    saved = json.loads((tmp_path / "result.json").read_text())
    assert saved["status"] == "SAME_POINT"
    assert "identical" in (tmp_path / "report.html").read_text()


def test_colour_images(tmp_path):
    result = interpolate(tiny_model(3), *pictures(2, 3), metric="euclidean", options=FAST)
    assert result.frames.shape == (FRAMES, 3, 8, 8)
    result.save(tmp_path)
    with Image.open(tmp_path / "frame_0000.png") as frame:
        assert frame.mode == "RGB"


def test_bytes_and_flat_greys_are_images_too(model, results):
    flat = (pictures(2)[:, 0] * 255).round().to(torch.uint8)
    result = interpolate(model, flat[0], flat[1], metric="euclidean", options=FAST)
    torch.testing.assert_close(result.inputs, flat[:, None].double() / 255)


def test_progress_is_told(model):
    lines: list[str] = []
    interpolate(model, *pictures(2), metric="score", progress=lines.append, options=FAST)
    assert lines[0] == "lifting the images to their noise level"
    assert any(re.fullmatch(rf"{NODES} nodes, round \d+: .*", line) for line in lines)
    assert lines[-1] == "bringing SLERP back to clean images"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"metric": "flat"}, "unknown metric 'flat'; choose one of spacetime, score"),
        ({"metric": "score", "space": ScoreSpace()}, "give metric, .* or space, but not both"),
        ({"frames": 1}, "frames must be at least 2, got 1"),
        (
            {"space": SpacetimeSpace(log_snr=9.2)},
            "outside the noise levels of model 'tiny'; choose a value between",
        ),
        ({"space": SpacetimeSpace(log_snr=-8.0)}, "outside the noise levels"),
        ({"space": ScoreSpace(rank=65)}, "rank must be between 1 and 64, got 65"),
    ],
)
def test_bad_settings_are_refused(model, given, words):
    with pytest.raises(ValueError, match=words):
        interpolate(model, *pictures(2), options=FAST, **given)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"metrc": "score"}, "interpolate() has no option 'metrc'; did you mean 'metric'?"),
        (
            {"nodes": 6},
            "interpolate() has no option 'nodes'; "
            "did you mean options=diffodesic.images.InterpolateOptions(nodes=...)?",
        ),
        (
            {"weight": 3.0},
            "interpolate() has no option 'weight'; "
            "did you mean space=diffodesic.images.ScoreSpace(weight=...)?",
        ),
        ({"metric": ScoreSpace()}, "metric must be the name of a space; give a metric of your own"),
        ({"space": "score"}, "or a Metric, not 'score'; metric='score' takes a name"),
        ({"space": ScoreSpace}, "space must be a Space, such as ScoreSpace(), or a Metric, not <c"),
    ],
)
def test_misspelt_options_are_refused_by_the_function(model, given, words):
    with pytest.raises(TypeError, match=re.escape(words)):
        interpolate(model, *pictures(2), **given)


def test_a_path_that_did_not_end_well_is_noted(model):
    hurried = FAST.but(solver=Relax(iterations=1))
    result = interpolate(model, *pictures(2), metric="score", options=hurried)
    assert result.geodesic.status is Status.ITERATION_LIMIT
    assert f"the geodesic ended with ITERATION_LIMIT: {Status.ITERATION_LIMIT.value}" in (
        result.notices
    )


@pytest.mark.parametrize(
    "image",
    [
        torch.zeros(1, 8, 7),
        torch.zeros(2, 1, 8, 8),
        torch.zeros(64),
    ],
)
def test_images_of_another_shape_are_refused(model, image):
    with pytest.raises(ValueError, match=r"image.*\(.*\)"):
        interpolate(model, pictures(1)[0], image)


def test_images_with_nan_are_refused(model):
    bad = pictures(1)[0]
    bad[0, 3, 3] = math.nan
    with pytest.raises(ValueError, match="pixels that are not finite"):
        interpolate(model, pictures(1)[0], bad)


@pytest.fixture
def saved(results: dict[str, Interpolation], tmp_path: Path) -> Path:
    return results["spacetime"].save(tmp_path / "new" / "out")


def test_everything_is_saved(saved):
    assert files(saved).keys() == OUTPUTS | {f"frame_{i:04d}.png" for i in range(FRAMES)}


def test_saved_pictures_are_the_frames(results, saved):
    for i, frame in enumerate(results["spacetime"].frames):
        pixels = np.asarray(Image.open(saved / f"frame_{i:04d}.png"))
        np.testing.assert_array_equal(pixels, (frame[0] * 255).round().byte().numpy())
    with Image.open(saved / "path.gif") as gif:
        assert getattr(gif, "n_frames", 1) == 2 * FRAMES - 2  # there and back
    with Image.open(saved / "filmstrip.png") as strip:
        assert strip.width > strip.height  # three rows of four frames, and names


def test_the_saved_path_is_the_path(results, saved):
    path, result = load_file(saved / "path.safetensors"), results["spacetime"]
    assert torch.equal(path["nodes"], result.geodesic.nodes)
    assert torch.equal(path["inputs"], result.inputs)
    for name, row in result.paths.items():
        assert torch.equal(path[f"{name}.frames"], row.frames)
        assert torch.equal(path[f"{name}.curve_speed"], row.curve_speed)


def test_the_saved_result_is_strict_json(results, saved):
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    text, result = (saved / "result.json").read_text(), results["spacetime"]
    content = json.loads(text, parse_constant=refuse)
    assert content["status"] == result.geodesic.status.name
    assert content["certificate"]["judged"] == float(result.geodesic.length)
    assert content["cost"]["evaluations"] == result.geodesic.evaluations > 0
    assert content["end_error_rms"] == list(result.end_error)
    assert content["paths"]["LERP"]["length"] == result.paths["LERP"].length
    assert content["settings"] == dict(result.settings)
    assert content["settings"]["seed"] == 0
    assert {"python", "diffodesic", "torch"} <= content["versions"].keys()


def test_a_length_that_is_not_finite_is_saved_as_unknown(results, tmp_path):
    result = results["score"]
    row = replace(result.paths["LERP"], length=math.inf, energy=math.nan)
    odd = replace(result, paths={**result.paths, "LERP": row})
    content = json.loads((odd.save(tmp_path) / "result.json").read_text())
    assert content["paths"]["LERP"] == {
        "length": None,
        "energy": None,
        "energy_floor": row.floor,
        "independent_length": None,
    }


def test_the_report_needs_nothing_else(saved):
    page = (saved / "report.html").read_text()
    sources = re.findall(r'(?:src|href)="?([^" >]+)', page)
    assert len(sources) >= 3 * FRAMES
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert "http:" not in re.sub(r"http://www\.w3\.org/\S+", "", page)
    assert "https:" not in page


def test_frames_of_a_longer_run_go_and_other_files_stay(results, saved):
    with replace_files(saved, Run(command="interpolate")) as longer:
        for name in ("frame_0004.png", "frame_0123.png"):
            (longer / name).write_bytes(b"old")
    for name in ("frame_mine.png", "notes.txt"):
        (saved / name).write_bytes(b"mine")
    results["euclidean"].save(saved)
    names = {f"frame_{i:04d}.png" for i in range(FRAMES)} | {"frame_mine.png", "notes.txt"}
    assert files(saved).keys() == OUTPUTS | names
    assert json.loads((saved / "result.json").read_text())["settings"]["metric"] == "euclidean"


@pytest.mark.parametrize(
    "writer",
    [
        "output.pictures.filmstrip",
        "output.folder.write_gif",
        "images.result.write_json",
        "images.page.write_interpolation_page",
    ],
)
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_interrupted_saving_leaves_the_earlier_run(results, saved, monkeypatch, writer, error):
    before = files(saved)

    def stop(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(f"diffodesic.{writer}", stop)
    with pytest.raises(error):
        results["euclidean"].save(saved)
    assert files(saved) == before


def test_outdir_that_is_a_file_is_refused(results, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(OSError, match="out is a file; give a folder"):
        results["score"].save(tmp_path / "out")
    assert files(tmp_path) == {"out": b"mine"}
