"""What an interpolation leaves on disk: frames, filmstrip, GIF, path, result and report.

``path.safetensors`` opens anywhere; ``result.json`` holds versions, settings, status, certificate
and errors; ``report.html`` is self-contained.  All files are written in a folder beside
first, and then moved one by one: each is whole at any time.
"""

from __future__ import annotations

import math
import os
import platform
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass

__all__ = ["check_outdir", "replace_files", "write_pictures"]


def check_outdir(outdir: str | os.PathLike[str]) -> Path:
    """Make the output folder and see that files can be made in it, before work is spent.

    Args:
        outdir: the folder.

    Returns:
        The folder.

    Raises:
        OSError: if it is a file, or cannot be written.
    """
    target = Path(outdir)
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=target):
            pass
    except FileExistsError as error:
        raise OSError(f"{target} is a file; give a folder for the results") from error
    except OSError as error:
        raise OSError(
            f"cannot write into {target}: {error.strerror}; give another folder"
        ) from error
    return target


def replace_files(outdir: str | os.PathLike[str], write: Callable[[Path], None]) -> Path:
    """Write files elsewhere first, and move them into a folder when all are there.

    Args:
        outdir: the folder, made if needed.
        write: writes the files into the folder it is given.

    Returns:
        the folder; frames of an earlier, longer run are gone, other files stay.
    """
    target = check_outdir(outdir)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=target) as partial:
        write(Path(partial))
        names = sorted(file.name for file in Path(partial).iterdir())
        for name in names:
            (Path(partial) / name).replace(target / name)
    for old in target.glob("frame_[0-9][0-9][0-9][0-9].png"):
        if old.name not in names:
            old.unlink()
    return target


def write_pictures(rows: Mapping[str, list[Any]], folder: Path) -> None:
    """Frames of the first row, the filmstrip of all and the animation of the first."""
    from PIL import Image

    from diffodesic.output import pictures

    first = next(iter(rows.values()))
    for i, frame in enumerate(first):
        Image.fromarray(frame).save(folder / f"frame_{i:04d}.png")
    pictures.filmstrip(rows, folder / "filmstrip.png")
    pictures.animation(first, folder / "path.gif")


def versions() -> dict[str, str]:
    """Versions of Python, this package and the libraries behind a result."""
    found = {"python": platform.python_version()}
    for name in ("diffodesic", "torch", "numpy", "safetensors"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # run from a source tree that was never installed
            found[name] = "not installed"
    return found


def _finite(value: object) -> object:
    """JSON has no NaN: what is unknown becomes null, at any depth."""
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
