"""Arrays of pictures on disk, and which numbers of an array are black and white."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from diffodesic.output.files import UNREADABLE

if TYPE_CHECKING:
    import numpy as np

__all__ = ["ARRAYS", "ImageError", "check_numbers", "pixel_range", "read_array"]

ARRAYS = frozenset({".npy", ".npz"})
"""Suffixes of files of arrays."""


class ImageError(ValueError):
    """Pictures cannot be used; the message says what to change."""


def read_array(path: str | os.PathLike[str]) -> tuple[np.ndarray, list[str]]:
    """Read a .npy file, or the first array of a .npz file; no pickles.

    Args:
        path: a file, which the caller has seen to be one.

    Returns:
        the array, of a .npy file mapped into memory, and which one of several it is.

    Raises:
        ImageError: if it is no array of numbers, or one larger than its file.
    """
    import numpy as np

    notices = []
    try:
        if Path(path).suffix.lower() == ".npy":
            # mapped: a head that promises more than the file holds is refused, not allocated
            values = np.load(path, mmap_mode="r", allow_pickle=False)
        else:
            with zipfile.ZipFile(path) as content:
                names = [name.removesuffix(".npy") for name in content.namelist()]
            with np.load(path, allow_pickle=False) as arrays:
                values = arrays[names[0]]
            if len(names) > 1:
                notices.append(f"{names[0]} is read, the first of its {len(names)} arrays")
    except (*UNREADABLE, IndexError, TypeError, MemoryError, NotImplementedError) as error:
        raise ImageError(f"{path} is no array of numbers ({error}): use numpy.save") from error
    if not isinstance(values, np.ndarray):
        raise ImageError(f"{path} is no array of numbers: use numpy.save")
    return check_numbers(values, path), notices


def check_numbers(values: np.ndarray, path: str | os.PathLike[str]) -> np.ndarray:
    """Refuse an array of anything but numbers, or of none; ``path`` is its name in the message."""
    if values.dtype.kind not in "buif":
        raise ImageError(f"{path} is no array of numbers: use numpy.save")
    if values.size == 0:
        raise ImageError(f"{path} is an array without numbers: its shape is {values.shape}")
    return values


def pixel_range(values: np.ndarray, path: str | os.PathLike[str]) -> tuple[int, int, str]:
    """Which numbers are black and white, from the type of an array and what it holds.

    =================================  ===========
    bytes                              0 to 255
    other integers up to 255           0 to 255
    other integers up to 65535         0 to 65535
    floats                             0 to 1
    floats, some of them negative      -1 to 1
    True and False                     0 to 1
    =================================  ===========

    Args:
        values: an array of numbers.
        path: where it comes from, for the message.

    Returns:
        the numbers of black and of white, and a notice where other files might mean others, else
        "".

    Raises:
        ImageError: for numbers that are not finite, or in none of these ranges.
    """
    kind, low, high = values.dtype.kind, values.min(), values.max()
    if kind == "b":
        return 0, 1, ""
    if kind == "u" and values.dtype.itemsize == 1:
        return 0, 255, ""
    if kind == "f" and low >= -1 and high <= 1:  # never true of NaN
        return (-1, 1, "") if low < 0 else (0, 1, "its floats are read as 0 to 1")
    if kind in "ui" and low >= 0 and high <= 65535:
        white = 255 if high <= 255 else 65535
        return 0, white, f"its integers are read as 0 to {white}"
    raise ImageError(
        f"{path} holds numbers from {low} to {high}, not finite or outside the ranges of pixels: "
        "give bytes, integers from 0 to 65535, or floats from 0 to 1 or from -1 to 1"
    )
