"""Picture files as 8-bit sRGB: the one place where a file becomes pixels.

A picture comes out upright (EXIF), in sRGB (colour profiles are converted), opaque (transparency is
laid on white), grey or with three colours.  Integers of more than 8 bits and floats are scaled, not
cut.  Everything that was changed is said in a notice.

The size is read from the head of a file, before its pixels are: a file of 330 kB may hold pixels
for gigabytes.  Formats that Pillow leaves to another program, such as EPS, are not opened.
"""

from __future__ import annotations

import io
import math
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

from diffodesic.output.arrays import ARRAYS, ImageError, check_numbers, pixel_range, read_array
from diffodesic.output.files import not_a_file

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image as PillowImage

__all__ = [
    "MOST_PIXELS",
    "PICTURES",
    "Decoded",
    "Source",
    "check_file",
    "decode",
    "name_of",
    "picture_files",
]

Source: TypeAlias = Union[str, "os.PathLike[str]", "np.ndarray", "PillowImage"]
"""What a picture is read from."""

MOST_PIXELS = 2**26
"""Pixels of the largest picture that is read: at 13 bytes each less than a gigabyte."""

PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm",
            ".jp2", ".avif"}  # fmt: skip
"""Suffixes of the files of a folder that are its pictures."""

_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF")
_SPACES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # of a profile, and Pillow's mode
_PHOTOMETRIC, _BITS = 262, 258  # tags of TIFF
_INTEROP = 0xA005  # tag of EXIF
_CORNERS = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)  # white, red, green, blue of sRGB


@dataclass
class Decoded:
    """Pixels of a file.

    Attributes:
        picture: upright, opaque, 8-bit sRGB: of mode L for a file of greys, else RGB.
        mode: Pillow's name of the file's pixels, such as RGBA.
        size: width and height of the upright picture; a large JPEG file may be read smaller.
        notices: what was changed, without the file's name.
    """

    picture: PillowImage
    mode: str
    size: tuple[int, int]
    notices: list[str] = field(default_factory=list)


def picture_files(folder: Path, *, below: bool = False) -> list[Path]:
    """List the pictures of a folder by their suffix, sorted; hidden files are left out.

    Args:
        folder: the folder.
        below: those of the folders inside it, too.

    Returns:
        the files; what cannot be read is seen where it is decoded.
    """
    entries = folder.rglob("*") if below else folder.iterdir()
    return sorted(
        entry
        for entry in entries
        if entry.suffix.lower() in PICTURES and not entry.name.startswith(".")
    )


def decode(source: Source) -> Decoded:
    """Read a picture.

    Args:
        source: a file of PNG, JPEG, BMP, GIF, WebP, TIFF, PPM, JPEG 2000 or AVIF, or a .npy or .npz
            array (H, W) or (H, W, C), C = 1 to 4, in a range of :func:`.arrays.pixel_range`; such
            an array itself; or a PIL image.

    Returns:
        its pixels and what was changed.

    Raises:
        ImageError: for a missing, unreadable or too large file, something that is no file, or
            pixels that are not finite or out of their range.
    """
    if not isinstance(source, str | os.PathLike):
        return _of_object(source)
    path = source
    check_file(path)
    try:
        if Path(path).suffix.lower() in ARRAYS:
            return _from_array(path)
        # what Pillow warns of, such as a damaged EXIF block, is a notice about this file
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            decoded = _from_picture(path)
    except ImageError:
        raise
    except Exception as error:  # decoders raise whatever a broken file leads them to
        raise ImageError(
            f"{path} cannot be read as a picture ({error}); give a PNG or JPEG file"
        ) from error
    decoded.notices += [" ".join(str(warning.message).split()) for warning in said]
    return decoded


def check_file(path: str | os.PathLike[str]) -> None:
    """Refuse what is no file, without opening it: reading a pipe might never end.

    Args:
        path: of a picture or of an array.

    Raises:
        ImageError: if nothing is there, or a folder, a pipe, a socket or a device.
    """
    try:
        kind = not_a_file(path)
    except FileNotFoundError as error:
        raise ImageError(f"there is no picture at {path}") from error
    except (OSError, ValueError) as error:  # ValueError: a null character
        raise ImageError(f"there is no picture at {path} ({error})") from error
    if kind:
        raise ImageError(f"{path} is {kind}, not a file: give a file of pixels, or take it away")


