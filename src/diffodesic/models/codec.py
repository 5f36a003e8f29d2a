"""Codecs: between images and the vectors that a denoiser knows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["Codec", "PixelCodec", "check_images"]


class Codec(Protocol):
    """Images (..., C, H, W) in [0, 1] as vectors (..., D), deterministic both ways."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of images."""
        ...

    @property
    def lossless(self) -> bool:
        """True where decoding gives back what was encoded."""
        ...

    def encode(self, images: Tensor) -> Tensor:
        """Vectors (..., D) of images (..., C, H, W)."""
        ...

    def decode(self, z: Tensor) -> Tensor:
        """Images (..., C, H, W) of vectors (..., D)."""
        ...


def check_images(images: Tensor, shape: tuple[int, int, int]) -> None:
    """Refuse images that a codec does not take.

    Args:
        images: the images (..., C, H, W).
        shape: the (C, H, W) that it takes.

    Raises:
        ValueError: for images of another shape, or values that are integers, not finite or
            outside [0, 1].
    """
    if tuple(images.shape[-3:]) != shape:
        raise ValueError(
            f"images have shape {tuple(images.shape[-3:])}; this model takes "
            f"{shape} (channels, height, width)"
        )
    if not images.is_floating_point():
        raise ValueError(f"pixels are {images.dtype}; divide 8-bit values by 255")
    if not bool(torch.isfinite(images).all()):
        raise ValueError("the image holds pixels that are not finite (NaN or infinite)")
    if not bool(((images >= 0) & (images <= 1)).all()):
        raise ValueError("pixels must be between 0 and 1; divide 8-bit values by 255")


@dataclass(frozen=True)
class PixelCodec:
    """Images (..., C, H, W) in [0, 1] as vectors (..., D) in [low, 1], without loss.

    Attributes:
        shape: (C, H, W); D = C H W.
        low: value of black; white is 1.

    Raises:
        ValueError: for a shape of other than three axes.
    """

    shape: tuple[int, int, int]
    low: float = -1.0
    lossless: bool = field(default=True, init=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.shape) != 3:
            raise ValueError(
                f"shape is {tuple(self.shape)}: give (C, H, W), C = 1 for grey pictures"
            )

    def encode(self, images: Tensor) -> Tensor:
        """Vectors (..., D) of images (..., C, H, W) in [0, 1]; see `check_images`."""
        check_images(images, self.shape)
        return images.flatten(-3) * (1 - self.low) + self.low

    def decode(self, z: Tensor) -> Tensor:
        """Images (..., C, H, W) in [0, 1], clipped, of vectors (..., D)."""
        return ((z - self.low) / (1 - self.low)).clamp(0, 1).unflatten(-1, self.shape)
