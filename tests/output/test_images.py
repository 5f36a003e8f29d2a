"""Pictures of every kind as Pillow writes them, and files that are no pictures."""

from __future__ import annotations

import os
import resource
import socket
import struct
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffodesic.models.datasets import shipped_digits
from diffodesic.output.decoding import picture_files
from diffodesic.output.images import ImageError, read_image, to_uint8

GREY, COLOUR = (1, 6, 8), (3, 6, 8)


def bytes_of(image: torch.Tensor) -> np.ndarray:
    """The 8-bit array of a picture (C, H, W)."""
    return to_uint8(image[None])[0]


def test_grey_round_trip_is_exact(tmp_path, grey):
    Image.fromarray(grey).save(tmp_path / "a.png")
    image, notices = read_image(tmp_path / "a.png", GREY, resize=False)
    assert (image.shape, image.dtype, notices) == (GREY, torch.float32, [])
    assert float(image[0, 0, 0]) == np.float32(grey[0, 0]) / np.float32(255)
    np.testing.assert_array_equal(bytes_of(image), grey)


def test_colour_round_trip_is_exact(tmp_path, colour):
    Image.fromarray(colour).save(tmp_path / "a.png")
    image, notices = read_image(tmp_path / "a.png", COLOUR, resize=False)
    assert (image.shape, notices) == (COLOUR, [])
    np.testing.assert_array_equal(bytes_of(image), colour)


def test_colour_becomes_grey_and_grey_colour(tmp_path, grey, colour):
    Image.fromarray(colour).save(tmp_path / "colour.png")
    image, notices = read_image(tmp_path / "colour.png", GREY)
    # ITU-R 601, rounded down or to nearest
    np.testing.assert_allclose(bytes_of(image), colour @ [0.299, 0.587, 0.114], atol=1)
    assert notices == [f"{tmp_path}/colour.png: converted from RGB to L"]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    image, notices = read_image(tmp_path / "grey.png", COLOUR)
    np.testing.assert_array_equal(bytes_of(image), np.repeat(grey[..., None], 3, -1))
    assert len(notices) == 1


@pytest.mark.parametrize(("mode", "shape"), [("RGBA", COLOUR), ("LA", GREY)])
def test_transparency_is_laid_on_white(tmp_path, colour, mode, shape):
    alpha = np.array([0, 51, 128, 255] * 12, np.uint8).reshape(6, 8)
    opaque = Image.fromarray(colour).convert(mode[:-1])
    picture = opaque.convert(mode)
    picture.putalpha(Image.fromarray(alpha))
    picture.save(tmp_path / "a.png")
    image, notices = read_image(tmp_path / "a.png", shape)
    ink = np.asarray(opaque, dtype=float)
    share = (alpha / 255).reshape(6, 8, *[1] * (ink.ndim - 2))
    # rounding of the blend
    np.testing.assert_allclose(bytes_of(image), share * ink + (1 - share) * 255, atol=1)
    assert notices == [
        f"{tmp_path}/a.png: transparency laid on white",
        f"{tmp_path}/a.png: converted from {mode} to {mode[:-1]}",
    ]


def test_palette_with_transparency(tmp_path):
    indices = np.arange(48, dtype=np.uint8).reshape(6, 8) % 3
    picture = Image.fromarray(indices).convert("P")
    picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    picture.save(tmp_path / "a.png", transparency=1)
    image, notices = read_image(tmp_path / "a.png", COLOUR)
    colours = np.array([[255, 0, 0], [255, 255, 255], [0, 0, 255]])
    np.testing.assert_array_equal(bytes_of(image), colours[indices])
    assert [notice.partition(": ")[2] for notice in notices] == [
        "transparency laid on white",
        "converted from P to RGB",
    ]


def test_sixteen_bit_grey_is_scaled_not_cut(tmp_path):
    values = np.linspace(0, 65535, 48).astype(np.uint16).reshape(6, 8)
    Image.fromarray(values).save(tmp_path / "a.png")
    image, notices = read_image(tmp_path / "a.png", GREY)
    np.testing.assert_array_equal(bytes_of(image), np.round(values / 257))
    assert len(notices) == 1


