"""Pictures as users have them: tensors, numpy arrays, PIL images and paths of files.

Every verb on images opens them here.  A tensor is taken as it is; all else is fitted to the model
as the command line fits files (upright, sRGB, on white, the centre cropped and resampled), and a
warning says what was changed.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import torch
from torch import Tensor

from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.images.lifting import as_floats
from diffodesic.models.model import Model
from diffodesic.numerics import checks

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

__all__ = ["Data", "Picture", "as_data"]

Picture: TypeAlias = Union[Tensor, "np.ndarray", "Image", str, os.PathLike[str]]
"""A tensor (C, H, W) in [0, 1]; an array (H, W, C) or in the model's own shape; a PIL image; or the
path of a picture."""
Data: TypeAlias = Picture | Sequence[Picture]
"""A picture, or several; for a denoiser points."""


def as_data(source: Model | Denoiser, data: Data) -> Tensor:
    """What a verb was given, as a tensor.

    Args:
        source: the model whose pictures these are, or a denoiser, whose points are tensors or
            arrays.
        data: a picture, several in a sequence or on the first axis of a tensor or an array, or
            points.

    Returns:
        a tensor as it is; of a picture (C, H, W), of several (N, C, H, W), floats in [0, 1].

    Raises:
        TypeError: for anything else, or a source that is neither.
        ValueError: for several pictures that differ in shape, or none.
        ImageError: for a file that is no picture, or pixels out of their range.
    """
    checks.of_kind(source, "source", Model, Denoiser)
    if isinstance(data, Tensor):
        return data
    if isinstance(source, Denoiser):
        if _is_array(data) or isinstance(data, list | tuple):
            return torch.as_tensor(data)
        raise TypeError(f"points are tensors or arrays (..., {source.dim}), not {_kind(data)}")
    if isinstance(data, list | tuple):
        each = [as_data(source, one) for one in data]
        if not each or len({one.shape for one in each}) > 1:
            shapes = ", ".join(str(tuple(one.shape)) for one in each)
            raise ValueError(f"pictures must be of one shape, at least one, got [{shapes}]")
        return torch.stack([*map(as_floats, each)])
    return _picture(data, source.codec.shape)


def _picture(data: Any, shape: tuple[int, int, int]) -> Tensor:
    """One picture (C, H, W), or an array of several (N, C, H, W)."""
    from diffodesic.output.images import read_image

    if _is_array(data) and (data.shape[-3:] == shape or (1, *data.shape) == shape):
        # its floats keep all their digits
        return as_floats(torch.as_tensor(data).reshape(*data.shape[:-3], *shape))
    if not (_is_array(data) or isinstance(data, str | os.PathLike) or _is_pil(data)):
        raise TypeError(
            "a picture is a tensor (C, H, W), an array (H, W, C), a PIL image or the path of a "
            f"file, not {_kind(data)}"
        )
    picture, notices = read_image(data, shape)
    for notice in notices:
        warnings.warn(notice, UserWarning, stacklevel=5)
    return picture


def _is_array(data: object) -> bool:
    return type(data).__module__.partition(".")[0] == "numpy" and hasattr(data, "shape")


def _is_pil(data: object) -> bool:
    return any(kind.__module__ == "PIL.Image" for kind in type(data).__mro__)


def _kind(data: object) -> str:
    return f"{type(data).__module__}.{type(data).__name__}".removeprefix("builtins.")
