"""Diffusion Edit Distances of all pairs on a shipped network: triangles, and how searches end.

    python -m benchmarks.triangles digits|fruits [--count 10]

prints the tally and the triangles, and keeps the distances in
``benchmarks/results/distances-KIND.json``.  Digits are the first of the first classes among those
that ship; photographs the first of as many objects of ``fruit_turntable`` in ``DIFFODESIC_DATA``.
A run that was interrupted goes on.  About half a minute a pair on one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

import diffodesic as dd
from benchmarks.problems import data_folder
from benchmarks.record import RESULTS
from diffodesic.experiments.common.archive import Archive
from diffodesic.images.distances import PairwiseDistances
from diffodesic.images.pairs import PairwiseOptions
from diffodesic.models.model import Model

__all__ = ["TURN", "digits", "main", "photographs", "verdict"]

TURN = 120  # photographs of every object of the turntable, three degrees apart


def digits(count: int) -> tuple[Model, Tensor]:
    """The model of digits, and the first digit of the first ``count`` classes."""
    images, labels = dd.shipped_digits()
    rows = [int((labels == label).nonzero()[0]) for label in range(count)]
    return dd.load("mnist"), images[rows].double()


def photographs(rows: Iterable[int]) -> tuple[Model, Tensor]:
    """The model of fruits, and photographs of the turntable by their rows, TURN of each object."""
    model = dd.load("fruits")
    archive = Archive.read(data_folder(None) / "fruit_turntable" / "images.npz")
    return model, archive.images(rows, model)


def fruits(count: int) -> tuple[Model, Tensor]:
    """The model of fruits, and the first photographs of the first ``count`` objects."""
    return photographs(range(0, TURN * count, TURN))


KINDS = {"digits": digits, "fruits": fruits}


def verdict(found: PairwiseDistances) -> list[str]:
    """What the distances say, in lines."""
    excess, error = found.triangles()
    share = excess / error
    return [
        f"{found.solved} of {len(found.lengths)} pairs: {float(found.lengths.nanmean()):.3g} on "
        f"average, standard error {float((found.errors / found.lengths).nanmean()):.2%}",
        ", ".join(f"{count} {status.name}" for status, count in found.tally().items()),
        f"{len(excess)} sides of triangles: the largest excess over a detour is "
        f"{float(excess.max()):.3g}, or {float(share.max()):.2g} standard errors",
    ]


def main(arguments: list[str] | None = None) -> int:
    """Solve all pairs of one kind."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.triangles", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--count", type=int, default=10, help="number of pictures")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    model, images = KINDS[options.kind](options.count)
    name = f"distances-{options.kind}"
    file, asked = options.out / f"{name}.npz", PairwiseOptions(batch=1)
    found = dd.pairwise(model, images, file=file, options=asked, progress=print)
    found.save(options.out / f"{name}.json")
    file.unlink()
    print(*verdict(found), sep="\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
