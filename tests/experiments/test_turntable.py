"""Turning objects: the truth is its own truth, blends are told from photographs, the whole runs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from diffodesic.experiments.common.inputs import squeezenet
from diffodesic.experiments.experiment import Context
from diffodesic.experiments.registry import reproduce
from diffodesic.experiments.turntable.graph import Album, chain
from diffodesic.experiments.turntable.judging import judge, small, validated
from diffodesic.experiments.turntable.paths import frames_of
from diffodesic.experiments.turntable.settings import CHOICES, METHODS, OURS, Settings
from diffodesic.experiments.turntable.turns import SPLITS, Pairs, Turns, read_turns
from diffodesic.images.interpolation import InterpolateOptions, interpolate
from diffodesic.output.stages import Store
from support.tiny import pictures, tiny_model

DATA = Path(os.environ.get("DIFFODESIC_DATA", "nowhere"))
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="DIFFODESIC_DATA is not set")


def turns(around: int = 24, side: int = 64) -> Turns:
    """Two objects, without an autoencoder."""
    names, raw = read_turns(DATA, "choices", 2, side, around)
    return Turns(names, raw, raw)


def test_objects_are_for_choices_or_for_the_table():
    assert not set(SPLITS["choices"]) & set(SPLITS["test"])
    assert {len(numbers) for numbers in SPLITS.values()} == {10}
    with pytest.raises(ValueError, match="give 2 to 10 objects, not 11"):
        read_turns(DATA, "test", 11, 64)
    with pytest.raises(ValueError, match=r"images\.npz is not there"):
        read_turns(DATA / "nowhere", "test", 2, 64)


def test_pairs_are_so_far_apart():
    given, own = Pairs.turned(turns(), 90.0, seed=3), turns()
    for i, (first, ends) in enumerate(zip(given.first, given.ends, strict=True)):
        shown = own.raw[i, [first, (first + 6) % 24]].double() / 255
        torch.testing.assert_close(ends, shown)
    assert given.between(own).shape == (2, 5)


def test_the_true_path_turns_and_standing_still_does_not():
    own, features = turns(), squeezenet(DATA, "cpu")
    given = Pairs.turned(own, 60.0, seed=3)  # 4 steps of 15 degrees
    numbers = (given.first[:, None] + torch.arange(5)) % 24
    truth = torch.stack([own.raw[i, row] for i, row in enumerate(numbers)]).float() / 255
    still = truth[:, [0, 0, 0, 4, 4]]
    (right,), (stands,) = (judge([x], [given], own, features) for x in (truth, still))
    assert float(right["angle error"].max()) == 0
    assert float(right["forward"].min()) == 1
    # the distance of a picture to itself is what single precision leaves of 7 - 7
    assert float(right["nearest, features"].max()) < 1e-3
    assert float(right["nearest, RMS"].max()) < 1e-6
    assert stands["angle error"].tolist() == [20.0, 20.0]  # 15, 30 and 15 degrees
    assert stands["forward"].tolist() == [0.25, 0.25]
    assert bool((stands["largest step"] > 1.2 * right["largest step"]).all())
    torch.testing.assert_close(right["end PSNR"], torch.full((2,), 60.0))


def test_blends_are_told_from_photographs():
    own = turns(around=60)
    real, double = validated(Pairs.turned(own, 90.0, seed=0), own, squeezenet(DATA, "cpu"))
    assert float((real[:, None] < double).float().mean()) > 0.98


def test_every_choice_is_another_and_ours_is_among_both():
    assert OURS in CHOICES
    assert METHODS[OURS] == CHOICES[OURS]
    for methods in (CHOICES, METHODS):
        assert len(set(methods.values())) == len(methods)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_gives_frames(name):
    settings = Settings(frames=4, nodes=4, flow_steps=3)
    shown = pictures(6, 3)
    ends, between = shown[:4].reshape(2, 2, 3, 8, 8), [shown[4:], shown[:0]]
    frames = frames_of(tiny_model(channels=3), METHODS[name], ends, settings, between)
    assert frames.shape == (2, 4, 3, 8, 8)
    assert bool(frames.isfinite().all())


def test_a_way_through_photographs_meets_each_of_them():
    nodes = torch.eye(3, dtype=torch.float64)  # two quarters of circles of chord sqrt 2
    s = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64)
    half = 0.5**0.5
    expected = torch.tensor([[1, 0, 0], [half, half, 0], [0, 1, 0], [0, 0, 1]]).double()
    torch.testing.assert_close(chain(nodes, s), expected)


def test_the_graph_finds_the_turn_of_an_object_unless_its_variety_is_left_out(tmp_path):
    own, album = turns(around=60, side=100), Album.read(DATA, Store(tmp_path, {}))
    given = Pairs.turned(own, 60.0, seed=0)
    ends, name = given.ends[0], own.names[0].split("|")[0]
    labels = album.archive.arrays["label_names"][album.archive.arrays["label"]][album.rows]
    assert name in labels

    def off(way: Tensor) -> float:
        """RMS from the photograph on a way that is least like a view of the object."""
        flat, real = small(way).flatten(1), small(own.raw[0]).flatten(1)
        return float(torch.cdist(flat, real).amin(1).max()) / flat.shape[1] ** 0.5

    through, others = album.between(ends), album.between(ends, (name,))
    assert through.shape[1:] == others.shape[1:] == (3, 100, 100)
    assert off(through) < 0.06  # neighbouring photographs of a turn are as far apart
    assert off(others) > 0.1


def test_ours_is_what_interpolate_shows():
    model, images = tiny_model(channels=3), pictures(2, 3)
    shown = interpolate(
        model, *images, options=InterpolateOptions(nodes=4, frames=4, flow_steps=3, baselines=())
    )
    settings = Settings(frames=4, flow_steps=3)
    frames = frames_of(model, METHODS[OURS], images.unsqueeze(0), settings)
    torch.testing.assert_close(frames[0], shown.paths["arch"].frames)


@pytest.mark.parametrize(
    "name", ["score/turntable", pytest.param("score/turntable-choices", marks=pytest.mark.slow)]
)
def test_the_quick_experiment_goes_on_where_it_stopped(name, tmp_path, monkeypatch):
    tiny_model(channels=3).save(tmp_path / "model")
    context = Context(tmp_path / "out", quick=True, data=DATA, model=str(tmp_path / "model"))
    outcome = reproduce(name, context)
    record = json.loads((tmp_path / "out" / "result.json").read_text())
    assert list(record["arrays"]["tables"]) == ["90 degrees", "morphs"]
    assert "nearest, features" in record["arrays"]["tables"]["90 degrees"][OURS]
    files = {file.name for file in (tmp_path / "out").glob("*.png")}
    assert files == {"figure.png", "frames-90.png", "frames-morphs.png"}
    monkeypatch.setattr(
        "diffodesic.experiments.turntable.run.frames_of", lambda *_: pytest.fail("made again")
    )
    assert reproduce(name, context).notes == outcome.notes


def test_a_model_of_grey_pictures_is_refused(tmp_path):
    context = Context(tmp_path, quick=True, data=DATA, model="python:support.tiny:tiny_model")
    with pytest.raises(ValueError, match=r"the model's pictures are \(1, 8, 8\); this takes \(3"):
        reproduce("score/turntable", context)
