"""The result of an interpolation: the object, and the files that it leaves in a folder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from diffodesic.geometry.path import Geodesic
from diffodesic.images.placement import path_record, run_of
from diffodesic.images.saved import SavedFrames
from diffodesic.images.shown_path import ShownPath
from diffodesic.output.animation import AnimationOptions
from diffodesic.output.files import write_atomically
from diffodesic.output.folder import write_pictures
from diffodesic.output.images import to_pil, to_uint8
from diffodesic.output.manifest import Run
from diffodesic.output.notebook import fragment
from diffodesic.output.records import versions, write_json

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Interpolation", "psnr_of", "result_dict"]


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
        "alarms": list(result.alarms),
        "notices": list(result.notices),
        "work": dict(result.work),
        "seconds": round(result.seconds, 2),
        "versions": versions(),
    }


def psnr_of(error: float) -> float:
    """Peak signal-to-noise ratio in dB for a root-mean-square error of pixels in [0, 1]."""
    return -20 * math.log10(max(error, 1e-9))


@dataclass(frozen=True, repr=False)
class Interpolation(SavedFrames):
    """What :func:`interpolate` returns.

    Attributes:
        geodesic: the solved path with its certificate and cost.
        paths: all paths by name: the arch, where the space has one to look at, the geodesic, and
            the baselines.
        inputs: the two images (2, C, H, W).
        end_error: root-mean-square error of the first and the last frame, pixels in [0, 1].
        seconds: wall-clock time.
        settings: what was asked for and what was chosen.
        notices: what was changed or is doubtful, one sentence each, the alarms first.
        alarms: notices that make the result mean little: an end is not of the model's kind.
        work: evaluations and derivatives of the whole run by stage: lifting, starts, searching,
            judging, frames; those of stages that an earlier run finished, too.
    """

    geodesic: Geodesic
    paths: dict[str, ShownPath]
    inputs: Tensor
    end_error: tuple[float, float]
    seconds: float
    settings: dict[str, object]
    notices: tuple[str, ...]
    alarms: tuple[str, ...] = ()
    work: Mapping[str, int] = field(default_factory=dict)

    def __repr__(self) -> str:
        """One line: what it is of, how long, and how it ended."""
        lengths = ", ".join(f"{name} {shown.length:.4g}" for name, shown in self.paths.items())
        return (
            f"Interpolation({self.settings['model']}, {self.settings['metric']}, "
            f"{len(self.frames)} frames, {self.geodesic.status.name}, lengths: {lengths})"
        )

    def _repr_html_(self) -> str:
        """The strip, the status and the numbers, for a notebook."""
        numbers: dict[str, object] = {
            f"length, {name}": f"{shown.length:.4g}" for name, shown in self.paths.items()
        }
        numbers["end frames"] = "PSNR {:.1f} and {:.1f} dB".format(*self.end_psnr)
        numbers["evaluations"] = f"{sum(self.work.values()):,} in {self.seconds:.0f} s"
        return fragment(
            f"{self.settings['metric']} geodesic of {self.settings['model']}",
            f"{self.geodesic.status.name}: {self.geodesic.status.value}",
            numbers,
            ok=self.geodesic.ok,
            notices=self.notices,
            strip={name: to_uint8(shown.frames) for name, shown in self.paths.items()},
        )

    @property
    def frames(self) -> Tensor:
        """Images along the first of the paths, (F, C, H, W) in [0, 1]."""
        return next(iter(self.paths.values())).frames

    def pictures(self, name: str | None = None) -> list[Image]:
        """The frames as PIL images: of the path of that name, by default those of ``frames``."""
        return to_pil(self.frames if name is None else self.paths[name].frames)

    @property
    def end_psnr(self) -> tuple[float, float]:
        """Peak signal-to-noise ratio of the two end frames, in dB."""
        first, last = map(psnr_of, self.end_error)
        return first, last

    def _run(self, inputs: tuple[tuple[str, str], ...]) -> Run:
        return run_of("interpolate", self.settings, self.inputs, inputs)

    def _write(self, folder: Path, run: Run, animation: AnimationOptions) -> None:
        from safetensors.torch import save

        from diffodesic.images.page import write_interpolation_page

        frames = {name: to_uint8(shown.frames) for name, shown in self.paths.items()}
        write_pictures(frames, folder, animation)
        tensors = {"nodes": self.geodesic.nodes, "knots": self.geodesic.knots}
        tensors |= {"inputs": self.inputs}
        for name, shown in self.paths.items():
            for part in ("frames", "s", "log_snr", "curve_s", "curve_log_snr", "curve_speed"):
                tensors[f"{name}.{part}"] = getattr(shown, part)
        kept = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
        write_atomically(folder / "path.safetensors", save(kept))
        content = result_dict(self)
        write_json(folder / "result.json", content)
        content["origin"] = run.origin
        write_interpolation_page(
            folder / "report.html", self.paths, self.inputs, content, ok=self.geodesic.ok
        )
