"""A function of one's own as a model: in Python, on the command line, and as in the docs."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from diffodesic.cli.main import main
from diffodesic.images.spaces import SPACES
from diffodesic.models.datasets import shipped_digits
from diffodesic.models.loading import load
from diffodesic.models.model import ModelError
from diffodesic.output.images import to_uint8
from support.tiny import pictures

MINE = """
import torch
import diffodesic as dd

UNTRIED = dd.denoisers.NetworkOptions(trial=False)

def net(x, t):
    return 0.3 * x

def model():
    schedule = dd.schedules.EDM(0.01, 50.0)
    return dd.from_network(
        net, shape=(1, 8, 8), schedule=schedule, prediction="x0", variance=0.25, options=UNTRIED
    )

def flat():
    schedule = dd.schedules.EDM()
    return dd.from_network(net, shape=(64,), schedule=schedule, prediction="x0", options=UNTRIED)

def nothing():
    return None

def placed(device):
    return dd.Model(model(), dd.load("mnist").codec, f"on {device}")

def leaving():
    exit(0)

def broken():
    return {}["weights"]

number = 3
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with two pictures and a module."""
    for name, image in zip("ab", to_uint8(pictures(2)), strict=True):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "torn.py").write_text("def model(:")
    (tmp_path / "leaving.py").write_text("import sys\nsys.exit(0)\n")
    (tmp_path / "late.py").write_text("def model():\n    import mine\n    return mine.model()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    return tmp_path


def test_a_function_gives_a_model(place):
    before = list(sys.path)
    model = load("python:mine:model")
    assert (model.name, model.codec.shape, model.denoiser.dim) == ("model", (1, 8, 8), 64)
    assert load("python:mine:placed", device="cuda:7").name == "on cuda:7"
    sys.modules.pop("mine")
    assert load("python:late:model").name == "model"  # which imports its neighbour when called
    assert sys.path == before


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("mine", "write python:package.module:function"),
        ("absent:model", "module 'absent' cannot be imported"),
        ("torn:model", "module 'torn' cannot be imported"),
        ("leaving:model", r"module 'leaving' cannot be imported \(SystemExit: 0\)"),
        ("mine:leaving", r"mine:leaving cannot be called \(SystemExit: 0\)"),
        ("mine:broken", r"mine:broken cannot be called \(KeyError: 'weights'\)"),
        ("mine:absent", "there is no function 'absent' in module 'mine'"),
        ("mine:number", "there is no function 'number' in module 'mine'"),
        ("mine:nothing", "returned a NoneType; it must return a Model"),
        ("mine:flat", "shape=\\(C, H, W\\)"),
    ],
)
def test_what_is_no_model_is_refused(place, address, words):
    with pytest.raises(ModelError, match=words):
        load(f"python:{address}")


FAST = ("--frames", "3", "--nodes", "3", "--flow-steps", "3", "--model", "python:mine:model")


@pytest.mark.parametrize("metric", SPACES)
def test_the_command_line_takes_a_function(place, capsys, metric):
    assert main(["interpolate", "a.png", "b.png", *FAST, "--metric", metric]) == 0
    result = json.loads((place / "out" / "result.json").read_text())
    assert result["settings"]["model"] == "model"


def test_distance_takes_a_function(place, capsys):
    words = ["--model", "python:mine:model", "--nodes", "4", "--flow-steps", "3"]
    assert main(["distance", "a.png", "b.png", *words, "--iterations", "2"]) == 0
    assert "DiffED" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ("--model", "mnist", "--prompt", "a cat"),
            "this model takes no prompt; it takes no condition",
        ),
        (("--model", "edm:a.pkl"), "give allow_pickle=True (--allow-pickle)"),
        (("--model", "diffusers:nowhere/here"), "--allow-download"),
        (("--model", "python:absent:model"), "module 'absent' cannot be imported"),
    ],
)
def test_bad_models_are_one_line_on_the_command_line(place, capsys, words, told):
    if "diffusers" in words[1]:
        pytest.importorskip("diffusers")
    assert main(["interpolate", "a.png", "b.png", *words]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert said.count("\n") == 1
    assert not (place / "out").exists()


def blocks(language: str) -> list[str]:
    page = (Path(__file__).parents[3] / "docs" / "bring-your-own-model.md").read_text()
    return re.findall(rf"```{language}\n(.*?)```", page, re.S)


@pytest.fixture
def mynet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The page's network as a module of the working folder."""
    (source,) = (block for block in blocks("python") if "def model():" in block)
    assert len([line for line in source.splitlines() if line]) <= 30
    (tmp_path / "mynet.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mynet", raising=False)
    return source


@pytest.mark.slow
def test_the_page_runs_with_every_metric(mynet, capsys):
    scope: dict[str, Any] = {}
    exec(next(block for block in blocks("python") if "spaces = {" in block), scope)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(scope["spaces"]) == 6
    assert all(float(line[15:].split()[0]) > 0 for line in lines)
    assert scope["net"].auto_mode == ["forward"]


def test_the_page_runs_on_the_command_line(mynet, capsys):
    (digits, _), (first, _) = shipped_digits(), blocks("sh")[0].splitlines()
    for name, index in (("A", 33), ("B", 83)):
        Image.fromarray(to_uint8(digits[index : index + 1])[0]).save(f"{name}.png")
    program, *words = first.split()
    assert program == "diffodesic"
    assert main([*words, "--frames", "3", "--nodes", "4", "--flow-steps", "4"]) == 0
    assert "wrote out/report.html" in capsys.readouterr().out