def _of_object(source: np.ndarray | PillowImage) -> Decoded:
    """The pixels of an array or of a PIL image, which stay as they are."""
    import numpy as np
    from PIL import Image, ImageOps

    name = name_of(source)
    if isinstance(source, np.ndarray):
        return _from_values(check_numbers(source, name), [], name)
    if not isinstance(source, Image.Image):
        raise ImageError(f"{type(source).__name__} is no picture: give a file, an array, an image")
    _check_size(name, source.size)
    upright = ImageOps.exif_transpose(source)
    notices: list[str] = []
    if source.mode == "F" or source.mode.startswith("I"):
        eight = _eight_bits(upright, name, *_scale(source), notices)
        return _finished(eight, source.mode, upright.size, notices)
    return _finished(upright.copy(), source.mode, upright.size, notices)


def name_of(source: Source) -> str:
    """How messages call a picture: the path of a file, or what it is."""
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    return getattr(source, "filename", "") or f"the {type(source).__name__}"


def _check_size(path: str | os.PathLike[str], size: tuple[int, int]) -> None:
    if math.prod(size) > MOST_PIXELS:
        raise ImageError(
            f"{path} has {size[0]}x{size[1]} pixels: make it smaller, at most {MOST_PIXELS:,} "
            "are read"
        )


