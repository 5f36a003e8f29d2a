"""One process at a time in a folder, or at a file: a lock that ends with its process.

The lock is the operating system's, on the file ``.lock`` in the folder (or ``.NAME.lock`` beside a
file), which says who holds it.  It ends with the process, however that ends, so that no lock is
ever stale; whoever claims a folder therefore knows that unfinished files in it are nobody's.
"""

from __future__ import annotations

import glob
import os
import shutil
import socket
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from errno import EACCES, EAGAIN, EDEADLK, EWOULDBLOCK
from pathlib import Path

__all__ = ["begun", "claimed"]

_TAKEN = {EACCES, EAGAIN, EDEADLK, EWOULDBLOCK}
_held: ContextVar[frozenset[Path]] = ContextVar("held", default=frozenset())


@contextmanager
def claimed(target: Path | None) -> Iterator[None]:
    """Hold a folder or a file for this block alone, and remove what a killed process left.

    Blocks inside may claim the same again; another thread may not.

    Args:
        target: a folder that exists, or a file in one; None claims nothing.

    Yields:
        nothing.

    Raises:
        OSError: if another process, or another thread, is at work there; it names the process.
    """
    if target is None:
        yield
        return
    whole = target.is_dir()
    path = (target / ".lock" if whole else target.with_name(f".{target.name}.lock")).resolve()
    if path in _held.get():
        yield
        return
    handle = _locked(path, target)
    before = _held.set(_held.get() | {path})
    try:
        _sweep(target, "" if whole else f".{target.name}")
        yield
    finally:
        _held.reset(before)
        _unlock(handle, path)


@contextmanager
def begun(target: Path) -> Iterator[bool]:
    """Mark a folder, or a file to be, while a run is at work there.

    Args:
        target: the folder, or the file.

    Yields:
        whether an earlier run was stopped there, by a signal or with its process: one that failed
        leaves no mark.
    """
    mark = target / ".begun" if target.is_dir() else target.with_name(f".{target.name}.begun")
    before = mark.exists()
    mark.touch()
    try:
        yield before
    except Exception:
        mark.unlink(missing_ok=True)
        raise
    mark.unlink(missing_ok=True)


def _locked(path: Path, target: Path) -> int:
    """The open lock file, locked, with our name in it."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(handle)
        except OSError as error:
            if error.errno in _TAKEN:
                holder = os.read(handle, 200).decode(errors="replace").strip()
                os.close(handle)
                raise OSError(
                    f"{target} is in use by {holder or 'another process'}; wait for its end, or "
                    "give another place for the results"
                ) from error
            warnings.warn(
                f"{target} cannot be locked ({error.strerror}); see that one process alone writes "
                "there",
                RuntimeWarning,
                stacklevel=5,
            )
        if os.fstat(handle).st_nlink:
            break
        os.close(handle)  # the file was removed by its last holder after it was opened here
    os.ftruncate(handle, 0)
    os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
    return handle


if sys.platform == "win32":
    import msvcrt

    def _lock(handle: int) -> None:
        # of a byte far behind the text, which others could not read else
        os.lseek(handle, 1 << 20, os.SEEK_SET)
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        finally:
            os.lseek(handle, 0, os.SEEK_SET)

    def _unlock(handle: int, path: Path) -> None:
        os.close(handle)
        try:
            path.unlink()
        except OSError:  # another process has opened it already
            return

else:
    import fcntl

    def _lock(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _unlock(handle: int, path: Path) -> None:
        path.unlink(missing_ok=True)  # before the lock ends, lest another's file is removed
        os.close(handle)


def _sweep(target: Path, name: str) -> None:
    """Remove what :func:`write_atomically` and ``replace_files`` left when they were killed."""
    place = target.parent if name else target
    part = f"{glob.escape(name) or '.*'}.[0-9]*.part"
    for pattern in (part,) if name else (part, f"*/{part}"):  # parts of a store are folders in it
        for left in place.glob(pattern):
            left.unlink(missing_ok=True)
    for folder in () if name else place.glob(".partial-*"):
        shutil.rmtree(folder)
