"""Pipelines of diffusers that are known: their components, conditions and pixels.

A pipeline is supported where its own step, guidance and decoding were compared with the adapter's,
by its exact class: another class may call the same network in another way.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from diffodesic.models.adapters.diffusers_scheduler import name_set
from diffodesic.models.adapters.diffusers_words import Words
from diffodesic.models.folder import ModelError

__all__ = ["SUPPORTED", "UNUSED", "PipelineKind", "autoencoder", "find_kind", "refused_pipeline"]

# components that a pipeline has beside the model, and that nothing here calls
UNUSED = frozenset({"feature_extractor", "image_encoder", "safety_checker"})


@dataclass(frozen=True)
class PipelineKind:
    """What the adapter knows of a class of pipelines.

    Attributes:
        networks: classes of its network.
        words: how the network is conditioned.
        components: names of its components, without those of `UNUSED`.
        latent: whether it works on the latents of an autoencoder.
        shifts: fields of the autoencoder's config that its decoding reads beside the scaling.
        low: value of black pixels; white is 1.
    """

    networks: tuple[str, ...]
    words: Words
    components: frozenset[str]
    latent: bool = True
    shifts: frozenset[str] = frozenset()
    low: float = -1.0


_PIXELS = PipelineKind(("UNet2DModel",), "label", name_set("unet scheduler"), latent=False)
_STABLE_DIFFUSION = PipelineKind(
    ("UNet2DConditionModel",), "prompt", name_set("vae text_encoder tokenizer unet scheduler")
)
_TWO_ENCODERS = name_set("vae text_encoder tokenizer text_encoder_2 tokenizer_2 scheduler")
_XL = PipelineKind(
    ("UNet2DConditionModel",),
    "sized",
    _TWO_ENCODERS | {"unet"},
    shifts=name_set("latents_mean latents_std"),
)
_SD3 = PipelineKind(
    ("SD3Transformer2DModel",),
    "pooled",
    _TWO_ENCODERS | name_set("transformer text_encoder_3 tokenizer_3"),
    shifts=name_set("shift_factor"),
)
_FLUX = PipelineKind(
    ("FluxTransformer2DModel",),
    "embedded",
    _TWO_ENCODERS | {"transformer"},
    shifts=name_set("shift_factor"),
)
_PIXART = PipelineKind(
    ("PixArtTransformer2DModel",),
    "masked",
    name_set("vae text_encoder tokenizer transformer scheduler"),
)

SUPPORTED: Mapping[str, PipelineKind] = {
    "DDIMPipeline": _PIXELS,
    "DDPMPipeline": _PIXELS,
    "DiTPipeline": PipelineKind(
        ("DiTTransformer2DModel",), "guided label", name_set("vae transformer scheduler")
    ),
    "FluxImg2ImgPipeline": _FLUX,
    "FluxInpaintPipeline": _FLUX,
    "FluxPipeline": _FLUX,
    "LDMPipeline": PipelineKind(("UNet2DModel",), "label", name_set("vqvae unet scheduler")),
    "LDMTextToImagePipeline": PipelineKind(
        ("UNet2DConditionModel",), "bert", name_set("vqvae bert tokenizer unet scheduler")
    ),
    "PNDMPipeline": _PIXELS,
    "PixArtAlphaPipeline": _PIXART,
    "PixArtSigmaPipeline": _PIXART,
    "RePaintPipeline": _PIXELS,
    "ScoreSdeVePipeline": replace(_PIXELS, low=0.0),
    "StableDiffusion3Img2ImgPipeline": _SD3,
    # its decoding leaves out the shift, which its encoding has
    "StableDiffusion3InpaintPipeline": replace(_SD3, shifts=frozenset()),
    "StableDiffusion3Pipeline": _SD3,
    "StableDiffusionImg2ImgPipeline": _STABLE_DIFFUSION,
    "StableDiffusionInpaintPipeline": _STABLE_DIFFUSION,
    "StableDiffusionPipeline": _STABLE_DIFFUSION,
    "StableDiffusionXLImg2ImgPipeline": _XL,
    "StableDiffusionXLInpaintPipeline": _XL,
    "StableDiffusionXLPipeline": _XL,
}

# the first pattern that is found in the name of a class says why it is refused
_REASONS = (
    ("Onnx", "its network runs outside torch and has no derivatives"),
    ("Modular", "it is put together from blocks when it runs; give the pipeline of its components"),
    ("Consistency|Sprint|Turbo|Distilled|DMD|AnyFlow", "its network maps noise to the end of the "
     "flow, which is no posterior mean"),
    ("Audio|Music|AceStep|Spectrogram|DanceDiffusion", "it makes sounds"),
    ("Video|I2V|T2V|TI2V|Wan|AnimateDiff|LTX|Cosmos(?!2TextTo)|Mochi|Allegro|Helios|SkyReels|Latte|PIA|"
     "CogVideo|ConsisID|Framepack|EasyAnimate|ChronoEdit|Motif|LucyEdit", "it makes videos"),
    ("ShapE|RFD4", "it makes no pictures"),
    ("Amused|VQDiffusion|LLaDA|Gemma", "its data are tokens, not vectors with Gaussian noise"),
    ("ControlNet|Control|Adapter|GLIGEN|InstructPix2Pix|Depth2Img|Upscal|SuperResolution|Inpaint|"
     "Fill|Kontext|(?<!Diff)Edit(?!ing)|Marigold|Variation|Redux|PaintByExample|Layered|Refiner|BlipDiffusion|"
     "VisualCloze|SR", "its network or its steps take further inputs, such as a picture or a mask"),
    ("KarrasVe", "it gives its network (x + 1)/2 and sigma/2, and is deprecated"),
    ("Cascade|Wuerstchen|UnCLIP|Kandinsky.*(Prior|Combined)|KandinskyPrior", "it is a chain of "
     "several models; give the pipeline of one that makes pictures"),
)  # fmt: skip
_UNCOMPARED = "its step, guidance and decoding were not compared with this adapter"


def refused_pipeline(name: str) -> str | None:
    """Why pipelines of a class are not supported; None where they are."""
    if name in SUPPORTED:
        return None
    return next((why for pattern, why in _REASONS if re.search(pattern, name)), _UNCOMPARED)


def find_kind(name: str, components: Iterable[str]) -> PipelineKind:
    """What is known of a class of pipelines.

    Args:
        name: name of the class.
        components: names of the components that the pipeline has.

    Returns:
        the kind.

    Raises:
        ModelError: for a class that is not supported, or a component that is not known.
    """
    if (reason := refused_pipeline(name)) is not None:
        raise ModelError(
            f"pipelines of class {name} are not supported: {reason}; supported are "
            f"{', '.join(SUPPORTED)}"
        )
    kind = SUPPORTED[name]
    if unknown := sorted(set(components) - kind.components - UNUSED):
        raise ModelError(
            f"the {name} has a component {' and '.join(unknown)}, which is not known: it may "
            "change what the network computes"
        )
    return kind


def autoencoder(pipe: Any) -> Any:
    """The component that encodes and decodes, whatever its name; None without one."""
    found = [
        part
        for part in pipe.components.values()
        if isinstance(part, nn.Module) and hasattr(part, "encode") and hasattr(part, "decode")
    ]
    return found[0] if found else None
