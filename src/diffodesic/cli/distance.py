"""``diffodesic distance`` and ``distances``: Diffusion Edit Distances of pictures."""

from __future__ import annotations

import argparse
import csv
import io
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffodesic.cli.model_options import ModelOptions, open_model
from diffodesic.cli.options import add_flags, chosen, command, in_flags
from diffodesic.cli.pictures import PictureOptions, ResultOptions, read_pictures
from diffodesic.cli.progress import in_words, progress
from diffodesic.images.distances import PairwiseDistances, PairwiseOptions, pairwise
from diffodesic.images.editing import EditOptions, edit
from diffodesic.models.identity import short
from diffodesic.output.files import write_text
from diffodesic.output.folder import own_outdir, replace_files
from diffodesic.output.manifest import Run, hashed
from diffodesic.output.options import option

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


@dataclass(frozen=True, kw_only=True)
class OneOptions(PictureOptions):
    """What ``distance`` has beside the options of an edit.

    Args:
        outdir: folder for edit.png and edit.json; default none.
    """

    outdir: str | None = None


@dataclass(frozen=True, kw_only=True)
class ManyOptions(ResultOptions):
    """What ``distances`` has beside the options of all pairs.

    Args:
        check: number of pairs that are solved again, finer.
        outdir: folder for distances.npz (taken up again) and .csv.
    """

    check: int = option(0, least=0)
    outdir: str = "out"


def add(commands: Any) -> None:
    """Add both commands."""
    one = command(commands, "distance", run_one, "the Diffusion Edit Distance of two pictures", ONE)
    one.add_argument("images", nargs=2, metavar="IMAGE", help="two pictures")
    add_flags(one, EditOptions, OneOptions, ModelOptions)
    text = "the distances of all pairs of a folder"
    many = command(commands, "distances", run_many, text, MANY, resumes=True)
    many.add_argument("folder", metavar="DIR", type=Path, help="a folder of pictures")
    add_flags(many, PairwiseOptions, ManyOptions, ModelOptions)


def run_one(given: argparse.Namespace) -> None:
    """Solve one pair, print it, and write it if asked to."""
    from diffodesic.images.edit_picture import save_edit

    options, own = chosen(EditOptions, given), chosen(OneOptions, given)
    model = open_model(chosen(ModelOptions, given))
    images = read_pictures(model, given.images, resize=own.resize)
    files = hashed(given.images)
    place = nullcontext() if own.outdir is None else own_outdir(own.outdir, "distance")
    with place as folder, progress(model.denoiser) as say:
        result = edit(model, *images, options=options, progress=say)
        if folder is not None:
            save_edit(result, folder, inputs=files)
    status = result.geodesic.status
    print(
        f"DiffED {result.distance:.4g} at log SNR {result.log_snr:g} "
        f"(model {model.name}, {result.settings['estimator']} metric)"
    )
    print(f"{status.name}: {in_flags(status.value, given.parser)}")
    print(in_words(say.cost.stages))
    for notice in result.notices:
        print(f"note: {in_flags(notice, given.parser)}")
    for phase in result.phases():
        start, stop = phase.log_snr
        print(f"{phase.kind:8} log SNR {start:.2f} to {stop:.2f}, {phase.share:.0%} of the length")
    if folder is not None:
        print(f"wrote {folder}")


def run_many(given: argparse.Namespace) -> None:
    """Solve all pairs of a folder, print a summary, write the matrix."""
    import torch

    from diffodesic.output.decoding import picture_files

    if not given.folder.is_dir():
        raise ValueError(f"{given.folder} is no folder; give one with pictures")
    paths = picture_files(given.folder)
    if len(paths) < 2:
        raise ValueError(f"{given.folder} holds {len(paths)} pictures; at least 2 are needed")
    options, own = chosen(PairwiseOptions, given), chosen(ManyOptions, given)
    model = open_model(chosen(ModelOptions, given))
    images = torch.stack(read_pictures(model, paths, resize=own.resize))
    names, files = [path.name for path in paths], hashed(paths)
    with own_outdir(own.outdir, "distances") as outdir, progress(model.denoiser) as say:
        file = outdir / "distances.npz"
        distances = pairwise(
            model, images, check=own.check, file=file, options=options, progress=say
        )
        settings, known = distances.settings, distances.settings["model"]
        about = {"model": known["name"], "fingerprint": short(known)}
        ran = Run(command="distances", inputs=files, model=about, settings=settings, kept=True)
        with replace_files(outdir, ran) as folder:
            distances.save(folder / file.name)
            _write_table(distances, names, folder / "distances.csv")
    _summarise(distances, names, given.parser)
    if say.cost.stages:  # nothing, where an earlier run had solved all pairs
        print(in_words(say.cost.stages))
    print(f"wrote {file} and distances.csv")


def _write_table(distances: PairwiseDistances, names: list[str], path: Path) -> None:
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(["", *names])
    for name, row in zip(names, distances.matrix.tolist(), strict=True):
        table.writerow([name, *(f"{value:.6g}" for value in row)])
    write_text(path, text.getvalue())


def _summarise(
    distances: PairwiseDistances, names: list[str], parser: argparse.ArgumentParser
) -> None:
    pairs = len(distances.lengths)
    print(
        f"{pairs} distances of {distances.count} pictures at log SNR {distances.log_snr:g} "
        f"({distances.settings['estimator']} metric): {float(distances.lengths.min()):.4g} to "
        f"{float(distances.lengths.max()):.4g}"
    )
    for status, count in distances.tally().items():
        print(f"{count} {status.name}: {in_flags(status.value, parser)}")
    for notice in distances.notices:
        print(f"note: {in_flags(notice, parser)}")
    if distances.accuracy is not None:
        mean, largest = distances.accuracy
        print(
            f"finer paths are shorter by {mean:.2%} on average and differ by {largest:.2%} at most"
        )
    days = distances.seconds_for(MANY_IMAGES) / 86400
    print(
        f"{distances.seconds / pairs:.3g} s per pair; {MANY_IMAGES:,} pictures would take "
        f"{days:,.3g} days"
    )
    for name, nearest in list(zip(names, distances.neighbours(1)[:, 0].tolist(), strict=True))[:10]:
        print(f"nearest to {name}: {names[nearest]}")
