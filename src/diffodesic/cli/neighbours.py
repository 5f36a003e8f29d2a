"""``diffodesic distances --neighbours``: the nearest of each picture, printed and written."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Literal

from torch import Tensor

from diffodesic.cli.progress import Progress, in_words
from diffodesic.images.information import NoisyOptions
from diffodesic.images.neighbours import NearestOptions, Neighbours, nearest
from diffodesic.models.identity import identity, short
from diffodesic.models.model import Model
from diffodesic.output.files import write_text
from diffodesic.output.folder import replace_files
from diffodesic.output.manifest import Run

__all__ = ["of_each"]

SOLVED = "neighbours"  # folder of the solved pairs, for a run that goes on
FILE, SHOWN = "neighbours.csv", 10  # pictures whose neighbours are printed


def of_each(
    model: Model,
    images: Tensor,
    inputs: tuple[tuple[str, str], ...],
    count: int,
    metric: Literal["diffed", "iem", "mean"],
    check: int,
    options: NearestOptions | NoisyOptions,
    outdir: Path,
    say: Progress,
) -> None:
    """Find the nearest pictures of each picture, print how many pairs it took, write the table.

    Args:
        model: the model.
        images: pictures (N, C, H, W).
        inputs: their files, each with its hash.
        count: neighbours of each.
        metric: of the distances.
        check: pictures all of whose pairs are solved.
        options: of the metric.
        outdir: folder of the table.
        say: shows progress.
    """
    solved = outdir / SOLVED if isinstance(options, NearestOptions) else None
    found = nearest(
        model,
        images,
        count,
        metric=metric,
        check=check,
        folder=solved,
        options=options,
        progress=say,
    )
    names = [Path(name).name for name, _ in inputs]
    known = identity(model)
    about = {"model": known["name"], "fingerprint": short(known)}
    settings = {"metric": metric, "neighbours": count, **options.settings()}
    ran = Run(command="distances", inputs=inputs, model=about, settings=settings, kept=True)
    with replace_files(outdir, ran) as folder:
        write_text(folder / FILE, _table(found, names))
    print(
        f"{count} nearest of {len(names)} pictures by {metric} at log SNR {found.log_snr:.4g}: "
        f"{found.solved:,} of {found.pairs:,} pairs solved"
    )
    if found.recall is not None:
        print(f"recall {found.recall:.1%} of the neighbours of {check} pictures, all pairs solved")
    for notice in found.notices:
        print(f"note: {notice}")
    for name, row in list(zip(names, found.index.tolist(), strict=True))[:SHOWN]:
        print(f"nearest to {name}: {', '.join(names[place] for place in row)}")
    if say.cost.stages:
        print(in_words(say.cost.stages))
    print(f"wrote {outdir / FILE}")


def _table(found: Neighbours, names: list[str]) -> str:
    """One line per neighbour: picture, rank, neighbour, distance."""
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(["picture", "rank", "neighbour", "distance"])
    for name, places, away in zip(
        names, found.index.tolist(), found.distance.tolist(), strict=True
    ):
        for rank, (place, value) in enumerate(zip(places, away, strict=True), 1):
            table.writerow([name, rank, names[place], f"{value:.6g}"])
    return text.getvalue()
