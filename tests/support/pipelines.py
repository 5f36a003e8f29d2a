"""Small pipelines of diffusers with random weights, one for each family, made on the spot."""

from __future__ import annotations

import inspect
import socket
from collections.abc import Callable
from typing import Any

import pytest
import torch

MAKERS: dict[str, Callable[[], Any]] = {}
WORDS: dict[str, dict[str, Any]] = {"dit": {"label": 3}}  # without which a network does not run
WIDTH = 8  # of the first layers
# two prompts side by side; a pooled one of 16 and six numbers of size in sinusoids of 4
XL = {
    "cross_attention_dim": 32,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 16 + 6 * 4,
}


def family(make: Callable[[], Any]) -> Callable[[], Any]:
    """Register a maker under its name; weights are the same on every call."""

    def seeded() -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            return make()

    MAKERS[make.__name__] = seeded
    return seeded


def unplug(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the machine without a network."""

    def refuse(*_: object) -> None:
        raise AssertionError("something tried to reach the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def calm(network: Any) -> Any:
    """Leave the network only the slow quarter of its sinusoids of time.

    Trained networks change smoothly with the noise; random weights on all of them do not.
    """
    for module in network.modules():
        if type(module).__name__ == "TimestepEmbedding":
            weight = module.linear_1.weight
            half = weight.shape[1] // 2
            fast = torch.arange(weight.shape[1]) % half < half - half // 4
            weight.data[:, fast] = 0
    return network


def unet(channels: int = 3, kind: Any = None, **options: Any) -> Any:
    from diffusers import UNet2DModel

    shape = {"sample_size": 8, "in_channels": channels, "out_channels": channels}
    return calm(
        (kind or UNet2DModel)(
            **{**shape, **options},
            block_out_channels=(WIDTH, 2 * WIDTH),
            norm_num_groups=4,
            layers_per_block=1,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=8,
        )
    )


def conditional_unet(kind: Any = None, **options: Any) -> Any:
    from diffusers import UNet2DConditionModel

    return calm(
        (kind or UNet2DConditionModel)(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            block_out_channels=(WIDTH, 2 * WIDTH),
            norm_num_groups=4,
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            **{"cross_attention_dim": 16, "attention_head_dim": 2, **options},
        )
    )


def sd3_transformer(kind: Any = None, channels: int = 4) -> Any:
    from diffusers import SD3Transformer2DModel

    return calm(
        (kind or SD3Transformer2DModel)(
            sample_size=8,
            patch_size=2,
            in_channels=channels,
            out_channels=channels,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=32,
            caption_projection_dim=16,
            pooled_projection_dim=32,
            pos_embed_max_size=8,
        )
    )


def vae(levels: int = 2, channels: int = 4, **options: Any) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(4,) * levels,
        norm_num_groups=2,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        latent_channels=channels,
        **options,
    )


def tiny_vae() -> Any:
    from diffusers import AutoencoderTiny

    return AutoencoderTiny(
        encoder_block_out_channels=(4, 4),
        decoder_block_out_channels=(4, 4),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    )


def tokenizer() -> Any:
    """One that spells words of small letters."""
    from transformers import CLIPTokenizer

    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    entries = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {entry: index for index, entry in enumerate(entries)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=16)


def text_encoder(*, projected: bool = False) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=54,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        projection_dim=16,
        bos_token_id=52,
        eos_token_id=53,
        pad_token_id=53,
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()


def stable_diffusion(scheduler: Any, network: Any = None, autoencoder: Any = None) -> Any:
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline(
        vae=autoencoder or vae(),
        text_encoder=text_encoder(),
        tokenizer=tokenizer(),
        unet=network or conditional_unet(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def scaled_linear(kind: str = "PNDMScheduler", **options: Any) -> Any:
    """Stable Diffusion's table in a sampler of this kind."""
    import diffusers

    table = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    if "clip_sample" in inspect.signature(getattr(diffusers, kind)).parameters:
        options["clip_sample"] = False
    return getattr(diffusers, kind)(**table, steps_offset=1, **options)


@family
def ddpm() -> Any:
    from diffusers import DDPMPipeline, DDPMScheduler

    return DDPMPipeline(unet(), DDPMScheduler())


@family
def edm() -> Any:
    from diffusers import DDPMPipeline, EDMEulerScheduler

    return DDPMPipeline(unet(), EDMEulerScheduler())


@family
def sd1() -> Any:
    return stable_diffusion(scaled_linear(skip_prk_steps=True))


@family
def sd2() -> Any:
    scheduler = scaled_linear("DDIMScheduler", prediction_type="v_prediction")
    return stable_diffusion(scheduler, autoencoder=tiny_vae())


@family
def sdxl() -> Any:
    return stable_diffusion_xl()


def stable_diffusion_xl(network: Any = None, autoencoder: Any = None) -> Any:
    from diffusers import StableDiffusionXLPipeline

    return StableDiffusionXLPipeline(
        vae=autoencoder or vae(),
        text_encoder=text_encoder(),
        text_encoder_2=text_encoder(projected=True),
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(),
        unet=network or conditional_unet(**XL),
        scheduler=scaled_linear("EulerDiscreteScheduler"),
        add_watermarker=False,
    )


@family
def sd3() -> Any:
    return stable_diffusion_3()


def stable_diffusion_3(network: Any = None, channels: int = 4) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline

    return StableDiffusion3Pipeline(
        transformer=network or sd3_transformer(channels=channels),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(channels=channels, shift_factor=0.06, scaling_factor=1.5),
        text_encoder=text_encoder(projected=True),
        tokenizer=tokenizer(),
        text_encoder_2=text_encoder(projected=True),
        tokenizer_2=tokenizer(),
        text_encoder_3=None,
        tokenizer_3=None,
    )


@family
def dit() -> Any:
    from diffusers import DDIMScheduler, DiTPipeline

    return DiTPipeline(dit_transformer(), vae(), DDIMScheduler())


def dit_transformer(classes: int = 10) -> Any:
    from diffusers import DiTTransformer2DModel

    network = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,  # learned variances beside the prediction
        num_layers=2,
        norm_num_groups=1,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=classes,
    )
    return calm(network)
