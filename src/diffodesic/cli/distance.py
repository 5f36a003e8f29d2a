"""``diffodesic distance`` and ``distances``: how far pictures are, by edits or under noise."""

from __future__ import annotations

import argparse
import csv
import io
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from diffodesic.cli.model_options import ModelOptions, open_model
from diffodesic.cli.neighbours import FILE, print_nearest, write_nearest
from diffodesic.cli.options import add_flags, belongs, chosen, command, in_flags
from diffodesic.cli.pictures import (
    PictureOptions,
    ResultOptions,
    pictures_read,
    read_folder,
    read_pictures,
)
from diffodesic.cli.progress import Progress, duration, in_words, progress
from diffodesic.cli.ranking import RankOptions, edits_of_pairs, ranked
from diffodesic.images.calibration import EDITS
from diffodesic.images.distances import PairwiseDistances, pairwise
from diffodesic.images.editing import EditOptions, edit
from diffodesic.images.information import NOISY, NoisyOptions
from diffodesic.images.lifting import as_images
from diffodesic.images.matrix import DistanceMatrix, NoisyDistances
from diffodesic.images.neighbours import CANDIDATES, NearestOptions, nearest
from diffodesic.images.own_kind import PICTURES, strange, tell
from diffodesic.images.pairs import PairwiseOptions
from diffodesic.images.placement import run_of
from diffodesic.models.identity import identity, short
from diffodesic.models.model import Model
from diffodesic.output.files import write_text
from diffodesic.output.folder import own_outdir, replace_files
from diffodesic.output.manifest import Run, hashed
from diffodesic.output.options import option
from diffodesic.output.records import write_json

if TYPE_CHECKING:
    from torch import Tensor

E = TypeVar("E", bound=EditOptions)

__all__ = ["add"]

ONE = """\
  diffodesic distance A.png B.png                  how far, and by which edit
  diffodesic distance A.png B.png --outdir ab      and edit.png, edit.json
  diffodesic distance A.png B.png --model my-model --log-snr 3
  diffodesic distance A.png B.png --metric iem     from evaluations alone, in seconds
  diffodesic distance A.png B.png --percentile 20  among 20 random pairs of the model
  diffodesic distance A.png B.png --metric iem --among DIR
"""
MANY = """\
  diffodesic distances DIR                         all pairs; run again to go on
  diffodesic distances DIR --check 10              and how accurate they are
  diffodesic distances DIR --metric iem            of thousands of pictures
  diffodesic distances DIR --workers 4             by four processes
  diffodesic distances DIR --ray HOST:6379         by a Ray cluster
  diffodesic distances DIR --neighbours 5          of each picture, by few of all pairs
"""
MetricName = Literal["diffed", "iem", "mean"]
MANY_IMAGES = 10_000  # what the time per pair is extrapolated to
NEAREST = 5  # neighbours of the run that is suggested instead
SOLVED = "neighbours"  # folder of the solved pairs, for a run that goes on


@dataclass(frozen=True, kw_only=True)
class OneOptions(PictureOptions):
    """What ``distance`` has beside the options of its metric.

    Args:
        metric: diffed, Diffusion Edit Distance; iem, the information-estimation metric; mean,
            distance of posterior means at one level.
        outdir: folder for edit.png and edit.json, or distance.json; default none.
    """

    metric: MetricName = "diffed"
    outdir: str | None = None


@dataclass(frozen=True, kw_only=True)
class ManyOptions(ResultOptions):
    """What ``distances`` has beside the options of all pairs.

    Args:
        metric: diffed, iem or mean; see distance.
        check: number of edits that are solved again, finer; with --neighbours, of pictures all of
            whose pairs are solved, for the recall.
        neighbours: number of nearest neighbours of each picture, in place of all distances.
        outdir: folder for distances.npz (taken up again) and .csv, or neighbours.csv.
    """

    metric: MetricName = "diffed"
    check: int = option(0, least=0)
    neighbours: int | None = option(None, least=1)
    outdir: str = "out"


def add(commands: Any) -> None:
    """Add both commands."""
    one = command(commands, "distance", run_one, "how far apart two pictures are", ONE)
    one.add_argument("images", nargs=2, metavar="IMAGE", help="two pictures")
    kinds: tuple[type, ...] = (EditOptions, *NOISY.values(), OneOptions, RankOptions, ModelOptions)
    add_flags(one, *kinds, labels=("diffed", *NOISY))
    text = "the distances of all pairs of a folder"
    many = command(commands, "distances", run_many, text, MANY, resumes=True)
    many.add_argument("folder", metavar="DIR", type=Path, help="a folder of pictures")
    kinds = (PairwiseOptions, NearestOptions, *NOISY.values(), ManyOptions, ModelOptions)
    add_flags(many, *kinds, labels=("diffed", "neighbours", *NOISY))


