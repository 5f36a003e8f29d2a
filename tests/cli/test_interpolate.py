"""``diffodesic interpolate``: what it writes, how it goes on, a metric of one's own."""

from __future__ import annotations

import json
import re
from importlib import import_module

import pytest
from PIL import Image

from diffodesic.output.manifest import sha256
from support.commands import FAST, OUTPUTS, TIMED, TINY
from support.tiny import files


@pytest.mark.parametrize("metric", ["spacetime", "score", "euclidean"])
def test_interpolate_writes_everything(run, place, metric):
    code, out, err = run(*TINY, "--metric", metric)
    assert (code, err) == (0, "")
    frames = {f"frame_{i:04d}.png" for i in range(3)}
    assert files(place / "out").keys() == OUTPUTS | frames
    result = json.loads((place / "out" / "result.json").read_text())
    assert out.startswith(f"{result['status']}: {result['status_text']}\n")
    first = "arch" if metric == "spacetime" else "geodesic"
    assert f"length in the {metric} metric: {first}" in out
    written = "out/report.html, filmstrip.png, path.gif and 3 frames"
    assert out.endswith(f"wrote {written} of the {first}\n")
    assert (result["settings"]["nodes"], result["settings"]["flow_steps"]) == (4, 4)


def test_a_video_of_a_rate_and_a_size(run, place):
    av = pytest.importorskip("av")
    flags = ("--metric=euclidean", "--video", "--fps=12", "--height=64", "--no-loop")
    code, out, err = run(*TINY, *flags)
    assert (code, err) == (0, "")
    assert "path.gif, path.mp4 and 3 frames" in out
    assert files(place / "out").keys() >= OUTPUTS | {"path.mp4"}
    with av.open(str(place / "out" / "path.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.average_rate, stream.height) == (12, 64)
        assert sum(1 for _ in container.decode(video=0)) == 3
    with Image.open(place / "out" / "path.gif") as gif:
        assert (gif.height, gif.info["duration"]) == (64, 80)
    assert run(*TINY, "--fps=60")[0] == 2


def test_every_flag_arrives(run, place):
    flags = {"frames": 5, "nodes": 3, "log_snr": 1.5, "flow_steps": 3, "seed": 7}
    words = [w for k, v in flags.items() for w in (f"--{k.replace('_', '-')}={v}",)]
    code, _, _ = run("interpolate", "a.png", "b.png", "--model=tiny", "--outdir=x/y", *words)
    assert code == 0
    settings = json.loads((place / "x" / "y" / "result.json").read_text())["settings"]
    assert settings == settings | flags


def test_a_run_is_reproducible(run, place):
    for outdir in ("one", "two"):
        assert run(*TINY, "--outdir", outdir)[0] == 0
    one, two = files(place / "one"), files(place / "two")
    assert all(one[name] == two[name] for name in one.keys() - TIMED)


def test_identical_pictures_are_said_to_be_so(run, place):
    code, out, err = run("interpolate", "a.png", "a.png", "--model", "tiny", *FAST)
    assert (code, err) == (0, "")
    assert out.startswith("SAME_POINT: the end points are identical: the path has length zero\n")


def test_other_sizes_and_channels_are_converted_with_a_notice(run, place):
    Image.new("RGB", (30, 20), "red").save("big.png")
    code, _, err = run("interpolate", "a.png", "big.png", "--model", "tiny", *FAST)
    assert code == 0
    assert err.splitlines() == [
        "big.png: converted from RGB to L",
        "big.png: cropped and resized from 30x20 to 8x8",
    ]


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("images.lifting", "lift"),
        ("images.placement", "search"),
        ("output.folder", "write_gif"),
    ],
)
def test_an_interruption_leaves_the_earlier_run(run, place, monkeypatch, module, name):
    assert run(*TINY)[0] == 0
    before = files(place)

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(import_module(f"diffodesic.{module}"), name, interrupt)
    code, _, err = run(*TINY, "--metric", "score")
    goes_on = "and the same command goes on from what is finished"
    told = f"diffodesic: stopped by SIGINT; no half-written files are left, {goes_on}\n"
    assert (code, err) == (130, told)
    after = {name: content for name, content in files(place).items() if "/partial/" not in name}
    assert after == before


