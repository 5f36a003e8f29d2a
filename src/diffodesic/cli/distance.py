"""``diffodesic distance`` and ``distances``: Diffusion Edit Distances of pictures."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffodesic.cli.model_options import add_model_options, open_model
from diffodesic.cli.options import command, progress, seed

if TYPE_CHECKING:
    from torch import Tensor

    from diffodesic.images.distances import PairwiseDistances
    from diffodesic.models.model import Model

__all__ = ["add"]

ONE = """\
  diffodesic distance A.png B.png                  how far, and by which edit
  diffodesic distance A.png B.png --outdir ab      and edit.png, edit.json
  diffodesic distance A.png B.png --model my-model --log-snr 3
"""
MANY = """\
  diffodesic distances DIR                         all pairs; run again to go on
  diffodesic distances DIR --check 10              and how accurate they are
"""
MANY_IMAGES = 10_000  # what the time per pair is extrapolated to


def add(commands: Any) -> None:
    """Add both verbs."""
    one = command(commands, "distance", run_one, "the Diffusion Edit Distance of two pictures", ONE)
    one.add_argument("images", nargs=2, metavar="IMAGE", help="two pictures")
    _common(one)
    one.add_argument(
        "--iterations",
        type=int,
        help="limit of the search among splines; default 24",
    )
    one.add_argument("--outdir", help="folder for edit.png and edit.json; default none")
    many = command(commands, "distances", run_many, "the distances of all pairs of a folder", MANY)
    many.add_argument("folder", metavar="DIR", type=Path, help="a folder of pictures")
    _common(many)
    many.add_argument("--check", type=int, default=0, metavar="K", help="solve K pairs finer again")
    many.add_argument(
        "--outdir", default="out", help="folder for distances.npz (taken up again) and .csv"
    )


def _common(parser: argparse.ArgumentParser) -> None:
    add_model_options(parser)
    parser.add_argument(
        "--log-snr", type=float, default=2.0, help="noise level of the ends: the scale, default 2"
    )
    parser.add_argument("--nodes", type=int, help="segments of a path")
    parser.add_argument(
        "--flow-steps", type=int, default=24, help="steps of the probability flow to that level"
    )
    parser.add_argument("--seed", type=seed, default=0)
    parser.add_argument(
        "--no-resize",
        action="store_true",
        help="refuse pictures of another size or other channels than the model's",
    )


def _read(model: Model, paths: list[Path], options: argparse.Namespace) -> list[Tensor]:
    from diffodesic.output.images import read_image

    images = []
    for path in paths:
        image, notices = read_image(path, model.codec.shape, resize=not options.no_resize)
        images.append(image.double())
        for notice in notices:
            print(notice, file=sys.stderr)
    return images


def run_one(options: argparse.Namespace) -> None:
    """Solve one pair, print it, and write it if asked to."""
    from dataclasses import replace

    from diffodesic.images.edit_picture import save_edit
    from diffodesic.images.editing import edit
    from diffodesic.images.spaces import NETWORK_SOLVER
    from diffodesic.output.folder import check_outdir

    n = options.iterations
    solver = None if n is None else replace(NETWORK_SOLVER, splines=(8, 2, n))
    model = open_model(options)
    first, second = _read(model, [Path(path) for path in options.images], options)
    folder = None if options.outdir is None else check_outdir(options.outdir)
    with progress() as say:
        found = edit(
            model,
            first,
            second,
            log_snr=options.log_snr,
            nodes=options.nodes,
            solver=solver,
            flow_steps=options.flow_steps,
            seed=options.seed,
            progress=say,
        )
    status = found.geodesic.status
    print(
        f"DiffED {found.distance:.4g} at log SNR {found.log_snr:g} "
        f"(model {model.name}, {found.settings['estimator']} metric)"
    )
    print(f"{status.name}: {status.value}")
    for phase in found.phases():
        start, stop = phase.log_snr
        print(f"{phase.kind:8} log SNR {start:.2f} to {stop:.2f}, {phase.share:.0%} of the length")
    if folder is not None:
        save_edit(found, folder)
        print(f"wrote {folder}")


def run_many(options: argparse.Namespace) -> None:
    """Solve all pairs of a folder, print a summary, write the matrix."""
    import torch

    from diffodesic.images.distances import pairwise
    from diffodesic.models.datasets import PICTURES
    from diffodesic.output.folder import check_outdir

    if not options.folder.is_dir():
        raise ValueError(f"{options.folder} is no folder; give one with pictures")
    paths = sorted(p for p in options.folder.iterdir() if p.suffix.lower() in PICTURES)
    if len(paths) < 2:
        raise ValueError(f"{options.folder} holds {len(paths)} pictures; at least 2 are needed")
    model = open_model(options)
    images = _read(model, paths, options)
    folder = check_outdir(options.outdir)
    with progress() as say:
        found = pairwise(
            model,
            torch.stack(images),
            log_snr=options.log_snr,
            nodes=options.nodes,
            check=options.check,
            file=folder / "distances.npz",
            flow_steps=options.flow_steps,
            seed=options.seed,
            progress=say,
        )
    _write_table(found, [path.name for path in paths], folder / "distances.csv")
    _summarise(found, [path.name for path in paths])
    print(f"wrote {folder}/distances.npz and distances.csv")


def _write_table(found: PairwiseDistances, names: list[str], path: Path) -> None:
    import csv
    import io

    from diffodesic.output.files import write_atomically

    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(["", *names])
    for name, row in zip(names, found.matrix.tolist(), strict=True):
        table.writerow([name, *(f"{value:.6g}" for value in row)])
    write_atomically(path, text.getvalue().encode())


def _summarise(found: PairwiseDistances, names: list[str]) -> None:
    pairs = len(found.lengths)
    print(
        f"{pairs} distances of {found.count} pictures at log SNR {found.log_snr:g} "
        f"({found.settings['estimator']} metric): {float(found.lengths.min()):.4g} to "
        f"{float(found.lengths.max()):.4g}"
    )
    for status, count in found.tally().items():
        print(f"{count} {status.name}: {status.value}")
    if found.accuracy is not None:
        mean, largest = found.accuracy
        print(
            f"finer paths are shorter by {mean:.2%} on average and differ by {largest:.2%} at most"
        )
    days = found.seconds_for(MANY_IMAGES) / 86400
    print(
        f"{found.seconds / pairs:.3g} s per pair; {MANY_IMAGES:,} pictures would take "
        f"{days:,.3g} days"
    )
    for name, nearest in list(zip(names, found.neighbours(1)[:, 0].tolist(), strict=True))[:10]:
        print(f"nearest to {name}: {names[nearest]}")
