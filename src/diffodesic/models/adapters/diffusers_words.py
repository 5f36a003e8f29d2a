"""Words of the user, such as a prompt or a label, as arguments of a network of diffusers.

Each pipeline encodes its own prompts: what is bound here is what it gives its network, and the
negative branch of guidance is the pipeline's own, such as the zeros of Stable Diffusion XL.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from diffodesic.models.folder import ModelError
from diffodesic.models.model import Conditioner

__all__ = ["Words", "conditioner"]

Words = Literal["label", "guided label", "prompt", "pooled", "sized", "masked", "bert", "embedded"]

Encoded = Mapping[str, Tensor]  # arguments of the network, for one sample


def conditioner(words: Words, pipe: Any, network: Any, size: tuple[int, int]) -> Conditioner:
    """The words that a pipeline takes.

    Args:
        words: how its network is conditioned.
        pipe: the pipeline.
        network: its network.
        size: (height, width) of images in pixels.

    Returns:
        the conditioner.

    Raises:
        ModelError: if the pipeline lacks the encoder of prompts.
    """
    if words == "label":
        return Conditioner.of_labels(
            network.config.get("num_class_embeds") or 0, lambda label: label
        )
    if words == "guided label":
        classes = int(network.config.num_embeds_ada_norm)
        return Conditioner(("label", "guidance"), partial(_label_arguments, classes))
    encoder = "bert" if words == "bert" else "text_encoder"
    if getattr(pipe, encoder, None) is None:
        raise ModelError(
            f"{type(pipe).__name__} has no {encoder}, so its prompts cannot be encoded"
        )
    if words == "embedded":
        return Conditioner(
            ("prompt", "prompt_b", "blend", "guidance"),
            partial(_embedded_arguments, pipe, bool(network.config.guidance_embeds)),
        )
    told = _told_of_size(words, network, size)
    encode = partial(_ENCODERS[words], pipe)
    names = ("prompt", "prompt_b", "blend", "negative_prompt", "guidance")
    rescaled = ("guidance_rescale",) if words in ("prompt", "sized") else ()
    return Conditioner((*names, *rescaled), partial(_prompt_arguments, encode, told))


def _label_arguments(classes: int, label: int, guidance: float = 1.0) -> dict[str, Any]:
    """A class, and the class of nothing, the last one, to lead away from."""
    plain = Conditioner.of_labels(classes, lambda index: index)({"label": label})
    if float(guidance) == 1.0:
        return {"guidance": 1.0, **plain}
    return {
        "guidance": float(guidance),
        **plain,
        "negative_class_labels": torch.tensor(classes),
    }


@torch.no_grad()
def _prompt_arguments(
    encode: Callable[[str, str | None, bool], Encoded],
    told: Encoded,
    prompt: str = "",
    prompt_b: str | None = None,
    blend: float | None = None,
    negative_prompt: str | None = None,
    guidance: float = 1.0,
    guidance_rescale: float = 0.0,
) -> dict[str, Any]:
    """Arguments of the network under a prompt, or between two, each for one sample."""
    if not 0 <= float(guidance_rescale) <= 1:
        raise ModelError(f"guidance_rescale must be between 0 and 1, got {guidance_rescale}")
    guided = float(guidance) != 1.0
    bound = _between(lambda p: encode(p, negative_prompt, guided), prompt, prompt_b, blend)
    settings = {"guidance": float(guidance), "guidance_rescale": float(guidance_rescale)}
    return {**settings, **told, **bound}


@torch.no_grad()
def _embedded_arguments(
    pipe: Any,
    embeds: bool,
    prompt: str = "",
    prompt_b: str | None = None,
    blend: float | None = None,
    guidance: float = 1.0,
) -> dict[str, Any]:
    """The same for a network that is told the guidance and returns the guided prediction."""
    if not embeds and float(guidance) != 1.0:
        raise ModelError("this network takes no guidance; leave it at 1")

    def encode(prompt: str) -> Encoded:
        hidden, pooled, _ = pipe.encode_prompt(prompt, prompt_2=None, device=_device(pipe))
        return {"encoder_hidden_states": hidden[0], "pooled_projections": pooled[0]}

    bound = _between(encode, prompt, prompt_b, blend)
    return {"embedded_guidance": torch.tensor(float(guidance)), **bound} if embeds else bound


def _between(
    encode: Callable[[str], Encoded], prompt: str, prompt_b: str | None, blend: float | None
) -> dict[str, Tensor]:
    """What encodes a prompt, or the point between two prompts."""
    if blend is not None and prompt_b is None:
        raise ModelError("blend lies between two prompts: give prompt_b (--prompt-b) too")
    share = 0.5 if blend is None else float(blend)
    if not 0 <= share <= 1:
        raise ModelError(f"blend must be between 0 (prompt) and 1 (prompt_b), got {blend}")
    try:
        first = dict(encode(prompt))
        second = first if prompt_b is None else encode(prompt_b)
    except (LookupError, TypeError, AttributeError) as error:
        raise ModelError(
            f"the pipeline's tokenizer and text encoder do not encode a prompt ({error}): one of "
            "them is damaged, or they do not belong together"
        ) from error
    # a mask of words is that of both prompts
    return {
        name: torch.lerp(a, second[name], share)
        if a.is_floating_point()
        else torch.maximum(a, second[name])
        for name, a in first.items()
    }


def _device(pipe: Any) -> Any:
    return next(pipe.text_encoder.parameters()).device


def _named(names: tuple[str, ...], plain: Any, negative: Any, guided: bool) -> dict[str, Tensor]:
    """Batches of one under the names of the network's arguments, and their negatives."""
    bound = {name: value[0] for name, value in zip(names, plain, strict=True)}
    if guided:
        bound |= {f"negative_{n}": v[0] for n, v in zip(names, negative, strict=True)}
    return bound


