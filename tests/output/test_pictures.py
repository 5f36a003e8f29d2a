"""Filmstrip and animation show every frame."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image as PillowImage

from diffodesic.output.pictures import Image, animation, filmstrip

N = 9


def frames(shift: int) -> list[Image]:
    """N different pictures: a bright square that travels, over one grey per path."""
    pictures = []
    for i in range(N):
        picture = np.full((12, 12), 20 * shift, np.uint8)
        picture[2:5, i : i + 3] = 255
        pictures.append(picture)
    return pictures


def test_filmstrip_places_every_frame(tmp_path):
    rows = {"geodesic": frames(0), "LERP": frames(1)}
    strip = np.asarray(PillowImage.open(filmstrip(rows, tmp_path / "strip.png", size=24, gap=2)))
    for row in rows.values():
        for frame in row:
            wanted = np.repeat(np.kron(frame, np.ones((2, 2), np.uint8))[..., None], 3, axis=2)
            windows = np.lib.stride_tricks.sliding_window_view(strip, wanted.shape)[..., 0, :, :, :]
            assert (windows == wanted).all(axis=(-1, -2, -3)).sum() == 1


def test_filmstrip_refuses_unequal_rows(tmp_path):
    with pytest.raises(ValueError, match="same number of frames of one shape"):
        filmstrip({"a": frames(0), "b": frames(0)[1:]}, tmp_path / "strip.png")
    with pytest.raises(ValueError, match="frames must agree"):
        filmstrip({}, tmp_path / "strip.png")


@pytest.mark.parametrize(("ping_pong", "count"), [(False, N), (True, 2 * N - 2)])
def test_animation_plays_every_frame(tmp_path, ping_pong, count):
    with PillowImage.open(animation(frames(0), tmp_path / "a.gif", ping_pong=ping_pong)) as gif:
        assert getattr(gif, "n_frames", 1) == count
        assert gif.info["loop"] == 0
        gif.seek(3)
        shown = np.asarray(gif.convert("L").resize((12, 12), PillowImage.Resampling.NEAREST))
    np.testing.assert_allclose(shown, frames(0)[3], atol=2)
