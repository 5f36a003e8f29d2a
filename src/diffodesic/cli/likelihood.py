"""``diffodesic likelihood``: how likely pictures are under a model."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffodesic.cli.measuring import add_measure, measure
from diffodesic.cli.options import chosen
from diffodesic.cli.pictures import DIGITS, PictureOptions, read_folder
from diffodesic.cli.progress import Progress
from diffodesic.images.likelihoods import LikelihoodOptions, PictureLikelihood, likelihood

if TYPE_CHECKING:
    from torch import Tensor

    from diffodesic.models.model import Model

__all__ = ["add"]

EXAMPLES = """\
  diffodesic likelihood                               two shipped photographs
  diffodesic likelihood A.png B.png --among HELD-OUT   and their rank among the pictures of a folder
  diffodesic likelihood A.png --flow --outdir out     a second estimate; writes out/result.json
"""


@dataclass(frozen=True, kw_only=True)
class WhereOptions(PictureOptions):
    """What ``likelihood`` has beside the options of the estimate.

    Args:
        among: folder of other pictures to rank these among, best held out ones of the model's kind.
        outdir: folder for result.json; default none.
    """

    among: Path | None = None
    outdir: str | None = None


def add(commands: Any) -> None:
    """Add the command."""
    text = "log density of pictures under a model: nats, bits per dimension, rank"
    add_measure(commands, "likelihood", run, text, EXAMPLES, LikelihoodOptions, WhereOptions)


def run(given: argparse.Namespace) -> None:
    """Measure, print a line per picture, write them if asked to."""
    options, own = chosen(LikelihoodOptions, given), chosen(WhereOptions, given)

    def found(model: Model, images: Tensor, say: Progress) -> PictureLikelihood:
        among = None
        if own.among is not None:
            _, among = read_folder(model, own.among, least=1, resize=own.resize)
        return likelihood(model, images, among=among, options=options, progress=say)

    def lines(of: PictureLikelihood) -> list[str]:
        names = given.images or [f"picture {i + 1} of the package" for i in range(len(of.nats))]
        each = [f"{name}: {line}" for name, line in zip(names, of.lines(), strict=True)]
        return [f"{of.about} (model {of.settings['model']})", *each]

    measure(given, PictureLikelihood, own, DIGITS, found, lines)
