"""``diffodesic distances --neighbours``: the nearest of each picture, printed and written."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from diffodesic.images.neighbours import Neighbours
from diffodesic.models.identity import identity, short
from diffodesic.models.model import Model
from diffodesic.output.files import write_text
from diffodesic.output.folder import replace_files
from diffodesic.output.manifest import Run

__all__ = ["FILE", "print_nearest", "write_nearest"]

FILE, SHOWN = "neighbours.csv", 10  # pictures whose neighbours are printed


def write_nearest(
    found: Neighbours,
    model: Model,
    inputs: tuple[tuple[str, str], ...],
    settings: dict[str, Any],
    outdir: Path,
) -> None:
    """Write the table of neighbours.

    Args:
        found: the neighbours.
        model: the model.
        inputs: files of the pictures, each with its hash.
        settings: what was asked for.
        outdir: folder of the table.
    """
    known = identity(model)
    about = {"model": known["name"], "fingerprint": short(known)}
    ran = Run(command="distances", inputs=inputs, model=about, settings=settings, kept=True)
    with replace_files(outdir, ran) as folder:
        write_text(folder / FILE, _table(found, [Path(name).name for name, _ in inputs]))


def print_nearest(found: Neighbours, names: list[str], metric: str, checked: str) -> None:
    """Print how many pairs it took, and the neighbours of the first pictures.

    Args:
        found: the neighbours.
        names: of the pictures.
        metric: of the distances.
        checked: how the recall is known, in words.
    """
    print(
        f"{found.index.shape[1]} nearest of {len(names)} pictures by {metric} at log SNR "
        f"{found.log_snr:.4g}: {found.solved:,} of {found.pairs:,} pairs solved"
    )
    if found.recall is not None:
        print(f"recall {found.recall:.1%} {checked}")
    for notice in found.notices:
        print(f"note: {notice}")
    for name, row in list(zip(names, found.index.tolist(), strict=True))[:SHOWN]:
        print(f"nearest to {name}: {', '.join(names[place] for place in row)}")


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
