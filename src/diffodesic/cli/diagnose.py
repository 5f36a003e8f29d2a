"""``diffodesic diagnose``: manifold, dimension and symmetry of a model near given images."""

from __future__ import annotations

import argparse
from typing import Any

from diffodesic.cli.model_options import add_model_options, open_model
from diffodesic.cli.options import command, progress, seed

__all__ = ["add"]

EXAMPLES = """\
  diffodesic diagnose                                     four shipped digits, results in out/
  diffodesic diagnose A.png B.png --model my-model --log-snr 0,2,4
"""
DIGITS = 4  # of the package, for a run without arguments


def add(commands: Any) -> None:
    """Add the verb."""
    parser = command(
        commands,
        "diagnose",
        run,
        "local dimension, tangent spaces and symmetry of a model near given images",
        EXAMPLES,
    )
    parser.add_argument(
        "images", nargs="*", metavar="IMAGE", help="pictures; none: four digits of the package"
    )
    add_model_options(parser)
    parser.add_argument(
        "--log-snr", type=_levels, default=[0.0, 2.0, 4.0], help="noise levels, by commas"
    )
    parser.add_argument(
        "--rank", type=int, default=96, help="singular values of the Jacobian; D or more: all"
    )
    parser.add_argument(
        "--scores", type=int, help="behind a normal bundle, more than D; 0 leaves it out"
    )
    parser.add_argument("--probes", type=int, default=16, help="random directions behind traces")
    parser.add_argument("--flow-steps", type=int, default=48, help="steps of the trajectories")
    parser.add_argument("--seed", type=seed, default=0)
    parser.add_argument("--outdir", default="out")
    parser.add_argument(
        "--no-resize",
        action="store_true",
        help="refuse pictures of another size or other channels than the model's",
    )


def run(options: argparse.Namespace) -> None:
    """Diagnose, print the table, write the folder."""
    import torch

    from diffodesic.cli.pictures import read_pictures
    from diffodesic.images.diagnosis import diagnose
    from diffodesic.output.folder import check_outdir

    model = open_model(options)
    images = read_pictures(
        model, options.images, default=range(DIGITS), resize=not options.no_resize
    )
    check_outdir(options.outdir)
    with progress() as say:
        found = diagnose(
            model,
            torch.stack(images),
            log_snr=options.log_snr,
            rank=options.rank,
            scores=options.scores,
            probes=options.probes,
            flow_steps=options.flow_steps,
            seed=options.seed,
            progress=say,
        )
        say("writing")
        folder = found.save(options.outdir)
    print(found.table())
    paths = found.trajectories
    print(
        f"sampling trajectories: in planes of {paths.dimension.mean():.3g} dimensions, "
        f"straightness {paths.straightness.mean():.4f}, turning {paths.turning.mean():.3g} degrees"
    )
    for notice in found.notices:
        print(f"note: {notice}")
    print(f"wrote {folder}/diagnosis.json and diagnosis.png")


def _levels(text: str) -> list[float]:
    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a list of numbers such as 0,2,4"
        ) from None
