"""Results as JSON, written and read, and the versions of the libraries behind them."""

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

from diffodesic.output.files import not_a_file, write_atomically

__all__ = ["json_ready", "read_json", "versions", "write_json"]

_MOST_BYTES = 2**26  # of the largest JSON file that is read; the longest of ours has kilobytes


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


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a JSON object from a file, in bounded time and memory whatever lies there.

    Args:
        path: the file.

    Returns:
        the object.

    Raises:
        OSError: if there is nothing, or nothing that may be read.
        ValueError: if it is no file but a folder, a pipe, a socket or a device; too large; or no
            JSON object in UTF-8.
    """
    if kind := not_a_file(path):
        raise ValueError(f"it is {kind}, not a file")
    if os.stat(path).st_size > _MOST_BYTES:
        raise ValueError(f"it has more than {_MOST_BYTES:,} bytes")
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}, not an object")
    return content


def versions() -> dict[str, str]:
    """Versions of Python, this package and the libraries behind a result."""
    known = {"python": platform.python_version()}
    for name in ("diffodesic", "torch", "numpy", "safetensors"):
        try:
            known[name] = version(name)
        except PackageNotFoundError:  # run from a source tree that was never installed
            known[name] = "not installed"
    return known