def test_floats_are_from_zero_to_one(tmp_path):
    values = np.linspace(0, 1, 48, dtype=np.float32).reshape(6, 8)
    Image.fromarray(values).save(tmp_path / "a.tiff")
    image, _ = read_image(tmp_path / "a.tiff", GREY)
    np.testing.assert_array_equal(bytes_of(image), np.round(values * 255))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.5, 1.5])
def test_floats_that_are_no_pixels_are_refused(tmp_path, bad):
    values = np.full((6, 8), 0.5, dtype=np.float32)
    values[2, 3] = bad
    Image.fromarray(values).save(tmp_path / "a.tiff")
    with pytest.raises(ImageError, match="not finite or outside"):
        read_image(tmp_path / "a.tiff", GREY)


def test_cmyk_and_black_and_white(tmp_path, colour):
    Image.new("CMYK", (8, 6), (0, 255, 255, 0)).save(tmp_path / "red.tiff")
    image, notices = read_image(tmp_path / "red.tiff", COLOUR)
    np.testing.assert_array_equal(bytes_of(image), np.broadcast_to([255, 0, 0], (6, 8, 3)))
    assert notices == [f"{tmp_path}/red.tiff: converted from CMYK to RGB"]
    grey, _ = read_image(tmp_path / "red.tiff", GREY)
    np.testing.assert_allclose(bytes_of(grey), 0.299 * 255, atol=1)
    Image.new("1", (8, 6), 1).save(tmp_path / "white.png")
    np.testing.assert_array_equal(bytes_of(read_image(tmp_path / "white.png", GREY)[0]), 255)


def test_exif_rotation_is_undone(tmp_path, grey):
    exif = Image.Exif()
    exif[0x0112] = 6  # held so that the right side was up: shown turned a quarter clockwise
    Image.fromarray(grey).save(tmp_path / "a.png", exif=exif)
    image, notices = read_image(tmp_path / "a.png", (1, 8, 6), resize=False)
    np.testing.assert_array_equal(bytes_of(image), np.rot90(grey, -1))
    assert notices == []


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("L", (8, 6), level) for level in (40, 200, 90)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    image, _ = read_image(tmp_path / "a.gif", GREY)
    np.testing.assert_array_equal(bytes_of(image), 40)


def test_a_picture_of_the_same_proportions_is_resized_and_not_cropped(tmp_path):
    Image.fromarray(np.full((12, 16), 200, np.uint8)).save(tmp_path / "a.png")
    image, notices = read_image(tmp_path / "a.png", GREY)
    np.testing.assert_array_equal(bytes_of(image), 200)
    assert notices == [f"{tmp_path}/a.png: resized from 16x12 to 8x6"]


def test_another_size_is_cropped_in_the_centre_and_resampled_with_a_notice(tmp_path):
    wide = np.zeros((12, 40), np.uint8)
    # the middle 16 columns keep the model's 6:8; Lanczos looks 6 further at half the size
    wide[:, 6:34] = 200
    Image.fromarray(wide).save(tmp_path / "a.png")
    image, notices = read_image(tmp_path / "a.png", GREY)
    assert image.shape == GREY
    np.testing.assert_array_equal(bytes_of(image), 200)
    assert notices == [f"{tmp_path}/a.png: cropped and resized from 40x12 to 8x6"]


def test_another_size_or_other_channels_are_refused_without_resizing(tmp_path, colour):
    Image.new("L", (8, 7)).save(tmp_path / "size.png")
    with pytest.raises(ImageError, match=r"is 8x7 L, the model takes 8x6 L; allow resizing"):
        read_image(tmp_path / "size.png", GREY, resize=False)
    Image.fromarray(colour).save(tmp_path / "colour.png")
    with pytest.raises(ImageError, match=r"is 8x6 RGB, the model takes 8x6 L; allow resizing"):
        read_image(tmp_path / "colour.png", GREY, resize=False)


def test_missing_files_are_refused(tmp_path):
    (tmp_path / "away.png").symlink_to(tmp_path / "none.png")
    (tmp_path / "circle.png").symlink_to(tmp_path / "circle.png")
    for name in ("none.png", "away.png", "circle.png", "nu\0ll.png", "n" * 300):
        with pytest.raises(ImageError, match="there is no picture at"):
            read_image(tmp_path / name, GREY)


