"""The harness of pairs of pictures: what it reads, what it writes, and that it goes on."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffodesic.experiments import morph
from diffodesic.experiments.experiment import Context
from diffodesic.experiments.registry import reproduce
from diffodesic.models.datasets import shipped_digits
from diffodesic.output.images import to_uint8
from support import pipelines
from support.tiny import tiny_model

DATA = Path(os.environ.get("DIFFODESIC_DATA", "nowhere"))
METHODS = {
    *("spacetime", "arch", "score", "jacobian", "conformal", "score, mode=paper"),
    *("LERP", "SLERP", "NAO", "NoiseDiffusion", "likely path"),
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A model of digits and two pairs."""
    tiny_model(side=28, bend=0).save(tmp_path / "model")
    digits = to_uint8(shipped_digits()[0][[3, 33, 45, 83]])
    for i, name in enumerate(("one", "two")):
        (tmp_path / "pairs" / name).mkdir(parents=True)
        for k in (0, 1):
            Image.fromarray(digits[2 * i + k]).save(tmp_path / "pairs" / name / f"{k}.png")
    return tmp_path


def test_every_method_is_judged_and_an_interrupted_run_goes_on(place: Path, monkeypatch):
    out = place / "out"
    context = Context(out, quick=True, model=str(place / "model"), pairs=place / "pairs")
    outcome = reproduce("score/stable-diffusion", context)
    names = {number.quantity.split(": ")[0] for number in outcome.numbers}
    assert names == METHODS
    assert all(np.isfinite(number.measured) for number in outcome.numbers)
    assert any(note.startswith("No FID and KID: FID in 96 features") for note in outcome.notes)
    assert {path.name for path in out.glob("strip-*.png")} == {"strip-one.png", "strip-two.png"}
    first = json.loads((out / "result.json").read_text())
    monkeypatch.setattr(
        "diffodesic.images.placement.search", lambda *_, **__: pytest.fail("solved again")
    )
    reproduce("spacetime/images", context)
    again = json.loads((out / "result.json").read_text())
    assert again["rows"] == first["rows"]


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="DIFFODESIC_DATA is not set")
def test_a_folder_of_stable_diffusion_under_prompts(tmp_path: Path, monkeypatch):
    pytest.importorskip("diffusers")
    pipelines.MAKERS["sd1"]().save_pretrained(tmp_path / "sd")
    pipelines.unplug(monkeypatch)
    home = tmp_path / "pairs" / "cats"
    home.mkdir(parents=True)
    for i, name in enumerate(("chelsea.png", "coffee.png")):
        Image.open(DATA / "natural_images" / name).save(home / f"{i}.png")
    (home / "prompt.txt").write_text("a cat\n")
    model = f"diffusers:{tmp_path / 'sd'}"
    context = Context(tmp_path, quick=True, model=model, pairs=tmp_path / "pairs", data=DATA)
    outcome = morph.run(context)
    assert isinstance(outcome.settings, morph.Settings)
    assert outcome.settings.features == "squeezenet-1.1"
    assert {number.quantity.split(": ")[0] for number in outcome.numbers} == METHODS


def test_what_is_no_pair_is_named(place: Path):
    with pytest.raises(ValueError, match="--pairs DIR, a folder of folders of two pictures each"):
        reproduce("score/stable-diffusion", Context(place / "out"))
    model = tiny_model()
    (place / "pairs" / "two" / "1.png").unlink()
    with pytest.raises(ValueError, match="two holds 1 pictures; a pair is two"):
        morph.read_pairs(place / "pairs", model, print)
    (place / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no folders"):
        morph.read_pairs(place / "empty", model, print)


def test_missing_extractor_weights_are_said(place: Path):
    with pytest.raises(ValueError, match="is not there; give the ONNX file"):
        morph.run(Context(place, model=str(place / "model"), pairs=place / "pairs", data=place))