def _from_picture(path: str | os.PathLike[str]) -> Decoded:
    from PIL import Image, ImageOps

    Image.init()
    known = [name for name in _FORMATS if name in Image.OPEN]
    with Image.open(path, formats=known) as file:
        if file.format == "PNG":
            file.verify()  # the checksum of its last pixels, which reading them leaves out
    with Image.open(path, formats=known) as file:
        width, height = file.size
        if width * height > MOST_PIXELS:
            file.draft(None, (width // 2, height // 2))  # a JPEG file can be decoded at a half
        _check_size(path, file.size)
        frames = getattr(file, "n_frames", 1)
        notices = [f"the first of its {frames} frames"] if frames > 1 else []
        if other := _other_space(file, path):
            notices.append(f"its colours are those of another space ({other}), read as sRGB")
        mode, decoded_size, scale = file.mode, file.size, _scale(file)
        if file.format == "TIFF":
            with _errors_of_libtiff():
                file.load()
        ImageOps.exif_transpose(file, in_place=True)
        size = (width, height) if file.size == decoded_size else (height, width)
        if mode == "F" or mode.startswith("I"):
            return _finished(_eight_bits(file, path, *scale, notices), mode, size, notices)
        return _finished(file, mode, size, notices)


@contextmanager
def _errors_of_libtiff() -> Iterator[None]:
    """Raise what libtiff prints on standard error, and reads on: the pixels would be others."""
    try:
        error = os.dup(2)
    except OSError:  # it is closed
        yield
        return
    with tempfile.TemporaryFile() as heard:
        os.dup2(heard.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(error, 2)
            os.close(error)
            heard.seek(0)
            if lines := heard.read().decode(errors="replace").splitlines():
                raise OSError(lines[0].strip())


def _finished(
    picture: PillowImage, mode: str, size: tuple[int, int], notices: list[str]
) -> Decoded:
    """Colours as sRGB, transparency on white, and one of two modes."""
    alpha = _alpha(picture)
    grey = picture.mode in {"1", "L", "LA"}
    picture = _in_srgb(picture, notices)
    picture = picture.convert("L" if grey else "RGB")
    if alpha is not None:
        from PIL import Image

        paper = Image.new(picture.mode, picture.size, "white")
        paper.paste(picture, mask=alpha)
        picture = paper
        notices.append("transparency laid on white")
    if not picture.getbbox():
        notices.append("black all over")
    return Decoded(picture, mode, size, notices)


def _alpha(picture: PillowImage) -> PillowImage | None:
    """How opaque each pixel is, or None where all of them are."""
    if picture.mode not in {"RGBA", "LA", "PA"} and "transparency" not in picture.info:
        return None
    alpha = picture.convert("RGBA").getchannel("A")
    return None if alpha.getextrema() == (255, 255) else alpha


def _in_srgb(picture: PillowImage, notices: list[str]) -> PillowImage:
    """Convert the colours from those of the profile inside the file, if there is one."""
    from PIL import ImageCms

    content = picture.info.get("icc_profile")
    if not content:
        return picture
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(content))
        name = " ".join(ImageCms.getProfileDescription(profile).split())
        if "sRGB" in name:
            return picture
        colours = picture.convert(_SPACES[profile.profile.xcolor_space])
        srgb = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(colours, profile, srgb, outputMode="RGB")
        assert converted is not None  # as it is where the picture itself is changed
    except (ImageCms.PyCMSError, OSError, KeyError, TypeError, ValueError) as error:
        notices.append(f"its colour profile cannot be used and is ignored ({error})")
        return picture
    notices.append(f"colours converted from {name} to sRGB")
    return converted


def _other_space(file: Any, path: str | os.PathLike[str]) -> str:
    """What a file without a profile says of its colours, where that is not sRGB; else ""."""
    if "icc_profile" in file.info:
        return ""
    if file.format == "PNG":
        with Path(path).open("rb") as stream:
            head = stream.read(1 << 16).partition(b"IDAT")[0]
        # its third edition names primaries and transfer by the numbers of ITU-T H.273
        coded = head.partition(b"cICP")[2][:2]
        if coded and coded not in (bytes([1, 13]), bytes([1, 1])):
            return f"cICP {coded[0]}, {coded[1]}"
    if "srgb" in file.info:
        return ""
    gamma, corners = file.info.get("gamma"), file.info.get("chromaticity", _CORNERS)
    if gamma is not None and abs(2.2 * gamma - 1) > 0.05:
        return f"gAMA {gamma:g}"
    if max(abs(a - b) for a, b in zip(corners, _CORNERS, strict=True)) > 0.01:
        return "cHRM"
    with suppress(Exception):  # damaged EXIF leads to any of them
        if "exif" in file.info and file.getexif().get_ifd(_INTEROP).get(1) == "R03":
            return "Adobe RGB, by its EXIF"
    return ""


def _scale(file: Any) -> tuple[int | None, bool]:
    """The largest integer of the pixels, None where only they tell, and whether it is black."""
    # Pillow scales integers of 9 to 15 bits but in TIFF, where it inverts those of 8 bits alone
    if file.format != "TIFF":
        return 65535, False
    bits = file.tag_v2.get(_BITS, (1,))[0]
    return (2**bits - 1 if bits <= 16 else None), file.tag_v2.get(_PHOTOMETRIC) == 0


def _eight_bits(
    picture: PillowImage,
    path: str | os.PathLike[str],
    white: int | None,
    inverted: bool,
    notices: list[str],
) -> PillowImage:
    """Integers of more bits and floats in 8 bits; see :func:`_scale`."""
    import numpy as np
    from PIL import Image

    values = np.asarray(picture)
    black, found, notice = pixel_range(values, path)
    if black < 0:
        raise ImageError(f"{path} holds floats that are not finite or outside 0 to 1: rescale them")
    if values.dtype.kind == "f":
        white, notice = 1, ""
    elif white is None:
        white = found
    else:
        dark = values.max() <= 255 < white
        notice = f"nearly black: no number is above 255, and {white} is white" if dark else ""
    notices += [notice] if notice else []
    levels = _bytes(values, 0, white)
    levels = 255 - levels if inverted else levels
    if isinstance(picture.info.get("transparency"), int):
        levels[values == picture.info["transparency"]] = 255
        notices.append("transparency laid on white")
    plain = Image.fromarray(levels)
    if "icc_profile" in picture.info:
        plain.info["icc_profile"] = picture.info["icc_profile"]
    return plain


def _from_array(path: str | os.PathLike[str]) -> Decoded:
    return _from_values(*read_array(path), path)


def _from_values(values: np.ndarray, notices: list[str], path: str | os.PathLike[str]) -> Decoded:
    import numpy as np
    from PIL import Image

    values = values[..., 0] if values.ndim == 3 and values.shape[-1] == 1 else values
    if values.ndim != 2 and not (values.ndim == 3 and values.shape[-1] in {2, 3, 4}):
        raise ImageError(
            f"{path} has the shape {values.shape}: give one picture, (H, W) or (H, W, C), "
            "C = 1 to 4"
        )
    _check_size(path, (values.shape[1], values.shape[0]))
    black, white, notice = pixel_range(values, path)
    notices += [notice] if notice else []
    picture = Image.fromarray(np.ascontiguousarray(_bytes(values, black, white)))
    return _finished(picture, picture.mode, picture.size, notices)


def _bytes(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Numbers between two limits as bytes."""
    import numpy as np

    if values.dtype == np.uint8 and (low, high) == (0, 255):
        return values
    scaled = values.astype(np.float32)
    scaled -= low
    scaled *= 255 / (high - low)
    return np.rint(scaled, out=scaled).astype(np.uint8)
