"""Families of models: what the prefix of ``load("PREFIX:REST")`` stands for.

A family is a module with its ``PREFIX`` and a function

    load(rest, *, device, allow_download, allow_pickle) -> Model

which gets the REST and the arguments of ``diffodesic.load``, raises a ModelError that says what to
change, and may also return what ``from_network`` makes on images (C, H, W).  Where it has an
argument ``size``, (height, width) of the pictures or None, it gets that one, too.

The families of this package are the files of this folder that have a ``PREFIX``; a new one is one
more file.  Another package adds a family by an entry point,

    [project.entry-points."diffodesic.models"]
    PREFIX = "package.module"

whose module is imported when the prefix is first used.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from inspect import signature
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import torch

from diffodesic.models.folder import ModelError
from diffodesic.models.model import Model, as_model

__all__ = ["GROUP", "find_family", "prefixes"]

GROUP = "diffodesic.models"

Family = Callable[..., Model]


def prefixes() -> list[str]:
    """Prefixes of the families of this package, and then of others."""
    return [*_own(), *sorted({point.name for point in entry_points(group=GROUP)})]


def find_family(prefix: str) -> Family | None:
    """The function ``load`` of a family.

    Args:
        prefix: what stands before the colon.

    Returns:
        the function, or None where no family has this prefix.

    Raises:
        ModelError: if several packages define the family, or the module of another package cannot
            be imported, has another ``PREFIX`` or no ``load``.
    """
    own, points = _own().get(prefix), list(entry_points(group=GROUP, name=prefix))
    owners = ["diffodesic"] * (own is not None) + [_owner(point) for point in points]
    if len(owners) > 1:
        raise ModelError(
            f"the family of models {prefix!r} is defined by {' and by '.join(owners)}: "
            "uninstall all but one"
        )
    if points:
        return _foreign(points[0])
    return None if own is None else own.load


def _own() -> dict[str, Any]:
    """The families of this folder by prefix."""
    package = __name__.rpartition(".")[0]
    modules = [
        import_module(f"{package}.{info.name}")
        for info in iter_modules([str(Path(__file__).parent)])
    ]
    return {module.PREFIX: module for module in modules if hasattr(module, "PREFIX")}


def _foreign(point: EntryPoint) -> Family:
    """The function ``load`` of another package's family, whose result is checked."""
    family = f"the family of models {point.name!r} of {_owner(point)}"
    try:
        module = point.load()
    except Exception as error:  # importing runs the package's code, which may raise anything
        reason = " ".join(str(error).split())
        raise ModelError(
            f"{family} cannot be imported ({type(error).__name__}: {reason}); uninstall it"
        ) from error
    if getattr(module, "PREFIX", None) != point.name or not callable(getattr(module, "load", None)):
        raise ModelError(
            f"{family} is not complete: {point.value} needs PREFIX = {point.name!r} and a function "
            "load(rest, *, device, allow_download, allow_pickle)"
        )

    def load(
        rest: str,
        *,
        device: torch.device | str,
        allow_download: bool,
        allow_pickle: bool,
        **sized: Any,
    ) -> Model:
        made = module.load(
            rest, device=device, allow_download=allow_download, allow_pickle=allow_pickle, **sized
        )
        return as_model(made, rest, source=family)

    # whether it takes a size is for its own signature to say
    load.__signature__ = signature(module.load)  # type: ignore[attr-defined]
    return load


def _owner(point: EntryPoint) -> str:
    """Name of the package that an entry point belongs to."""
    return "an unknown package" if point.dist is None else str(point.dist.name)
