"""Files that are written whole or not at all, and what a damaged one may raise."""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path

__all__ = ["UNREADABLE", "write_atomically"]

UNREADABLE = (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error)
"""What numpy may raise for a file of arrays that is damaged or of another kind."""


def write_atomically(path: str | os.PathLike[str], content: bytes) -> Path:
    """Write a file whole or not at all.

    Args:
        path: the file; its folder must exist.
        content: all of its bytes.

    Returns:
        The path written.
    """
    target = Path(path)
    # beside the target, so that the rename stays on one file system
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # else a power cut may leave the new name on an empty file
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target