@pytest.mark.parametrize("when", ["the path", "its frames", "its files"])
def test_an_interrupted_run_goes_on_to_the_same_files(run, place, monkeypatch, when):
    """24 frames, and nothing that was finished is made again."""
    words = (*TINY, "--frames=24", "--metric=score")
    assert run(*words, "--outdir=whole")[0] == 0
    module, name, kept = {
        "the path": ("images.placement", "search", 1),
        "its frames": ("images.interpolation", "show_path", 2),
        "its files": ("output.folder", "write_gif", 5),
    }[when]

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(import_module(f"diffodesic.{module}"), name, interrupt)
        assert run(*words)[0] == 130
    left = list((place / "out" / "partial").rglob("*.safetensors"))
    assert len(left) == kept
    lifts: list[object] = []
    lift = import_module("diffodesic.images.lifting").lift

    def counted(*given: object, **options: object) -> object:
        lifts.append(given)
        return lift(*given, **options)

    monkeypatch.setattr("diffodesic.images.lifting.lift", counted)
    assert (run(*words)[0], lifts) == (0, [])
    one, two = files(place / "whole"), files(place / "out")
    assert one.keys() == two.keys()
    assert all(one[name] == two[name] for name in one.keys() - TIMED)


def test_another_command_does_not_take_what_is_left(run, place, monkeypatch):
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr("diffodesic.output.folder.write_gif", interrupt)
        assert run(*TINY, "--metric=score")[0] == 130
    assert run(*TINY, "--metric=euclidean")[0] == 0
    assert json.loads((place / "out/result.json").read_text())["settings"]["metric"] == "euclidean"
    # and the first one still goes on: nothing is lifted or solved again
    monkeypatch.setattr("diffodesic.images.lifting.lift", interrupt)
    monkeypatch.setattr("diffodesic.images.placement.search", interrupt)
    assert run(*TINY, "--metric=score")[0] == 0
    assert json.loads((place / "out/result.json").read_text())["settings"]["metric"] == "score"
    assert not (place / "out" / "partial").exists()


OWN = """
import diffodesic as dd
small = dd.Euclidean(3)
def mine(denoiser):
    return dd.Conformal(lambda x: 4 + 0 * x[..., 0], denoiser.dim)
word = "no metric"
def leaving(denoiser):
    exit(0)
def broken(denoiser):
    return {}["metric"]
class Plain(dd.Metric):
    dim = 64
    def inner(self, x, u, v):
        return (u * v).sum(-1)
class Sloped(Plain):
    def __init__(self, denoiser, slope):
        self.slope = slope
"""


def test_a_metric_of_ones_own_file(run, place):
    (place / "mine.py").write_text(OWN)
    code, out, err = run(*TINY, "--metric", "mine.py:mine", "--log-snr", "0.5")
    assert (code, err) == (0, "")
    assert "length in the Conformal metric: geodesic" in out
    settings = json.loads((place / "out" / "result.json").read_text())["settings"]
    assert (settings["metric"], settings["log_snr"]) == ("Conformal", 0.5)
    source = f"mine.py:mine ({sha256(place / 'mine.py')})"
    assert settings["metric_source"] == source
    assert json.loads((place / "out" / "run.json").read_text())["settings"] == settings
    assert source in (place / "out" / "report.html").read_text()
    assert run("extrapolate", *TINY[1:], "--metric", "mine.py:mine", "--points", "2")[0] == 0


def test_a_class_that_takes_nothing_is_a_metric_too(run, place):
    (place / "mine.py").write_text(OWN)
    assert run(*TINY, "--metric", "mine.py:Plain")[0] == 0
    settings = json.loads((place / "out" / "result.json").read_text())["settings"]
    assert settings["metric"] == "Plain"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("mine.py:small",),
            "the metric Euclidean has 3 coordinates and the points of model",
        ),
        (("mine.py:word",), "mine.py:word is neither a Metric nor a function of a denoiser"),
        (("mine.py:none",), "mine.py has no none"),
        (("mine.py:leaving",), "mine.py:leaving cannot be called (SystemExit: 0); correct it"),
        (("mine.py:broken",), "mine.py:broken cannot be called (KeyError: 'metric'); correct it"),
        (
            ("mine.py:Sloped",),
            "mine.py:Sloped cannot be called (TypeError: Sloped.__init__() missing 1 required ",
        ),
        (("yours.py:mine",), "yours.py is not a file; give FILE.py:NAME"),
        (("mine.py:mine", "--rank=2"), "--rank: no option of the metric mine.py:mine"),
    ],
)
@pytest.mark.parametrize("command", ["interpolate", "extrapolate"])
def test_a_metric_that_does_not_fit_is_one_line(run, place, command, words, message):
    (place / "mine.py").write_text(OWN)
    code, out, err = run(command, *TINY[1:], "--metric", *words)
    assert (code, out) == (2, "")
    assert re.fullmatch(rf"diffodesic: {re.escape(message)}[^\n]*\n", err), err


def test_several_key_images(run, place):
    code, out, err = run(
        "interpolate", "a.png", "b.png", "a.png", "--model=tiny", *FAST, "--frames=7"
    )
    assert (code, err) == (0, "")
    result = json.loads((place / "out" / "result.json").read_text())
    assert result["keys"] == [0, 3, 6]
    assert "the images are frames 0, 3, 6" in out
    assert (place / "out" / "pair-2" / "report.html").exists()
    assert (place / "out" / "frame_0006.png").exists()
