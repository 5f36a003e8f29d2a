"""``diffodesic train``: a small model of a folder of images."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from diffodesic.commands import command

__all__ = ["add"]

EXAMPLES = """\
  diffodesic train DATA --outdir my-model --minutes 60
  diffodesic interpolate A.png B.png --model my-model
"""


def add(commands: Any) -> None:
    """Add the verb; one flag per training setting."""
    from diffodesic.train import TrainSettings

    parser = command(commands, "train", run, "train a small model on a folder of images", EXAMPLES)
    parser.add_argument(
        "data",
        metavar="DATA",
        help="folder of images, folder with MNIST's IDX files, or .npy/.npz array",
    )
    parser.add_argument("--outdir", required=True)
    parser.add_argument("--fresh", action="store_true", help="do not resume from a checkpoint")
    for field in dataclasses.fields(TrainSettings):
        flag = "--" + field.name.replace("_", "-")
        default = field.default
        if isinstance(default, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=default)
        elif isinstance(default, tuple):
            kind = float if "float" in str(field.type) else int
            parser.add_argument(flag, type=kind, nargs="*", default=default)
        else:
            scalar = next(t for t in (float, int, str) if t.__name__ in str(field.type))
            parser.add_argument(flag, type=scalar, default=default)


def run(options: argparse.Namespace) -> None:
    """Train, and say what to try next."""
    from diffodesic.dataset import load_images
    from diffodesic.output import check_outdir
    from diffodesic.train import TrainSettings, train

    values = {f.name: getattr(options, f.name) for f in dataclasses.fields(TrainSettings)}
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    if values["minutes"] is not None:
        values["steps"] = None
    images = load_images(options.data)
    folder = train(
        images,
        check_outdir(options.outdir),
        settings=TrainSettings(**values),
        resume=not options.fresh,
    )
    print(f"wrote {folder}: try `diffodesic interpolate A.png B.png --model {folder}`")