def test_text_under_the_name_of_a_picture_is_refused(tmp_path):
    for content in ("these are words\n", ""):
        (tmp_path / "a.png").write_text(content)
        with pytest.raises(ImageError, match=r"a\.png cannot be read as a picture"):
            read_image(tmp_path / "a.png", GREY)


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "tiff", "bmp", "webp"])
def test_truncated_pictures_are_refused(tmp_path, suffix):
    noise = torch.randint(0, 256, (64, 64), dtype=torch.uint8).numpy()
    whole = tmp_path / f"whole.{suffix}"
    Image.fromarray(noise).save(whole)
    content, part = whole.read_bytes(), tmp_path / f"part.{suffix}"
    for share in (0.02, 0.3, 0.6):
        part.write_bytes(content[: int(share * len(content))])
        with pytest.raises(ImageError, match=r"cannot be read as a picture"):
            read_image(part, GREY)


def test_whatever_a_decoder_raises_is_one_error(tmp_path, monkeypatch):
    Image.new("L", (8, 6)).save(tmp_path / "a.png")

    def broken(*_: object, **__: object) -> None:
        raise EOFError("no more images")

    monkeypatch.setattr("PIL.ImageOps.exif_transpose", broken)
    with pytest.raises(ImageError, match="no more images"):
        read_image(tmp_path / "a.png", GREY)


def test_bombs_are_refused(tmp_path, monkeypatch):
    Image.new("L", (64, 64)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64)
    with pytest.raises(ImageError, match="decompression bomb"):
        read_image(tmp_path / "a.png", GREY)


def test_arrays_are_cut_and_rounded():
    values = torch.tensor([-1.0, 0.0, 0.1, 0.5, 1.0, 2.0]).reshape(1, 1, 1, 6)
    (array,) = to_uint8(values)
    assert array.dtype == np.uint8
    np.testing.assert_array_equal(array, [[0, 0, 26, 128, 255, 255]])  # 25.5 and 127.5 go to even
    assert to_uint8(values.expand(2, 3, 1, 6))[1].shape == (1, 6, 3)


def test_shipped_digits_are_pictures_of_ten_kinds():
    images, labels = shipped_digits()
    assert images.shape == (100, 1, 28, 28)
    assert (float(images.min()), float(images.max())) == (0.0, 1.0)
    assert labels.bincount().tolist() == [10] * 10
    assert len({image.tobytes() for image in to_uint8(images)}) == 100


def test_pictures_of_every_suffix_agree(tmp_path, grey):
    arrays = []
    for suffix in ("png", "tiff", "bmp", "gif", "pgm"):
        path: Path = tmp_path / f"a.{suffix}"
        Image.fromarray(grey).save(path)
        arrays.append(bytes_of(read_image(path, GREY)[0]))
    for array in arrays:
        np.testing.assert_array_equal(array, grey)


WHITE_IS_ZERO = {262: 0}
NUMBERS: dict[str, tuple[str, np.ndarray, dict[int, int], list[int], str]] = {
    # file, numbers, TIFF tags, levels expected, notice
    "16-bit PNG": ("a.png", np.array([[0, 257, 65535]], np.uint16), {}, [0, 1, 255], ""),
    "16-bit TIFF": ("a.tif", np.array([[0, 257, 65535]], np.uint16), {}, [0, 1, 255], ""),
    "big-endian": ("a.tif", np.array([[0, 257, 65535]], ">u2"), {}, [0, 1, 255], ""),
    "white is zero": (
        "a.tif",
        np.array([[0, 257, 65535]], np.uint16),
        WHITE_IS_ZERO,
        [255, 254, 0],
        "",
    ),
    "16-bit PGM": ("a.pgm", np.array([[0, 257, 65535]], np.uint16), {}, [0, 1, 255], ""),
    "dark": ("a.png", np.array([[0, 128, 255]], np.uint16), {}, [0, 0, 1], "nearly black"),
    "32-bit bytes": ("a.tif", np.array([[0, 9, 255]], np.int32), {}, [0, 9, 255], "0 to 255"),
    "32-bit wide": ("a.tif", np.array([[0, 257, 65535]], np.int32), {}, [0, 1, 255], "to 65535"),
    "floats": ("a.tif", np.array([[0, 0.2, 1]], np.float32), {}, [0, 51, 255], ""),
    "bytes array": ("a.npy", np.array([[0, 9, 255]], np.uint8), {}, [0, 9, 255], ""),
    "wide array": ("a.npy", np.array([[0, 257, 65535]]), {}, [0, 1, 255], "to 65535"),
    "float array": ("a.npy", np.array([[0, 0.2, 1]]), {}, [0, 51, 255], "floats are read as 0"),
    "signed array": ("a.npy", np.array([[-1, 0.2, 1]]), {}, [0, 153, 255], ""),
    "bits": ("a.npz", np.array([[False, True, True]]), {}, [0, 255, 255], ""),
}


