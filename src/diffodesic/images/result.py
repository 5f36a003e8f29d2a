"""The result of an interpolation: the object, and the files that it leaves in a folder."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from torch import Tensor

from diffodesic.geometry.path import Geodesic
from diffodesic.output.folder import FRAMES, replace_files, write_pictures
from diffodesic.output.images import to_uint8
from diffodesic.output.records import versions, write_json

__all__ = ["FILES", "Interpolation", "Row", "result_dict", "write_interpolation"]

_OF_PAIR = (FRAMES, "filmstrip.png", "path.gif", "path.safetensors", "result.json", "report.html")
FILES = (*_OF_PAIR, *(f"pair-[0-9]*/{name}" for name in _OF_PAIR))
"""Patterns of the files that an interpolation, or a chain of them, leaves in its folder."""


@dataclass(frozen=True)
class Row:
    """One path between the two images.

    Attributes:
        frames: images (F, C, H, W) in [0, 1].
        length: refined length under the metric of the interpolation.
        energy: refined energy under it.
        floor: for the score metric, the least energy that a path with the same ends and the same
            change of log-density can have, else None; see :meth:`ScoreMetric.energy_floor`.
        check: for spacetime, the length by :func:`mismatch_length`, which shares no formula with
            the metric's own, and its standard error; else None.
        s: parameters of the frames, (F,), from 0 to 1.
        log_snr: noise level at the frames, (F,).
        curve_s: parameters of the two curves below, (S,).
        curve_log_snr: noise level along the path, (S,).
        curve_speed: speed ``|c'(s)|`` under the metric, (S,).
    """

    frames: Tensor
    length: float
    energy: float
    floor: float | None
    check: tuple[float, float] | None
    s: Tensor
    log_snr: Tensor
    curve_s: Tensor
    curve_log_snr: Tensor
    curve_speed: Tensor

    def split(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Its tensors, and the rest."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        tensors = {name: value for name, value in found.items() if isinstance(value, Tensor)}
        return tensors, {name: found[name] for name in found.keys() - tensors.keys()}

    @classmethod
    def joined(cls, tensors: dict[str, Tensor], rest: dict[str, Any]) -> Row:
        """What :meth:`split` took apart, after JSON."""
        check = None if rest["check"] is None else tuple(rest["check"])
        values: dict[str, Any] = {**tensors, **rest, "check": check}
        return cls(**values)


def write_interpolation(result: Interpolation, folder: Path) -> None:
    """Write everything about an interpolation into a folder; see ``Interpolation.save``.

    Args:
        result: the interpolation.
        folder: an empty folder.
    """
    from safetensors.torch import save_file

    from diffodesic.output import page

    rows = {name: to_uint8(row.frames) for name, row in result.rows.items()}
    write_pictures(rows, folder)
    tensors = {"nodes": result.geodesic.nodes, "inputs": result.inputs}
    for name, row in result.rows.items():
        for field in ("frames", "s", "log_snr", "curve_s", "curve_log_snr", "curve_speed"):
            tensors[f"{name}.{field}"] = getattr(row, field)
    kept = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    save_file(kept, folder / "path.safetensors")
    write_json(folder / "result.json", result_dict(result))
    page.write_report(_report(result, rows), folder / "report.html")


def result_dict(result: Interpolation) -> dict[str, Any]:
    """Everything about an interpolation but its tensors, for JSON.

    Args:
        result: the interpolation.

    Returns:
        plain numbers, strings, lists and dictionaries.
    """
    path = result.geodesic
    return {
        "status": path.status.name,
        "status_text": path.status.value,
        "certificate": path.certificate.as_dict(),
        "cost": {
            "evaluations": path.evaluations,
            "derivatives": path.derivatives,
            "node_gradients": round(path.node_gradients),
        },
        "start": path.start[0],
        "iterations": int(path.iterations),
        "end_error_rms": list(result.end_error),
        "end_psnr_db": list(result.end_psnr),
        "paths": {
            name: {
                "length": row.length,
                "energy": row.energy,
                "energy_floor": row.floor,
                "independent_length": row.check and list(row.check),
            }
            for name, row in result.rows.items()
        },
        "settings": result.settings,
        "notices": list(result.notices),
        "seconds": round(result.seconds, 2),
        "versions": versions(),
    }


def _path_data(name: str, row: Row, frames: list[Any]) -> Any:
    from diffodesic.output.page import PathData

    return PathData(
        name=name,
        frames=frames,
        length=row.length,
        energy=row.energy,
        check=row.check,
        s=row.curve_s.tolist(),
        log_snr=row.curve_log_snr.tolist(),
        speed=row.curve_speed.tolist(),
    )


def _report(result: Interpolation, rows: Mapping[str, list[Any]]) -> Any:
    from diffodesic.output.page import CertificateData, ReportData

    path, settings = result.geodesic, result.settings
    numbers = path.certificate
    own = result.rows["geodesic"]
    certificate = CertificateData(
        status=path.status.value,
        converged=path.ok,
        estimator=str(settings["estimator"]),
        length_refined=float(numbers.length),
        length_discrete=float(numbers.discrete_length),
        energy=float(numbers.discrete_energy),
        speed_spread=float(numbers.speed_spread),
        negative_fraction=float(numbers.negative_fraction),
        gradient_norm=float(numbers.gradient_norm),
        evaluations=path.evaluations,
        derivatives=path.derivatives,
        node_gradients=round(path.node_gradients),
        seconds=result.seconds,
        floor_ratio=own.energy / own.floor if own.floor else None,
    )
    return ReportData(
        title="A geodesic between two images",
        subtitle=f"Model {settings['model']}, {settings['metric']} metric, both ends lifted to "
        f"log SNR {settings['log_snr']:g}.",
        metric=str(settings["metric"]),
        certificate=certificate,
        paths=[_path_data(name, row, rows[name]) for name, row in result.rows.items()],
        s=own.s.tolist(),
        inputs=(to_uint8(result.inputs)[0], to_uint8(result.inputs)[1]),
        endpoint_errors=result.end_error,
        settings=settings,
        versions=versions(),
        notes=result.notices,
    )


@dataclass(frozen=True, repr=False)
class Interpolation:
    """What :func:`interpolate` returns.

    Attributes:
        geodesic: the solved path with its certificate and cost.
        rows: the paths by name, the geodesic first, then the baselines.
        inputs: the two images (2, C, H, W).
        end_error: root-mean-square error of the first and the last frame, pixels in [0, 1].
        seconds: wall-clock time.
        settings: what was asked for and what was chosen.
        notices: what was changed or is doubtful, one sentence each.
    """

    geodesic: Geodesic
    rows: dict[str, Row]
    inputs: Tensor
    end_error: tuple[float, float]
    seconds: float
    settings: dict[str, object]
    notices: tuple[str, ...]

    def __repr__(self) -> str:
        """One line: what it is of, how long, and how it ended."""
        lengths = ", ".join(f"{name} {row.length:.4g}" for name, row in self.rows.items())
        return (
            f"Interpolation({self.settings['model']}, {self.settings['metric']}, "
            f"{len(self.frames)} frames, {self.geodesic.status.name}, lengths: {lengths})"
        )

    @property
    def frames(self) -> Tensor:
        """Images along the geodesic, (F, C, H, W) in [0, 1]."""
        return next(iter(self.rows.values())).frames

    @property
    def end_psnr(self) -> tuple[float, float]:
        """Peak signal-to-noise ratio of the two end frames, in dB."""
        first, last = (-20 * math.log10(max(error, 1e-9)) for error in self.end_error)
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
