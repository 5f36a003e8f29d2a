"""A filmstrip shows every frame, and where the marked ones are."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image as PillowImage

from diffodesic.output.pictures import Image, filmstrip

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


def test_filmstrip_rules_off_the_marked_frames_alone(tmp_path):
    plain, marked = (
        np.asarray(PillowImage.open(filmstrip({"a": frames(0)}, tmp_path / "s.png", marks=marks)))
        for marks in ({0: "A", N - 1: "C"}, {0: "A", 4: "B", N - 1: "C"})
    )
    changed = np.flatnonzero((plain != marked).any(axis=(0, 2)))
    width = 96 + 4
    label = plain.shape[1] - N * width + 4 - 19  # names on the left, a margin on the right
    assert label + 4 * width - 4 <= changed.min()
    assert changed.max() <= label + 5 * width
