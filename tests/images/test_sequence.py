"""Several key images, the pace of frames, and stages that are kept."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import torch
from torch import Tensor

from diffodesic.images.features import Features
from diffodesic.images.interpolation import InterpolateOptions, interpolate
from diffodesic.images.sequence import _shares, interpolate_through
from diffodesic.images.shown_path import _perceptual
from support.tiny import pictures, tiny_model

OPTIONS = InterpolateOptions(nodes=4, flow_steps=4, baselines=("LERP",))
FAST: dict[str, Any] = {"metric": "score", "options": OPTIONS}


def test_every_key_appears_once_and_every_part_is_a_pair():
    model, images = tiny_model(), pictures(3)
    chain = interpolate_through(model, list(images), frames=8, **FAST)
    assert len(chain.frames) == 8
    assert chain.keys[0] == 0
    assert chain.keys[-1] == 7
    for part, key in zip(chain.parts, chain.keys, strict=False):
        torch.testing.assert_close(chain.frames[key], part.frames[0])
    alone = interpolate(model, images[1], images[2], frames=len(chain.parts[1].frames), **FAST)
    assert torch.equal(alone.frames, chain.parts[1].frames)
    assert chain.length == pytest.approx(sum(float(p.geodesic.length) for p in chain.parts))


def test_frames_are_shared_out_by_length():
    assert _shares([1.0, 3.0], 8) == [2, 6]
    assert _shares([1.0, 1e6], 8) == [1, 7]  # every pair has a step
    assert _shares([0.0, 0.0], 3) in ([1, 2], [2, 1])
    assert sum(_shares([0.3, 0.2, 0.7, 0.11], 23)) == 23


def test_too_few_images_or_frames_are_refused():
    model, images = tiny_model(), list(pictures(3))
    lone: list[Any] = [images[:1], tuple(images[:1]), pictures(1)]
    for one in lone:
        with pytest.raises(ValueError, match="got 1 images and 16 frames"):
            interpolate_through(model, one)
    with pytest.raises(ValueError, match="got 0 images"):
        interpolate_through(model, [])
    with pytest.raises(ValueError, match="got 3 images and 2 frames"):
        interpolate_through(model, images, frames=2)


@pytest.mark.parametrize("bad", [None, 3, "a.png", {"a.png": 1}, iter([])])
def test_what_is_no_list_of_images_is_refused(bad: Any):
    with pytest.raises(TypeError, match="images must be a list of two pictures or more, got"):
        interpolate_through(tiny_model(), bad)


def test_a_chain_is_saved_whole(tmp_path):
    chain = interpolate_through(tiny_model(), list(pictures(3)), frames=5, **FAST)
    chain.parts[0].save(tmp_path)  # an earlier run, of a pair
    assert (tmp_path / "report.html").exists()
    (tmp_path / "pair-2").mkdir()
    (tmp_path / "pair-2" / "mine.txt").write_text("of the user")
    chain.save(tmp_path)
    assert len(list(tmp_path.glob("frame_*.png"))) == 5
    found = json.loads((tmp_path / "result.json").read_text())
    assert found["keys"] == list(chain.keys)
    assert [pair["settings"]["metric"] for pair in found["pairs"]] == ["score", "score"]
    assert (tmp_path / "pair-1" / "report.html").exists()
    page = (tmp_path / "report.html").read_text("utf-8")
    items = re.findall("<li[ >][^<]*", page)
    assert len(items) == 5 * len(chain.parts[0].paths)
    assert {i for i in range(5) if "data-mark" in items[i]} == set(chain.keys)
    assert "A path through 3 images" in page
    assert f"B to C</th><td>{float(chain.parts[1].geodesic.length):.4g}"[:20] in page
    assert (tmp_path / "pair-2" / "mine.txt").exists()
    chain.parts[0].save(tmp_path)
    assert [path.name for path in tmp_path.glob("pair-*")] == ["pair-2"]
    assert [path.name for path in (tmp_path / "pair-2").iterdir()] == ["mine.txt"]


class _Seen(Features):
    """The first pixel, squared: what is seen of a path that is uniform in it is not uniform."""

    name, size, distance_name = "seen", 1, "seen"

    def pooled(self, images: Tensor) -> Tensor:
        return images[:, :, 0, 0].double() ** 2

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        return (self.pooled(a) - self.pooled(b)).abs().squeeze(-1)


def test_a_perceptual_pace_has_equal_steps_under_its_features():
    """A path from 0 to 1 is seen as its square: frames belong at the roots of equal parts.

    Between the points looked at the square is replaced by chords: an error of second order.
    """
    s = torch.linspace(0, 1, 33, dtype=torch.float64)
    found = _perceptual(lambda at: (at.reshape(-1, 1, 1, 1), at), s, _Seen())
    torch.testing.assert_close(found, s.sqrt(), rtol=0, atol=5e-3)
    assert found[0] == 0
    assert found[-1] == 1


def test_an_unknown_pace_and_missing_features_are_refused():
    a, b = pictures(2)
    with pytest.raises(ValueError, match="unknown pace 'even'; choose one of metric, perceptual"):
        OPTIONS.but(pace="even")
    with pytest.raises(ValueError, match="takes grey pictures of 28x28"):
        interpolate(tiny_model(), a, b, options=OPTIONS.but(pace="perceptual"))
    with pytest.raises(ValueError, match="is not there; give the ONNX file"):
        absent = OPTIONS.but(pace="perceptual", features="squeezenet:no.onnx")
        interpolate(tiny_model(), a, b, options=absent)


def test_a_chain_goes_on_but_never_with_other_images(tmp_path, monkeypatch):
    model, images = tiny_model(), list(pictures(3))
    options: dict[str, Any] = {**FAST, "frames": 5, "checkpoint": tmp_path / "c"}
    whole = interpolate_through(model, images, **options)
    with monkeypatch.context() as broken:
        broken.setattr(
            "diffodesic.images.placement.search", lambda *_, **__: pytest.fail("solved again")
        )
        again = interpolate_through(model, images, **options)
        assert torch.equal(again.frames, whole.frames)
    with pytest.raises(ValueError, match="holds results of other settings"):
        interpolate_through(model, [images[1], *images[1:]], **options)


@pytest.mark.parametrize("metric", ["spacetime", "score", "jacobian", "conformal"])
def test_chunks_of_1_and_of_16_agree(metric):
    """Issue's bound: 1e-4 of an image's range, through lifting, solving and bringing back."""
    from dataclasses import replace

    model = tiny_model()
    a, b = pictures(2)
    options = {**FAST, "metric": metric, "frames": 4}
    one, many = (
        interpolate(replace(model, denoiser=replace(model.denoiser, chunk=n)), a, b, **options)
        for n in (1, 16)
    )
    assert float((one.frames - many.frames).abs().max()) < 1e-4
    assert one.paths["geodesic"].length == pytest.approx(many.paths["geodesic"].length, rel=1e-4)
