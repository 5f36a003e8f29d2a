"""Results as JSON: plain values, and the versions of the libraries behind them."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from torch import Tensor

from diffodesic.output.files import write_atomically

__all__ = ["json_ready", "versions", "write_json"]


def json_ready(value: Any) -> Any:
    """Return a value as strict JSON can hold it.

    Args:
        value: dataclasses, mappings, lists, tuples and tensors, nested; numbers and strings.

    Returns:
        dictionaries, lists, numbers, strings and None: a number that is not finite becomes None,
        and an object of any other type its text.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Tensor):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): json_ready(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def write_json(path: str | os.PathLike[str], value: Any, *, indent: int | None = 1) -> Path:
    """Write a value as strict JSON, whole or not at all.

    Args:
        path: the file; its folder must exist.
        value: what :func:`json_ready` takes.
        indent: spaces per level; None writes one line.

    Returns:
        the path written.
    """
    text = json.dumps(json_ready(value), indent=indent, allow_nan=False)
    return write_atomically(path, f"{text}\n".encode())


def versions() -> dict[str, str]:
    """Versions of Python, this package and the libraries behind a result."""
    known = {"python": platform.python_version()}
    for name in ("diffodesic", "torch", "numpy", "safetensors"):
        try:
            known[name] = version(name)
        except PackageNotFoundError:  # run from a source tree that was never installed
            known[name] = "not installed"
    return known
