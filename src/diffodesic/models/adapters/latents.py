"""Images as latents of an autoencoder of diffusers, and back.

    encode   latent = (mean of q(latent | image) - shift) * scale
    decode   image = decoder(latent / scale + shift)

where scale and shift are what the pipeline's own decoding reads from the autoencoder's config,

    scale = scaling_factor / latents_std,    shift = shift_factor + latents_mean.

The mean, not a sample of q: one image is one point.  A VQ model encodes to vectors before they are
quantised, and quantises when it decodes.  Everything runs in float32, one image at a time, so that
memory and results do not depend on how many there are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from diffodesic.models.adapters.diffusers_scheduler import unknown_fields
from diffodesic.models.codec import check_images
from diffodesic.models.folder import ModelError

__all__ = ["LatentCodec", "downscaling", "latent_codec"]

# class of an autoencoder -> name of its number of latent channels
_KINDS = {
    "AsymmetricAutoencoderKL": ("latent_channels",),
    "AutoencoderKL": ("latent_channels",),
    "AutoencoderTiny": ("latent_channels",),
    "VQModel": ("vq_embed_dim", "latent_channels"),
}
# fields that some classes write themselves
_WRITTEN = frozenset({"block_out_channels", "force_upcast"})
_SHIFTS = ("shift_factor", "latents_mean", "latents_std")  # read by some pipelines only


@dataclass(frozen=True)
class LatentCodec:
    """Images (..., C, H, W) in [0, 1] as vectors (..., D) of latents; decoding loses something.

    Attributes:
        vae: the autoencoder, in float32.
        shape: (C, H, W) of images.
        latent_shape: (c, h, w); D = c h w.
        scale: what latents are multiplied by, one number or (c, 1, 1).
        shift: what is subtracted before, one number or (c, 1, 1).
    """

    vae: Any = field(repr=False)
    shape: tuple[int, int, int]
    latent_shape: tuple[int, int, int]
    scale: float | Tensor = 1.0
    shift: float | Tensor = 0.0
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
        return (latent - self._like_weights(self.shift)) * self._like_weights(self.scale)

    @torch.no_grad()
    def _decoded(self, latent: Tensor) -> Tensor:
        scale, shift = self._like_weights(self.scale), self._like_weights(self.shift)
        out = self.vae.decode(self._like_weights(latent) / scale + shift).sample
        return ((out + 1) / 2).clamp(0, 1)

    def _like_weights(self, x: Tensor | float) -> Tensor:
        weight = next(self.vae.parameters())
        return torch.as_tensor(x, dtype=weight.dtype, device=weight.device)


def downscaling(vae: Any) -> int:
    """Pixels of an image's side per latent, of an autoencoder that `latent_codec` takes."""
    _check_kind(vae)
    blocks = vae.config.get("block_out_channels") or vae.config.down_block_out_channels
    return int(2 ** (len(blocks) - 1))


def latent_codec(
    vae: Any, latent_shape: tuple[int, int, int], fields: frozenset[str]
) -> LatentCodec:
    """The codec of an autoencoder of diffusers.

    Args:
        vae: an ``AutoencoderKL``, ``AsymmetricAutoencoderKL``, ``AutoencoderTiny`` or ``VQModel``
            in float32.
        latent_shape: (c, h, w) of what the network takes.
        fields: those of ``shift_factor``, ``latents_mean`` and ``latents_std`` that the pipeline's
            own decoding reads from the autoencoder's config.

    Returns:
        the codec.

    Raises:
        ModelError: for another kind of autoencoder, another number of channels, or a field of the
            config that the pipeline does not read or that is not known.
    """
    _check_kind(vae)
    config, factor = vae.config, downscaling(vae)
    made = next(config[n] for n in _KINDS[type(vae).__name__] if config.get(n) is not None)
    channels, height, width = latent_shape
    if made != channels:
        raise ModelError(
            f"the autoencoder makes {made} channels, the network takes "
            f"{channels}: they do not belong together (inpainting models are not supported)"
        )
    if config.in_channels != config.out_channels:
        raise ModelError(
            f"the autoencoder takes {config.in_channels} channels and makes {config.out_channels}; "
            "only those that give pictures back are supported"
        )
    for name in set(_SHIFTS) - fields:
        if (value := config.get(name)) not in (None, 0, 0.0):
            raise ModelError(
                f"the autoencoder's {name} is {value!r}, which the decoding of this pipeline does "
                "not read; remove it, or load the pipeline that it was trained with"
            )
    return LatentCodec(
        vae,
        (int(config.in_channels), height * factor, width * factor),
        latent_shape,
        config.scaling_factor / _channelwise(config, "latents_std", channels, 1.0),
        (config.get("shift_factor") or 0.0) + _channelwise(config, "latents_mean", channels, 0.0),
    )


def _check_kind(vae: Any) -> None:
    kind = type(vae).__name__
    if kind not in _KINDS:
        raise ModelError(f"the autoencoder is a {kind}; known are {', '.join(_KINDS)}")
    if unknown := unknown_fields(vae, frozenset(vae.config), _WRITTEN):
        raise ModelError(
            f"the config of the {kind} has {' and '.join(unknown)}, which is not known"
        )


def _channelwise(config: Any, name: str, channels: int, default: float) -> Any:
    """A number for each channel (c, 1, 1), or the default."""
    if (values := config.get(name)) is None:
        return default
    values = torch.as_tensor(values, dtype=torch.float32)
    if values.numel() != channels:
        raise ModelError(f"the autoencoder's {name} has {values.numel()} numbers, not {channels}")
    return values.reshape(channels, 1, 1)
