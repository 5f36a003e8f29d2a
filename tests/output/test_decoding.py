"""Colour profiles: what other spaces hold is converted to sRGB by its definition."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from diffodesic.output.images import read_image, to_uint8

GREY, COLOUR = (1, 6, 8), (3, 6, 8)


def bytes_of(image: torch.Tensor) -> np.ndarray:
    """The 8-bit array of a picture (C, H, W)."""
    return to_uint8(image[None])[0]


# columns: what red, green and blue are in the XYZ of D50 (ICC.1, Adobe RGB (1998), DCI-P3)
SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.0139, 0.0971, 0.714]])
ADOBE = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322],
                  [0.01947, 0.06087, 0.74457]])  # fmt: skip
P3 = np.array(
    [[0.51512, 0.29198, 0.1571], [0.2412, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]]
)


def profile(name: str, gamma: float, colours: np.ndarray | None) -> bytes:
    """An ICC profile, version 2: of three colours, or of grey."""

    def xyz(values: tuple[float, ...] | np.ndarray) -> bytes:
        return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(65536 * v) for v in values))

    curve = b"curv" + bytes(4) + struct.pack(">IHxx", 1, round(256 * gamma))
    words = name.encode() + b"\0"
    text = b"desc" + bytes(4) + struct.pack(">I", len(words)) + words + bytes(78)
    tags = {b"desc": text, b"wtpt": xyz((0.9642, 1.0, 0.8249)), b"cprt": b"text" + bytes(5)}
    if colours is None:
        tags[b"kTRC"] = curve
    else:
        for letter, column in zip(b"rgb", colours.T, strict=True):
            tags |= {bytes([letter]) + b"XYZ": xyz(column), bytes([letter]) + b"TRC": curve}
    table, body, start = b"", b"", 132 + 12 * len(tags)
    for key, value in tags.items():
        table += key + struct.pack(">2I", start + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    space = b"GRAY" if colours is None else b"RGB "
    head = struct.pack(">I4sI4s4s4s12x4s24xI3i48x", start + len(body), b"lcms", 0x02400000, b"mntr",
                       space, b"XYZ ", b"acsp", 0, 63190, 65536, 54061)  # fmt: skip
    return head + struct.pack(">I", len(tags)) + table + body


def in_srgb(pixels: np.ndarray, gamma: float, colours: np.ndarray) -> np.ndarray:
    """Bytes of another space in sRGB, by its definition (IEC 61966-2-1)."""
    linear = (pixels / 255) ** gamma @ colours.T @ np.linalg.inv(SRGB).T
    linear = linear.clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize(("name", "gamma", "space"), [("Adobe", 2.2, ADOBE), ("P3", 2.2, P3)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colours_of_another_profile_become_srgb(tmp_path, colour, name, gamma, space, mode):
    pixels = (colour // 2 + 64).astype(np.uint8)  # inside what sRGB can show, or near it
    picture = Image.fromarray(pixels)
    picture = picture.quantize(48) if mode == "P" else picture.convert(mode)
    if mode == "RGBA":
        picture.putalpha(Image.new("L", (8, 6), 255))
    stored = np.asarray(picture.convert("RGB"))
    picture.save(tmp_path / "a.png", icc_profile=profile(name, gamma, space))
    image, notices = read_image(tmp_path / "a.png", COLOUR)
    expected = in_srgb(stored, gamma, space)
    inside = ((expected > 0) & (expected < 255)).all(-1)  # the rest is cut in one way or another
    assert inside.mean() > 0.5
    # 8-bit tables on the way
    np.testing.assert_allclose(bytes_of(image)[inside], expected[inside], atol=2)
    assert np.abs(expected - stored).max() > 10
    assert notices[0] == f"{tmp_path}/a.png: colours converted from {name} to sRGB"
    grey, _ = read_image(tmp_path / "a.png", GREY)
    np.testing.assert_allclose(
        bytes_of(grey)[inside], (expected @ [0.299, 0.587, 0.114])[inside], atol=2
    )


@pytest.mark.parametrize("bits", [8, 16])
def test_greys_of_another_profile_become_srgb(tmp_path, grey, bits):
    grey = grey // 2 + 64  # a linear curve is steep at black, where LittleCMS rounds
    numbers = grey if bits == 8 else grey.astype(np.uint16) * 257
    Image.fromarray(numbers).save(tmp_path / "a.png", icc_profile=profile("linear", 1.0, None))
    image, notices = read_image(tmp_path / "a.png", GREY)
    expected = in_srgb(np.repeat(grey[..., None], 3, -1), 1.0, SRGB)[..., 0]
    np.testing.assert_allclose(bytes_of(image), expected, atol=1)
    assert "converted from linear to sRGB" in notices[0]


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG file."""
    check = zlib.crc32(kind + content).to_bytes(4, "big")
    return len(content).to_bytes(4, "big") + kind + content + check


