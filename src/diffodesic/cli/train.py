"""``diffodesic train``: a small model of images, of a potential, or of a trajectory."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from diffodesic.cli.options import add_flags, chosen, command
from diffodesic.cli.potential_options import PotentialOptions, periods, potential
from diffodesic.cli.progress import progress
from diffodesic.models.datasets import load_images
from diffodesic.models.folder import read_config
from diffodesic.models.image_training import TrainSettings
from diffodesic.models.labels import load_labels
from diffodesic.models.learned import nothing_learned
from diffodesic.models.train import train
from diffodesic.models.trainer import RunSettings
from diffodesic.output.arrays import ARRAYS
from diffodesic.output.decoding import picture_files
from diffodesic.output.folder import own_outdir
from diffodesic.transitions.coordinate_training import CoordinateSettings, train_denoiser

__all__ = ["add"]

S = TypeVar("S", bound=RunSettings)

EXAMPLES = """\
  diffodesic train DATA --outdir my-model --minutes 60
  diffodesic interpolate A.png B.png --model my-model
  diffodesic train PHOTOGRAPHS --outdir my-model --codec taesd --size 128 --device auto
  diffodesic train DATA --log-partition --teacher my-model --outdir my-exact-model
  diffodesic train --potential mueller-brown --outdir my-denoiser
  diffodesic train angles.npy --period 6.2832,6.2832 --outdir my-denoiser
  diffodesic paths --potential mueller-brown --model my-denoiser --from -0.56,1.44 --to 0.62,0.03
"""


def add(commands: Any) -> None:
    """Add the command; one flag per training setting."""
    text = "train a small model of images, of a potential or of a trajectory"
    parser = command(commands, "train", run, text, EXAMPLES, resumes=True)
    parser.add_argument(
        "data",
        metavar="DATA",
        nargs="?",
        help="folder of images, folder with MNIST's IDX files, .npy/.npz array of images; "
        "with --period a trajectory (N, d), .npy, .npz or FILE.npz:NAME",
    )
    parser.add_argument("--outdir", required=True, help="folder of the model")
    parser.add_argument(
        "--labels",
        action="store_true",
        help="learn the label of every image too: the name of its folder, or the array 'labels' of "
        "a .npz file (default: no)",
    )
    parser.add_argument(
        "--fresh", action="store_true", help="do not resume from a checkpoint (default: no)"
    )
    add_flags(parser, PotentialOptions)
    add_flags(parser, TrainSettings, CoordinateSettings, labels=("images", "coordinates"))


def run(given: argparse.Namespace) -> None:
    """Train, and say what to try next."""
    source = chosen(PotentialOptions, given)
    if (given.data is None) == (source.potential is None):
        raise ValueError("give either DATA, of images or of a trajectory, or --potential")
    unread = [f"--{name}" for name in ("kT", "unit", "box") if getattr(source, name)]
    if unread and source.potential is None:
        raise ValueError(f"{', '.join(unread)} belongs to --potential, which is not given")
    if source.potential is None and source.period is None:
        of_images = _chosen(TrainSettings, given, "images")
        with own_outdir(given.outdir, "train", _files(given.data)) as outdir:
            _images(given, of_images, outdir)
    elif given.labels:
        raise ValueError("--labels belongs to a model of images")
    else:
        settings = _chosen(CoordinateSettings, given, "coordinates")
        read = [] if given.data is None else [given.data.rpartition(":")[0] or given.data]
        with own_outdir(given.outdir, "train", read) as outdir:
            _coordinates(given.data, source, settings, outdir, resume=not given.fresh)


def _files(data: str) -> list[Path]:
    """The files of a set of images."""
    return picture_files(Path(data), below=True) if Path(data).is_dir() else [Path(data)]


def _chosen(kind: type[S], given: argparse.Namespace, what: str) -> S:
    """The settings that were given; those of another kind of model are refused."""
    also: dict[str, Any] = {"steps": None} if "minutes" in given else {}
    what, among = f"a model of {what}", (TrainSettings, CoordinateSettings)
    return chosen(kind, given, among=among, what=what, **also)


def _images(given: argparse.Namespace, settings: TrainSettings, outdir: Path) -> None:
    try:
        images = load_images(given.data, say=partial(print, file=sys.stderr))
    except ValueError as error:
        if Path(given.data).suffix.lower() in ARRAYS:
            raise ValueError(f"{error} For a trajectory say --period (or --period none).") from None
        raise
    labels = load_labels(given.data) if given.labels else None
    folder = train(images, outdir, labels=labels, settings=settings, resume=not given.fresh)
    for sentence in nothing_learned(read_config(folder)["training"]):
        print(f"note: {sentence}", file=sys.stderr)
    print(f"wrote {folder}: try `diffodesic interpolate A.png B.png --model {folder}`")


def _coordinates(
    data: str,
    options: PotentialOptions,
    settings: CoordinateSettings,
    outdir: Path,
    *,
    resume: bool,
) -> None:
    from diffodesic.transitions.sampling import load_trajectory

    if options.potential is not None:
        source = potential(options, options.potential)
        with progress() as say:
            folder = train_denoiser(source, outdir, settings=settings, resume=resume, say=say)
        name = options.potential
    else:
        points = load_trajectory(data)
        period = periods(options.period or "none", points.shape[-1])
        folder = train_denoiser(points, outdir, period=period, settings=settings, resume=resume)
        name = "POTENTIAL"
    print(
        f"wrote {folder}: try `diffodesic paths --potential {name} --model {folder} "
        "--from A --to B`"
    )