def run_one(given: argparse.Namespace) -> None:
    """Measure one pair, print its distance and percentile, and write it if asked to."""
    belongs(given, ("recall",), "distances --neighbours")
    own = chosen(OneOptions, given)
    options = _options(given, own.metric, EditOptions)
    model = open_model(chosen(ModelOptions, given))
    images = read_pictures(model, given.images, resize=own.resize)
    read = pictures_read(given)
    place = nullcontext() if own.outdir is None else own_outdir(own.outdir, "distance", read)
    with place as folder, progress(model.denoiser) as say:
        if isinstance(options, EditOptions):
            _edit(model, images, options, own, given, folder, say)
        else:
            _under_noise(model, images, options, own, given, folder, say)
    if folder is not None:
        print(f"wrote {folder}")


def _options(given: argparse.Namespace, metric: str, edits: type[E]) -> E | NoisyOptions:
    """The options of the metric; flags of another one are refused."""
    kinds = (edits, *NOISY.values())
    kind = NOISY.get(metric, edits)
    return chosen(kind, given, among=kinds, what=f"the metric {metric}")


def _edit(
    model: Model,
    images: list[Tensor],
    options: EditOptions,
    own: OneOptions,
    given: argparse.Namespace,
    folder: Path | None,
    say: Progress,
) -> None:
    """The edit distance of two pictures, and the edit."""
    from diffodesic.images.edit_picture import save_edit

    rank = chosen(RankOptions, given)
    began = time.monotonic()
    result = edit(model, *images, options=options, progress=say)
    seconds = time.monotonic() - began
    percentile = ranked(
        model, edits_of_pairs(options), result.distance, rank, resize=own.resize, progress=say
    )
    if folder is not None:
        save_edit(result, folder, inputs=hashed(given.images))
    status = result.geodesic.status
    print(
        f"DiffED {result.distance:.4g} at log SNR {result.log_snr:g} "
        f"(model {model.name}, {result.settings['estimator']} metric)"
    )
    if percentile is None and rank.percentile is None:
        percentile = (
            f"no percentile yet: --percentile {EDITS} solves {EDITS} random pairs once, about "
            f"{duration(EDITS * seconds)}; --metric iem has one in a minute"
        )
    if percentile:
        print(percentile)
    print(f"{status.name}: {in_flags(status.value, given.parser)}")
    print(in_words(say.cost.stages))
    for notice in result.notices:
        print(f"note: {in_flags(notice, given.parser)}")
    for phase in result.phases():
        start, stop = phase.log_snr
        print(f"{phase.kind:8} log SNR {start:.2f} to {stop:.2f}, {phase.share:.0%} of the length")


def _under_noise(
    model: Model,
    images: list[Tensor],
    options: NoisyOptions,
    own: OneOptions,
    given: argparse.Namespace,
    folder: Path | None,
    say: Progress,
) -> None:
    """A distance of two pictures under shared noise."""
    alarms = tell(strange(model, as_images(*images), PICTURES), say)
    found = options.between(model, *images)
    distance, error = float(found.distance), float(found.error)
    percentile = ranked(
        model, options, distance, chosen(RankOptions, given), resize=own.resize, progress=say
    )
    if folder is not None:
        identified = {"model": model.name, "fingerprint": short(identity(model))}
        settings = {"metric": options.name, **options.settings(), **identified}
        ran = run_of("distance", settings, images, hashed(given.images))
        with replace_files(folder, ran) as place:
            about = {"percentile": percentile, "notices": alarms, "settings": settings}
            write_json(place / "distance.json", {**vars(found), **about})
    title = {"iem": "IEM", "mean": "distance of posterior means"}[options.name]
    upto = "up to" if len(found.levels) > 1 else "at"
    print(
        f"{title} {distance:.4g} +- {error:.2g} {upto} log SNR {found.log_snr:.3g} "
        f"(model {model.name})"
    )
    if percentile:
        print(percentile)
    print(in_words(say.cost.stages))
    for notice in alarms:
        print(f"note: {notice}")


def run_many(given: argparse.Namespace) -> None:
    """Solve the pairs of a folder, all or those of the nearest; print a summary, and write."""
    own = chosen(ManyOptions, given)
    if own.check and own.metric in NOISY:
        raise ValueError(f"--check: no option of the metric {own.metric}")
    if own.neighbours is None:
        belongs(given, ("candidates", "pivots", "accuracy", "recall"), "--neighbours")
        _all_pairs(given, own)
    else:
        _nearest(given, own, own.neighbours)


