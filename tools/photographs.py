"""Photographs of Fruits-360 for training and for a model's card.

The file is an ``images.npz`` with the array ``data``, encoded pictures one after another, their
``offsets``, ``label`` (of ``label_names``) and ``is_test``.  Its rows of training are shuffled.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from diffodesic.experiments.common.archive import Archive
from tools.model_card import Kind

__all__ = ["FRUITS", "held_out_photographs", "read_photographs"]

_TRAINED = 15064  # rows below may have been trained on, by the shipped model


def read_photographs(
    path: str | os.PathLike[str], rows: Iterable[int] | None = None, size: int = 128
) -> Tensor:
    """Read photographs, resampled (Lanczos).

    Args:
        path: the file.
        rows: which ones; None reads those of training.
        size: side in pixels.

    Returns:
        pictures in 8 bits, (N, size, size, 3), as `diffodesic train` takes from a .npy file.
    """
    archive = Archive.read(Path(path))
    rows = (~archive.arrays["is_test"].astype(bool)).nonzero()[0] if rows is None else rows
    return archive.pictures(rows, size).movedim(1, -1).contiguous()


def held_out_photographs(path: str | os.PathLike[str], number: int) -> Tensor:
    """Photographs that the shipped model was not trained on.

    Args:
        path: the file.
        number: how many other frames of the fruits that it was trained on.

    Returns:
        these, and after them the file's 290 test frames, whose neighbours within about 28 degrees
        are in no set: (number + 290, 3, 128, 128) in [0, 1].
    """
    import numpy as np

    with np.load(path, allow_pickle=False) as arrays:
        test = np.flatnonzero(arrays["is_test"])
    rows = [*range(_TRAINED, _TRAINED + number), *test]
    return read_photographs(path, rows).movedim(-1, 1).float() / 255


FRUITS = Kind(
    "photographs",
    "squeezenet:SqueezeNet_fp16.onnx",
    """
The sets of the Frechet distances are other frames of the turning fruits that were trained on; the
points of the Jacobian lie in arcs of 28 degrees of which no frame was. The autoencoder's part of
the distance: 1024 held-out photographs that went through it and back are at 1827 and 1782 from two
other sets of held-out photographs, 1.9 times that of real against real.

## Data and use

Trained on photographs of Fruits-360 by Mihai Oltean and Horea Muresan (MIT), subsampled and resized
from 100x100 to 128x128 pixels. The latents are those of TAESD by Ollin Boer Bohan (MIT), which is
not exact: 58 test frames come back with 23.8 to 34.4 dB, median 29.6. For studying
and showing the geometry of a learned model; it knows single fruits, vegetables and nuts on white,
and nothing else.
""",
)
