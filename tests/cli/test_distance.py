"""``distance`` and ``distances``: what they print and write; bad input is one line."""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import pytest
from PIL import Image

from diffodesic.cli import distance
from diffodesic.images.distances import PairwiseDistances
from diffodesic.output.images import to_uint8
from support.tiny import pictures, tiny_model

FAST = ("--nodes", "4", "--flow-steps", "2", "--model", "tiny")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a tiny model and a folder of three pictures."""
    (tmp_path / "set").mkdir()
    for name, image in zip("abc", to_uint8(pictures(3)), strict=True):
        Image.fromarray(image).save(tmp_path / "set" / f"{name}.png")
    tiny_model().save(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def run(*words: str) -> None:
    parser = argparse.ArgumentParser()
    distance.add(parser.add_subparsers())
    options = parser.parse_args(words)
    options.run(options)


def test_distance_prints_the_edit_and_writes_it(place, capsys):
    run("distance", "set/a.png", "set/b.png", *FAST, "--outdir", "ab", "--log-snr", "1.5")
    out = capsys.readouterr().out
    assert out.startswith("DiffED ")
    assert "at log SNR 1.5 (model tiny, secant metric)" in out
    assert "noise    log SNR 1.50 to" in out
    content = json.loads((place / "ab" / "edit.json").read_text())
    assert f"DiffED {content['distance']:.4g} at" in out
    assert content["settings"]["nodes"] == 4
    assert (place / "ab" / "edit.png").exists()


def test_distance_writes_nothing_unasked(place, capsys):
    before = sorted(place.rglob("*"))
    run("distance", "set/a.png", "set/a.png", *FAST)
    assert capsys.readouterr().out.startswith("DiffED 0 at log SNR 2")
    assert sorted(place.rglob("*")) == before


def test_distances_writes_a_matrix_with_names_and_goes_on(place, capsys):
    run("distances", "set", *FAST, "--outdir", "d")
    out = capsys.readouterr().out
    assert out.startswith("3 distances of 3 pictures at log SNR 2 (secant metric)")
    assert "s per pair; 10,000 pictures would take" in out
    assert "nearest to a.png: " in out
    rows = list(csv.reader((place / "d" / "distances.csv").read_text().splitlines()))
    assert rows[0] == ["", "a.png", "b.png", "c.png"]
    found = PairwiseDistances.load(place / "d" / "distances.npz")
    assert float(rows[1][2]) == pytest.approx(float(found.matrix[0, 1]), rel=1e-5)
    # a second run has nothing left to solve: even the time spent is the same
    run("distances", "set", *FAST, "--outdir", "d")
    lines, again = out.splitlines(), capsys.readouterr().out.splitlines()
    assert [line for line in again if "of the network" not in line] == [
        line for line in lines if "of the network" not in line
    ]


def test_bad_input_says_what_to_change(place):
    (place / "empty").mkdir()
    with pytest.raises(ValueError, match="holds 0 pictures; 2 or more"):
        run("distances", "empty", *FAST)
    with pytest.raises(ValueError, match="is no folder"):
        run("distances", "set/a.png", *FAST)
    with pytest.raises(ValueError, match="outside the noise levels"):
        run("distance", "set/a.png", "set/b.png", *FAST, "--log-snr", "90")
    with pytest.raises(ValueError, match="no picture at"):
        run("distance", "set/a.png", "set/none.png", *FAST)
    run("distances", "set", *FAST, "--outdir", "d")
    with pytest.raises(ValueError, match="distances of other data or settings"):
        run("distances", "set", *FAST, "--outdir", "d", "--seed", "5")


def test_broken_pictures_of_a_folder_are_named_and_left_out_and_twins_are_named(place, capsys):
    (place / "set" / "a-pipe.png").mkdir()
    (place / "set" / "bb.png").write_bytes((place / "set" / "b.png").read_bytes()[:90])
    (place / "set" / "d.png").write_bytes((place / "set" / "a.png").read_bytes())
    run("distances", "set", "--model", "tiny", "--metric", "mean", "--outdir", "d")
    said = capsys.readouterr()
    assert said.out.startswith("6 distances of 4 pictures")
    for name in ("a-pipe.png is a folder", "bb.png cannot be read"):
        assert f"note: left out: set/{name}" in said.err
    assert "note: 2 pictures were left out" in said.err
    assert "note: set/d.png is the same picture as a.png" in said.err
    rows = list(csv.reader((place / "d" / "distances.csv").read_text().splitlines()))
    assert rows[0] == ["", "a.png", "b.png", "c.png", "d.png"]
    assert float(rows[1][4]) == 0
    for name in "bcd":
        (place / "set" / f"{name}.png").unlink()
    with pytest.raises(ValueError, match="set holds 1 that can be read; 2 or more are needed"):
        run("distances", "set", "--model", "tiny")


def test_changes_to_many_pictures_are_counted(place, capsys):
    for name in "ab":
        Image.new("RGB", (20, 10 + ord(name))).save(place / "set" / f"{name}.png")
    run("distances", "set", "--model", "tiny", "--metric", "mean")
    assert "2 pictures: converted from RGB to L" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [FAST[:4], ("--metric", "mean"), (*FAST[:4], "--neighbours", "1")]
)
def test_results_of_another_model_are_refused(place, words):
    run("distances", "set", *words, "--model", "tiny", "--outdir", "d")
    tiny_model(bend=0.05).save(place / "other")
    with pytest.raises(ValueError, match=r"other (data or )?settings \(.*model\.") as refused:
        run("distances", "set", *words, "--model", "other", "--outdir", "d")
    assert "\n" not in str(refused.value)


def test_iterations_limit_the_search_of_the_model(place, capsys):
    run("distance", "set/a.png", "set/b.png", *FAST, "--iterations", "1", "--outdir", "one")
    run("distance", "set/a.png", "set/b.png", *FAST, "--outdir", "all")
    capsys.readouterr()
    costs = [
        json.loads((place / name / "edit.json").read_text())["cost"]["node_gradients"]
        for name in ("one", "all")
    ]
    assert costs[0] < costs[1]


IEM = ("--metric", "iem", "--levels", "9", "--model", "tiny")


def test_distance_under_noise_prints_its_percentile_which_is_kept(place, capsys):
    run("distance", "set/a.png", "set/b.png", *IEM, "--percentile", "10", "--outdir", "ab")
    first = capsys.readouterr().out
    assert first.startswith("IEM ")
    assert "up to log SNR 9.2" in first
    assert "among 10 random pairs of 5 samples of the model" in first
    assert "sampling 245" in first  # 49 evaluations each
    content = json.loads((place / "ab" / "distance.json").read_text())
    assert content["percentile"] in first
    assert len(content["profile"]) == len(content["levels"]) == 9
    assert list((place / "cache" / "diffodesic").rglob("complete.safetensors"))
    run("distance", "set/a.png", "set/b.png", *IEM, "--percentile", "10")
    again = capsys.readouterr().out
    assert again.splitlines()[:2] == first.splitlines()[:2]
    assert "sampling" not in again


def test_distance_ranks_among_a_folder_whose_broken_pictures_are_named(place, capsys):
    (place / "set" / "broken.png").write_bytes(b"no picture")
    words = ("--metric", "mean", "--model", "tiny", "--among", "set", "--cache", "kept")
    run("distance", "set/a.png", "set/b.png", *words)
    shown = capsys.readouterr()
    assert shown.out.startswith("distance of posterior means ")
    assert "among 3 random pairs of 3 pictures of set" in shown.out
    assert "left out: set/broken.png" in shown.err
    assert (place / "kept").is_dir()


def test_pictures_are_counted_where_no_more_are_needed(place, capsys):
    for name in "defghi":
        (place / "set" / f"{name}.png").write_bytes(b"no picture")
    for name in "jklm":
        Image.new("RGB", (20, 10)).save(place / "set" / f"{name}.png")
    words = ("--metric", "mean", "--model", "tiny", "--among", "set", "--cache", "kept")
    # three pairs need three of the seven pictures that can be read
    run("distance", "set/a.png", "set/b.png", *words, "--percentile", "3")
    said = capsys.readouterr().err.splitlines()
    broken = [line for line in said if line.startswith("note: left out: ")]
    assert 1 < len(broken) < 6
    assert f"note: {len(broken)} pictures were left out" in said
    assert any(line.endswith(" pictures: converted from RGB to L") for line in said)


def test_edits_are_ranked_when_asked_to_and_say_what_that_takes(place, capsys):
    run("distance", "set/a.png", "set/b.png", *FAST)
    assert "no percentile yet: --percentile 20 solves 20 random pairs once" in (
        capsys.readouterr().out
    )
    run("distance", "set/a.png", "set/b.png", *FAST, "--percentile", "2")
    assert "among 2 random pairs of 4 samples" in capsys.readouterr().out


def test_distances_under_noise_are_written_and_read_again(place, capsys):
    run("distances", "set", *IEM, "--outdir", "d")
    out = capsys.readouterr().out
    assert out.startswith("3 distances of 3 pictures at log SNR 9.21 (iem)")
    assert "standard error" in out
    assert "nearest to a.png: " in out
    assert (place / "d" / "distances.csv").exists()
    run("distances", "set", *IEM, "--outdir", "d")
    assert "comparing" not in capsys.readouterr().out


def test_options_of_another_metric_are_refused(place):
    for words, message in (
        (("distance", "set/a.png", "set/b.png", *IEM, "--nodes", "4"), "--nodes: no option of"),
        (("distance", "set/a.png", "set/b.png", *FAST, "--snr", "4"), "--snr: no option of"),
        (("distance", "set/a.png", "set/b.png", *IEM, "--iterations", "4"), "--iterations: no"),
        (("distances", "set", *IEM, "--check", "1"), "--check: no option of the metric iem"),
        (("distance", "set/a.png", "set/b.png", *IEM, "--among", "no"), "no is no folder"),
        (("distance", "set/a.png", "set/b.png", *IEM, "--snr", "1e9"), "outside the noise lev"),
    ):
        with pytest.raises(ValueError, match=message):
            run(*words)


def test_neighbours_are_written_with_what_they_took_and_taken_up_again(place, capsys):
    words = ("distances", "set", *FAST, "--neighbours", "1", "--outdir", "n")
    run(*words, "--candidates", "2", "--check", "1")
    out = capsys.readouterr().out
    assert out.startswith("1 nearest of 3 pictures by diffed at log SNR 2: ")
    assert "of 3 pairs solved" in out
    assert "recall 100.0% of the neighbours of 1 pictures" in out
    rows = list(csv.reader((place / "n" / "neighbours.csv").read_text().splitlines()))
    assert [row[:2] for row in rows] == [["picture", "rank"], *([f"{x}.png", "1"] for x in "abc")]
    run(*words, "--candidates", "2", "--check", "1")
    assert "searching" not in capsys.readouterr().out
    run("distances", "set", *IEM, "--neighbours", "2", "--outdir", "i")
    said = capsys.readouterr().out
    assert "by iem at log SNR 9.21: 0 of 3 pairs solved" in said
    assert "recall 100.0% as the noise lets expect" in said  # two others, both of them nearest
    with pytest.raises(ValueError, match="--recall: no option of the metric diffed"):
        run("distances", "set", *FAST, "--neighbours", "2", "--recall", ".5")
    with pytest.raises(ValueError, match="--candidates belongs to --neighbours"):
        run("distances", "set", *FAST, "--candidates", "2")
    with pytest.raises(ValueError, match="--candidates: no option of the metric iem"):
        run("distances", "set", *IEM, "--neighbours", "2", "--candidates", "2")
