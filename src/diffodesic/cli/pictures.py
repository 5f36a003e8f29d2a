"""The pictures that a verb was given, or digits of the package."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from torch import Tensor

from diffodesic.models.model import Model

__all__ = ["read_pair", "read_pictures"]

DIGITS = (33, 83)  # of the package, for a run without arguments: a 3 and an 8


def read_pair(model: Model, paths: Sequence[str], *, resize: bool = True) -> list[Tensor]:
    """Read two pictures in a model's own shape; what was changed about them goes to stderr.

    Args:
        model: whose codec says the shape.
        paths: two files, or none for two shipped digits.
        resize: fit pictures of another size; else they are refused.

    Returns:
        two images (C, H, W) in [0, 1].

    Raises:
        ValueError: for another number of pictures, or none where the digits do not fit.
    """
    if len(paths) not in (0, 2):
        raise ValueError(f"give two images or none, not {len(paths)}")
    return read_pictures(model, paths, default=DIGITS, resize=resize)


def read_pictures(
    model: Model, paths: Sequence[str], *, default: Sequence[int], resize: bool = True
) -> list[Tensor]:
    """Read pictures in a model's own shape; what was changed about them goes to stderr.

    Args:
        model: whose codec says the shape.
        paths: files, or none for shipped digits.
        default: numbers of these digits.
        resize: fit pictures of another size; else they are refused.

    Returns:
        images (C, H, W) in [0, 1].

    Raises:
        ValueError: for no pictures where the digits do not fit.
    """
    from diffodesic.models.datasets import shipped_digits
    from diffodesic.output.images import read_image

    if paths:
        pictures = [read_image(path, model.codec.shape, resize=resize) for path in paths]
        for notice in (notice for _, notices in pictures for notice in notices):
            print(notice, file=sys.stderr)
        return [image for image, _ in pictures]
    if model.codec.shape != (1, 28, 28):
        raise ValueError("the shipped digits do not fit this model; give images of yours")
    digits, _ = shipped_digits()
    return [digits[i] for i in default]
