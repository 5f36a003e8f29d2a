"""Pipelines of diffusers as models: the network, its process, its autoencoder and its prompts.

    DDPM                 UNet2DModel               pixels
    Latent diffusion     UNet2DModel               latents of a VQ model
    Stable Diffusion     UNet2DConditionModel      latents, a CLIP prompt
    Stable Diffusion XL  UNet2DConditionModel      latents, prompts of two encoders, a size
    Stable Diffusion 3   SD3Transformer2DModel     latents, prompts of several encoders
    Flux                 FluxTransformer2DModel    latents, prompts of two encoders
    PixArt               PixArtTransformer2DModel  latents, a T5 prompt
    DiT                  DiTTransformer2DModel     latents, a class

What is not known is refused by name: a class of pipeline, network, scheduler or autoencoder, a
component, a field of a config that may change the mathematics.  What is supported agrees with the
pipeline's own step, guidance and decoding (``docs/pretrained-models.md`` has the table).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from diffodesic.denoisers.network import JvpMode, NetworkOptions, from_network
from diffodesic.models.adapters.diffusers_folder import open_pipeline
from diffodesic.models.adapters.diffusers_network import (
    PipelineNetwork,
    check_network,
    divisor,
    image_channels,
)
from diffodesic.models.adapters.diffusers_pipelines import PipelineKind, autoencoder, find_kind
from diffodesic.models.adapters.diffusers_scheduler import read_convention
from diffodesic.models.adapters.diffusers_words import conditioner
from diffodesic.models.adapters.latents import downscaling, latent_codec
from diffodesic.models.codec import Codec, PixelCodec
from diffodesic.models.folder import ModelError
from diffodesic.models.model import Model, tried
from diffodesic.models.prepare import default_chunk, for_evaluation, to_device

__all__ = ["PREFIX", "from_pipeline", "load"]

PREFIX = "diffusers"

_LARGE = 1024  # pixels of a side above which an autoencoder works in tiles


def from_pipeline(
    pipe: Any,
    *,
    condition: Mapping[str, Any] | None = None,
    size: int | tuple[int, int] | None = None,
    name: str | None = None,
    chunk: int | None = None,
    jvp_mode: JvpMode = "auto",
    trial: bool = True,
) -> Model:
    """A pipeline of diffusers as a model.

    Args:
        pipe: the pipeline; its network and autoencoder are put in evaluation mode without
            gradients, and copied to float32 from half precision, which ruins derivatives.
        condition: such as ``{"prompt": "a cat", "guidance": 2.0}`` or ``{"label": 3}``; a pipeline
            with prompts is under the empty prompt by default.
        size: side of the images in pixels, or (height, width); default that of training.
        name: short name; default that of the folder it was loaded from.
        chunk: at most so many inputs in one call of the network; default by their size.
        jvp_mode: see ``from_network``.
        trial: see ``NetworkOptions``; under the prompt, or class 0.

    Returns:
        the model.

    Raises:
        ModelError: for a missing component; a pipeline, component, process, prediction or field of
            a config that is not known; shapes that do not fit; a condition that the pipeline does
            not take.

    Cost: one pass of the text encoders, and the trial of the network (:func:`tried`).
    """
    present = [part for part, value in pipe.components.items() if value is not None]
    kind = find_kind(type(pipe).__name__, present)
    if pipe.config.get("requires_aesthetics_score"):
        raise ModelError(
            "the pipeline's requires_aesthetics_score is set: its network is told a score of "
            "beauty, which is not supported"
        )
    network = _component(pipe, "transformer" if "transformer" in kind.components else "unet")
    family = check_network(network, kind.networks)
    convention = read_convention(_component(pipe, "scheduler"))
    shape, codec = _shape_and_codec(pipe, kind, network, size)
    denoiser = from_network(
        PipelineNetwork(for_evaluation(network), convention, shape[0]),
        shape=shape,
        schedule=convention.schedule,
        prediction=convention.prediction,
        sigma_data=convention.sigma_data,
        # latents are scaled to one; pixels in [-1, 1] have about EDM's .5^2
        variance=1.0 if kind.latent else ((1 - kind.low) / 4) ** 2,
        jvp_mode=jvp_mode,
        # a condition may have to be bound first
        options=NetworkOptions(chunk=chunk or default_chunk(shape), trial=False),
    )
    model = Model(
        denoiser,
        codec,
        name or Path(str(pipe.config.get("_name_or_path") or family)).name,
        {"family": family, "thresholding": convention.thresholding},
        conditioner=conditioner(kind.words, pipe, network, codec.shape[1:]),
    )
    prompted = "label" not in kind.words
    model = model.given(condition or {}) if condition or prompted else model
    return tried(model) if trial else model


def _component(pipe: Any, name: str) -> Any:
    if (found := getattr(pipe, name, None)) is None:
        raise ModelError(f"{type(pipe).__name__} has no {name}")
    return found


def _shape_and_codec(
    pipe: Any, kind: PipelineKind, network: Any, size: int | tuple[int, int] | None
) -> tuple[tuple[int, int, int], Codec]:
    """(c, h, w) of what the network takes, and the codec between images and it."""
    if not kind.latent:
        shape = _input_shape(pipe, network, 1, size)
        _check_colours(shape[0])
        return shape, PixelCodec(shape, kind.low)
    if (vae := autoencoder(pipe)) is None:
        raise ModelError(f"{type(pipe).__name__} has no autoencoder")
    shape = _input_shape(pipe, network, downscaling(vae), size)
    vae = for_evaluation(vae)
    codec = latent_codec(vae, shape, kind.shifts)
    _check_colours(codec.shape[0])
    if max(codec.shape) > _LARGE and hasattr(vae, "enable_tiling"):
        vae.enable_tiling()
    return shape, codec


def _check_colours(channels: int) -> None:
    if channels not in (1, 3):
        raise ModelError(
            f"the model's pictures have {channels} channels; grey (1) and RGB (3) are supported"
        )


def _input_shape(
    pipe: Any, network: Any, factor: int, size: int | tuple[int, int] | None
) -> tuple[int, int, int]:
    """(c, h, w) of what the network takes, where a latent stands for so many pixels a side."""
    multiple = divisor(network)
    if size is None:
        # a network that holds for any size is used at the one that its pipeline takes
        native = network.config.get("sample_size") or getattr(pipe, "default_sample_size", None)
        if native is None:
            raise ModelError("the network's config names no sample_size; say which size you want")
        sides = tuple(native) if isinstance(native, list | tuple) else (native, native)
        if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
            raise ModelError(f"the network's sample_size is {native!r}, no size of pictures")
        height, width = sides
    else:
        sides = (size, size) if isinstance(size, int) else size
        step = factor * multiple
        if any(side < step or side % step for side in sides):
            raise ModelError(f"size is {size}; its sides must be multiples of {step} pixels")
        height, width = (side // factor for side in sides)
    if height % multiple or width % multiple:
        raise ModelError(
            f"the network's sample_size is {height} x {width}, whose sides are no multiples of "
            f"{multiple}; say a size in multiples of {factor * multiple} pixels"
        )
    limit = network.config.get("pos_embed_max_size")
    if limit and max(height, width) > limit * multiple:
        raise ModelError(
            f"size is {height * factor} x {width * factor}; the network's table of places ends at "
            f"{limit * multiple * factor} pixels a side"
        )
    return image_channels(network), int(height), int(width)


def load(
    rest: str,
    *,
    device: torch.device | str,
    allow_download: bool,
    allow_pickle: bool,
    size: tuple[int, int] | None = None,
) -> Model:
    """Load a folder, or a repository from the cache; ``registry`` describes the arguments."""
    pipe = open_pipeline(rest, allow_download=allow_download, allow_pickle=allow_pickle)
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            to_device(part, device)
    try:
        return from_pipeline(pipe, size=size, name=Path(rest).name)
    except ModelError as error:
        raise ModelError(f"{rest}: {error}") from error
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        # a component takes any value from its config, and fails when it is used
        reason = " ".join(str(error).split())
        raise ModelError(
            f"{rest}: its components do not work ({reason}); a config of one of them is damaged, "
            "or from another version of diffusers"
        ) from error
