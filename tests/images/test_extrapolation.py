"""Images continued past the second, and the command."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from diffodesic import Euclidean
from diffodesic.cli import extrapolate as command
from diffodesic.cli.main import main
from diffodesic.images.extrapolation import ExtrapolateOptions, Extrapolation, extrapolate
from diffodesic.metrics.continuation import Stop
from support.tiny import pictures, tiny_model


def test_images_are_continued(tmp_path: Path):
    a, b = pictures(2)
    options = ExtrapolateOptions(points=3, frames=4, nodes=6, flow_steps=4)
    found = extrapolate(tiny_model(), a, b, amount=0.5, options=options)
    assert isinstance(found, Extrapolation)
    beyond = len(found.continuation.points) - 1
    assert found.frames.shape == (4 + beyond, 1, 8, 8)
    assert (found.continuation.stop is Stop.COMPLETE) == (beyond == 3)
    folder = found.save(tmp_path / "out", fps=10)
    page = (folder / "report.html").read_text("utf-8")
    marked = re.findall("<li[ >][^<]*", page)
    assert [i for i, item in enumerate(marked) if "data-mark" in item] == [0, 3, 3 + beyond]
    assert found.continuation.stop.value.split(";")[0] in page
    record = json.loads((folder / "result.json").read_text())
    assert record["stop"] == found.continuation.stop.name
    assert record["first_frame_beyond"] == 4
    frames = {f"frame_{i:04d}.png" for i in range(4 + beyond)}
    assert {file.name for file in folder.iterdir()} == frames | {
        "filmstrip.png",
        "path.gif",
        "report.html",
        "result.json",
        "run.json",
    }


def test_an_unknown_metric_is_refused():
    a, b = pictures(2)
    with pytest.raises(ValueError, match="unknown metric 'jacobean'; choose one of spacetime"):
        extrapolate(tiny_model(), a, b, metric="jacobean")


def test_images_in_another_metric():
    a, b = pictures(2)
    options = ExtrapolateOptions(points=2, frames=3, nodes=4, flow_steps=3)
    found = extrapolate(tiny_model(), a, b, metric="euclidean", options=options)
    assert found.continuation.stop is Stop.COMPLETE
    assert found.frames.shape == (5, 1, 8, 8)
    assert "weight" not in found.settings
    assert found.settings["points"] == 2


def test_points_of_a_metric_are_for_another_function():
    with pytest.raises(TypeError, match="model must be a Model, got a Euclidean: give a model"):
        extrapolate(Euclidean(3), *pictures(2))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"amount": -1.0}, "amount must be above 0, got -1"),
        ({"points": 0}, "points must be at least 1, got 0"),
        ({"frames": 1}, "frames must be at least 2, got 1"),
        ({"gain": 1.5}, "gain must be at most 1, got 1.5"),
        ({"method": "linear"}, "unknown method 'linear'; choose one of exponential, score-guided"),
    ],
)
def test_bad_options_are_refused(given: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        ExtrapolateOptions(**given)


def test_the_command(tmp_path: Path, capsys, monkeypatch):
    from PIL import Image

    monkeypatch.setattr("diffodesic.cli.main.COMMANDS", ("extrapolate",))
    files = []
    for i, picture in enumerate(pictures(2)):
        files.append(str(tmp_path / f"{i}.png"))
        Image.fromarray((255 * picture[0]).byte().numpy()).save(files[-1])
    tiny_model().save(tmp_path / "model")
    words = ["extrapolate", *files, "--model", str(tmp_path / "model"), "--points", "2"]
    words += ["--frames", "3", "--nodes", "6", "--flow-steps", "3", "--no-alarm"]
    assert main([*words, "--outdir", str(tmp_path / "out")]) == 0
    assert "COMPLETE: the whole amount was reached" in capsys.readouterr().out
    assert len(list((tmp_path / "out").glob("frame_*.png"))) == 5
    assert main([*words, "--amount", "-1"]) == 2
    assert "amount must be above 0" in capsys.readouterr().err
    assert main(["extrapolate", files[0]]) == 2
    assert "give two images or none, not 1" in capsys.readouterr().err
    assert command.EXAMPLES
