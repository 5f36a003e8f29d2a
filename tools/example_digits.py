"""The example digits that ship with the library, taken from MNIST's test set."""

from __future__ import annotations

import json
import os
from pathlib import Path

from diffodesic.models.datasets import MNIST, held_out, read_idx

__all__ = ["write_digits"]


def write_digits(folder: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Write the example digits that ship with the library: 10 test digits of every class.

    They are the first of their class among MNIST's test digits; the file holds images
    (100, 28, 28) and labels (100,), both bytes, and their indices in the test set as metadata.

    Args:
        folder: the folder of MNIST's four .gz files.
        path: the .safetensors file to write.
    """
    from safetensors.torch import save

    images, labels = (read_idx(Path(folder) / name) for name in MNIST["test"])
    chosen = held_out(labels)
    metadata = {
        "indices": json.dumps(chosen.tolist()),
        "source": "MNIST test set (t10k), LeCun, Cortes and Burges; commonly given as CC BY-SA 3.0",
    }
    content = {"images": images[chosen].contiguous(), "labels": labels[chosen].contiguous()}
    Path(path).write_bytes(save(content, metadata))
