"""The pictures that a command was given, or digits of the package."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike

from torch import Tensor

from diffodesic.models.model import Model
from diffodesic.output.options import Options

__all__ = ["DIGITS", "PictureOptions", "ResultOptions", "read_pictures"]

DIGITS = (33, 83)  # of the package, for a run without arguments: a 3 and an 8


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
