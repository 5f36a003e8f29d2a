"""Models by name: shipped ones, folders, and foreign families by prefix."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from diffodesic.denoisers.network import NetworkDenoiser, NetworkOptions, from_network
from diffodesic.denoisers.schedules import EDM
from diffodesic.models.codec import PixelCodec
from diffodesic.models.model import (
    _FILES,
    _SHIPPED,
    CHUNK,
    CHUNK_ACCELERATED,
    Model,
    ModelError,
    _move,
)
from diffodesic.models.unet import UNet, read_weights

__all__ = ["available", "load"]


def available() -> dict[str, str]:
    """Names of the shipped models, with one line about each."""
    found = {}
    for path in sorted(_SHIPPED.glob(f"*/{_FILES[0]}")):
        config = json.loads(path.read_text())
        if "prediction" in config:
            shape = "x".join(map(str, config["shape"]))
            found[path.parent.name] = (
                f"{config['name']}: {shape} images, EDM U-Net, card in {path.parent.name}/CARD.md"
            )
    return found


def load(
    source: str | os.PathLike[str],
    *,
    device: torch.device | str = "cpu",
    allow_download: bool = False,
    allow_pickle: bool = False,
) -> Model:
    """Load a model by name, from a folder, or through the door that a prefix names.

    Args:
        source: name of a shipped model (see ``available``); a folder that holds ``config.json``
            and ``weights.safetensors``; or ``diffusers:DIR``, ``edm:FILE`` or
            ``python:package.module:function``, described in ``adapters``.
        device: where the network runs.
        allow_download: let diffusers fetch a repository that is not on this disk.
        allow_pickle: read pickles, which run code of their author.

    Returns:
        the model, its network in float32 and evaluation mode.

    Raises:
        ModelError: for an unknown name, missing files, files of another program, or a device that
            is not there.
    """
    from diffodesic.models.adapters.registry import PREFIXES, open_foreign

    prefix, _, rest = str(source).partition(":")
    if prefix in PREFIXES and rest:
        return open_foreign(
            prefix, rest, device=device, allow_download=allow_download, allow_pickle=allow_pickle
        )
    folder = _SHIPPED / str(source) if str(source) in available() else Path(source)
    if not folder.is_dir():
        names = ", ".join(available())
        raise ModelError(
            f"unknown model {str(source)!r}: neither a shipped model ({names}) nor a folder"
        )
    missing = [name for name in _FILES if not (folder / name).is_file()]
    if missing:
        other = (folder / "model_index.json").is_file()
        raise ModelError(
            f"{folder} is not a diffodesic model: it lacks {' and '.join(missing)}"
            + (f"; for a pipeline of diffusers give diffusers:{folder}" if other else "")
        )
    try:
        config = json.loads((folder / _FILES[0]).read_text())
        if config["prediction"] == "coordinates":
            raise ModelError("a denoiser of coordinates: open it with load_denoiser")
        network = UNet(**config["network"]).eval().requires_grad_(False)
        chunk = CHUNK if str(device) == "cpu" else CHUNK_ACCELERATED
        denoiser = _denoiser(network, config, chunk)
    except (ValueError, LookupError, TypeError, ArithmeticError, RuntimeError) as error:
        raise ModelError(
            f"{folder / _FILES[0]} does not describe a diffodesic model ({error!r}); give a folder "
            "written by `diffodesic train`"
        ) from error
    try:
        read_weights(network, folder / _FILES[1])
    except ValueError as error:
        raise ModelError(str(error)) from error
    _move(network, device)
    channels, height, width = denoiser.shape
    codec = PixelCodec((channels, height, width))
    return Model(denoiser, codec, str(config.get("name", folder.name)), config)


def _denoiser(network: UNet, config: Mapping[str, Any], chunk: int) -> NetworkDenoiser:
    if config["prediction"] != "edm":
        raise ValueError(f"prediction is {config['prediction']!r}, not 'edm'")
    channels, height, width = (int(n) for n in config["shape"])
    # a network that cannot take such pictures says so on its first call
    network(torch.zeros(1, channels, height, width), torch.zeros(1))
    return from_network(
        network,
        shape=(channels, height, width),
        schedule=EDM(float(config["sigma_min"]), float(config["sigma_max"])),
        prediction="edm",
        sigma_data=float(config["sigma_data"]),
        jvp_mode="finite-difference",
        options=NetworkOptions(chunk=chunk),
    )