def _read(given: argparse.Namespace, own: ManyOptions) -> tuple[Model, list[Path], Tensor]:
    """The model, the files, and their pictures (N, C, H, W)."""
    model = open_model(chosen(ModelOptions, given))
    return model, *read_folder(model, given.folder, least=2, resize=own.resize)


def _nearest(given: argparse.Namespace, own: ManyOptions, count: int) -> None:
    options = _options(given, own.metric, NearestOptions)
    model, paths, images = _read(given, own)
    shown = progress(model.denoiser, getattr(options, "workers", 1))
    with own_outdir(own.outdir, "distances", paths) as outdir, shown as say:
        file = outdir / SOLVED if isinstance(options, NearestOptions) else None
        found = nearest(
            model,
            images,
            count,
            metric=own.metric,
            check=own.check,
            folder=file,
            options=options,
            progress=say,
        )
        settings = {"metric": own.metric, "neighbours": count, **options.settings()}
        write_nearest(found, model, hashed(paths), settings, outdir)
    how = "as the noise lets expect"
    if own.check:
        how = f"of the neighbours of {own.check} pictures, all pairs solved"
    print_nearest(found, [path.name for path in paths], own.metric, how)
    if say.cost.stages:
        print(in_words(say.cost.stages))
    print(f"wrote {outdir / FILE}")


def _all_pairs(given: argparse.Namespace, own: ManyOptions) -> None:
    options = _options(given, own.metric, PairwiseOptions)
    model, paths, images = _read(given, own)
    names, files = [path.name for path in paths], hashed(paths)
    shown = progress(model.denoiser, getattr(options, "workers", 1), _candidates_alone(len(paths)))
    with own_outdir(own.outdir, "distances", paths) as outdir, shown as say:
        file = outdir / "distances.npz"
        distances: PairwiseDistances | NoisyDistances
        if isinstance(options, PairwiseOptions):
            distances = pairwise(
                model, images, check=own.check, file=file, options=options, progress=say
            )
        else:
            name = cast(Literal["iem", "mean"], own.metric)
            distances = pairwise(
                model, images, metric=name, file=file, options=options, progress=say
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


def _candidates_alone(count: int) -> Callable[[float], str]:
    """What the nearest of each of ``count`` pictures would take, from the seconds of a pair."""
    pairs = min(NEAREST * CANDIDATES * count, count * (count - 1) // 2)
    return lambda each: (
        f"; --neighbours {NEAREST} solves {pairs:,} pairs at most, {duration(pairs * each)}"
    )


def _write_table(distances: DistanceMatrix, names: list[str], path: Path) -> None:
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(["", *names])
    for name, row in zip(names, distances.matrix.tolist(), strict=True):
        table.writerow([name, *(f"{value:.6g}" for value in row)])
    write_text(path, text.getvalue())


def _summarise(
    distances: PairwiseDistances | NoisyDistances,
    names: list[str],
    parser: argparse.ArgumentParser,
) -> None:
    pairs, lengths = len(distances.lengths), distances.lengths
    edits = isinstance(distances, PairwiseDistances)
    kind = f"{distances.settings['estimator']} metric" if edits else distances.settings["metric"]
    print(
        f"{pairs} distances of {distances.count} pictures at log SNR {distances.log_snr:.4g} "
        f"({kind}): {float(lengths.min()):.4g} to {float(lengths.max()):.4g}"
    )
    if isinstance(distances, PairwiseDistances):
        for status, count in distances.tally().items():
            print(f"{count} {status.name}: {in_flags(status.value, parser)}")
        if distances.accuracy is not None:
            mean, largest = distances.accuracy
            print(
                f"finer paths are shorter by {mean:.2%} on average and differ by {largest:.2%} "
                "at most"
            )
    else:
        print(f"standard error {float(distances.errors.mean()):.2g} on average")
    for notice in distances.notices:
        print(f"note: {in_flags(notice, parser)}")
    days = distances.seconds_for(MANY_IMAGES) / 86400
    print(
        f"{distances.seconds / pairs:.3g} s per pair; {MANY_IMAGES:,} pictures would take "
        f"{days:,.3g} days"
    )
    for name, place in list(zip(names, distances.neighbours(1)[:, 0].tolist(), strict=True))[:10]:
        print(f"nearest to {name}: {names[place]}")
