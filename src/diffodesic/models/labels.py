"""The label of every image that :func:`diffodesic.models.datasets.load_images` reads."""

from __future__ import annotations

import os
from pathlib import Path

from diffodesic.models.datasets import MNIST, read_idx
from diffodesic.output.arrays import ImageError
from diffodesic.output.decoding import picture_files

__all__ = ["load_labels"]

_ARRAYS = ("labels", "label")


def load_labels(source: str | os.PathLike[str]) -> list[str | int]:
    """Read the labels of images.

    Args:
        source: a folder with MNIST's files; a folder with a folder of images for each label, whose
            name is the label; or a .npz file with the array ``labels`` (N,) beside its images.

    Returns:
        a label for each image, in the order of `load_images`.

    Raises:
        FileNotFoundError: if there is nothing there.
        ImageError: if the source has no labels.
    """
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"no data at {path}: give a folder of images or a .npz file.")
    if path.is_dir() and (path / MNIST["train"][0]).exists():
        return list(map(int, read_idx(path / MNIST["train"][1])))
    if path.is_dir():
        folders = [file.relative_to(path).parent for file in picture_files(path, below=True)]
        if Path() in folders:
            raise ImageError(
                f"{path} holds images without a label: put those of each label into a folder"
            )
        return [folder.as_posix() for folder in folders]
    if path.suffix.lower() == ".npz":
        return _of_array(path)
    raise ImageError(f"{path} holds no labels: give a folder, or a .npz file with labels")


def _of_array(path: Path) -> list[str | int]:
    import numpy as np

    with np.load(path, allow_pickle=False) as arrays:
        name = next((name for name in _ARRAYS if name in arrays), None)
        values = None if name is None else arrays[name]
    if values is None or values.ndim != 1 or values.dtype.kind not in "iuU":
        raise ImageError(
            f"{path} has no array 'labels' of one number or word per image: add it by numpy.savez"
        )
    return values.tolist()