def _prompt(pipe: Any, prompt: str, negative: str | None, guided: bool) -> Encoded:
    """Stable Diffusion: hidden states of one encoder."""
    hidden, against = pipe.encode_prompt(prompt, _device(pipe), 1, guided, negative_prompt=negative)
    return _named(("encoder_hidden_states",), (hidden,), (against,), guided)


def _pooled(pipe: Any, prompt: str, negative: str | None, guided: bool) -> Encoded:
    """Stable Diffusion 3: hidden states of several encoders and pooled ones."""
    return _several(pipe, "pooled_projections", prompt, negative, guided, prompt_3=None)


def _sized(pipe: Any, prompt: str, negative: str | None, guided: bool) -> Encoded:
    """Stable Diffusion XL: the same under another name."""
    return _several(pipe, "text_embeds", prompt, negative, guided)


def _several(
    pipe: Any, pooled: str, prompt: str, negative: str | None, guided: bool, **more: None
) -> Encoded:
    encoded = pipe.encode_prompt(
        prompt,
        prompt_2=None,
        device=_device(pipe),
        do_classifier_free_guidance=guided,
        negative_prompt=negative,
        **more,
    )
    return _named(("encoder_hidden_states", pooled), encoded[::2], encoded[1::2], guided)


def _masked(pipe: Any, prompt: str, negative: str | None, guided: bool) -> Encoded:
    """PixArt: hidden states and their mask."""
    encoded = pipe.encode_prompt(
        prompt,
        do_classifier_free_guidance=guided,
        negative_prompt=negative or "",
        device=_device(pipe),
        clean_caption=True,
    )
    names = ("encoder_hidden_states", "encoder_attention_mask")
    return _named(names, encoded[:2], encoded[2:], guided)


def _bert(pipe: Any, prompt: str, negative: str | None, guided: bool) -> Encoded:
    """Latent diffusion: hidden states of 77 words."""

    def hidden(text: str) -> Tensor:
        words = pipe.tokenizer(
            [text], padding="max_length", max_length=77, truncation=True, return_tensors="pt"
        )
        return pipe.bert(words.input_ids.to(next(pipe.bert.parameters()).device))[0]

    against = hidden(negative or "") if guided else None
    return _named(("encoder_hidden_states",), (hidden(prompt),), (against,), guided)


def _told_of_size(words: Words, network: Any, size: tuple[int, int]) -> Encoded:
    """What a network is told of (height, width), the same in both branches of guidance."""
    height, width = (float(side) for side in size)
    if words == "sized":  # of the original, its crop, and the target
        return {"time_ids": torch.tensor([height, width, 0.0, 0.0, height, width])}
    if words == "masked" and getattr(network, "use_additional_conditions", False):
        told = {"resolution": [height, width], "aspect_ratio": [height / width]}
        return {name: torch.tensor(value) for name, value in told.items()}
    return {}


_ENCODERS: Mapping[str, Callable[..., Encoded]] = {
    "prompt": _prompt,
    "pooled": _pooled,
    "sized": _sized,
    "masked": _masked,
    "bert": _bert,
}
