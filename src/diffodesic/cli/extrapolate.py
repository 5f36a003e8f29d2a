"""``diffodesic extrapolate``: the geodesic through two images, continued beyond the second."""

from __future__ import annotations

import argparse
from typing import Any

from diffodesic.cli.model_options import ModelOptions, open_model
from diffodesic.cli.options import add_flags, belongs, chosen, command, in_flags
from diffodesic.cli.pictures import DIGITS, ResultOptions, read_pictures
from diffodesic.cli.progress import duration, in_words, progress
from diffodesic.cli.space_options import add_space, chosen_space
from diffodesic.images.extrapolation import ExtrapolateOptions, extrapolate
from diffodesic.metrics.continuation import Alarm
from diffodesic.output.animation import AnimationOptions
from diffodesic.output.folder import own_outdir
from diffodesic.output.manifest import hashed

__all__ = ["add"]

EXAMPLES = """\
  diffodesic extrapolate                                  two shipped photographs, results in out/
  diffodesic extrapolate A.png B.png --amount 0.5         half the path again
  diffodesic extrapolate A.png B.png --method score-guided
"""


def add(commands: Any) -> None:
    """Add the command."""
    text = "continue the geodesic between two images beyond the second"
    parser = command(commands, "extrapolate", run, text, EXAMPLES)
    parser.add_argument(
        "images", nargs="*", metavar="IMAGE", help="two pictures; none: two of the package"
    )
    add_space(parser, ExtrapolateOptions().space)
    parser.add_argument(
        "--no-alarm",
        action="store_true",
        help="do not stop where the model cannot be believed (default: no)",
    )
    add_flags(parser, ExtrapolateOptions, AnimationOptions, ResultOptions, ModelOptions)


def run(given: argparse.Namespace) -> None:
    """Extrapolate, print a summary, write the folder."""
    if len(given.images) not in (0, 2):
        raise ValueError(f"give two images or none, not {len(given.images)}")
    moving = chosen(AnimationOptions, given)
    model, where = open_model(chosen(ModelOptions, given)), chosen(ResultOptions, given)
    silent = Alarm(density=None, dimension=None, curvature=None)
    alarm, space = silent if given.no_alarm else None, chosen_space(given, model)
    options = chosen(ExtrapolateOptions, given, space=space, alarm=alarm)
    if options.method != "score-guided":
        belongs(given, ["gain"], "--method score-guided")
    images = read_pictures(model, given.images, default=DIGITS, resize=where.resize)
    files = hashed(given.images)
    with (
        own_outdir(where.outdir, "extrapolate", given.images) as outdir,
        progress(model.denoiser) as say,
    ):
        result = extrapolate(model, *images, options=options, progress=say)
        say("writing")
        folder = result.save(outdir, animation=moving, inputs=files)
    continuation = result.continuation
    print(f"{continuation.stop.name}: {continuation.stop.value}")
    path = continuation.path
    print(
        f"reached {continuation.reached:.3g} of the path beyond the second image by the "
        f"{continuation.method} method; the geodesic between: {path.status.name}, length "
        f"{float(path.length):.4g}"
    )
    print(f"{in_words(say.cost.stages)}, {duration(result.seconds)}")
    for notice in result.notices:
        print(f"note: {in_flags(notice, given.parser)}")
    animations = "path.gif, path.mp4" if moving.video else "path.gif"
    print(
        f"wrote {folder}/report.html, filmstrip.png, {animations} and {len(result.frames)} frames"
    )
