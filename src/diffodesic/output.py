"""What an interpolation leaves on disk: frames, filmstrip, GIF, path, result and report.

``path.safetensors`` opens anywhere; ``result.json`` holds versions, settings, status, certificate
and errors; ``report.html`` is self-contained.  All files are written in a folder beside
first, and then moved one by one: each is whole at any time.
"""

from __future__ import annotations

import json
import math
import os
import platform
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffodesic.files import write_atomically
from diffodesic.image import to_uint8
from diffodesic.plot import animation, filmstrip
from diffodesic.report import CertificateData, PathData, ReportData, write_report

if TYPE_CHECKING:
    from diffodesic.interpolate import Interpolation, Row

__all__ = [
    "check_outdir",
    "replace_files",
    "result_dict",
    "save_interpolation",
    "write_pictures",
]


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


def save_interpolation(result: Interpolation, outdir: str | os.PathLike[str]) -> Path:
    """Write everything about an interpolation into a folder; see ``Interpolation.save``.

    Args:
        result: the interpolation.
        outdir: the folder, made if needed.

    Returns:
        The folder.
    """
    return replace_files(outdir, lambda folder: _write_all(result, folder))


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


def _write_all(result: Interpolation, folder: Path) -> None:
    from safetensors.torch import save

    rows = {name: to_uint8(row.frames) for name, row in result.rows.items()}
    write_pictures(rows, folder)
    tensors = {"nodes": result.geodesic.nodes, "inputs": result.inputs}
    for name, row in result.rows.items():
        for field in ("frames", "s", "log_snr", "curve_s", "curve_log_snr", "curve_speed"):
            tensors[f"{name}.{field}"] = getattr(row, field)
    kept = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    (folder / "path.safetensors").write_bytes(save(kept))
    text = json.dumps(result_dict(result), indent=1, allow_nan=False)
    write_atomically(folder / "result.json", text.encode())
    write_report(_report(result, rows), folder / "report.html")


def write_pictures(rows: Mapping[str, list[Any]], folder: Path) -> None:
    """Frames of the first row, the filmstrip of all and the animation of the first."""
    from PIL import Image

    first = next(iter(rows.values()))
    for i, frame in enumerate(first):
        Image.fromarray(frame).save(folder / f"frame_{i:04d}.png")
    filmstrip(rows, folder / "filmstrip.png")
    animation(first, folder / "path.gif")


def result_dict(result: Interpolation) -> dict[str, Any]:
    """Everything about an interpolation but its tensors, for JSON.

    Args:
        result: the interpolation.

    Returns:
        plain numbers, strings, lists and dictionaries.
    """
    path = result.geodesic
    content = {
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
    return {key: _finite(value) for key, value in content.items()}


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


def _path_data(name: str, row: Row, frames: list[Any]) -> PathData:
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


def _report(result: Interpolation, rows: Mapping[str, list[Any]]) -> ReportData:
    path, settings = result.geodesic, result.settings
    numbers = path.certificate
    own = result.rows["geodesic"]
    certificate = CertificateData(
        status=path.status.value,
        converged=path.status.name in {"CONVERGED", "SAME_POINT"},
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
