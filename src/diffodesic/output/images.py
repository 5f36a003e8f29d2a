"""Pictures on disk as tensors (C, H, W) in [0, 1], and back to 8-bit arrays."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image as PillowImage

__all__ = ["ImageError", "read_image", "to_uint8"]


class ImageError(ValueError):
    """A picture cannot be used; the message says what to change."""


def read_image(
    path: str | os.PathLike[str], shape: tuple[int, int, int], *, resize: bool = True
) -> tuple[Tensor, list[str]]:
    """Read a picture in the shape of a model.

    Args:
        path: any file that Pillow reads; the first frame of an animation, upright by its EXIF tag.
        shape: (C, H, W), C = 1 or 3.
        resize: fit another size by cropping the centre and resampling, and convert other
            channels; else refuse them.

    Returns:
        the picture in [0, 1], (C, H, W), float32, and notices of what was changed.

    Raises:
        ImageError: for a missing or unreadable file, pixels that are not finite, or another size
            or other channels without ``resize``.
    """
    import numpy as np
    from PIL import Image, ImageOps

    if not Path(path).is_file():
        raise ImageError(f"there is no picture at {path}")
    channels, height, width = shape
    try:
        with Image.open(path) as file:
            picture = ImageOps.exif_transpose(file)
            mode, size = picture.mode, picture.size
            picture = _eight_bits(picture).convert("L" if channels == 1 else "RGB")
    except Exception as error:  # decoders raise whatever a broken file leads them to
        raise ImageError(
            f"{path} cannot be read as a picture ({error}); give a PNG or JPEG file"
        ) from error
    if not resize and (mode, size) != (picture.mode, (width, height)):
        raise ImageError(
            f"{path} is {size[0]}x{size[1]} {mode}, the model takes {width}x{height} "
            f"{picture.mode}; allow resizing or give such a picture"
        )
    notices = []
    if mode != picture.mode:
        notices.append(f"{path}: converted from {mode} to {picture.mode}")
    if size != (width, height):
        picture = ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)
        notices.append(f"{path}: cropped and resized from {size[0]}x{size[1]} to {width}x{height}")
    array = np.asarray(picture, dtype=np.float32) / 255
    return torch.from_numpy(array.reshape(height, width, channels)).movedim(-1, 0), notices


def _eight_bits(picture: PillowImage) -> PillowImage:
    """16-bit greys (0 to 65535) and floats (0 to 1) in 8 bits, transparency laid on white."""
    import numpy as np
    from PIL import Image

    if picture.mode == "F" or picture.mode.startswith("I"):
        values = np.asarray(picture, dtype=np.float64) / (1 if picture.mode == "F" else 65535)
        if not ((values >= 0) & (values <= 1)).all():  # NaN included
            raise ValueError(f"{picture.mode} pixels are not finite or outside their range")
        return Image.fromarray((values * 255).round().astype(np.uint8))
    if picture.mode in {"RGBA", "LA", "PA"} or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        paper = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(paper, rgba)
    return picture


def to_uint8(images: Tensor) -> list[np.ndarray]:
    """Pictures (F, C, H, W) in [0, 1] as 8-bit arrays, (H, W) grey or (H, W, 3)."""
    array = (images.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).movedim(-3, -1)
    return [frame[..., 0] if frame.shape[-1] == 1 else frame for frame in array.numpy()]
