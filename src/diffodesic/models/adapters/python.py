"""A model of the user's own code: ``python:package.module:function``.

The module is looked for in the current folder first, and imported: its code runs.  The function
returns a model, or what ``from_network`` makes on images (C, H, W); if it has an argument
``device``, it gets the device.
"""

from __future__ import annotations

import inspect
import sys
from importlib import import_module
from pathlib import Path

import torch

from diffodesic.models.folder import ModelError
from diffodesic.models.model import Model, as_model
from diffodesic.numerics.words import in_short

__all__ = ["PREFIX", "load"]

PREFIX = "python"


def load(
    rest: str, *, device: torch.device | str, allow_download: bool, allow_pickle: bool
) -> Model:
    """Call the function at ``package.module:function``; ``registry`` describes the arguments."""
    module, _, name = rest.partition(":")
    if not (module and name):
        raise ModelError(
            f"'python:{rest}' is no address of a function; write python:package.module:function"
        )
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        # called while modules beside it can be imported
        return as_model(_call(module, name, device), name, source=rest)
    finally:
        sys.path.remove(here)


def _call(module: str, name: str, device: torch.device | str) -> object:
    """What the function returns."""
    try:
        imported = import_module(module)
    except (Exception, SystemExit) as error:  # whatever the code of others leads to
        raise ModelError(
            f"module {module!r} cannot be imported ({in_short(error)}); correct it, or run where "
            "it can be"
        ) from error
    function = getattr(imported, name, None)
    if not callable(function):
        raise ModelError(f"there is no function {name!r} in module {module!r}")
    given = {"device": device} if "device" in inspect.signature(function).parameters else {}
    try:
        return function(**given)
    except (MemoryError, torch.OutOfMemoryError, ValueError):  # ValueError: a sentence of ours
        raise
    except (Exception, SystemExit) as error:
        raise ModelError(f"{module}:{name} cannot be called ({in_short(error)})") from error