GAMMA = {g: chunk(b"gAMA", struct.pack(">I", g)) for g in (45455, 100000)}
CORNERS = {
    name: chunk(b"cHRM", struct.pack(">8I", *numbers))
    for name, numbers in {
        "P3": (31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000),
        "sRGB": (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000),
    }.items()
}


@pytest.mark.parametrize(
    ("chunks", "words"),
    [
        (GAMMA[100000], "gAMA 1"),
        (GAMMA[45455] + CORNERS["P3"], "cHRM"),
        (chunk(b"cICP", bytes([12, 13, 0, 1])), "cICP 12, 13"),
        (chunk(b"cICP", bytes([9, 16, 0, 1])), "cICP 9, 16"),
        (GAMMA[45455] + CORNERS["sRGB"], ""),
        (chunk(b"cICP", bytes([1, 13, 0, 1])), ""),
        (chunk(b"sRGB", b"\0") + GAMMA[100000] + CORNERS["P3"], ""),
    ],
)
def test_a_space_without_a_profile_is_said(tmp_path, colour, chunks, words):
    Image.fromarray(colour).save(tmp_path / "a.png")
    plain = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(plain[:33] + chunks + plain[33:])
    image, notices = read_image(tmp_path / "a.png", COLOUR)
    np.testing.assert_array_equal(bytes_of(image), colour)
    said = f"{tmp_path}/a.png: its colours are those of another space ({words}), read as sRGB"
    assert notices == ([said] if words else [])


def test_a_profile_is_taken_before_another_name_of_the_same_space(tmp_path, colour):
    Image.fromarray(colour).save(tmp_path / "a.png", icc_profile=profile("P3", 2.2, P3))
    plain = (tmp_path / "a.png").read_bytes()
    named = chunk(b"cICP", bytes([12, 13, 0, 1]))
    (tmp_path / "b.png").write_bytes(plain[:33] + named + plain[33:])
    (image, notices), (other, _) = (read_image(tmp_path / f"{x}.png", COLOUR) for x in "ba")
    assert torch.equal(image, other)
    assert len(notices) == 1
    assert "converted from P3 to sRGB" in notices[0]


def test_adobe_rgb_of_a_camera_is_said(tmp_path, colour):
    exif = Image.Exif()
    exif[0x8769] = {0xA001: 65535, 0xA005: {1: "R03"}}
    Image.fromarray(colour).save(tmp_path / "a.jpg", exif=exif)
    _, notices = read_image(tmp_path / "a.jpg", COLOUR)
    assert "(Adobe RGB, by its EXIF)" in notices[0]


def test_numbers_too_small_for_their_depth_are_said(tmp_path, colour):
    """Bytes in 16-bit colours: Pillow keeps the upper byte, 0."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in colour)
    head = struct.pack(">IIBBBBB", colour.shape[1], colour.shape[0], 16, 2, 0, 0, 0)
    whole = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + whole)
    image, notices = read_image(tmp_path / "a.png", COLOUR)
    assert not image.any()
    assert notices == [f"{tmp_path}/a.png: black all over"]


def test_the_profile_of_srgb_changes_nothing_and_a_broken_one_is_said(tmp_path, colour):
    named = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    whole = profile("P3", 2.2, P3)
    for content, words in (
        (named, ""),
        (b"no profile", "ignored"),
        (whole[:200], "ignored"),
        (profile("greys", 1.0, None).replace(b"GRAY", b"HSV "), "ignored"),
    ):
        Image.fromarray(colour).save(tmp_path / "a.png", icc_profile=content)
        image, notices = read_image(tmp_path / "a.png", COLOUR)
        np.testing.assert_array_equal(bytes_of(image), colour)
        assert words in "".join(notices)
        assert len(notices) == bool(words)
