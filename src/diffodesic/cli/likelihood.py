"""``diffodesic likelihood``: how likely pictures are under a model."""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffodesic.cli.model_options import ModelOptions, open_model
from diffodesic.cli.options import add_flags, chosen, command, in_flags
from diffodesic.cli.pictures import DIGITS, PictureOptions, read_folder, read_pictures
from diffodesic.cli.progress import in_words, progress
from diffodesic.images.likelihoods import LikelihoodOptions, likelihood
from diffodesic.output.folder import own_outdir
from diffodesic.output.manifest import hashed

__all__ = ["add"]

EXAMPLES = """\
  diffodesic likelihood                               two shipped digits
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
    parser = command(commands, "likelihood", run, text, EXAMPLES)
    parser.add_argument(
        "images", nargs="*", metavar="IMAGE", help="pictures; none: two digits of the package"
    )
    add_flags(parser, LikelihoodOptions, WhereOptions, ModelOptions)


def run(given: argparse.Namespace) -> None:
    """Measure, print a line per picture, write them if asked to."""
    import torch

    options, own = chosen(LikelihoodOptions, given), chosen(WhereOptions, given)
    model = open_model(chosen(ModelOptions, given))
    images = read_pictures(model, given.images, default=DIGITS, resize=own.resize)
    among = None
    if own.among is not None:
        _, among = read_folder(model, own.among, least=1, resize=own.resize)
    files = hashed(given.images)
    place = nullcontext() if own.outdir is None else own_outdir(own.outdir, "likelihood")
    with place as folder, progress(model.denoiser) as say:
        found = likelihood(model, torch.stack(images), among=among, options=options, progress=say)
        if folder is not None:
            found.save(folder, inputs=files)
    print(f"{found.about} (model {model.name})")
    names = given.images or [f"picture {i + 1} of the package" for i in range(len(images))]
    for name, line in zip(names, found.lines(), strict=True):
        print(f"{name}: {line}")
    print(in_words(say.cost.stages))
    for notice in found.notices:
        print(f"note: {in_flags(notice, given.parser)}")
    if folder is not None:
        print(f"wrote {folder}/result.json")
