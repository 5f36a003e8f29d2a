"""Pipelines of diffusers as models: the network, its process, its autoencoder and its prompts.

    DDPM                 UNet2DModel              pixels
    Stable Diffusion     UNet2DConditionModel     latents, a CLIP prompt
    Stable Diffusion XL  UNet2DConditionModel     latents, prompts of two encoders, a size
    Stable Diffusion 3   SD3Transformer2DModel    latents, prompts of several encoders
    DiT                  DiTTransformer2DModel    latents, a class

With a guidance g other than 1 the network's output is ``u + g (c - u)``, where c is its output
under the prompt and u under the negative prompt (2207.12598).  That is no posterior mean; the
default, g = 1, is the geometry of c alone.  Weights are read from safetensors, never from pickles.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from logging import FATAL
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffodesic.denoisers.network import JvpMode, NetworkOptions, from_network
from diffodesic.models.adapters.diffusers_scheduler import Convention, read_convention
from diffodesic.models.adapters.latents import latent_codec
from diffodesic.models.codec import PixelCodec
from diffodesic.models.folder import ModelError
from diffodesic.models.model import Conditioner, Model, require_label
from diffodesic.models.prepare import default_chunk, for_evaluation, to_device

__all__ = ["PREFIX", "PipelineNetwork", "from_pipeline", "load"]

PREFIX = "diffusers"

# class of a network -> what it calls its input, and the word that binds its condition
_FAMILIES = {
    "UNet2DModel": ("sample", "label"),
    "UNet2DConditionModel": ("sample", "prompt"),
    "SD3Transformer2DModel": ("hidden_states", "prompt"),
    "DiTTransformer2DModel": ("hidden_states", "label"),
}
_PROMPTS = ("prompt", "prompt_b", "blend", "negative_prompt", "guidance")
_LARGE = 1024  # pixels of a side above which an autoencoder works in tiles
_UNUSED = ("safety_checker", "feature_extractor", "image_encoder")


class PipelineNetwork(nn.Module):
    """The network of a pipeline as ``fn(x_t, t, **condition)``.

    Args:
        network: the network, in float32.
        convention: the conventions of its training.
        channels: of its input; further channels of its output, learned variances, are left out.
    """

    def __init__(self, network: nn.Module, convention: Convention, channels: int) -> None:
        super().__init__()
        self.network, self.channels = network, channels
        self.convention = convention
        family = _family(network)
        self.input = _FAMILIES[family][0]
        embedded = getattr(network, "class_embedding", None) is not None
        self.needs_label = embedded or family == "DiTTransformer2DModel"

    def forward(self, x: Tensor, t: Tensor, *, guidance: float = 1.0, **condition: Any) -> Tensor:
        """The network's prediction, with guidance if it is not 1.

        Args:
            x: noisy inputs (N, c, h, w).
            t: native times (N,).
            guidance: weight of the condition; 1 is the conditional network itself.
            condition: its arguments; those under the negative prompt begin with ``negative_``.

        Returns:
            (N, c, h, w).

        Cost: one evaluation per input, two with guidance.
        """
        plain = {k: v for k, v in condition.items() if not k.startswith("negative_")}
        out = self._predict(x, t, plain)
        if guidance == 1:
            return out
        against = self._predict(x, t, {k: condition[f"negative_{k}"] for k in plain})
        return against + guidance * (out - against)

    def _predict(self, x: Tensor, t: Tensor, condition: dict[str, Any]) -> Tensor:
        if self.needs_label:
            require_label(condition)
        if "time_ids" in condition:
            added = {name: condition[name] for name in ("text_embeds", "time_ids")}
            rest = {name: value for name, value in condition.items() if name not in added}
            condition = {**rest, "added_cond_kwargs": added}
        inputs = {self.input: x, "timestep": t * self.convention.time_scale}
        out = self.network(**inputs, **condition, return_dict=False)[0]
        return self.convention.sign * out[:, : self.channels]


def _family(network: Any) -> str:
    """The first of the known families among the classes of a network; refuses all others."""
    known = [kind.__name__ for kind in type(network).__mro__ if kind.__name__ in _FAMILIES]
    if not known:
        raise ModelError(
            f"the network is a {type(network).__name__}; known are {', '.join(_FAMILIES)}"
        )
    added = getattr(network.config, "addition_embed_type", None)
    if added not in (None, "text_time"):
        raise ModelError(f"networks with added embeddings of kind {added!r} are not supported")
    return known[0]


def from_pipeline(
    pipe: Any,
    *,
    condition: Mapping[str, Any] | None = None,
    size: int | tuple[int, int] | None = None,
    name: str | None = None,
    chunk: int | None = None,
    jvp_mode: JvpMode = "auto",
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

    Returns:
        the model.

    Raises:
        ModelError: for a missing component, an unknown family, process or prediction, shapes
            that do not fit, or a condition that the pipeline does not take.

    Cost: one pass of the text encoders.
    """
    network = _component(pipe, "unet", "transformer")
    family = _family(network)
    convention = read_convention(_component(pipe, "scheduler"))
    vae = getattr(pipe, "vae", None)
    shape = _input_shape(network.config, vae, size)
    vae = None if vae is None else for_evaluation(vae)
    codec = PixelCodec(shape) if vae is None else latent_codec(vae, shape)
    if vae is not None and max(codec.shape) > _LARGE:
        vae.enable_tiling()
    denoiser = from_network(
        PipelineNetwork(for_evaluation(network), convention, shape[0]),
        shape=shape,
        schedule=convention.schedule,
        prediction=convention.prediction,
        sigma_data=convention.sigma_data,
        # latents are scaled to one; pixels in [-1, 1] have about EDM's .5^2
        variance=0.25 if vae is None else 1.0,
        jvp_mode=jvp_mode,
        options=NetworkOptions(chunk=chunk or default_chunk(shape)),
    )
    model = Model(
        denoiser,
        codec,
        name or Path(str(pipe.config.get("_name_or_path") or family)).name,
        {"family": family, "thresholding": convention.thresholding},
        conditioner=_conditioner(pipe, network, _FAMILIES[family][1], codec.shape),
    )
    prompted = _FAMILIES[family][1] == "prompt"
    return model.given(condition or {}) if condition or prompted else model


