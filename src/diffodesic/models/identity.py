r"""Which model answered: a description that tells a model from every other.

    weights     hash of all parameters and buffers of the network, and of the codec's
    answers     hash of E[x0 | z] at three fixed points, at noise below, at and above the data's,
                and of what the codec makes of a fixed image
    precision   in which the network is evaluated
    versions    of this package and of torch

Weights are compared to the last bit. Answers are compared to three digits where weights are known,
which another device or number of threads does not change, and to six digits else: a function shows
nothing but its answers. A description is compared key by key, and :func:`short` is its hash.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.denoisers.network import NetworkDenoiser, NonFiniteError
from diffodesic.models.model import Model
from diffodesic.output.records import json_ready
from diffodesic.output.stages import fingerprint

__all__ = ["identity", "short"]

_RATIOS = (0.25, 1.0, 25.0)  # variance of the noise over that of the data
_DIRECTIONS = 8  # numbers that are kept of a vector, beside its length


def identity(source: Model | Denoiser) -> dict[str, Any]:
    """What tells a model, or a denoiser, from every other, whatever its name.

    Args:
        source: the model, under its condition, or the denoiser.

    Returns:
        plain values by name; equal on every device.

    Raises:
        NetworkError: for a network that cannot be called.

    Cost: three evaluations, which are not counted; one pass of the codec; and a hash of the
    weights, about a second for 10^9 bytes.
    """
    model = source if isinstance(source, Model) else None
    denoiser = source.denoiser if isinstance(source, Model) else source
    weights = [*_weights(denoiser), *(_weights(model.codec) if model else ())]
    digits = 3 if weights else 6
    known: dict[str, Any] = {
        "name": model.name if model else type(denoiser).__name__,
        "condition": dict(model.words) if model else {},
        "weights": fingerprint(*weights) if weights else None,
        "answers": fingerprint(*_answers(denoiser, digits)),
        "codec": fingerprint(*_encoded(model, digits)) if model else None,
        "levels": list(denoiser.log_snr_range),
        "versions": _versions(),
    }
    if isinstance(denoiser, NetworkDenoiser):
        known |= {"precision": _precision(denoiser), "derivatives": denoiser.jvp_mode}
    return json_ready(known)


def short(known: Mapping[str, Any]) -> str:
    """The hash of a description by :func:`identity`: 16 hexadecimal digits."""
    return fingerprint(json.dumps(known, sort_keys=True))


def _weights(owner: object) -> Iterator[Tensor | str]:
    """Names and values of the weights of all networks that an object holds."""
    for name, value in sorted(getattr(owner, "__dict__", {}).items()):
        network = getattr(value, "__self__", value)  # the module of a bound method
        if isinstance(network, nn.Module):
            yield name
            for key, weight in sorted(network.state_dict().items()):
                yield key.replace("_orig_mod.", "")  # as torch.compile calls the same weights
                yield weight


def _precision(denoiser: NetworkDenoiser) -> str:
    kind = denoiser.autocast or denoiser._dtype_and_device()[0]
    text = "that of the points" if kind is None else str(kind).removeprefix("torch.")
    return f"{text}, compiled" if hasattr(denoiser.fn, "_orig_mod") else text


def _versions() -> dict[str, str]:
    """Versions that numbers depend on; that of torch without its build, such as +cpu."""
    names = ("diffodesic", "torch")
    return {name: import_module(name).__version__.partition("+")[0] for name in names}


def _answers(denoiser: Denoiser, digits: int) -> Iterator[str]:
    """E[x0 | z] at points typical of three levels, in few numbers."""
    if isinstance(denoiser, NetworkDenoiser):
        # of the network itself: its rounding and its compiler have their own entry
        plain = getattr(denoiser.fn, "_orig_mod", denoiser.fn)
        denoiser = replace(denoiser, fn=plain, autocast=None)
    mean = torch.as_tensor(denoiser.mean)
    kind = mean.dtype if mean.ndim else torch.float64
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(len(_RATIOS), denoiser.dim, generator=generator, dtype=torch.float64)
    low, high = denoiser.log_snr_range
    levels = [min(max(-math.log(denoiser.variance * r), low), high) for r in _RATIOS]
    sigma = (torch.tensor(levels, dtype=torch.float64) / -2).exp()
    spread = (denoiser.variance + sigma**2).sqrt().unsqueeze(-1)
    z = mean + (spread * noise).to(mean.device, kind)
    for point, level in zip(z.split(1), sigma.to(z).split(1), strict=True):
        try:
            with torch.no_grad():
                answer = denoiser.posterior_mean(point, level)
        except NonFiniteError:  # the search says so where it matters
            yield "not finite"
        else:
            yield from _in_few_numbers(answer.flatten(), digits)


@torch.no_grad()
def _encoded(model: Model, digits: int) -> Iterator[str]:
    """What the codec makes of a ramp of grey values, in few numbers."""
    channels, height, width = model.codec.shape
    ramp = torch.linspace(0, 1, channels * height * width).reshape(channels, height, width)
    yield from _in_few_numbers(model.codec.encode(ramp).flatten(), digits)


def _in_few_numbers(x: Tensor, digits: int) -> Iterator[str]:
    """The length of a vector and its shadows on random directions, rounded."""
    x = x.double().cpu()
    length = float(x.norm())
    generator = torch.Generator().manual_seed(1)
    directions = torch.randn(_DIRECTIONS, len(x), generator=generator, dtype=torch.float64)
    yield f"{length:.{digits}g}"
    for shadow in (directions @ x).tolist():
        # over the length: what is small by chance is not known to as many digits
        yield f"{round(shadow / length, digits) + 0.0 if length else 0.0:.{digits}f}"
