"""Images as latents of an autoencoder of diffusers, and back.

    encode   latent = (mean of q(latent | image) - shift) * scale
    decode   image = decoder(latent / scale + shift)

The mean, not a sample of q: one image is one point.  Everything runs in float32, one image at a
time, so that memory and results do not depend on how many there are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from diffodesic.models.codec import check_images
from diffodesic.models.folder import ModelError

__all__ = ["LatentCodec", "latent_codec"]


@dataclass(frozen=True)
class LatentCodec:
    """Images (..., 3, H, W) in [0, 1] as vectors (..., D) of latents; decoding loses something.

    Attributes:
        vae: the autoencoder, in float32.
        shape: (C, H, W) of images.
        latent_shape: (c, h, w); D = c h w.
        scale: scaling factor of the latents.
        shift: their shift.
    """

    vae: Any = field(repr=False)
    shape: tuple[int, int, int]
    latent_shape: tuple[int, int, int]
    scale: float = 1.0
    shift: float = 0.0
    lossless: bool = field(default=False, init=False)

    def encode(self, images: Tensor) -> Tensor:
        """Vectors (..., D) of images (..., C, H, W) in [0, 1]; one encoder pass per image."""
        check_images(images, self.shape)
        flat = images.reshape(-1, *self.shape)
        latents = torch.cat([self._encoded(image) for image in flat.split(1)])
        if tuple(latents.shape[1:]) != self.latent_shape:
            raise ModelError(
                f"the autoencoder makes latents of shape {tuple(latents.shape[1:])}, the network "
                f"takes {self.latent_shape}: they do not belong together"
            )
        return latents.reshape(*images.shape[:-3], math.prod(self.latent_shape)).to(images)

    def decode(self, z: Tensor) -> Tensor:
        """Images (..., C, H, W) in [0, 1], clipped, of vectors (..., D); one pass per image."""
        flat = z.reshape(-1, *self.latent_shape)
        images = torch.cat([self._decoded(latent) for latent in flat.split(1)])
        return images.reshape(*z.shape[:-1], *self.shape).to(z)

    @torch.no_grad()
    def _encoded(self, image: Tensor) -> Tensor:
        out = self.vae.encode(self._like_weights(image * 2 - 1))
        latent = out.latents if hasattr(out, "latents") else out.latent_dist.mode()
        return (latent - self.shift) * self.scale

    @torch.no_grad()
    def _decoded(self, latent: Tensor) -> Tensor:
        out = self.vae.decode(self._like_weights(latent / self.scale + self.shift)).sample
        return ((out + 1) / 2).clamp(0, 1)

    def _like_weights(self, x: Tensor) -> Tensor:
        return x.to(next(self.vae.parameters()))


def latent_codec(vae: Any, latent_shape: tuple[int, int, int]) -> LatentCodec:
    """The codec of an autoencoder of diffusers.

    Args:
        vae: an ``AutoencoderKL`` or ``AutoencoderTiny`` in float32.
        latent_shape: (c, h, w) of what the network takes.

    Returns:
        the codec; scale and shift are those of the autoencoder's own config.

    Raises:
        ModelError: for another kind of autoencoder, or another number of channels.
    """
    kind, config = type(vae).__name__, vae.config
    if kind not in ("AutoencoderKL", "AutoencoderTiny"):
        raise ModelError(
            f"the autoencoder is a {kind}; only AutoencoderKL and AutoencoderTiny are known"
        )
    channels, height, width = latent_shape
    if config.latent_channels != channels:
        raise ModelError(
            f"the autoencoder makes {config.latent_channels} channels, the network takes "
            f"{channels}: they do not belong together (inpainting models are not supported)"
        )
    factor = 2 ** (len(config.block_out_channels) - 1)
    return LatentCodec(
        vae,
        (int(config.in_channels), height * factor, width * factor),
        latent_shape,
        float(config.scaling_factor),
        float(getattr(config, "shift_factor", None) or 0.0),
    )
