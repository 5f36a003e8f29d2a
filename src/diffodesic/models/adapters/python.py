"""A model of the user's own code: ``python:package.module:function``."""

from __future__ import annotations

import inspect
import sys
from importlib import import_module
from pathlib import Path

import torch

from diffodesic.denoisers.network import NetworkDenoiser
from diffodesic.models.codec import PixelCodec
from diffodesic.models.model import Model, ModelError

__all__ = ["load_function"]


def load_function(address: str, *, device: torch.device | str = "cpu") -> Model:
    """Call a function and take the model that it returns.

    Args:
        address: ``package.module:function``; the module is looked for in the current folder
            first.  It is imported: its code runs.
        device: passed to the function if it has an argument of this name.

    Returns:
        the model; a `NetworkDenoiser` on images (C, H, W) is taken to live on pixels in [-1, 1].

    Raises:
        ModelError: if the address leads to no function, or that returns something else.
    """
    module, colon, name = address.partition(":")
    if not (module and colon and name):
        raise ModelError(
            f"'python:{address}' is no address of a function; write python:package.module:function"
        )
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        return _as_model(_made(module, name, device), address)
    finally:
        sys.path.remove(here)


def _made(module: str, name: str, device: torch.device | str) -> object:
    """What the function returns, called while its neighbours can be imported."""
    try:
        found = import_module(module)
    except (ImportError, SyntaxError) as error:
        raise ModelError(
            f"module {module!r} cannot be imported ({error}); run where it can be"
        ) from error
    function = getattr(found, name, None)
    if not callable(function):
        raise ModelError(f"there is no function {name!r} in module {module!r}")
    moved = {"device": device} if "device" in inspect.signature(function).parameters else {}
    made: object = function(**moved)
    return made


def _as_model(made: object, address: str) -> Model:
    if isinstance(made, Model):
        return made
    if isinstance(made, NetworkDenoiser) and len(made.shape) == 3:
        channels, height, width = made.shape
        return Model(made, PixelCodec((channels, height, width)), address.rpartition(":")[2])
    raise ModelError(
        f"{address} returned a {type(made).__name__}; it must return a Model, or what from_network "
        "makes with shape=(C, H, W)"
    )
