"""Files that are written whole or not at all, what is no file, and what a damaged one may raise."""

from __future__ import annotations

import os
import stat
import tokenize
import zipfile
import zlib
from pathlib import Path

__all__ = ["UNREADABLE", "not_a_file", "write_atomically", "write_text"]

UNREADABLE = (
    OSError,
    EOFError,
    KeyError,
    ValueError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
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


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write a text in UTF-8, whole or not at all.

    Args:
        path: the file; its folder must exist.
        text: may hold names of files that are not UTF-8, whose bytes are written as escapes.

    Returns:
        The path written.
    """
    return write_atomically(path, text.encode("utf-8", "backslashreplace"))


def not_a_file(path: str | os.PathLike[str]) -> str:
    """Say what something is that is no file, without opening it.

    Args:
        path: of something that exists.

    Returns:
        "a folder", "a pipe", "a socket", "a device", or "" for a file.

    Raises:
        OSError: if nothing is there.
        ValueError: for a null character in the name.
    """
    mode = os.stat(path).st_mode
    if stat.S_ISREG(mode):
        return ""
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")
