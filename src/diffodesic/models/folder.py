"""Models on disk: a folder with ``config.json`` and ``weights.safetensors``, written together.

Reading safetensors runs no code, unlike reading a pickle.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffodesic.output.files import write_atomically, write_text
from diffodesic.output.folder import replace_files
from diffodesic.output.manifest import Run
from diffodesic.output.records import json_ready, read_json, write_json
from diffodesic.output.stages import fingerprint

__all__ = [
    "CONFIG",
    "WEIGHTS",
    "ModelError",
    "check_sizes",
    "read_config",
    "read_weights",
    "write_model",
]

CONFIG, WEIGHTS = "config.json", "weights.safetensors"
_NOT_OF = "{path} does not hold the weights of this model ({reason}); train or copy it again"
_CHECKSUM = "checksum"
_DESCRIPTIVE = {"name", "training", _CHECKSUM}  # of a config; the first two may be edited by hand


class ModelError(ValueError):
    """A model cannot be loaded or saved; the message says what to change."""


def write_model(
    directory: str | os.PathLike[str],
    config: Mapping[str, Any],
    network: nn.Module,
    *,
    card: str | None = None,
    readme: str | None = None,
    half: bool = False,
    inputs: tuple[tuple[str, str], ...] = (),
) -> Path:
    """Write a model into a folder, all of its files or none.

    Args:
        directory: the folder, made if needed.
        config: what the weights need to become a model again, as JSON values.
        network: gives the weights.
        card: content of ``CARD.md``, Markdown; None writes none.
        readme: content of ``README.md``, the card of a hub; None writes none.
        half: keep the weights in half precision, 11 bits; they are read back as float32.
        inputs: names of what it was trained on, with hashes.

    Returns:
        the folder.
    """
    from safetensors.torch import save

    kind = torch.float16 if half else None
    weights = {
        name: weight.to(device="cpu", dtype=kind).contiguous()
        for name, weight in network.state_dict().items()
    }
    run = Run(command="train", inputs=inputs, kept=True)
    with replace_files(directory, run) as folder:
        # safetensors itself reports a full disk as an error of its own kind
        write_atomically(folder / WEIGHTS, save(weights))
        write_json(folder / CONFIG, {**config, _CHECKSUM: _checksum(config, weights)})
        for name, text in (("CARD.md", card), ("README.md", readme)):
            if text is not None:
                write_text(folder / name, text)
    return Path(directory)


def _checksum(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> str:
    """Of the weights and of all in ``config.json`` that makes a denoiser of them."""
    plain = json_ready({k: v for k, v in config.items() if k not in _DESCRIPTIVE})
    content = [part for name in sorted(weights) for part in (name, weights[name])]
    return fingerprint(json.dumps(plain, sort_keys=True), *content)


def read_config(folder: Path) -> dict[str, Any]:
    """Read the configuration of a model.

    Args:
        folder: holds the two files of a model.

    Returns:
        the content of ``config.json``.

    Raises:
        ModelError: if a file is missing.
        ValueError: if ``config.json`` is too large, or not a JSON object.
    """
    missing = [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise ModelError(f"{folder} is not a diffodesic model: it lacks {' and '.join(missing)}")
    return read_json(folder / CONFIG)


def check_sizes(network: nn.Module, folder: Path) -> None:
    """Compare the sizes of a network with those of the weights on disk, before it takes memory.

    Args:
        network: made on the device ``meta``, where tensors have a shape and no numbers.
        folder: holds the two files of a model.

    Raises:
        ModelError: if the file holds tensors of other names or shapes.
    """
    from safetensors import SafetensorError, safe_open

    path = folder / WEIGHTS
    try:
        with safe_open(path, "pt") as content:
            names = list(content.keys())
            stored = {name: content.get_slice(name).get_shape() for name in names}
    except (SafetensorError, OSError) as error:
        raise ModelError(_NOT_OF.format(path=path, reason=error)) from error
    if stored != {key: list(value.shape) for key, value in network.state_dict().items()}:
        raise ModelError(_NOT_OF.format(path=path, reason="other tensors"))


def read_weights(network: nn.Module, folder: Path, config: Mapping[str, Any]) -> None:
    """Load the weights of a network.

    Args:
        network: receives them.
        folder: holds the two files of a model.
        config: the content of ``config.json``; it may have the checksum of :func:`write_model`.

    Raises:
        ModelError: if the file holds those of another network, numbers that are no floats or not
            finite, or other bytes than were written.
    """
    from safetensors import SafetensorError, safe_open

    path = folder / WEIGHTS
    try:
        with safe_open(path, "pt") as content:
            weights = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
        if not all(weight.is_floating_point() for weight in weights.values()):
            reason = "tensors of integers or complex numbers"  # which torch would convert
            raise ModelError(_NOT_OF.format(path=path, reason=reason))
        network.load_state_dict(weights)
    except (SafetensorError, RuntimeError, OSError) as error:
        # torch's own message has a line for every tensor
        reason = "other tensors" if isinstance(error, RuntimeError) else str(error)
        raise ModelError(_NOT_OF.format(path=path, reason=reason)) from error
    if not all(bool(torch.isfinite(w).all()) for w in network.parameters()):
        raise ModelError(f"{path} holds weights that are not finite; train or copy it again")
    if _CHECKSUM in config and config[_CHECKSUM] != _checksum(config, weights):
        raise ModelError(
            f"{path} or {CONFIG} beside it is damaged: the checksum differs; train or copy it again"
        )
