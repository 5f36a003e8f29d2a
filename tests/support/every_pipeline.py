"""A small pipeline of every class that the adapter supports, and how to call it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from support import pipelines

Condition = tuple[dict[str, Any], dict[str, Any]]  # for the pipeline, and for the model
SIDE = 16  # of the images of pipelines with latents


@dataclass(frozen=True)
class Example:
    """A small pipeline.

    Attributes:
        make: makes it, with the same weights on every call.
        call: arguments of its call.
        words: the condition of the model that says the same.
        size: size of the model; None is that of training.
    """

    make: Callable[[], Any]
    call: Mapping[str, Any] = field(default_factory=dict)
    words: Mapping[str, Any] = field(default_factory=dict)
    size: int | None = None


def ddim(**options: Any) -> Any:
    return pipelines.scaled_linear("DDIMScheduler", set_alpha_to_one=True, **options)


def t5() -> tuple[Any, Any]:
    """A T5 encoder and a tokenizer that spells words of small letters."""
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    special = [(name, 0.0) for name in ("<pad>", "</s>", "<unk>")]
    tokenizer = T5Tokenizer(vocab=[*special, ("▁", -2.0), *((c, -3.0) for c in letters)])
    config = T5Config(
        vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2
    )
    return T5EncoderModel(config).eval(), tokenizer


def vq(**options: Any) -> Any:
    from diffusers import VQModel

    return VQModel(
        block_out_channels=(4, 4),
        norm_num_groups=2,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=3,
        num_vq_embeddings=32,
        **options,
    )


def pixels(name: str, scheduler: Callable[[], Any]) -> Any:
    import diffusers

    return getattr(diffusers, name)(unet=pipelines.unet(), scheduler=scheduler())


def exploding() -> Any:
    from diffusers import ScoreSdeVePipeline, ScoreSdeVeScheduler

    scheduler = ScoreSdeVeScheduler(sigma_max=50.0, correct_steps=0)
    return ScoreSdeVePipeline(unet=pipelines.unet(), scheduler=scheduler)


def latent() -> Any:
    from diffusers import LDMPipeline

    return LDMPipeline(vqvae=vq(), unet=pipelines.unet(), scheduler=ddim())


def latent_text() -> Any:
    from diffusers import LDMTextToImagePipeline
    from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import (
        LDMBertConfig,
        LDMBertModel,
    )

    config = LDMBertConfig(
        vocab_size=54,
        max_position_embeddings=77,
        encoder_layers=1,
        encoder_ffn_dim=16,
        encoder_attention_heads=2,
        head_dim=8,
        d_model=16,
        pad_token_id=53,
    )
    autoencoder = pipelines.vae(levels=4)
    return LDMTextToImagePipeline(
        vqvae=autoencoder,
        bert=LDMBertModel(config).eval(),
        tokenizer=pipelines.tokenizer(),
        unet=pipelines.conditional_unet(),
        scheduler=ddim(),
    )


def dit() -> Any:
    from diffusers import DiTPipeline

    network = pipelines.dit_transformer(classes=1000)
    return DiTPipeline(network, pipelines.vae(), ddim())


def again(name: str, make: Callable[[], Any]) -> Any:
    """The same components in another class of pipeline."""
    import diffusers

    made = make()
    if name == "StableDiffusion3InpaintPipeline":  # which takes no other
        made.vae.register_to_config(shift_factor=0.0)
    return getattr(diffusers, name)(**made.components, **extra(made))


def extra(made: Any) -> dict[str, Any]:
    names = ("requires_safety_checker", "force_zeros_for_empty_prompt")
    return {name: made.config[name] for name in names if name in made.config}


def stable_diffusion() -> Any:
    return pipelines.stable_diffusion(ddim(prediction_type="v_prediction"))


def stable_diffusion_xl() -> Any:
    made = pipelines.stable_diffusion_xl(
        autoencoder=pipelines.vae(
            latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[1.0, 2.0, 0.5, 3.0]
        )
    )
    made.scheduler = ddim()
    return made


def stable_diffusion_3() -> Any:
    return pipelines.stable_diffusion_3(channels=16)  # all that its version for holes takes


def pixart(name: str, sample_size: int = 8) -> Any:
    import diffusers

    encoder, tokenizer = t5()
    network = diffusers.PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        norm_num_groups=1,
        cross_attention_dim=24,
        caption_channels=32,
        sample_size=sample_size,
        patch_size=2,
    )
    return getattr(diffusers, name)(
        tokenizer=tokenizer,
        text_encoder=encoder,
        vae=pipelines.vae(),
        transformer=pipelines.calm(network),
        scheduler=ddim(),
    )


def flux(embeds: bool = True) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    encoder, tokenizer = t5()
    network = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=16,
        guidance_embeds=embeds,
        axes_dims_rope=(4, 4, 8),
    )
    return FluxPipeline(
        transformer=pipelines.calm(network),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=pipelines.vae(shift_factor=0.1, scaling_factor=0.4),
        text_encoder=pipelines.text_encoder(),
        tokenizer=pipelines.tokenizer(),
        text_encoder_2=encoder,
        tokenizer_2=tokenizer,
    )


def picture() -> torch.Tensor:
    return torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(4))


def variants(
    name: str, make: Callable[[], Any], plain: Condition, **guided: Condition
) -> dict[str, Example]:
    """A pipeline of text with its versions that start at a picture, plain and guided."""
    stem = name.removesuffix("Pipeline")
    sided = {"height": SIDE, "width": SIDE}
    start = {"image": picture(), "strength": 1.0, **(sided if stem == "Flux" else {})}
    hole = {"mask_image": torch.ones(1, 1, SIDE, SIDE)}
    found = {}
    for label, say, given in (
        ("", plain[0], plain[1]),
        *((f" {k}", *v) for k, v in guided.items()),
    ):
        call = {"prompt": "a cat", **say}
        words = {"prompt": "a cat", **given}
        found[name + label] = Example(make, {**call, **sided}, words, SIDE)
        for other, more in (("Img2Img", start), ("Inpaint", {**start, **hole, **sided})):
            full = f"{stem}{other}Pipeline"
            found[full + label] = Example(partial(again, full, make), {**call, **more}, words, SIDE)
    return found


def guided(scale: float = 3.0, **more: Any) -> Condition:
    return {"guidance_scale": scale, **more}, {"guidance": scale, **more}


NONE: Condition = ({"guidance_scale": 1.0}, {})
AGAINST = guided(negative_prompt="a dog")
RESCALED = guided(guidance_rescale=0.7)
SMALL = {"height": SIDE, "width": SIDE, "use_resolution_binning": False, "prompt": "a cat"}


def pndm() -> Any:
    return pipelines.scaled_linear("PNDMScheduler", set_alpha_to_one=True)


def repaint() -> Any:
    from diffusers import RePaintScheduler

    return RePaintScheduler(clip_sample=False)


EXAMPLES: dict[str, Example] = {
    **{name: Example(partial(pixels, name, ddim)) for name in ("DDPMPipeline", "DDIMPipeline")},
    "PNDMPipeline": Example(partial(pixels, "PNDMPipeline", pndm)),
    "RePaintPipeline": Example(
        partial(pixels, "RePaintPipeline", repaint),
        {
            "image": picture()[..., :8, :8],
            "mask_image": torch.ones(1, 1, 8, 8),
            "jump_length": 1,
            "jump_n_sample": 1,
        },
    ),
    "ScoreSdeVePipeline": Example(exploding),
    "LDMPipeline": Example(latent),
    "LDMTextToImagePipeline": Example(
        latent_text, {"prompt": "a cat", "height": 64, "width": 64, **NONE[0]}, {"prompt": "a cat"}
    ),
    "LDMTextToImagePipeline guided": Example(
        latent_text,
        {"prompt": "a cat", "height": 64, "width": 64, "guidance_scale": 3.0},
        {"prompt": "a cat", "guidance": 3.0},
    ),
    "DiTPipeline": Example(dit, {"class_labels": [3], **NONE[0]}, {"label": 3}),
    "DiTPipeline guided": Example(
        dit, {"class_labels": [3], "guidance_scale": 4.0}, {"label": 3, "guidance": 4.0}
    ),
    **variants("StableDiffusionPipeline", stable_diffusion, NONE, guided=AGAINST, empty=guided()),
    "StableDiffusionPipeline rescaled": Example(
        stable_diffusion, {"prompt": "a cat", **RESCALED[0]}, {"prompt": "a cat", **RESCALED[1]}
    ),
    **variants(
        "StableDiffusionXLPipeline", stable_diffusion_xl, NONE, guided=AGAINST, zeros=guided()
    ),
    "StableDiffusionXLPipeline rescaled": Example(
        stable_diffusion_xl,
        {"prompt": "a cat", **RESCALED[0]},
        {"prompt": "a cat", **RESCALED[1]},
    ),
    **variants("StableDiffusion3Pipeline", stable_diffusion_3, NONE, guided=AGAINST),
    **variants("FluxPipeline", flux, NONE, guided=guided()),
    "FluxPipeline without guidance": Example(
        partial(flux, embeds=False),
        {"prompt": "a cat", "height": SIDE, "width": SIDE},
        {"prompt": "a cat"},
        SIDE,
    ),
    **{
        f"{name}{label}": Example(
            partial(pixart, name), {**SMALL, **say}, {"prompt": "a cat", **given}, SIDE
        )
        for name in ("PixArtAlphaPipeline", "PixArtSigmaPipeline")
        for label, (say, given) in {"": NONE, " guided": AGAINST}.items()
    },
    "PixArtAlphaPipeline told its size": Example(
        partial(pixart, "PixArtAlphaPipeline", 128), {**SMALL, **AGAINST[0]},
        {"prompt": "a cat", **AGAINST[1]}, SIDE,
    ),
}  # fmt: skip
