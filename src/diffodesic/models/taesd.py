"""Pictures as latents of TAESD, the tiny autoencoder of Stable Diffusion 1 and 2, and back.

    encode   z = (encoder(picture) - mean) * scale      eight by eight pixels are one place
    decode   picture = decoder(z / scale + mean)        of four channels

Encoder and decoder have 1.2 million weights each: plain convolutions of 64 channels, distilled from
Stable Diffusion's autoencoder by Ollin Boer Bohan (github.com/madebyollin/taesd, MIT).  ``mean``
and ``scale`` of every channel are those of the data that a denoiser was trained on, whose latents
then have the standard deviation `SPREAD`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffodesic.models.codec import check_images
from diffodesic.models.folder import ModelError, read_config, read_weights
from diffodesic.models.prepare import for_evaluation, to_device

__all__ = ["SPREAD", "Taesd", "TaesdCodec", "load_codec", "load_taesd", "normalisation"]

SPREAD = 0.5  # as of pixels in [-1, 1], so that noise levels mean what they mean there
_FACTOR, _CHANNELS = 8, 4
_SHIPPED = Path(__file__).parent / "assets" / "taesd"
_BATCH = 4  # pictures per pass: their activations at 128x128 pixels just fit a core's cache


class _Block(nn.Module):
    """Three convolutions beside an identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        first, second, third = (nn.Conv2d(width, width, 3, padding=1) for _ in range(3))
        self.conv = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x) + x)


class _Bound(nn.Module):
    """Keeps latents inside (-3, 3), as where the decoder was trained."""

    def forward(self, x: Tensor) -> Tensor:
        return (x / 3).tanh() * 3


class Taesd(nn.Module):
    """Encoder and decoder, with the names of weights of the authors' files.

    Args:
        width: channels inside; 64 in the published weights.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        down: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1), _Block(width)]
        up: list[nn.Module] = [_Bound(), nn.Conv2d(_CHANNELS, width, 3, padding=1), nn.ReLU()]
        for _ in range(3):
            down.append(nn.Conv2d(width, width, 3, padding=1, stride=2, bias=False))
            down += [_Block(width) for _ in range(3)]
            up += [_Block(width) for _ in range(3)]
            up += [nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1, bias=False)]
        self.encoder = nn.Sequential(*down, nn.Conv2d(width, _CHANNELS, 3, padding=1))
        self.decoder = nn.Sequential(*up, _Block(width), nn.Conv2d(width, 3, 3, padding=1))


@dataclass(frozen=True)
class TaesdCodec:
    """Pictures (..., 3, H, W) in [0, 1] as vectors (..., D) of latents; decoding loses something.

    Attributes:
        autoencoder: in float32.
        shape: (3, H, W), both sides divisible by 8.
        mean: of every latent channel.
        scale: what brings every latent channel to the standard deviation `SPREAD`.
    """

    autoencoder: Taesd = field(repr=False)
    shape: tuple[int, int, int]
    mean: tuple[float, ...] = (0.0,) * _CHANNELS
    scale: tuple[float, ...] = (1.0,) * _CHANNELS
    lossless: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        channels, height, width = self.shape
        if channels != 3 or height % _FACTOR or width % _FACTOR:
            raise ModelError(
                f"taesd takes pictures in colour whose sides are divisible by {_FACTOR}, not "
                f"{channels}x{height}x{width}: give a size (--size), or train without codec"
            )
        if not len(self.mean) == len(self.scale) == _CHANNELS or 0 in self.scale:
            raise ModelError(
                f"the latents of taesd have {_CHANNELS} channels, each with its mean and scale; "
                f"given are {len(self.mean)} and {len(self.scale)}"
            )

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(c, h, w) of latents; D = c h w."""
        return _CHANNELS, self.shape[1] // _FACTOR, self.shape[2] // _FACTOR

    def encode(self, images: Tensor) -> Tensor:
        """Vectors (..., D) of pictures (..., 3, H, W) in [0, 1]; one pass of the encoder each."""
        check_images(images, self.shape)
        latents = self._passed(self.autoencoder.encoder, images.reshape(-1, *self.shape))
        mean, scale = self._scales(latents)
        z = (latents - mean) * scale
        return z.reshape(*images.shape[:-3], math.prod(self.latent_shape)).to(images)

    def decode(self, z: Tensor) -> Tensor:
        """Pictures (..., 3, H, W) in [0, 1], clipped, of vectors (..., D); one pass each."""
        mean, scale = self._scales(z)
        latents = z.reshape(-1, *self.latent_shape) / scale + mean
        images = self._passed(self.autoencoder.decoder, latents).clamp(0, 1)
        return images.reshape(*z.shape[:-1], *self.shape).to(z)

    def _passed(self, part: nn.Module, x: Tensor) -> Tensor:
        weight = next(part.parameters())
        pieces = x.to(weight).contiguous(memory_format=torch.channels_last).split(_BATCH)
        return torch.cat([part(piece) for piece in pieces]).to(weight)  # not bfloat16 of autocast

    def _scales(self, like: Tensor) -> tuple[Tensor, Tensor]:
        mean, scale = (like.new_tensor(values)[:, None, None] for values in (self.mean, self.scale))
        return mean, scale

    def config(self) -> dict[str, Any]:
        """What ``config.json`` says of it."""
        return {"name": "taesd", "mean": list(self.mean), "scale": list(self.scale)}


def normalisation(latents: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and scale of every channel of latents (N, c, h, w), for `TaesdCodec`."""
    spread, mean = torch.std_mean(latents.double(), (0, 2, 3))
    return tuple(mean.tolist()), tuple((SPREAD / spread).tolist())


def load_taesd(device: torch.device | str = "cpu") -> Taesd:
    """Load the autoencoder of the package in float32, without gradients of its weights.

    Args:
        device: where it runs.

    Returns:
        the autoencoder.

    Raises:
        ModelError: for a device that is not there.
    """
    autoencoder = for_evaluation(Taesd())
    read_weights(autoencoder, _SHIPPED, read_config(_SHIPPED))
    return to_device(autoencoder, device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def load_codec(
    config: Mapping[str, Any],
    latent_shape: tuple[int, int, int],
    *,
    device: torch.device | str = "cpu",
) -> TaesdCodec:
    """Load the codec of a model.

    Args:
        config: what :meth:`TaesdCodec.config` returned.
        latent_shape: (c, h, w) of what the network takes.
        device: where it runs.

    Returns:
        the codec.

    Raises:
        ModelError: for another codec, latents of another shape, or a device that is not there.
    """
    channels, height, width = latent_shape
    if config.get("name") != "taesd":
        raise ModelError(f"the codec of the model is {config.get('name')!r}; only taesd is known")
    if channels != _CHANNELS:
        raise ModelError(
            f"the network takes latents of {channels} channels and taesd makes {_CHANNELS}: they "
            "do not belong together"
        )
    shape = (3, _FACTOR * height, _FACTOR * width)
    mean, scale = (tuple(map(float, config[name])) for name in ("mean", "scale"))
    return TaesdCodec(load_taesd(device), shape, mean, scale)
