"""The command line: bad input is one line that says what to change, and loses nothing.

Commands run inside this process, which is what ``diffodesic`` does with its words.
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import diffodesic
from diffodesic.cli import main as cli
from diffodesic.models.loading import load
from diffodesic.output.images import to_uint8
from support.browser import Chromium, find
from support.commands import FAST, TINY
from support.tiny import files, pictures


def text_picture(place: Path) -> None:
    (place / "x.png").write_text("words")


def truncated_picture(place: Path) -> None:
    (place / "x.png").write_bytes((place / "a.png").read_bytes()[:60])


def big_picture(place: Path) -> None:
    Image.new("L", (9, 8)).save(place / "x.png")


def nan_picture(place: Path) -> None:
    Image.fromarray(np.full((8, 8), math.nan, np.float32)).save(place / "x.png", format="TIFF")


def file_in_the_way(place: Path) -> None:
    (place / "x").write_text("mine")


def torn_model(place: Path) -> None:
    weights = place / "tiny" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])


def foreign_model(place: Path) -> None:
    (place / "tiny" / "config.json").write_text('{"architectures": ["UNet2DModel"]}')


def empty_model(place: Path) -> None:
    (place / "tiny" / "weights.safetensors").unlink()


X = ("interpolate", "a.png", "x.png", "--model", "tiny", *FAST)
BAD: dict[str, tuple[Callable[[Path], None] | None, tuple[str, ...], str]] = {
    "missing": (None, X, "there is no picture at x.png"),
    "text": (text_picture, X, "x.png cannot be read as a picture .*; give a PNG or JPEG file"),
    "truncated": (truncated_picture, X, "x.png cannot be read as a picture"),
    "size": (big_picture, (*X, "--no-resize"), "x.png is 9x8 L, the model takes 8x8 L; allow"),
    "nan": (nan_picture, X, "x.png holds numbers from nan to nan, not finite or outside .*: give"),
    "one image": (None, ("interpolate", "a.png"), "give two images or more, or none, not 1"),
    "no images": (None, ("interpolate", "--model", "tiny"), "do not fit this model; give images"),
    "model": (None, (*TINY, "--model", "nonesuch"), r"unknown model 'nonesuch': .*\(.*mnist"),
    "torn": (torn_model, TINY, r"weights\.safetensors does not hold .*copy it again"),
    "foreign": (foreign_model, TINY, r"config\.json does not describe .*give a folder"),
    "half": (empty_model, TINY, r"it lacks weights\.safetensors"),
    "metric": (None, (*TINY, "--metric", "flat"), "unknown metric 'flat'; choose one of spacetime"),
    "flag": (None, (*TINY, "--fames", "3"), "no option '--fames'; did you mean '--frames'"),
    "typo": (None, (*TINY, "--metrc=score"), "no option '--metrc=score'; did you mean '--metric'"),
    "strange": (None, (*TINY, "--zzz", "3"), "unrecognized arguments: --zzz"),
    "stray": (None, (*TINY, "--rank=2"), "--rank: no option of the metric spacetime"),
    "number": (None, (*TINY, "--frames", "few"), "--frames: 'few' is not a whole number"),
    "level": (None, (*TINY, "--log-snr", "low"), "--log-snr: 'low' is not a number or auto"),
    "nodes": (None, (*TINY, "--nodes", "1"), "nodes must be at least 2, got 1"),
    "many nodes": (None, (*TINY, "--nodes", "9" * 9), "nodes must be at most 10000, got 9+"),
    "many frames": (None, (*TINY, "--frames", "9" * 9), "frames must be at most 10000, got 9+"),
    "many steps": (None, (*TINY, "--flow-steps", "9" * 9), "flow_steps must be at most 10000"),
    "frames": (None, (*TINY, "--frames", "1"), "frames must be at least 2, got 1"),
    "steps": (None, (*TINY, "--flow-steps", "0"), "flow_steps must be at least 1, got 0"),
    "noisy": (None, (*TINY, "--log-snr=-8"), "outside the noise levels .*choose a value between"),
    "clean": (None, (*TINY, "--log-snr=12"), "outside the noise levels .*choose a value between"),
    "nan level": (None, (*TINY, "--log-snr=nan"), "log_snr must be finite, got nan"),
    "features": (
        None,
        (*TINY, "--features", "digit-classifier-1"),
        "--features belongs to --pace perceptual, which is not given: leave it out",
    ),
    "gain": (
        None,
        ("extrapolate", "a.png", "b.png", "--model", "tiny", "--gain", ".5"),
        "--gain belongs to --method score-guided, which is not given",
    ),
    "structures": (
        None,
        ("paths", "--potential", "mueller-brown", "--frames=9", "--from=0,0", "--to=1,1"),
        "--frames belongs to --system, which is not given",
    ),
    "device of paths": (
        None,
        ("paths", "--potential", "mueller-brown", "--device=auto", "--from=0,0", "--to=1,1"),
        "--device belongs to --model, which is not given",
    ),
    "size of a model": (None, (*TINY, "--size", "16,16"), "'tiny' has the size of its training"),
    "size of edm": (
        None,
        (*TINY[:3], "--size=16,16", "--model=edm:x.pkl"),
        "models of the family 'edm' have one size each: leave size out",
    ),
    "half a size": (None, (*TINY, "--size", "16"), "--size takes two numbers, W,H in pixels, not"),
    "hub": (
        None,
        (*TINY, "--model", "own/er"),
        "give hf:own/er --allow-download, or diffuse",
    ),
    "weights": (None, (*TINY, "--model", "x.safetensors"), "holds weights alone: give the folder"),
    "pickle": (
        None,
        (*TINY, "--model", "x.pt"),
        "a .pt file is a pickle of weights, .*: give",
    ),
    "weight": (
        None,
        (*TINY, "--metric=score", "--weight=-1"),
        "weight must be at least 0, got -1",
    ),
    "seed": (None, (*TINY, "--seed", "9" * 30), "seed must be at most 9223372036854775807, got 9+"),
    "no seed": (None, (*TINY, "--seed", "x"), "--seed: 'x' is not a whole number"),
    "device": (None, (*TINY, "--device", "nonesuch"), "cannot run on device 'nonesuch'.*try cpu"),
    "outdir": (file_in_the_way, (*TINY, "--outdir", "x"), "x is a file; give a folder"),
    "below": (file_in_the_way, (*TINY, "--outdir", "x/y"), "cannot write into x/y: .*; give anot"),
    "long": (None, (*TINY, "--outdir", "n" * 300), "File name too long; give another folder"),
    "no command": (None, (), "required: COMMAND"),
    "command": (None, ("extrude",), "invalid choice: 'extrude'"),
    "newline": (None, (*TINY, "--fa\nmes"), "no option .*; did you mean '--frames'"),
    "data": (None, ("train", "none.npy", "--outdir", "out"), "no data at none.npy: give a folder"),
    "labels": (
        None,
        ("train", "none.npy", "--period", "none", "--labels", "--outdir", "out"),
        "--labels belongs to a model of images",
    ),
    "pictures": (None, ("train", "tiny", "--outdir", "out"), "no image in tiny"),
    "hyphens": (None, ("train", "a.png", "--steps=--"), "--steps=--: give a value in place of"),
    "hyphens as a folder": (None, (*TINY, "--outdir=--"), "--outdir=--: give a value in place"),
    "no outdir": (None, ("train", "a.png"), "the following arguments are required: --outdir"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_that_says_what_to_change(run, place, case):
    prepare, words, message = BAD[case]
    if prepare:
        prepare(place)
    before = files(place)
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert re.fullmatch(r"diffodesic[^\n]*\n", err), err
    assert re.search(message, err), err
    # nothing is lost; the folder for the results may have been made
    assert files(place) in (before, before | {"out/": b""})


def test_a_bad_second_picture_is_one_line_whatever_the_first_needs(run, place):
    big_picture(place)
    code, _, err = run("interpolate", "x.png", "none.png", "--model", "tiny", *FAST)
    assert (code, err) == (2, "diffodesic: there is no picture at none.png\n")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_outdir_that_cannot_be_written_is_refused(run, place):
    (place / "out").mkdir(mode=0o500)
    code, _, err = run(*TINY)
    assert code == 2
    assert "cannot write into out: Permission denied; give another folder" in err


def test_training_into_a_file_is_refused(run, place):
    np.save("data.npy", np.stack(to_uint8(pictures(4))))
    code, _, err = run("train", "data.npy", "--outdir", "a.png")
    assert (code, err) == (2, "diffodesic: a.png is a file; give a folder for the results\n")


def test_a_missing_library_names_the_extra(run, place, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    code, _, err = run(*TINY)
    assert code == 2
    assert err.count("\n") == 1
    assert "pip install 'diffodesic[app]'" in err


def test_the_parser_needs_torch_alone():
    """A library that is missing is told when a command runs, not by a traceback of all commands."""
    absent = ("numpy", "PIL", "matplotlib", "safetensors", "tqdm", "jinja2", "markupsafe", "openmm")
    code = f"""
