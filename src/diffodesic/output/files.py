"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["write_atomically"]


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
