"""``diffodesic diagnose``: manifold, dimension and symmetry of a model near given images."""

from __future__ import annotations

import argparse
from typing import Any

from diffodesic.cli.model_options import ModelOptions, open_model
from diffodesic.cli.options import add_flags, chosen, command, in_flags
from diffodesic.cli.pictures import ResultOptions, read_pictures
from diffodesic.cli.progress import in_words, progress
from diffodesic.images.diagnosis import DiagnoseOptions, diagnose
from diffodesic.output.folder import own_outdir
from diffodesic.output.manifest import hashed

__all__ = ["add"]

EXAMPLES = """\
  diffodesic diagnose                                     four shipped digits, results in out/
  diffodesic diagnose A.png B.png --model my-model --log-snr 0,2,4
"""
DIGITS = range(4)  # of the package, for a run without arguments


def add(commands: Any) -> None:
    """Add the command."""
    text = "local dimension, tangent spaces and symmetry of a model near given images"
    parser = command(commands, "diagnose", run, text, EXAMPLES)
    parser.add_argument(
        "images", nargs="*", metavar="IMAGE", help="pictures; none: four digits of the package"
    )
    add_flags(parser, ModelOptions, DiagnoseOptions, ResultOptions)


def run(given: argparse.Namespace) -> None:
    """Diagnose, print the table, write the folder."""
    import torch

    options, where = chosen(DiagnoseOptions, given), chosen(ResultOptions, given)
    model = open_model(chosen(ModelOptions, given))
    images = read_pictures(model, given.images, default=DIGITS, resize=where.resize)
    files = hashed(given.images)
    with own_outdir(where.outdir, "diagnose") as outdir, progress(model.denoiser) as say:
        diagnosis = diagnose(model, torch.stack(images), options=options, progress=say)
        say("writing")
        folder = diagnosis.save(outdir, inputs=files)
    print(diagnosis.table())
    paths = diagnosis.trajectories
    print(
        f"sampling trajectories: in planes of {paths.dimension.mean():.3g} dimensions, "
        f"straightness {paths.straightness.mean():.4f}, turning {paths.turning.mean():.3g} degrees"
    )
    print(in_words(say.cost.stages))
    for notice in diagnosis.notices:
        print(f"note: {in_flags(notice, given.parser)}")
    print(f"wrote {folder}/diagnosis.json and diagnosis.png")
