"""Folders of results: checked before work is spent, and filled whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["FRAMES", "check_outdir", "replace_files", "write_frames", "write_pictures"]

FRAMES = "frame_[0-9][0-9][0-9][0-9].png"
"""Pattern of the files that :func:`write_pictures` numbers."""


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


@contextmanager
def replace_files(outdir: str | os.PathLike[str], *, stale: Sequence[str] = ()) -> Iterator[Path]:
    """Open a temporary folder, and move its files into ``outdir`` when the block has ended well.

    Args:
        outdir: the folder of the results, made if needed. Its files are replaced one by one, and
            each is whole at any time. After an error in the block all files are as before.
        stale: patterns of the files that an earlier run of the same kind may have left in
            ``outdir``; those that the block did not write are removed, and no others.

    Yields:
        the temporary folder, inside ``outdir``.

    Raises:
        OSError: if ``outdir`` cannot be written.
    """
    target = check_outdir(outdir)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=target) as temporary:
        folder = Path(temporary)
        yield folder
        written = {file.relative_to(folder) for file in folder.rglob("*") if file.is_file()}
        for name in sorted(written):
            (target / name).parent.mkdir(exist_ok=True)
            (folder / name).replace(target / name)
    for old in [file for pattern in stale for file in target.glob(pattern)]:
        if old.relative_to(target) not in written:
            old.unlink()
            if not any(old.parent.iterdir()):
                old.parent.rmdir()


def write_pictures(rows: Mapping[str, list[Any]], folder: Path) -> None:
    """Write the frames of the first row, the filmstrip of all rows and the animation of the first.

    Args:
        rows: frames (H, W) or (H, W, 3) in 8 bits, by the name of their path.
        folder: receives ``frame_0000.png`` and so on, ``filmstrip.png`` and ``path.gif``.
    """
    from diffodesic.output import pictures

    first = next(iter(rows.values()))
    write_frames(first, folder)
    pictures.filmstrip(rows, folder / "filmstrip.png")
    pictures.animation(first, folder / "path.gif")


def write_frames(frames: Sequence[Any], folder: Path) -> None:
    """Write 8-bit frames (H, W) or (H, W, 3) as ``frame_0000.png`` and so on."""
    from PIL import Image

    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"frame_{i:04d}.png")
