"""Pictures on disk as tensors (C, H, W) in [0, 1], and back to 8-bit arrays."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    import numpy as np

__all__ = ["ImageError", "read_image", "shipped_digits", "to_uint8"]


class ImageError(ValueError):
    """A picture cannot be used; the message says what to change."""


def read_image(
    path: str | os.PathLike[str], shape: tuple[int, int, int], *, resize: bool = True
) -> tuple[Tensor, list[str]]:
    """Read a picture in the shape of a model.

    Args:
        path: any file that Pillow reads; the first frame of an animation, upright by its EXIF tag.
        shape: (C, H, W), C = 1 or 3.
        resize: fit another size by cropping the centre and resampling; else refuse it.

    Returns:
        the picture in [0, 1], (C, H, W), float32, and notices of what was changed.

    Raises:
        ImageError: for a missing or unreadable file, or another size without ``resize``.
    """
    import numpy as np
    from PIL import Image, ImageOps, UnidentifiedImageError

    if not Path(path).is_file():
        raise ImageError(f"there is no picture at {path}")
    channels, height, width = shape
    try:
        with Image.open(path) as file:
            picture = ImageOps.exif_transpose(file)
            mode, size = picture.mode, picture.size
            picture = _flatten_alpha(picture).convert("L" if channels == 1 else "RGB")
    except (
        UnidentifiedImageError,
        OSError,
        SyntaxError,
        ValueError,
        Image.DecompressionBombError,
    ) as error:
        raise ImageError(f"{path} cannot be read as a picture: {error}") from error
    notices = []
    if mode != picture.mode:
        notices.append(f"{path}: converted from {mode} to {picture.mode}")
    if size != (width, height):
        if not resize:
            raise ImageError(
                f"{path} is {size[0]}x{size[1]}, the model takes {width}x{height}; "
                "allow resizing or give a picture of that size"
            )
        picture = ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)
        notices.append(f"{path}: cropped and resized from {size[0]}x{size[1]} to {width}x{height}")
    array = np.asarray(picture, dtype=np.float32) / 255
    return torch.from_numpy(array.reshape(height, width, channels)).movedim(-1, 0), notices


def _flatten_alpha(picture):  # noqa: ANN001, ANN202
    """16-bit greys scaled to 8 bits, transparency laid on white."""
    import numpy as np
    from PIL import Image

    if picture.mode.startswith("I"):
        values = np.asarray(picture, dtype=np.float64)
        return Image.fromarray((values / 65535 * 255).clip(0, 255).round().astype(np.uint8))
    if picture.mode in {"RGBA", "LA", "PA"} or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        paper = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(paper, rgba)
    return picture


def shipped_digits() -> tuple[Tensor, Tensor]:
    """The 100 held-out digits of the package: images (100, 1, 28, 28) in [0, 1], labels (100,)."""
    from safetensors.torch import load_file

    digits = load_file(Path(__file__).parent / "assets" / "digits.safetensors")
    return digits["images"].unsqueeze(1).float() / 255, digits["labels"].long()


def to_uint8(images: Tensor) -> list[np.ndarray]:
    """Pictures (F, C, H, W) in [0, 1] as 8-bit arrays, (H, W) grey or (H, W, 3)."""
    array = (images.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).movedim(-3, -1)
    return [frame[..., 0] if frame.shape[-1] == 1 else frame for frame in array.numpy()]