@pytest.mark.parametrize("case", NUMBERS)
def test_numbers_of_every_kind_are_scaled_by_their_own_range(tmp_path, case):
    name, numbers, tags, levels, words = NUMBERS[case]
    if name.endswith(".npy"):
        np.save(tmp_path / name, numbers)
    elif name.endswith(".npz"):
        np.savez(tmp_path / name, numbers)
    else:
        Image.fromarray(numbers).save(tmp_path / name, tiffinfo=tags)
    image, notices = read_image(tmp_path / name, (1, 1, 3))
    np.testing.assert_array_equal(bytes_of(image), [levels])
    assert words in "".join(notices)
    assert len([line for line in notices if "converted from" not in line]) == bool(words)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_arrays_with_channels_are_pictures(tmp_path, channels):
    pixels = np.full((6, 8, channels), 90, np.uint8)
    pixels[..., -1] = 255 if channels in {2, 4} else 90
    np.save(tmp_path / "a.npy", pixels)
    for shape in (GREY, COLOUR):
        image, _ = read_image(tmp_path / "a.npy", shape)
        np.testing.assert_array_equal(bytes_of(image), 90)


@pytest.mark.parametrize("shape", [(8,), (2, 6, 8), (6, 8, 5), (1, 6, 8, 3)])
def test_arrays_of_another_shape_are_refused(tmp_path, shape):
    np.save(tmp_path / "a.npy", np.zeros(shape, np.uint8))
    with pytest.raises(ImageError, match=r"give one picture, \(H, W\) or \(H, W, C\)"):
        read_image(tmp_path / "a.npy", GREY)


def test_a_transparent_level_of_sixteen_bits_is_laid_on_white(tmp_path):
    values = np.array([[0, 257, 40_000, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png", transparency=257)
    image, notices = read_image(tmp_path / "a.png", (1, 1, 4))
    np.testing.assert_array_equal(bytes_of(image), [[0, 255, 156, 255]])
    assert "transparency laid on white" in notices[0]


def test_a_file_of_more_pixels_than_are_read_is_refused_by_its_head(tmp_path, monkeypatch):
    """Nothing is decoded: reading pixels fails here."""
    Image.new("RGBA", (64, 64)).save(tmp_path / "a.png")
    np.save(tmp_path / "a.npy", np.zeros((64, 64), np.uint8))
    monkeypatch.setattr("diffodesic.output.decoding.MOST_PIXELS", 64 * 63)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda _: pytest.fail("decoded"))
    for name in ("a.png", "a.npy"):
        with pytest.raises(ImageError, match="has 64x64 pixels: make it smaller, at most 4,032"):
            read_image(tmp_path / name, COLOUR)


@pytest.mark.skipif(sys.platform != "linux", reason="memory of a process is read from /proc")
def test_a_small_file_of_very_many_pixels_takes_little_memory(tmp_path):
    """330 kB of PNG, 4 bytes times 81 million pixels, once were 4.7 GB."""
    row = zlib.compress(bytes(1 + 4 * 9000) * 9000, 9)
    parts = [
        (b"IHDR", struct.pack(">2I5B", 9000, 9000, 8, 6, 0, 0, 0)),
        (b"IDAT", row),
        (b"IEND", b""),
    ]
    content = b"\x89PNG\r\n\x1a\n"
    for kind, part in parts:
        crc = struct.pack(">I", zlib.crc32(kind + part))
        content += struct.pack(">I", len(part)) + kind + part + crc
    (tmp_path / "a.png").write_bytes(content)
    assert len(content) < 400_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ImageError, match="has 9000x9000 pixels: make it smaller"):
        read_image(tmp_path / "a.png", GREY)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # kB


def test_a_large_photograph_is_decoded_at_half_its_size(tmp_path, monkeypatch):
    Image.new("RGB", (66, 63), (200, 30, 90)).save(tmp_path / "a.jpg", quality=95)
    monkeypatch.setattr("diffodesic.output.decoding.MOST_PIXELS", 40 * 40)
    image, notices = read_image(tmp_path / "a.jpg", COLOUR)
    np.testing.assert_allclose(bytes_of(image), np.full((6, 8, 3), (200, 30, 90)), atol=3)
    assert notices == [f"{tmp_path}/a.jpg: cropped and resized from 66x63 to 8x6"]


def special_files(folder: Path) -> Iterator[tuple[Path, str]]:
    """What may lie where a picture should, and what it is called."""
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(folder / "socket.png"))
    (folder / "device.png").symlink_to("/dev/zero")
    for kind in ("folder", "pipe", "socket", "device"):
        yield folder / f"{kind}.png", f"is a {kind}, not a file"


