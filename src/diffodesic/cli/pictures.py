"""The pictures that a command was given, those of a folder, or some of the package."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from torch import Tensor

from diffodesic.models.model import Model
from diffodesic.output.options import Options

__all__ = [
    "DIGITS",
    "PictureOptions",
    "ResultOptions",
    "pictures_read",
    "read_folder",
    "read_pictures",
    "readable",
]

DIGITS = (33, 83)  # of the package, for a model of digits: a 3 and an 8


@dataclass(frozen=True, kw_only=True)
class PictureOptions(Options):
    """How pictures are read.

    Args:
        resize: fit pictures of another size or other channels to the model; else refuse them.
    """

    resize: bool = True


@dataclass(frozen=True, kw_only=True)
class ResultOptions(PictureOptions):
    """How pictures are read, and where results go.

    Args:
        outdir: folder of the results.
    """

    outdir: str = "out"


def read_pictures(
    model: Model,
    paths: Sequence[str | PathLike[str]],
    *,
    default: Sequence[int] = (),
    resize: bool = True,
) -> list[Tensor]:
    """Read pictures in a model's own shape; what was changed about them goes to stderr.

    Args:
        model: whose codec says the shape.
        paths: files, or none for pictures of the package: photographs where the model is in colour.
        default: numbers of the digits otherwise.
        resize: fit pictures of another size; else they are refused.

    Returns:
        images (C, H, W) in [0, 1].

    Raises:
        ValueError: for no pictures where the digits do not fit.
    """
    from diffodesic.models.datasets import shipped_digits, shipped_photographs
    from diffodesic.output.images import read_image

    if paths:
        pictures = [read_image(path, model.codec.shape, resize=resize) for path in paths]
        for notice in (notice for _, notices in pictures for notice in notices):
            print(notice, file=sys.stderr)
        return [image for image, _ in pictures]
    channels, height, width = model.codec.shape
    if channels == 3 and default:
        return list(shipped_photographs(height, width)[0])
    if model.codec.shape != (1, 28, 28):
        raise ValueError("the shipped digits do not fit this model; give images of yours")
    digits, _ = shipped_digits()
    return [digits[i] for i in default]


def readable(
    model: Model, files: Iterable[Path], *, most: int | None = None, resize: bool = True
) -> list[tuple[Path, Tensor]]:
    """Read pictures of which some may be broken; these are named on stderr and left out.

    How many were left out, and how many were changed in which way, is said at the end.

    Args:
        model: whose codec says the shape.
        files: the files.
        most: number of pictures after which no more are read; default all.
        resize: fit pictures of another size; else they are left out too.

    Returns:
        files, each with its image (C, H, W) in [0, 1].
    """
    from diffodesic.output.images import ImageError, read_image

    read: list[tuple[Path, Tensor]] = []
    changes, broken = Counter[str](), 0
    for file in files:
        if most is not None and len(read) >= most:
            break
        try:
            image, notices = read_image(file, model.codec.shape, resize=resize)
        except ImageError as error:
            print(f"note: left out: {error}", file=sys.stderr)
            broken += 1
            continue
        changes.update(notice.removeprefix(f"{file}: ") for notice in notices)
        read.append((file, image))
    if broken > 1:
        print(f"note: {broken} pictures were left out", file=sys.stderr)
    for change, count in changes.items():
        print(f"{count} pictures: {change}", file=sys.stderr)
    return read


def pictures_read(given: argparse.Namespace) -> list[Path]:
    """The files of pictures that a command reads: its own, and those of the folder ``--among``."""
    from diffodesic.output.decoding import picture_files

    among = getattr(given, "among", None)
    others = picture_files(Path(among)) if among is not None and Path(among).is_dir() else []
    return [*map(Path, given.images), *others]


def read_folder(
    model: Model, folder: Path, *, least: int, resize: bool = True
) -> tuple[list[Path], Tensor]:
    """Read the pictures of a folder, without those that are broken; twins are named on stderr.

    Args:
        model: whose codec says the shape.
        folder: the folder.
        least: number of pictures that are needed.
        resize: fit pictures of another size; else they are left out.

    Returns:
        the files in their order, and images (N, C, H, W) in [0, 1].

    Raises:
        ValueError: for no folder, or fewer pictures.
    """
    import torch

    from diffodesic.output.decoding import picture_files
    from diffodesic.output.stages import fingerprint

    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; give one with pictures")
    files = picture_files(folder)
    read = readable(model, files, resize=resize)
    if len(read) < least:
        held = (
            f"{len(read)} pictures" if len(read) == len(files) else f"{len(read)} that can be read"
        )
        raise ValueError(f"{folder} holds {held}; {least} or more are needed")
    first: dict[str, Path] = {}
    for file, image in read:
        twin = first.setdefault(fingerprint(image), file)
        if twin is not file:
            print(f"note: {file} is the same picture as {twin.name}", file=sys.stderr)
    return [file for file, _ in read], torch.stack([image for _, image in read])
