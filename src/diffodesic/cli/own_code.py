"""Objects of a user's own Python file, named FILE.py:NAME on the command line."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from diffodesic.numerics.words import in_short

__all__ = ["is_own", "load_own", "own_file"]


def is_own(text: str) -> bool:
    """Whether a word of the command line is FILE.py:NAME."""
    return ".py:" in text


def own_file(text: str) -> Path:
    """The file of FILE.py:NAME."""
    return Path(text.rpartition(":")[0])


def load_own(text: str) -> Any:
    """The object that FILE.py:NAME names; the file is run.

    Args:
        text: the name.

    Returns:
        the object.

    Raises:
        ValueError: if there is no such file, it cannot be run, or there is no such object in it.
    """
    file, name = own_file(text), text.rpartition(":")[2]
    if not file.is_file():
        raise ValueError(f"{file} is not a file; give FILE.py:NAME")
    spec = spec_from_file_location("diffodesic_own_code", file)
    if spec is None or spec.loader is None:
        raise ValueError(f"{file} cannot be run as a Python file")
    module = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever the code of others leads to
        raise ValueError(f"{file} cannot be run ({in_short(error)}); correct it") from error
    if not hasattr(module, name):
        raise ValueError(f"{file} has no {name}")
    return getattr(module, name)
