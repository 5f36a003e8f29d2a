"""Models by name: shipped ones, folders, and families of models by their prefix."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import torch

from diffodesic.denoisers.network import NetworkDenoiser, NetworkOptions, from_network
from diffodesic.denoisers.schedules import EDM
from diffodesic.models.adapters.registry import find_family, prefixes
from diffodesic.models.codec import Codec, PixelCodec
from diffodesic.models.folder import (
    CONFIG,
    WEIGHTS,
    ModelError,
    check_sizes,
    read_config,
    read_weights,
)
from diffodesic.models.log_partition import LogPartitionNet
from diffodesic.models.model import Conditioner, Model, tried
from diffodesic.models.prepare import chosen_device, for_evaluation, to_device
from diffodesic.models.taesd import load_codec
from diffodesic.models.unet import UNet
from diffodesic.output.decoding import MOST_PIXELS

__all__ = ["available", "load"]

_SHIPPED = Path(__file__).parent / "assets"
# inputs per call of the shipped U-Net on a CPU and elsewhere: enough to keep it busy, little memory
_CHUNK, _CHUNK_ACCELERATED = 128, 4096


def available() -> dict[str, str]:
    """Names of the shipped models, with one line about each."""
    lines = {}
    for path in sorted(_SHIPPED.glob(f"*/{CONFIG}")):
        config = json.loads(path.read_text(encoding="utf-8"))
        if "prediction" in config:
            shape = "x".join(map(str, config["shape"]))
            data = f"{shape} latents of photographs" if "codec" in config else f"{shape} images"
            lines[path.parent.name] = (
                f"{config['name']}: {data}, EDM U-Net, card in {path.parent.name}/CARD.md"
            )
    return lines


def load(
    source: str | os.PathLike[str],
    *,
    device: torch.device | str = "cpu",
    allow_download: bool = False,
    allow_pickle: bool = False,
    size: tuple[int, int] | None = None,
) -> Model:
    """Load a model by name, from a folder, or by the prefix of its family.

    Args:
        source: name of a shipped model (see ``available``); a folder that holds ``config.json``
            and ``weights.safetensors``; or ``PREFIX:REST``, such as ``diffusers:DIR``,
            ``hf:OWNER/NAME@REVISION``, ``edm:FILE`` and ``python:package.module:function``. Other
            packages may add families; ``models.adapters.registry`` says how.
        device: where the network runs; ``auto`` takes a GPU where there is one.
        allow_download: let a family fetch a model that is not on this disk.
        allow_pickle: read pickles, which run code of their author.
        size: (height, width) of the pictures in pixels, for a network that works at any; default
            that of its training.

    Returns:
        the model, its network in float32 and evaluation mode.

    Raises:
        ModelError: for an unknown name, missing files, files of another program, a size that is
            not the model's to choose, or a device that is not there.
    """
    device = chosen_device(device)
    prefix, _, rest = str(source).partition(":")
    if rest and (family := find_family(prefix)):
        sized = {} if size is None else {"size": size}
        if sized and "size" not in signature(family).parameters:
            raise ModelError(f"models of the family {prefix!r} have one size each: leave size out")
        return family(
            rest, device=device, allow_download=allow_download, allow_pickle=allow_pickle, **sized
        )
    folder = _SHIPPED / str(source) if str(source) in available() else Path(source)
    if not folder.is_dir():
        raise ModelError(
            f"unknown model {str(source)!r}: neither a shipped model ({', '.join(available())}) "
            f"nor a folder nor of a known family ({', '.join(f'{p}:' for p in prefixes())})"
            f"{_hint(str(source))}"
        )
    if size is not None:
        raise ModelError(f"model {str(source)!r} has the size of its training: leave size out")
    if (folder / "model_index.json").is_file():
        raise ModelError(f"{folder} holds a pipeline of diffusers; give diffusers:{folder}")
    if (folder.parent / "model_index.json").is_file() and not (folder / WEIGHTS).is_file():
        raise ModelError(
            f"{folder} holds one component of a pipeline of diffusers; give the folder above it, "
            f"diffusers:{folder.parent}"
        )
    return _load_folder(folder, device)


def _hint(source: str) -> str:
    """What to give in place of something that looks like a model of another program."""
    kind = Path(source).suffix.lower()
    if kind == ".safetensors":
        return (
            "; a .safetensors file holds weights alone: give the folder that its program saved "
            "(diffusers:DIR), or a function that builds the network and loads them "
            "(python:package.module:function)"
        )
    if kind in (".pt", ".pth", ".ckpt", ".bin"):
        return (
            f"; a {kind} file is a pickle of weights, which are no network by themselves: give a "
            "function that builds it and loads them (python:package.module:function)"
        )
    if kind == ".pkl":
        return f"; for a network of the EDM project give edm:{source} --allow-pickle"
    if re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w.-]+)?", source):
        owner, _, revision = source.partition("@")
        at = f"@{revision}" if revision else ""
        return (
            f"; for a repository of the Hugging Face hub give hf:{owner}{at} --allow-download, or "
            f"diffusers:{owner} for a pipeline that is on this disk"
        )
    return ""


def _load_folder(folder: Path, device: torch.device | str) -> Model:
    """Load what ``diffodesic train`` or :meth:`Model.save` wrote."""
    try:
        config = read_config(folder)
        if config["prediction"] == "coordinates":
            raise ModelError(
                f"{folder} holds a denoiser of coordinates; open it with transitions.load_denoiser"
            )
        _check(config, folder)
        network = for_evaluation(_network(config))
        chunk = _CHUNK if str(device) == "cpu" else _CHUNK_ACCELERATED
        denoiser = _denoiser(network, config, chunk)
    except ModelError:
        raise
    except (ValueError, LookupError, TypeError, ArithmeticError, RuntimeError) as error:
        raise ModelError(
            f"{folder / CONFIG} does not describe a diffodesic model ({error!r}); give a folder "
            "written by `diffodesic train`"
        ) from error
    read_weights(network, folder, config)
    # convolutions on a CPU run half again as fast with the channels last
    to_device(network, device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    codec = _codec(config, denoiser.shape, device)
    name, names = str(config.get("name", folder.name)), config.get("labels", ())
    conditioner = Conditioner.of_labels(len(names), lambda label: label)
    return tried(Model(denoiser, codec, name, config, conditioner=conditioner))


def _check(config: Mapping[str, Any], folder: Path) -> None:
    """Refuse sizes that are not those of the weights, or that the network cannot take.

    Nothing is allocated: a configuration of a few bytes may ask for more than there is.

    Raises:
        ValueError: for images that are too large, and what is not the number that it should be.
    """
    for name in ("sigma_min", "sigma_max", "sigma_data"):
        if type(config[name]) not in (int, float):  # True is no 1
            raise ValueError(f"{name} is {config[name]!r}, not a number")
    for name, value in {"shape": config["shape"], **config["network"]}.items():
        counts = value if isinstance(value, list) else [value]
        if not all(type(count) is int and count >= 0 for count in counts):
            raise ValueError(f"{name} is {value!r}, not made of whole numbers")
    channels, height, width = config["shape"]
    if channels * height * width > MOST_PIXELS:
        raise ValueError(f"its images have more than {MOST_PIXELS:,} numbers")
    with torch.device("meta"):
        network = _network(config)
        check_sizes(network, folder)
        inner = network.network if isinstance(network, LogPartitionNet) else network
        inner(torch.zeros(1, channels, height, width), torch.zeros(1))


def _network(config: Mapping[str, Any]) -> UNet | LogPartitionNet:
    """The network of a configuration, without its weights."""
    network, own = UNet(**config["network"]), config.get("log_partition")
    if own is None:
        return network
    if type(own["rank"]) is not int or type(own["offset"]) is not bool:
        raise ValueError(f"log_partition is {own!r}, not a rank and an offset")
    levels = float(config["sigma_min"]), float(config["sigma_max"])
    shape, scale = tuple(config["shape"]), float(config["sigma_data"])
    return LogPartitionNet(network, shape, scale, levels, own["rank"], offset=own["offset"])


def _codec(config: Mapping[str, Any], shape: tuple[int, ...], device: torch.device | str) -> Codec:
    """What the configuration says stands between pictures and the network."""
    channels, height, width = shape
    if "codec" not in config:
        return PixelCodec((channels, height, width))
    return load_codec(config["codec"], (channels, height, width), device=device)


def _denoiser(
    network: UNet | LogPartitionNet, config: Mapping[str, Any], chunk: int
) -> NetworkDenoiser:
    if config["prediction"] != "edm":
        raise ValueError(f"prediction is {config['prediction']!r}, not 'edm'")
    if isinstance(network, LogPartitionNet):
        return network.denoiser(chunk)
    channels, height, width = (int(n) for n in config["shape"])
    return from_network(
        network,
        shape=(channels, height, width),
        schedule=EDM(float(config["sigma_min"]), float(config["sigma_max"])),
        prediction="edm",
        sigma_data=float(config["sigma_data"]),
        jvp_mode="finite-difference",
        options=NetworkOptions(chunk=chunk, trial=False),  # the weights are not there yet
    )