import sys
sys.modules.update(dict.fromkeys({absent}))
from diffodesic.cli.main import main
main(["--version"])
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(diffodesic.__file__).parents[1])},
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_models_are_listed(run):
    code, out, err = run("models")
    assert (code, err) == (0, "")
    assert re.search(r"^mnist +mnist: 1x28x28 images", out, re.M)
    assert "diffodesic train" in out


def test_version(run):
    code, out, _ = run("--version")
    assert code == 0
    assert out == f"diffodesic {diffodesic.__version__}, torch {torch.__version__}\n"


COMMANDS = {name: import_module(f"diffodesic.cli.{name}") for name in cli.COMMANDS}
EXAMPLES = [cli.EXAMPLES.removeprefix("examples:\n")]
EXAMPLES += [module.EXAMPLES for module in COMMANDS.values() if hasattr(module, "EXAMPLES")]


@pytest.mark.parametrize("words", [(), ("interpolate",), ("train",)])
def test_help_has_examples(run, words):
    code, out, _ = run(*words, "--help")
    assert code == 0
    assert "examples:" in out
    assert "\n  diffodesic interpolate A.png B.png" in out


def test_examples_of_the_help_are_understood(run, place, monkeypatch):
    """Every line of the examples parses; what it would do is another test's."""
    seen: list[Any] = []
    for module in COMMANDS.values():
        for name in vars(module):
            if name.startswith("run"):
                monkeypatch.setattr(module, name, seen.append)
    lines = [line.split("   ")[0].split() for text in EXAMPLES for line in text.splitlines()]
    assert len(lines) >= 5
    for line in lines:
        assert run(*line[1:])[0] == 0
    assert len(seen) == len(lines)


