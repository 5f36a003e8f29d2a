"""Folders of results: checked before work is spent, and filled whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffodesic.output.animation import AnimationOptions, write_gif, write_video
from diffodesic.output.claims import claimed
from diffodesic.output.manifest import Run, refuse_inputs, refuse_kept, replaced, sha256

__all__ = ["check_outdir", "own_outdir", "replace_files", "write_frames", "write_pictures"]


@contextmanager
def own_outdir(
    outdir: str | os.PathLike[str], command: str, inputs: Iterable[str | os.PathLike[str]] = ()
) -> Iterator[Path]:
    """Make the output folder and hold it for a command, before work is spent.

    Args:
        outdir: the folder.
        command: what is to be run in it.
        inputs: files that it reads.

    Yields:
        the folder; what a killed run left half-written in it is gone.

    Raises:
        OSError: if it is a file, cannot be written, or another process is at work in it.
        ValueError: if it holds results that this command must leave alone, or reads.
    """
    target = check_outdir(outdir)
    with claimed(target):
        refuse_kept(target, command, inputs)
        yield target


def check_outdir(outdir: str | os.PathLike[str]) -> Path:
    """Make the output folder and see that files can be made in it.

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
def replace_files(outdir: str | os.PathLike[str], run: Run) -> Iterator[Path]:
    """Open a temporary folder, and move its files into ``outdir`` when the block has ended well.

    Args:
        outdir: the folder of the results, made if needed. Files that the last run wrote there are
            removed or replaced; no others are removed. After an error in the block all files are
            as before.
        run: what the files are made by and of, for ``run.json``
            (:mod:`diffodesic.output.manifest`).

    Yields:
        the temporary folder, inside ``outdir``.

    Raises:
        OSError: if ``outdir`` cannot be written, or another process is at work in it.
        ValueError: if it holds results that this command must leave alone, or an input would be
            replaced.
    """
    inputs = [name for name, _ in run.inputs]
    with (
        own_outdir(outdir, run.command, inputs) as target,
        tempfile.TemporaryDirectory(prefix=".partial-", dir=target) as temporary,
    ):
        folder = Path(temporary)
        yield folder
        found = sorted(file for file in folder.rglob("*") if file.is_file())
        written = {file.relative_to(folder).as_posix(): sha256(file) for file in found}
        refuse_inputs(target, run.command, inputs, written)
        with replaced(target, run, written):
            for name in written:
                (target / name).parent.mkdir(exist_ok=True)
                (folder / name).replace(target / name)


def write_pictures(
    rows: Mapping[str, list[Any]],
    folder: Path,
    options: AnimationOptions | None = None,
    marks: Mapping[int, str] | None = None,
) -> None:
    """Write the frames of the first row, the filmstrip of all rows and the animation of the first.

    Args:
        rows: frames (H, W) or (H, W, 3) in 8 bits, by the name of their path.
        folder: receives ``frame_0000.png`` and so on, ``filmstrip.png``, ``path.gif`` and, where
            it is asked for, ``path.mp4``.
        options: of the animation; default ``AnimationOptions()``.
        marks: see :func:`.pictures.filmstrip`.
    """
    from diffodesic.output import pictures

    first = next(iter(rows.values()))
    write_frames(first, folder)
    pictures.filmstrip(rows, folder / "filmstrip.png", marks=marks)
    write_gif(first, folder / "path.gif", options)
    if options is not None and options.video:
        write_video(first, folder / "path.mp4", options)


def write_frames(frames: Sequence[Any], folder: Path) -> None:
    """Write 8-bit frames (H, W) or (H, W, 3) as ``frame_0000.png`` and so on."""
    from PIL import Image

    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"frame_{i:04d}.png")
