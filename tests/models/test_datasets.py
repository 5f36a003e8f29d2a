"""Images from disk: every kind of source gives the same tensor; rotations; what is refused."""

import gzip
import os
import zipfile
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from diffodesic.models.datasets import load_images, load_mnist, rotate, unit
from diffodesic.output.images import read_image


def test_sources_agree(tmp_path):
    g = torch.Generator().manual_seed(2)
    pixels = torch.randint(0, 256, (5, 8, 8), generator=g, dtype=torch.uint8)
    (tmp_path / "idx").mkdir()
    head = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in pixels.shape)
    idx = tmp_path / "idx" / "train-images-idx3-ubyte.gz"
    idx.write_bytes(gzip.compress(head + pixels.numpy().tobytes()))
    (tmp_path / "png" / "sub").mkdir(parents=True)
    for i, picture in enumerate(pixels.numpy()):
        Image.fromarray(picture).save(tmp_path / "png" / "sub" / f"{i}.png")
    np.save(tmp_path / "a.npy", pixels.numpy())
    np.savez(tmp_path / "a.npz", pixels.numpy()[..., None])
    np.save(tmp_path / "float.npy", unit(pixels).numpy())
    for source in ("idx", "png", "a.npy", "a.npz", "float.npy"):
        torch.testing.assert_close(load_images(tmp_path / source), unit(pixels)[:, None])