def test_what_is_no_file_is_refused_without_opening_it(monkeypatch):
    with tempfile.TemporaryDirectory() as place:  # the name of a socket must be short
        for path, words in special_files(Path(place)):
            with pytest.raises(ImageError, match=words):
                read_image(path, GREY)


def test_the_frames_of_an_animation_are_counted(tmp_path):
    frames = [Image.new("L", (8, 6), level) for level in (40, 200, 90)]
    for suffix in ("gif", "png", "webp", "tif"):
        file = tmp_path / f"a.{suffix}"
        frames[0].save(file, save_all=True, append_images=frames[1:], lossless=True)
        image, notices = read_image(file, GREY)
        np.testing.assert_allclose(bytes_of(image), 40, atol=1)
        assert notices[0] == f"{file}: the first of its 3 frames"


def test_what_pillow_warns_of_is_a_notice(tmp_path):
    Image.new("L", (8, 6), 9).save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x09\x01")
    image, notices = read_image(tmp_path / "a.jpg", GREY)
    np.testing.assert_array_equal(bytes_of(image), 9)
    assert "orrupt EXIF" in "".join(notices)


def test_files_for_another_program_are_not_opened(tmp_path):
    """Pillow hands PostScript to Ghostscript, whatever the file is called."""
    Image.new("RGB", (8, 6)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    with pytest.raises(ImageError, match=r"cannot be read as a picture .*cannot identify"):
        read_image(tmp_path / "a.png", GREY)


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux alone")
def test_names_that_are_not_utf8_are_read_and_refused_like_others(tmp_path, grey):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xe9.png"))
    Image.fromarray(grey).save(path)
    np.testing.assert_array_equal(bytes_of(read_image(path, GREY)[0]), grey)
    assert picture_files(tmp_path) == [path]
    path.write_bytes(b"")
    with pytest.raises(ImageError, match="cannot be read as a picture"):
        read_image(path, GREY)


def test_a_png_file_is_read_only_if_its_checksums_hold(tmp_path):
    file = tmp_path / "a.png"
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file)
    sound = file.read_bytes()
    pixels = range(sound.index(b"IDAT"), sound.index(b"IEND") - 4)
    for at in pixels:
        file.write_bytes(sound[:at] + bytes([sound[at] ^ 4]) + sound[at + 1 :])
        with pytest.raises(ImageError, match="cannot be read as a picture"):
            read_image(file, (3, 8, 8))


@pytest.mark.parametrize(
    ("compression", "mode"),
    [("group4", "1"), ("tiff_lzw", "L"), ("tiff_adobe_deflate", "L"), ("jpeg", "L")],
)
def test_what_libtiff_reads_on_from_is_refused_and_not_printed(tmp_path, capfd, compression, mode):
    """It prints on the standard error of the process, and gives other pixels for some damage."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    file = tmp_path / "a.tif"
    Image.fromarray(noise).convert(mode).save(file, compression=compression)
    read_image(file, (1, 64, 64))
    whole, refused = file.read_bytes(), 0
    for eighth in range(1, 8):
        at = eighth * len(whole) // 8
        file.write_bytes(whole[:at] + bytes(8) + whole[at + 8 :])
        try:  # zeros may be a code, too: TIFF has no checksum
            read_image(file, (1, 64, 64))
        except ImageError as error:
            refused += 1
            assert str(file) in str(error)  # noqa: PT017
    assert refused >= 1
    assert capfd.readouterr().err == ""
