"""Pictures on disk as tensors (C, H, W) in [0, 1], and back to 8-bit arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffodesic.output.arrays import ImageError
from diffodesic.output.decoding import Source, decode, name_of

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image as PillowImage

__all__ = ["ImageError", "read_image", "to_pil", "to_uint8"]


def read_image(
    source: Source, shape: tuple[int, int, int], *, resize: bool = True
) -> tuple[Tensor, list[str]]:
    """Read a picture in the shape of a model.

    Args:
        source: what :func:`.decoding.decode` reads; the first frame of an animation.
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

    channels, height, width = shape
    found, mode = decode(source), "L" if channels == 1 else "RGB"
    path = name_of(source)
    if not resize and (found.mode, found.size) != (mode, (width, height)):
        raise ImageError(
            f"{path} is {found.size[0]}x{found.size[1]} {found.mode}, the model takes "
            f"{width}x{height} {mode}; allow resizing or give such a picture"
        )
    notices, picture = found.notices, found.picture.convert(mode)
    if found.mode != mode:
        notices.append(f"converted from {found.mode} to {mode}")
    if found.size != (width, height):
        picture = ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)
        cropped = "" if found.size[0] * height == found.size[1] * width else "cropped and "
        notices.append(f"{cropped}resized from {found.size[0]}x{found.size[1]} to {width}x{height}")
    array = np.asarray(picture, dtype=np.float32) / 255
    image = torch.from_numpy(array.reshape(height, width, channels)).movedim(-1, 0)
    return image, [f"{path}: {notice}" for notice in notices]


def to_uint8(images: Tensor) -> list[np.ndarray]:
    """Pictures (F, C, H, W) in [0, 1] as 8-bit arrays, (H, W) grey or (H, W, 3)."""
    array = (images.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).movedim(-3, -1)
    return [frame[..., 0] if frame.shape[-1] == 1 else frame for frame in array.numpy()]


def to_pil(images: Tensor) -> list[PillowImage]:
    """Pictures (F, C, H, W) in [0, 1] as PIL images."""
    from PIL import Image

    return [Image.fromarray(frame) for frame in to_uint8(images)]
