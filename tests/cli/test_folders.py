"""One folder for several commands: nothing of an earlier run is left, two never work at once."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffodesic.images.distances import PairwiseDistances
from diffodesic.output import manifest
from diffodesic.output.folder import replace_files
from diffodesic.output.images import to_uint8
from diffodesic.output.manifest import MANIFEST
from support.commands import FAST, Run
from support.tiny import files, pictures, tiny_model

SMALL = ("--nodes=4", "--flow-steps=2", "--model=tiny")
COMMANDS = {
    "interpolate": ("interpolate", "a.png", "b.png", "--model=tiny", *FAST),
    "fewer frames": ("interpolate", "a.png", "b.png", "--model=tiny", *FAST, "--frames=2"),
    "chain": ("interpolate", "a.png", "b.png", "a.png", "--model=tiny", *FAST),
    "extrapolate": ("extrapolate", "a.png", "b.png", *SMALL, "--frames=2", "--points=2"),
    "distance": ("distance", "a.png", "b.png", *SMALL),
    "distance of one": ("distance", "a.png", "a.png", *SMALL),
    "paths": (
        *("paths", "--potential=double-well", "--from=-1,0", "--to=1,0", "--nodes=8"),
        *("--langevin-steps=4", "--paths=30"),
    ),
}
NETWORK = ("--channels", "4", "8", "--blocks", "1", "1", "--heads=1")
KEPT = {
    "distances": ("distances", "set", *SMALL),
    "train": ("train", "data.npy", "--steps=2", "--batch=2", *NETWORK),
}


@pytest.fixture
def folder(place: Path) -> Path:
    """The working folder, with a folder of three pictures."""
    (place / "set").mkdir()
    for name, image in zip("abc", to_uint8(pictures(3)), strict=True):
        Image.fromarray(image).save(place / "set" / f"{name}.png")
    np.save(place / "data.npy", np.stack(to_uint8(pictures(50))))
    return place


def names(out: Path) -> set[str]:
    return {name for name in files(out) if not name.endswith("/")}


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ("chain", "interpolate"),
        ("interpolate", "fewer frames"),
        ("interpolate", "extrapolate"),
        ("extrapolate", "distance"),
        ("distance", "distance of one"),
        ("paths", "interpolate"),
        ("interpolate", "paths"),
    ],
)
def test_nothing_of_an_earlier_command_is_left(run: Run, folder, first, then):
    assert run(*COMMANDS[first], "--outdir=out")[0] == 0
    (folder / "out/mine.txt").write_text("mine")
    assert run(*COMMANDS[then], "--outdir=out")[0] == 0
    assert run(*COMMANDS[then], "--outdir=fresh")[0] == 0
    assert names(folder / "out") == names(folder / "fresh") | {"mine.txt"}
    assert json.loads((folder / "out" / MANIFEST).read_text())["command"] == COMMANDS[then][0]


@pytest.mark.parametrize("first", KEPT)
def test_what_took_long_is_left_alone(run: Run, folder, first):
    assert run(*KEPT[first], "--outdir=out")[0] == 0
    before = files(folder)
    for command in (*COMMANDS.values(), *(KEPT[other] for other in KEPT if other != first)):
        code, _, err = run(*command, "--outdir=out")
        verb = command[0]
        assert (code, err) == (
            2,
            f"diffodesic: out holds results of `{first}` that {verb} would remove; give another "
            "folder\n",
        )
    assert files(folder) == before
    assert run(*KEPT[first], "--outdir=out")[0] == 0


FRAMES = ("out/frame_0000.png", "out/frame_0002.png")
UNDER_NOISE = ("--metric=mean", "--model=tiny")
OWN_INPUTS = {
    "interpolate": ("interpolate", *FRAMES, "--model=tiny", *FAST),
    "extrapolate": ("extrapolate", *FRAMES, *SMALL, "--points=2"),
    "distance": ("distance", *FRAMES, *SMALL),
    "distance by another name": ("distance", f"out/../{FRAMES[0]}", FRAMES[1], *SMALL),
    "distances": ("distances", "out", *SMALL),
    "diagnose": ("diagnose", FRAMES[0], "--model=tiny", "--log-snr=1"),
    "likelihood": ("likelihood", FRAMES[0], "--model=tiny"),
    "train": ("train", "out", "--steps=2", "--batch=2", *NETWORK),
    "distance among": ("distance", "a.png", "b.png", *UNDER_NOISE, "--among=out"),
    "likelihood among": ("likelihood", "a.png", "--model=tiny", "--among=out"),
}


@pytest.mark.parametrize("command", OWN_INPUTS)
def test_no_command_removes_what_it_reads(run: Run, folder, command):
    """Frames of an earlier run, in the folder where the next would put its own results."""
    with replace_files("out", manifest.Run(command="interpolate")) as earlier:
        for i in range(3):
            shutil.copy(f"set/{'abc'[i]}.png", earlier / f"frame_000{i}.png")
    before = files(folder)
    code, out, err = run(*OWN_INPUTS[command], "--outdir=out")
    said = "frame_0000.png is read by .* and would be replaced by its results; give another folder"
    assert (code, out) == (2, "")
    assert re.search(rf"{said}\n\Z", err), err
    assert files(folder) == before


def test_a_picture_of_the_user_under_the_name_of_a_result_stays(run: Run, folder):
    (folder / "a.png").rename(folder / "frame_0001.png")
    before = (folder / "frame_0001.png").read_bytes()
    words = ("interpolate", "frame_0001.png", "b.png", "--model=tiny", *FAST)
    code, _, err = run(*words, "--outdir=.")
    assert (code, "frame_0001.png is read by interpolate" in err) == (2, True)
    assert (folder / "frame_0001.png").read_bytes() == before


def test_a_model_without_its_checkpoint_is_not_trained_over(run: Run, folder):
    before = files(folder / "tiny")
    code, _, err = run(*KEPT["train"], "--outdir=tiny")
    assert (code, err.count("\n")) == (2, 1)
    assert "tiny holds a model, and no checkpoint of its training to go on from" in err
    assert files(folder / "tiny") == before
    assert run(*KEPT["train"], "--outdir=tiny", "--fresh")[0] == 0
    assert run(*KEPT["train"], "--outdir=tiny")[0] == 0


def test_page_and_manifest_name_the_pictures_the_model_and_the_command(run: Run, folder):
    assert run(*COMMANDS["interpolate"])[0] == 0
    manifest = json.loads((folder / "out" / MANIFEST).read_text())
    page = (folder / "out/report.html").read_text()
    for entry, name in zip(manifest["inputs"], ("a.png", "b.png"), strict=True):
        assert entry == {
            "name": name,
            "hash": hashlib.sha256((folder / name).read_bytes()).hexdigest(),
        }
        assert f"{name} ({entry['hash'][:16]})" in page
    settings = json.loads((folder / "out/result.json").read_text())["settings"]
    assert manifest["model"] == {"model": "tiny", "fingerprint": settings["fingerprint"]}
    assert settings["fingerprint"] in page
    assert '<th scope="row">command</th><td class="text">interpolate</td>' in page
    listed = {
        name: hashlib.sha256((folder / "out" / name).read_bytes()).hexdigest()
        for name in names(folder / "out") - {MANIFEST}
    }
    assert manifest["files"] == listed


def test_a_model_that_was_trained_again_in_the_same_folder(run: Run, folder, monkeypatch):
    """An interrupted run of the first is not continued with the second."""

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr("diffodesic.output.folder.write_gif", interrupt)
        assert run(*COMMANDS["interpolate"])[0] == 130
    tiny_model(bend=0.05).save(folder / "tiny")
    code, _, err = run(*COMMANDS["interpolate"])
    assert code == 2
    assert "holds results of other settings (model.weights was " in err
    assert "remove it to start afresh, or choose another folder" in err
    assert run(*COMMANDS["interpolate"], "--outdir=new")[0] == 0


def test_distances_of_other_pictures_under_the_same_names(run: Run, folder):
    assert run(*KEPT["distances"])[0] == 0
    whole = PairwiseDistances.load(folder / "out/distances.npz")
    Image.fromarray(np.full((8, 8), 99, np.uint8)).save(folder / "set/b.png")
    code, _, err = run(*KEPT["distances"])
    assert (code, "points was " in err, err.count("\n")) == (2, True, 1)
    assert PairwiseDistances.load(folder / "out/distances.npz").settings == whole.settings


HOLD = """
import sys, time
from diffodesic.output.folder import own_outdir
with own_outdir(sys.argv[1], sys.argv[2]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def at_work(folder: Path, request: pytest.FixtureRequest) -> Iterator[int]:
    """Another process that is at work in the output folder."""
    words = [sys.executable, "-c", HOLD, "out", request.param]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process.pid
        process.kill()


@pytest.mark.parametrize("at_work", ["interpolate", "distances", "train", "paths"], indirect=True)
def test_a_folder_in_use_is_refused_at_once(run: Run, folder, at_work, request):
    command = request.node.callspec.params["at_work"]
    began = time.monotonic()
    code, out, err = run(*(COMMANDS | KEPT)[command], "--outdir=out")
    assert (code, out) == (2, "")
    assert err.startswith(f"diffodesic: out is in use by process {at_work} on ")
    assert err.endswith("; wait for its end, or give another place for the results\n")
    assert time.monotonic() - began < 10
    assert names(folder / "out") == {".lock"}
