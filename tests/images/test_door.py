"""Pictures in every form that a user has them in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffodesic.denoisers.mixture import GaussianMixture
from diffodesic.images.diagnosis import diagnose
from diffodesic.images.distances import pairwise
from diffodesic.images.door import Picture, as_data
from diffodesic.images.editing import EditOptions, edit
from diffodesic.images.interpolation import InterpolateOptions, interpolate
from diffodesic.images.sequence import interpolate_through
from diffodesic.output.arrays import ImageError
from diffodesic.output.images import to_uint8
from support.tiny import pictures, tiny_model

FAST = InterpolateOptions(frames=3, nodes=3, flow_steps=2)


@pytest.fixture
def colour() -> np.ndarray:
    """A picture (8, 8, 3) in bytes."""
    return to_uint8(pictures(1, channels=3))[0]


def forms(array: np.ndarray, folder: Path) -> list[Picture]:
    """One picture in several forms."""
    picture = Image.fromarray(array)
    picture.save(folder / "x.png")
    np.save(folder / "x.npy", array)
    with Image.open(folder / "x.png") as opened:
        opened.load()
        floats = array.astype(np.float64) / 255
        first = np.moveaxis(floats, -1, 0) if array.ndim == 3 else floats
        return [array, picture, opened, folder / "x.png", str(folder / "x.npy"), floats, first]


@pytest.mark.filterwarnings("ignore:the ndarray. its floats are read")
@pytest.mark.parametrize("channels", [1, 3])
def test_one_picture_is_the_same_in_every_form(channels, tmp_path):
    model, array = tiny_model(channels), to_uint8(pictures(1, channels=channels))[0]
    expected = torch.as_tensor(array).double().reshape(8, 8, channels).movedim(-1, 0) / 255
    for form in forms(array, tmp_path):
        found = as_data(model, form).reshape(channels, 8, 8).double()
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)


def test_what_does_not_fit_is_fitted_and_a_warning_says_so(colour):
    large = Image.fromarray(colour).resize((20, 16))
    with pytest.warns(UserWarning, match="from") as said:
        found = as_data(tiny_model(), large)
    assert found.shape == (1, 8, 8)
    assert [str(one.message) for one in said] == [
        "the Image: converted from RGB to L",
        "the Image: cropped and resized from 20x16 to 8x8",
    ]


def test_an_image_turned_by_its_tag_comes_upright(colour):
    picture = Image.fromarray(colour)
    picture.getexif()[0x0112] = 3  # upside down
    found = as_data(tiny_model(3), picture)
    torch.testing.assert_close(found, as_data(tiny_model(3), colour).flip(-1, -2))
    assert picture.getexif()[0x0112] == 3  # the caller's picture is as it was


@pytest.mark.parametrize("wrong", [3.5, None, b"bytes", {"a": 1}, object])
def test_what_is_no_picture_is_a_typeerror(wrong):
    with pytest.raises(TypeError, match=r"a picture is a tensor \(C, H, W\), an array"):
        as_data(tiny_model(), wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.full((9, 8), np.nan), "finite"),
        (np.zeros((8, 8, 5), np.uint8), r"the ndarray has the shape \(8, 8, 5\)"),
        (np.zeros((0, 8), np.uint8), "without numbers"),
        (np.array(["a"]), "no array of numbers"),
        ("none.png", "there is no picture at none.png"),
    ],
)
def test_pixels_that_are_none_are_refused(wrong, message):
    with pytest.raises(ImageError, match=message):
        as_data(tiny_model(), wrong)


def test_several_pictures_are_a_batch(colour):
    grey = to_uint8(pictures(2))
    assert as_data(tiny_model(), grey).shape == (2, 1, 8, 8)
    assert as_data(tiny_model(), np.stack(grey)[:, None]).shape == (2, 1, 8, 8)
    with pytest.raises(ValueError, match="of one shape, at least one"):
        as_data(tiny_model(), [])


def test_points_of_a_denoiser_are_arrays_too():
    law = GaussianMixture(torch.zeros(1, 2).double())
    assert as_data(law, np.zeros((3, 2))).shape == (3, 2)
    with pytest.raises(TypeError, match="points are tensors or arrays"):
        as_data(law, "a.png")


def test_verbs_take_files_arrays_and_images(tmp_path):
    model, (a, b) = tiny_model(), to_uint8(pictures(2))
    Image.fromarray(a).save(tmp_path / "a.png")
    result = interpolate(model, tmp_path / "a.png", Image.fromarray(b), options=FAST)
    tensors = [torch.as_tensor(x)[None] for x in (a, b)]
    same = interpolate(model, *tensors, options=FAST)
    torch.testing.assert_close(result.frames, same.frames, rtol=0, atol=1e-5)
    frames = result.pictures()
    assert [frame.size for frame in frames] == [(8, 8)] * 3
    assert np.array_equal(np.asarray(frames[0]), to_uint8(result.frames)[0])
    assert len(result.pictures("geodesic")) == 3
    through = interpolate_through(
        model, [tmp_path / "a.png", b, a], metric="euclidean", options=FAST
    )
    assert len(through.pictures()) == 3
    quick = EditOptions(nodes=3, flow_steps=2)
    done = edit(model, tmp_path / "a.png", b, options=quick)
    assert len(done.pictures(2, flow_steps=2)) == 2
    assert diagnose(model, tmp_path / "a.png", log_snr=2.0).settings["points"] == 1
    found = pairwise(model, [str(tmp_path / "a.png"), b], metric="mean")
    assert found.count == 2