def test_train_then_interpolate(run, place):
    np.save("data.npy", np.stack(to_uint8(pictures(60))))
    small = "--steps 3 --batch 4 --channels 4 8 --blocks 1 1 --heads 1 --threads 1 --name spots"
    code, out, err = run("train", "data.npy", "--outdir", "mine", *small.split())
    assert code == 0
    told, warned = err.splitlines()
    assert re.fullmatch(r"step 3, 100% done, 0 minutes left: denoising error .*", told)
    assert warned.startswith("note: ")  # three steps teach nothing
    assert "diffodesic interpolate A.png B.png --model mine" in out
    model = load("mine")
    assert (model.name, model.codec.shape) == ("spots", (1, 8, 8))
    assert run("interpolate", "a.png", "b.png", "--model", "mine", *FAST)[0] == 0
    settings = json.loads((place / "out" / "result.json").read_text())["settings"]
    assert settings["model"] == "spots"


@pytest.mark.slow
def test_the_main_job_on_shipped_photographs(tmp_path):
    """A process of its own, as a user starts it, and its page in a browser."""
    command = [sys.executable, "-m", "diffodesic.cli.main", "interpolate", "--frames", "4"]
    done = subprocess.run(
        [*command, "--nodes", "12", "--outdir", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(diffodesic.__file__).parents[1])},
    )
    assert done.returncode == 0
    # what it will take, where that is long, and every half minute how it stands
    assert all(re.match("diffodesic: .*(about|so far)", line) for line in done.stderr.splitlines())
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert done.stdout.startswith(result["status"])
    assert result["status"] in {"CONVERGED", "ITERATION_LIMIT", "STALLED", "HELD_BACK"}
    lengths = {name: row["length"] for name, row in result["paths"].items()}
    assert all(0 < length < math.inf for length in lengths.values())
    assert lengths["geodesic"] < min(lengths["LERP"], lengths["SLERP"])
    assert min(result["end_psnr_db"]) > 25
    assert result["settings"]["model"] == "fruits"
    binary = find()
    if binary is None:
        pytest.skip("no Chromium found: the page was not opened")
    with Chromium(binary, tmp_path / "profile") as browser:
        browser.open(tmp_path / "out" / "report.html")
        shown = "document.querySelector('.stage img').src"
        sources = set()
        for frame in range(4):
            browser.evaluate(f"slider.value = {frame}; slider.dispatchEvent(new Event('input'))")
            sources.add(browser.evaluate(shown))
        assert len(sources) == 4
        assert browser.problems == []
        assert sum(url.startswith("file:") for url in browser.requests) == 1