def _component(pipe: Any, *names: str) -> Any:
    for name in names:
        if getattr(pipe, name, None) is not None:
            return getattr(pipe, name)
    raise ModelError(f"{type(pipe).__name__} has no {' or '.join(names)}")


def _input_shape(config: Any, vae: Any, size: int | tuple[int, int] | None) -> tuple[int, int, int]:
    """(c, h, w) of what the network takes."""
    native = config.sample_size
    if size is None and native is None:
        raise ModelError("the network's config names no sample_size; say which size you want")
    factor = 1 if vae is None else 2 ** (len(vae.config.block_out_channels) - 1)
    pair = (size, size) if isinstance(size, int) else size
    if pair is None:
        height, width = (native, native) if isinstance(native, int) else tuple(native)
    elif any(side < factor or side % factor for side in pair):
        raise ModelError(f"size is {size}; its sides must be multiples of {factor} pixels")
    else:
        height, width = (side // factor for side in pair)
    return int(config.in_channels), int(height), int(width)


def _conditioner(pipe: Any, network: Any, word: str, shape: tuple[int, int, int]) -> Conditioner:
    """Words of the user as arguments of the network."""
    if word == "prompt":
        _component(pipe, "text_encoder")
        sized = getattr(network.config, "addition_embed_type", None) == "text_time"
        return Conditioner(_PROMPTS, partial(_prompt_arguments, pipe, shape[1:] if sized else None))
    classes = network.config.get("num_class_embeds") or network.config.get("num_embeds_ada_norm")
    return Conditioner.of_labels(classes or 0, lambda label: label)


@torch.no_grad()
def _prompt_arguments(
    pipe: Any,
    size: tuple[int, int] | None,
    prompt: str = "",
    prompt_b: str | None = None,
    blend: float | None = None,
    negative_prompt: str = "",
    guidance: float = 1.0,
) -> dict[str, Any]:
    """Arguments of the network under a prompt, or between two, each for one sample."""
    if blend is not None and prompt_b is None:
        raise ModelError("blend lies between two prompts: give prompt_b (--prompt-b) too")
    share = 0.5 if blend is None else float(blend)
    if not 0 <= share <= 1:
        raise ModelError(f"blend must be between 0 (prompt) and 1 (prompt_b), got {blend}")
    guided = float(guidance) != 1.0
    embedded = _encoded(pipe, prompt, negative_prompt, guided)
    if prompt_b is not None:
        other = _encoded(pipe, prompt_b, negative_prompt, guided)
        embedded = {name: torch.lerp(e, other[name], share) for name, e in embedded.items()}
    if size is None:
        return {"guidance": float(guidance), **embedded}
    # SDXL: the pooled prompt under another name; size of the original, its crop, and the target
    ids = torch.tensor([*size, 0, 0, *size], dtype=torch.float32)
    named = {name.replace("pooled_projections", "text_embeds"): v for name, v in embedded.items()}
    ids_of = {"time_ids": ids} | ({"negative_time_ids": ids} if guided else {})
    return {"guidance": float(guidance), **named, **ids_of}


def _encoded(pipe: Any, prompt: str, negative: str, guided: bool) -> dict[str, Tensor]:
    """Embeddings of a prompt, and of the one to lead away from."""
    common = {"device": pipe.text_encoder.device, "do_classifier_free_guidance": guided}
    if guided:
        common["negative_prompt"] = negative
    names = ("encoder_hidden_states", "pooled_projections")
    if not hasattr(pipe, "text_encoder_2"):
        pairs = [pipe.encode_prompt(prompt, num_images_per_prompt=1, **common)]
    else:
        third = {"prompt_3": None} if hasattr(pipe, "text_encoder_3") else {}
        encoded = pipe.encode_prompt(prompt, prompt_2=None, **third, **common)
        pairs = [encoded[:2], encoded[2:]]
    bound = {}
    for name, (plain, against) in zip(names, pairs, strict=False):
        bound[name] = plain[0]
        if guided:
            bound[f"negative_{name}"] = against[0]
    return bound


def load(
    rest: str, *, device: torch.device | str, allow_download: bool, allow_pickle: bool
) -> Model:
    """Load a folder, or a repository from the cache; ``registry`` describes the arguments."""
    folder = Path(rest)
    absent = _check_folder(folder) if folder.is_dir() else {}
    try:
        with _quiet() as pipeline:
            pipe = pipeline.from_pretrained(
                folder if folder.is_dir() else rest,
                local_files_only=not allow_download,
                low_cpu_mem_usage=False,  # needs a further library
                use_safetensors=True,  # never a pickle
                **absent,
            )
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        hint = (
            "the folder may be damaged"
            if folder.is_dir()
            else "it is no folder here, and nothing is downloaded without allow_download=True "
            "(--allow-download)"
        )
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{rest!r} cannot be loaded by diffusers: {hint} ({reason})") from error
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            to_device(part, device)
    return from_pipeline(pipe, name=folder.name)


def _check_folder(folder: Path) -> dict[str, Any]:
    """Parts of a pipeline that are left out, as arguments; refuse a folder that lacks another."""
    index = folder / "model_index.json"
    if not index.is_file():
        raise ModelError(
            f"{folder} holds no pipeline of diffusers: there is no model_index.json in it"
        )
    try:
        content = json.loads(index.read_text())
        parts = {name: value[0] for name, value in content.items() if isinstance(value, list)}
    except (ValueError, AttributeError, LookupError) as error:
        raise ModelError(f"{index} is not written by diffusers ({error})") from error
    absent: dict[str, Any] = {
        name: None for name, library in parts.items() if library is None or name in _UNUSED
    }
    missing = [name for name in parts if name not in absent and not (folder / name).is_dir()]
    if missing:
        raise ModelError(f"{folder} lacks {' and '.join(missing)}, which model_index.json names")
    return {**absent, "requires_safety_checker": False} if "safety_checker" in parts else absent


@contextmanager
def _quiet() -> Iterator[Any]:
    """``DiffusionPipeline`` without log messages and progress bars; exceptions still come."""
    try:
        from diffusers.utils import logging
    except ImportError as error:
        raise ImportError(
            f"{error}: pipelines need the extra, pip install 'diffodesic[diffusers]'"
        ) from error
    loggers = [logging]
    try:
        from transformers.utils import logging as other

        loggers.append(other)
    except ImportError:
        pass  # pipelines without prompts do not need it
    levels = [each.get_verbosity() for each in loggers]
    bars = [each.is_progress_bar_enabled() for each in loggers]
    try:
        for each in loggers:
            each.set_verbosity(FATAL)
            each.disable_progress_bar()
        from diffusers import DiffusionPipeline

        yield DiffusionPipeline
    finally:
        for each, level, bar in zip(loggers, levels, bars, strict=True):
            each.set_verbosity(level)
            if bar:
                each.enable_progress_bar()
