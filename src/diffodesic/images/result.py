"""The result of an interpolation: the object, and the files that it leaves in a folder."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from diffodesic.geometry.path import Geodesic
from diffodesic.images.placement import path_record
from diffodesic.images.shown_path import ShownPath
from diffodesic.output.files import write_atomically
from diffodesic.output.folder import FRAMES, replace_files, write_pictures
from diffodesic.output.images import to_uint8
from diffodesic.output.records import versions, write_json

__all__ = ["FILES", "Interpolation", "psnr_of", "result_dict", "write_interpolation"]

_OF_PAIR = (FRAMES, "filmstrip.png", "path.gif", "path.safetensors", "result.json", "report.html")
FILES = (*_OF_PAIR, *(f"pair-[0-9]*/{name}" for name in _OF_PAIR))
"""Patterns of the files that an interpolation, or a sequence of them, leaves in its folder."""


def write_interpolation(result: Interpolation, folder: Path) -> None:
    """Write everything about an interpolation into a folder; see ``Interpolation.save``.

    Args:
        result: the interpolation.
        folder: an empty folder.
    """
    from safetensors.torch import save

    from diffodesic.images.page import write_interpolation_page

    frames = {name: to_uint8(shown.frames) for name, shown in result.paths.items()}
    write_pictures(frames, folder)
    tensors = {"nodes": result.geodesic.nodes, "inputs": result.inputs}
    for name, shown in result.paths.items():
        for field in ("frames", "s", "log_snr", "curve_s", "curve_log_snr", "curve_speed"):
            tensors[f"{name}.{field}"] = getattr(shown, field)
    kept = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    write_atomically(folder / "path.safetensors", save(kept))
    content = result_dict(result)
    write_json(folder / "result.json", content)
    write_interpolation_page(
        folder / "report.html", result.paths, result.inputs, content, ok=result.geodesic.ok
    )


def result_dict(result: Interpolation) -> dict[str, Any]:
    """Everything about an interpolation but its tensors, for JSON.

    Args:
        result: the interpolation.

    Returns:
        plain numbers, strings, lists and dictionaries.
    """
    path = result.geodesic
    return {
        **path_record(path),
        "start": path.start[0],
        "iterations": int(path.iterations),
        "end_error_rms": list(result.end_error),
        "end_psnr_db": list(result.end_psnr),
        "paths": {
            name: {
                "length": shown.length,
                "energy": shown.energy,
                "energy_floor": shown.floor,
                "independent_length": shown.check and list(shown.check),
            }
            for name, shown in result.paths.items()
        },
        "settings": result.settings,
        "notices": list(result.notices),
        "seconds": round(result.seconds, 2),
        "versions": versions(),
    }


def psnr_of(error: float) -> float:
    """Peak signal-to-noise ratio in dB for a root-mean-square error of pixels in [0, 1]."""
    return -20 * math.log10(max(error, 1e-9))


@dataclass(frozen=True, repr=False)
class Interpolation:
    """What :func:`interpolate` returns.

    Attributes:
        geodesic: the solved path with its certificate and cost.
        paths: all paths by name, the geodesic first, then the baselines.
        inputs: the two images (2, C, H, W).
        end_error: root-mean-square error of the first and the last frame, pixels in [0, 1].
        seconds: wall-clock time.
        settings: what was asked for and what was chosen.
        notices: what was changed or is doubtful, one sentence each.
    """

    geodesic: Geodesic
    paths: dict[str, ShownPath]
    inputs: Tensor
    end_error: tuple[float, float]
    seconds: float
    settings: dict[str, object]
    notices: tuple[str, ...]

    def __repr__(self) -> str:
        """One line: what it is of, how long, and how it ended."""
        lengths = ", ".join(f"{name} {shown.length:.4g}" for name, shown in self.paths.items())
        return (
            f"Interpolation({self.settings['model']}, {self.settings['metric']}, "
            f"{len(self.frames)} frames, {self.geodesic.status.name}, lengths: {lengths})"
        )

    @property
    def frames(self) -> Tensor:
        """Images along the geodesic, (F, C, H, W) in [0, 1]."""
        return next(iter(self.paths.values())).frames

    @property
    def end_psnr(self) -> tuple[float, float]:
        """Peak signal-to-noise ratio of the two end frames, in dB."""
        first, last = map(psnr_of, self.end_error)
        return first, last

    def save(self, outdir: str | os.PathLike[str]) -> Path:
        """Write frames, filmstrip, GIF, path, result and report into a folder.

        Args:
            outdir: the folder, made if needed; files of an earlier run are replaced.

        Returns:
            the folder.

        Raises:
            OSError: if it cannot be written; nothing is left half-written.
        """
        with replace_files(outdir, stale=FILES) as folder:
            write_interpolation(self, folder)
        return Path(outdir)
