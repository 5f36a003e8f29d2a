"""Networks of diffusers as ``fn(x_t, t, **condition)``, each called as its pipeline calls it.

With a guidance g other than 1 the output is ``u + g (c - u)``, where c is the network's output
under the condition and u under the negative one (2207.12598); ``guidance_rescale`` r then brings
its standard deviation r of the way to that of c (2305.08891).  That is no posterior mean; the
default, g = 1, is the geometry of c alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from diffodesic.models.adapters.diffusers_scheduler import Convention, unknown_fields
from diffodesic.models.folder import ModelError
from diffodesic.models.model import require_label

__all__ = ["PipelineNetwork", "check_network", "divisor", "image_channels"]

_ADDED = ("text_embeds", "time_ids", "resolution", "aspect_ratio")


def _unet(network: nn.Module, x: Tensor, t: Tensor, given: dict[str, Any]) -> Tensor:
    return network(sample=x, timestep=t, **_with_added(given), return_dict=False)[0]


def _transformer(network: nn.Module, x: Tensor, t: Tensor, given: dict[str, Any]) -> Tensor:
    return network(hidden_states=x, timestep=t, **_with_added(given), return_dict=False)[0]


def _pixart(network: nn.Module, x: Tensor, t: Tensor, given: dict[str, Any]) -> Tensor:
    return _transformer(network, x, t, {"resolution": None, "aspect_ratio": None, **given})


def _flux(network: nn.Module, x: Tensor, t: Tensor, given: dict[str, Any]) -> Tensor:
    """Latents are packed by squares of 2 x 2; rows and columns of the squares are told beside."""
    n, c, h, w = x.shape
    rows, columns = h // 2, w // 2
    packed = x.reshape(n, c, rows, 2, columns, 2).permute(0, 2, 4, 1, 3, 5)
    ids = x.new_zeros(rows, columns, 3)
    ids[..., 1] = torch.arange(rows).to(ids)[:, None]
    ids[..., 2] = torch.arange(columns).to(ids)
    out = network(
        hidden_states=packed.reshape(n, rows * columns, 4 * c),
        timestep=t / 1000,
        img_ids=ids.flatten(0, 1),
        txt_ids=x.new_zeros(given["encoder_hidden_states"].shape[1], 3),
        guidance=given.get("embedded_guidance"),
        encoder_hidden_states=given["encoder_hidden_states"],
        pooled_projections=given["pooled_projections"],
        return_dict=False,
    )[0]
    squares = out.reshape(n, rows, columns, c, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return squares.reshape(n, c, h, w)


def _with_added(given: dict[str, Any]) -> dict[str, Any]:
    """Arguments of the network, those that it takes in a dictionary put into one."""
    added = {name: given[name] for name in _ADDED if name in given}
    rest = {name: value for name, value in given.items() if name not in added}
    return {**rest, "added_cond_kwargs": added} if added else rest


# class of a network -> how it is called
_CALLS: Mapping[str, Callable[[nn.Module, Tensor, Tensor, dict[str, Any]], Tensor]] = {
    "UNet2DModel": _unet,
    "UNet2DConditionModel": _unet,
    "SD3Transformer2DModel": _transformer,
    "DiTTransformer2DModel": _transformer,
    "PixArtTransformer2DModel": _pixart,
    "FluxTransformer2DModel": _flux,
}
# fields that ask for inputs which no supported pipeline gives
_INPUTS: Mapping[str, tuple[str, ...]] = {
    "UNet2DModel": ("class_embed_type",),
    "UNet2DConditionModel": (
        "class_embed_type",
        "encoder_hid_dim",
        "encoder_hid_dim_type",
        "num_class_embeds",
        "time_cond_proj_dim",
    ),
    "SD3Transformer2DModel": (),
    "DiTTransformer2DModel": (),
    "PixArtTransformer2DModel": (),
    "FluxTransformer2DModel": (),
}


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
        self.call = _CALLS[type(network).__name__]
        embedded = getattr(network, "class_embedding", None) is not None
        self.needs_label = embedded or type(network).__name__ == "DiTTransformer2DModel"

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        *,
        guidance: float = 1.0,
        guidance_rescale: float = 0.0,
        **condition: Any,
    ) -> Tensor:
        """The network's prediction, with guidance if it is not 1.

        Args:
            x: noisy inputs (N, c, h, w).
            t: native times (N,).
            guidance: weight of the condition; 1 is the conditional network itself.
            guidance_rescale: how far the guided output gets the deviation of the conditional one.
            condition: its arguments; those under the negative condition, where they differ, begin
                with ``negative_``.

        Returns:
            (N, c, h, w).

        Cost: one evaluation per input, two with guidance.
        """
        plain = {k: v for k, v in condition.items() if not k.startswith("negative_")}
        out = self._predict(x, t, plain)
        if guidance == 1:
            return out
        negative = {k: condition.get(f"negative_{k}", v) for k, v in plain.items()}
        against = self._predict(x, t, negative)
        guided = against + guidance * (out - against)
        if not guidance_rescale:
            return guided
        deviation = out.flatten(1).std(1) / guided.flatten(1).std(1)
        share = guidance_rescale * deviation + (1 - guidance_rescale)
        return guided * share[:, None, None, None]

    def _predict(self, x: Tensor, t: Tensor, condition: dict[str, Any]) -> Tensor:
        if self.needs_label:
            require_label(condition)
        out = self.call(self.network, x, self.convention.told(t), condition)
        return self.convention.sign * out[:, : self.channels]


def check_network(network: Any, known: tuple[str, ...]) -> str:
    """The class of a pipeline's network; refuse what the adapter does not know.

    Args:
        network: the network.
        known: the classes that the pipeline takes.

    Returns:
        the name of its class.

    Raises:
        ModelError: for another class, a field of its config that is not known or asks for an input
            that the pipeline does not give, or channels that do not fit.
    """
    name = type(network).__name__
    if name not in known:
        raise ModelError(f"the network is a {name}; this pipeline has {' or '.join(known)}")
    config = network.config
    asked = [f"{f} = {config[f]!r}" for f in _INPUTS[name] if config.get(f) is not None]
    if config.get("addition_embed_type") not in (None, "text_time"):
        asked.append(f"addition_embed_type = {config['addition_embed_type']!r}")
    if asked := asked + unknown_fields(network, frozenset(config)):
        raise ModelError(
            f"the config of the {name} has {' and '.join(asked)}, an input or a layer that is not "
            "supported"
        )
    taken, made = config.in_channels, config.get("out_channels") or config.in_channels
    if made not in (taken, 2 * taken):
        raise ModelError(
            f"the network takes {taken} channels and returns {made}: it is conditioned on further "
            "pictures (such as a mask), which is not supported"
        )
    return name


def image_channels(network: Any) -> int:
    """Channels of what the network denoises."""
    packed = 4 if type(network).__name__ == "FluxTransformer2DModel" else 1
    return int(network.config.in_channels) // packed


def divisor(network: Any) -> int:
    """What must divide the sides of what the network takes."""
    config = network.config
    if type(network).__name__ == "FluxTransformer2DModel":
        return 2
    if type(network).__name__ == "UNet2DModel":
        return int(2 ** (len(config.block_out_channels) - 1))
    return int(config.get("patch_size") or 1)