def test_bad_sources_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="give a folder"):
        load_images(tmp_path / "missing")
    with pytest.raises(FileNotFoundError, match="no image"):
        load_images(tmp_path)
    with pytest.raises(FileNotFoundError, match="MNIST"):
        load_mnist(tmp_path)
    files = {"a.txt": b"x", "a.npy": b"x", "train-images-idx3-ubyte.gz": b"x"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    for name in ("a.txt", "a.npy", "."):
        with pytest.raises(ValueError, match=r"a\.txt|a\.npy|idx3"):
            load_images(tmp_path / name)
    np.save(tmp_path / "b.npy", np.zeros((4, 4), np.uint8))
    with pytest.raises(ValueError, match=r"\(4, 4"):
        load_images(tmp_path / "b.npy")


RANGES: dict[str, tuple[Any, int, int, str]] = {
    "bytes": (np.uint8, 0, 255, ""),
    "bits": (bool, 0, 1, ""),
    "whole": (np.int64, 0, 255, "integers are read as 0 to 255"),
    "wide": (np.uint16, 0, 65535, "integers are read as 0 to 65535"),
    "big-endian": (">i4", 0, 65535, "integers are read as 0 to 65535"),
    "half": (np.float16, -1, 1, ""),
    "floats": (np.float64, 0, 1, "floats are read as 0 to 1"),
}


@pytest.mark.parametrize("case", RANGES)
def test_arrays_of_every_type_span_the_same_range(tmp_path, case):
    kind, black, white, notice = RANGES[case]
    values = np.zeros((3, 2, 2)) + black
    values[1:] = white
    np.save(tmp_path / "a.NPY", values.astype(kind))
    (tmp_path / "a.NPY.npy").rename(tmp_path / "a.NPY")
    said: list[str] = []
    images = load_images(tmp_path / "a.NPY", say=said.append)
    assert images.dtype == torch.float32
    assert images.flatten(1).unique(dim=1).flatten().tolist() == [-1.0, 1.0, 1.0]
    assert len(said) == bool(notice)
    assert all(notice in line for line in said)


BAD_ARRAYS = {
    "nan": np.full((2, 4, 4), np.nan),
    "infinite": np.full((2, 4, 4), np.inf),
    "bytes as floats": np.full((2, 4, 4), 255.0),
    "negative": np.full((2, 4, 4), -1),
    "32 bits": np.full((2, 4, 4), 70_000),
    "complex": np.ones((2, 4, 4), complex),
    "words": np.full((2, 4, 4), "white"),
    "dates": np.zeros((2, 4, 4), "datetime64[s]"),
    "records": np.zeros((2, 4, 4), [("grey", "u1")]),
    "none": np.zeros((0, 4, 4), np.uint8),
    "no pixels": np.zeros((2, 0, 4), np.uint8),
    "flat": np.zeros((2, 4), np.uint8),
    "five channels": np.zeros((2, 4, 4, 5), np.uint8),
    "channels first": np.zeros((2, 3, 4, 4), np.uint8),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_arrays_that_are_no_pictures_are_refused(tmp_path, case):
    np.save(tmp_path / "a.npy", BAD_ARRAYS[case])
    with pytest.raises(ValueError, match=r"ranges of pixels|no array|without numbers|has shape"):
        load_images(tmp_path / "a.npy", say=print)


def test_a_head_that_promises_more_than_the_file_holds_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((2, 4, 4), np.uint8))
    head = (tmp_path / "a.npy").read_bytes()
    for shape in (b"(2000000000000,4,4)", b"(900000000,900000000,4)"):
        (tmp_path / "a.npy").write_bytes(head.replace(b"(2, 4, 4)", shape, 1))
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as content:
            content.write(tmp_path / "a.npy", "a.npy")
        for name in ("a.npy", "a.npz"):
            with pytest.raises(ValueError, match="no array of numbers"):
                load_images(tmp_path / name)
    sizes = b"".join(n.to_bytes(4, "big") for n in [2**31] * 3)
    idx = tmp_path / "train-images-idx3-ubyte.gz"
    idx.write_bytes(gzip.compress(bytes([0, 0, 8, 3]) + sizes))
    with pytest.raises(ValueError, match="not a gzipped IDX file"):
        load_images(tmp_path)


def test_the_first_of_several_arrays_is_named(tmp_path):
    np.savez(tmp_path / "a.npz", train=np.zeros((2, 4, 4), np.uint8), test=np.zeros(3))
    said: list[str] = []
    assert load_images(tmp_path / "a.npz", say=said.append).shape == (2, 1, 4, 4)
    assert said == [f"{tmp_path}/a.npz: train is read, the first of its 2 arrays"]


def test_a_folder_is_read_as_single_pictures_are(tmp_path):
    """Whatever a command makes of a picture, training makes the same of it."""
    grey = (np.arange(48, dtype=np.uint8) * 5).reshape(6, 8)
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(grey).save(tmp_path / "bytes.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "wide.png")
    Image.fromarray(grey.astype(np.int32)).save(tmp_path / "whole.tif")
    Image.fromarray(np.rot90(grey, 2).copy()).save(tmp_path / "turned.png", exif=exif)
    faint = Image.fromarray(grey).convert("LA")
    faint.putalpha(51)
    faint.save(tmp_path / "faint.png")
    (tmp_path / "note.txt").write_text("no picture")
    (tmp_path / "._bytes.png").write_text("left by another system")
    said: list[str] = []
    images = load_images(tmp_path, say=said.append)
    assert images.shape == (5, 1, 6, 8)
    for image, file in zip(images, sorted(tmp_path.glob("[!._]*.[pt]*[gf]")), strict=True):
        alone, _ = read_image(file, (1, 6, 8))
        torch.testing.assert_close(image, 2 * alone - 1)
    for image in images[[0, 2, 3, 4]]:
        torch.testing.assert_close(image, unit(torch.from_numpy(grey.copy()))[None])
    assert said == [
        f"{tmp_path}: 1 of 5 pictures: transparency laid on white",
        f"{tmp_path}: 1 of 5 pictures: its integers are read as 0 to 255",
    ]


def test_grey_among_colour_is_colour_and_other_sizes_are_refused(tmp_path):
    Image.new("L", (8, 6), 40).save(tmp_path / "a.png")
    Image.new("RGB", (8, 6), (1, 2, 3)).save(tmp_path / "b.png")
    with pytest.warns(UserWarning, match="1 of 2 pictures: grey among pictures in colour"):
        assert load_images(tmp_path).shape == (2, 3, 6, 8)
    Image.new("L", (8, 7)).save(tmp_path / "c.png")
    with pytest.raises(ValueError, match=r"c\.png is 8x7 pixels and a\.png is 8x6: bring"):
        load_images(tmp_path)


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte.gz", "a.png", "a.npy", "a.npz"])
def test_pipes_among_the_data_are_refused_without_opening_them(tmp_path, name):
    os.mkfifo(tmp_path / name)
    source = tmp_path / name if name.startswith("a.n") else tmp_path
    with pytest.raises(ValueError, match=f"{name} is a pipe, not a file"):
        load_images(source)


def test_rotation():
    g = torch.Generator().manual_seed(3)
    x = 2 * torch.rand(2, 1, 6, 6, generator=g) - 1
    for degrees, turns in ((0.0, 0), (90.0, 1), (-90.0, -1)):
        turned = rotate(x, torch.full((2,), degrees))
        torch.testing.assert_close(turned, torch.rot90(x, turns, (2, 3)), atol=1e-5, rtol=0)
    wide = x[:, :, :4]
    turned = rotate(wide, torch.full((2,), 180.0))
    torch.testing.assert_close(turned, wide.flip(2, 3), atol=1e-5, rtol=0)
