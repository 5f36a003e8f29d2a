"""``diffodesic train``: a small model of images, of a potential, or of a trajectory."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffodesic.cli.options import command, progress
from diffodesic.cli.potential_options import add_potential, periods, potential

if TYPE_CHECKING:
    from diffodesic.models.trainer import RunSettings

__all__ = ["add"]

EXAMPLES = """\
  diffodesic train DATA --outdir my-model --minutes 60
  diffodesic interpolate A.png B.png --model my-model
  diffodesic train --potential mueller-brown --outdir my-denoiser
  diffodesic train angles.npy --period 6.2832,6.2832 --outdir my-denoiser
  diffodesic paths --potential mueller-brown --model my-denoiser --from -0.56,1.44 --to 0.62,0.03
"""


def add(commands: Any) -> None:
    """Add the verb; one flag per training setting."""
    text = "train a small model of images, of a potential or of a trajectory"
    parser = command(commands, "train", run, text, EXAMPLES)
    parser.add_argument(
        "data",
        metavar="DATA",
        nargs="?",
        help="folder of images, folder with MNIST's IDX files, .npy/.npz array of images; "
        "with --period a trajectory (N, d), .npy, .npz or FILE.npz:NAME",
    )
    parser.add_argument("--outdir", required=True)
    parser.add_argument("--fresh", action="store_true", help="do not resume from a checkpoint")
    add_potential(parser)
    for name, (kind, default, several) in _settings().items():
        flag = "--" + name.replace("_", "-")
        words = f"default: {default}" if default else None
        if kind is bool:
            parser.add_argument(
                flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=words
            )
        else:
            parser.add_argument(
                flag, type=kind, nargs=several, default=argparse.SUPPRESS, help=words
            )


def _kinds() -> dict[str, type[RunSettings]]:
    from diffodesic.models.image_training import TrainSettings
    from diffodesic.transitions.coordinate_training import CoordinateSettings

    return {"images": TrainSettings, "coordinates": CoordinateSettings}


def _settings() -> dict[str, tuple[type, str, str | None]]:
    """Of every setting its type, the defaults in words, and ``*`` where it takes several."""
    found: dict[str, tuple[type, str, str | None]] = {}
    for what, settings in _kinds().items():
        for field in dataclasses.fields(settings):
            several = "*" if isinstance(field.default, tuple) else None
            kind = next(t for t in (bool, float, int, str) if t.__name__ in str(field.type))
            _, before, _ = found.get(field.name, (kind, "", None))
            value = "" if field.default in (None, ()) else f"{field.default} ({what})"
            words = ", ".join(part for part in (before, value) if part)
            found[field.name] = (kind, words, several)
    return found


def run(options: argparse.Namespace) -> None:
    """Train, and say what to try next."""
    from diffodesic.output.folder import check_outdir

    of_images = options.potential is None and options.period is None
    if (options.data is None) == (options.potential is None):
        raise ValueError("give either DATA, of images or of a trajectory, or --potential")
    unread = [f"--{name}" for name in ("kT", "unit", "box") if getattr(options, name) is not None]
    if unread and options.potential is None:
        raise ValueError(f"{', '.join(unread)} belongs to --potential, which is not given")
    settings = _chosen(options, "images" if of_images else "coordinates")
    outdir = check_outdir(options.outdir)
    if of_images:
        _images(options, settings, outdir)
    else:
        _coordinates(options, settings, outdir)


def _chosen(options: argparse.Namespace, what: str) -> Any:
    """The settings that were given; those of another kind of model are refused."""
    given = {name: getattr(options, name) for name in _settings() if hasattr(options, name)}
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
    kind = _kinds()[what]
    strange = sorted(values.keys() - {field.name for field in dataclasses.fields(kind)})
    if strange:
        flags = ", ".join("--" + name.replace("_", "-") for name in strange)
        raise ValueError(f"{flags}: no setting of a model of {what}")
    if values.get("minutes") is not None:
        values["steps"] = None
    return kind(**values)


def _images(options: argparse.Namespace, settings: Any, outdir: Path) -> None:
    from diffodesic.models.datasets import load_images
    from diffodesic.models.image_training import train

    try:
        images = load_images(options.data)
    except ValueError as error:
        if Path(options.data).suffix in {".npy", ".npz"}:
            raise ValueError(f"{error} For a trajectory say --period (or --period none).") from None
        raise
    folder = train(images, outdir, settings=settings, resume=not options.fresh)
    print(f"wrote {folder}: try `diffodesic interpolate A.png B.png --model {folder}`")


def _coordinates(options: argparse.Namespace, settings: Any, outdir: Path) -> None:
    from diffodesic.transitions.coordinate_training import train_denoiser
    from diffodesic.transitions.sampling import load_trajectory

    if options.potential is not None:
        law = potential(options, options.potential)
        with progress() as say:
            folder = train_denoiser(
                law, outdir, settings=settings, resume=not options.fresh, say=say
            )
        name = options.potential
    else:
        points = load_trajectory(options.data)
        folder = train_denoiser(
            points,
            outdir,
            period=periods(options.period, points.shape[-1]),
            settings=settings,
            resume=not options.fresh,
        )
        name = "POTENTIAL"
    print(
        f"wrote {folder}: try `diffodesic paths --potential {name} --model {folder} "
        "--from A --to B`"
    )
