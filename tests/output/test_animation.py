"""GIF and video play every frame at the rate, the size and the order that were asked for."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from diffodesic.output.animation import AnimationOptions, write_gif, write_video
from diffodesic.output.pictures import Image

N = 9


def frames(colour: bool = False, side: int = 12) -> list[Image]:
    """N different pictures: a bright square that travels."""
    pictures = []
    for i in range(N):
        picture = np.full((side, side + 1), 40, np.uint8)
        picture[2:5, i : i + 3] = 255
        pictures.append(np.stack([picture, picture // 2, picture], -1) if colour else picture)
    return pictures


@pytest.mark.parametrize(("loop", "count"), [(False, N), (True, 2 * N - 2)])
def test_a_gif_plays_every_frame(tmp_path: Path, loop: bool, count: int):
    options = AnimationOptions(loop=loop, fps=20)
    with PillowImage.open(write_gif(frames(), tmp_path / "a.gif", options)) as gif:
        assert getattr(gif, "n_frames", 1) == count
        assert gif.info.get("loop") == (0 if loop else None)  # None: once
        assert gif.info["duration"] == 50
        gif.seek(3)
        shown = np.asarray(gif.convert("L").resize((13, 12), PillowImage.Resampling.NEAREST))
    np.testing.assert_allclose(shown, frames()[3], atol=2)


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize(("loop", "count"), [(False, N), (True, 2 * N - 2)])
def test_a_video_plays_every_frame(tmp_path: Path, loop: bool, count: int, colour: bool):
    av = pytest.importorskip("av")
    options = AnimationOptions(video=True, loop=loop, fps=12.5, height=120)
    file = write_video(frames(colour), tmp_path / "a.mp4", options)
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        assert float(stream.average_rate) == 12.5
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(shown) == count
    wanted = frames(colour)[3].reshape(12, 13, -1).repeat(10, 0).repeat(10, 1)
    # colours at half the resolution, and the loss of the encoder; the square is 200 brighter
    assert np.abs(shown[3].astype(float) - wanted).mean() < 5


def test_odd_sides_are_made_even(tmp_path: Path):
    av = pytest.importorskip("av")
    file = write_video(frames(side=31), tmp_path / "a.mp4", AnimationOptions(height=31))
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        assert (stream.height, stream.width) == (32, 32)


def test_the_rate_of_its_own_takes_two_and_a_half_seconds():
    assert AnimationOptions().rate(16) == 6.4
    assert AnimationOptions().rate(1000) == 50
    assert AnimationOptions(fps=24).rate(16) == 24


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"fps": 0}, "fps must be above 0, got 0"),
        ({"fps": 60}, "fps must be at most 50, got 60"),
        ({"fps": "fast"}, "fps must be a number or auto, got 'fast'"),
        ({"height": 8}, "height must be at least 16, got 8"),
        ({"loop": "no"}, "loop must be True or False, got 'no'"),
    ],
)
def test_bad_options_are_refused(given: dict, words: str):
    with pytest.raises(ValueError, match=words):
        AnimationOptions(**given)


def test_a_video_without_its_package_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "av", None)
    assert not AnimationOptions().video
    with pytest.raises(ValueError, match=r"pip install 'diffodesic\[video\]', or leave it out"):
        AnimationOptions(video=True)
