"""What an edit leaves on disk: its picture and its numbers.

The picture shows frames on the way, and the noise level over the length walked.

**Cost** that of the frames, ``Edit.frames``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from diffodesic.images.edit_result import Edit
from diffodesic.images.placement import run_of
from diffodesic.output.figures import canvas
from diffodesic.output.folder import replace_files
from diffodesic.output.records import write_json

__all__ = ["draw_edit", "save_edit"]

COLOURS = {"noise": "tab:red", "denoise": "tab:blue"}


def save_edit(
    edit: Edit, outdir: str | os.PathLike[str], *, inputs: tuple[tuple[str, str], ...] = ()
) -> Path:
    """Write ``edit.json`` and, where the two ends differ, ``edit.png`` into a folder.

    Args:
        edit: the edit.
        outdir: the folder, made if needed; files of the last run in it are removed.
        inputs: names of the images, with hashes; default hashes of their values.

    Returns:
        the folder.
    """
    run = run_of("distance", edit.settings, edit.geodesic.nodes[[0, -1]], inputs)
    with replace_files(outdir, run) as folder:
        write_json(folder / "edit.json", edit.as_dict())
        if edit.steps():
            draw_edit(edit, folder / "edit.png")
    return Path(outdir)


def draw_edit(edit: Edit, path: str | os.PathLike[str], *, frames: int = 9) -> None:
    """Draw an edit: its frames, where it has a model, and its noise level over its length.

    Args:
        edit: the edit; its two ends must differ.
        path: the PNG file; replaced whole or not at all.
        frames: number of frames, ends included.

    Raises:
        ValueError: for an edit between a point and itself.
    """
    steps = edit.steps()
    if not steps:
        raise ValueError("the edit joins a point with itself: there is nothing to draw")
    pictures = None if edit.model is None else edit.frames(frames)
    with canvas(path, width=6.5) as axes:
        if pictures is not None:
            strip = torch.cat(list(pictures.movedim(1, -1)), 1).cpu().numpy()
            above = axes[0].inset_axes((0, 1.12, 1, 0.2))
            above.imshow(strip.squeeze(-1) if strip.shape[-1] == 1 else strip, cmap="gray")
            above.set_axis_off()
        # it stands above the pictures
        axes[0].set_title(f"DiffED {edit.distance:.4g} at log SNR {edit.log_snr:g}")
        _profile(axes[0], edit)


def _profile(axis: Any, edit: Edit) -> None:
    """Log SNR over the length walked, coloured by what the steps do."""
    walked = 0.0
    for step in edit.steps():
        ahead = walked + step.length
        axis.plot([walked, ahead], step.log_snr, color=COLOURS[step.kind], linewidth=2)
        walked = ahead
    for kind, colour in COLOURS.items():
        share = sum(step.share for step in edit.steps() if step.kind == kind)
        axis.plot([], [], color=colour, linewidth=2, label=f"{kind}, {share:.0%} of the length")
    axis.axhline(edit.log_snr, color="0.8", linewidth=0.8, zorder=0)
    axis.set(xlabel="length walked", ylabel="log SNR")
    axis.legend()
