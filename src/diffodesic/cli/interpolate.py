"""``diffodesic interpolate``: the geodesic between two images, its frames and its report."""

from __future__ import annotations

import argparse
import hashlib
import shutil
from pathlib import Path
from typing import Any

from diffodesic.cli.model_options import ModelOptions, open_model
from diffodesic.cli.options import add_flags, belongs, chosen, command, in_flags
from diffodesic.cli.pictures import DIGITS, ResultOptions, read_pictures
from diffodesic.cli.progress import duration, in_words, progress
from diffodesic.cli.space_options import add_space, chosen_space
from diffodesic.images.interpolation import InterpolateOptions, interpolate
from diffodesic.images.result import Interpolation
from diffodesic.images.sequence import InterpolationSequence, interpolate_through
from diffodesic.numerics.cost import total
from diffodesic.output.animation import AnimationOptions
from diffodesic.output.folder import own_outdir
from diffodesic.output.manifest import hashed

__all__ = ["add"]

EXAMPLES = """\
  diffodesic interpolate                                  two shipped photographs, results in out/
  diffodesic interpolate --model mnist                    two shipped digits
  diffodesic interpolate A.png B.png --outdir ab          your own images
  diffodesic interpolate --metric score --frames 24
  diffodesic interpolate A.png B.png C.png --pace perceptual   through several images
  diffodesic interpolate A.png B.png --frames 48 --video --fps 24   path.mp4 beside path.gif
  diffodesic interpolate A.png B.png --model my-model     a model of your own (see train)
  diffodesic interpolate A.jpg B.jpg --model diffusers:DIR --prompt cat
"""


def add(commands: Any) -> None:
    """Add the command."""
    text = "the geodesic between two images, its frames and its report"
    parser = command(commands, "interpolate", run, text, EXAMPLES, resumes=True)
    parser.add_argument(
        "images",
        nargs="*",
        metavar="IMAGE",
        help="two pictures or more, in their order; none: two of the package, which --model mnist "
        "makes digits",
    )
    add_space(parser, InterpolateOptions().space)
    add_flags(parser, InterpolateOptions, AnimationOptions, ResultOptions, ModelOptions)


def run(given: argparse.Namespace) -> None:
    """Interpolate, print a summary, write the folder."""
    if len(given.images) == 1:
        raise ValueError("give two images or more, or none, not 1")
    which, where = chosen(ModelOptions, given), chosen(ResultOptions, given)
    moving = chosen(AnimationOptions, given)
    model = open_model(which)
    options = chosen(InterpolateOptions, given, space=chosen_space(given, model))
    if options.pace != "perceptual":
        belongs(given, ["features"], "--pace perceptual")
    images = read_pictures(model, given.images, default=DIGITS, resize=where.resize)
    files = hashed(given.images)
    # a command that was stopped goes on; another begins anew beside what it left
    asked = repr((given.images, options, which, where))
    name = hashlib.sha256(asked.encode()).hexdigest()[:12]
    result: Interpolation | InterpolationSequence
    with (
        own_outdir(where.outdir, "interpolate", given.images) as outdir,
        progress(model.denoiser) as say,
    ):
        stages = outdir / "partial"
        if len(images) == 2:
            result = interpolate(
                model, *images, options=options, checkpoint=stages / name, progress=say
            )
        else:
            result = interpolate_through(
                model, images, options=options, checkpoint=stages / name, progress=say
            )
        say("writing")
        result.save(outdir, animation=moving, inputs=files)
        shutil.rmtree(stages / name)
        if not any(stages.iterdir()):  # another command that was stopped may still go on
            stages.rmdir()
    animations = "path.gif, path.mp4" if moving.video else "path.gif"
    _summarise(result, outdir, given.parser, animations)


def _summarise(
    result: Interpolation | InterpolationSequence,
    folder: Path,
    parser: argparse.ArgumentParser,
    animations: str,
) -> None:
    if isinstance(result, InterpolationSequence):
        for i, part in enumerate(result.parts):
            print(f"pair {i + 1}: {part!r}")
        where = ", ".join(map(str, result.keys))
        print(f"length in all {result.length:.4g}; the images are frames {where}")
        print(in_words(total(*(part.work for part in result.parts))))
        for notice in dict.fromkeys(notice for part in result.parts for notice in part.notices):
            print(f"note: {in_flags(notice, parser)}")
        print(
            f"wrote {folder}/report.html, filmstrip.png, {animations}, {len(result.frames)} "
            "frames, and a folder for every pair, pair-1 and on"
        )
        return
    path = result.geodesic
    print(f"{path.status.name}: {in_flags(path.status.value, parser)}")
    lengths = ", ".join(f"{name} {shown.length:.4g}" for name, shown in result.paths.items())
    print(f"length in the {result.settings['metric']} metric: {lengths}")
    checks = [
        f"{name} {shown.check[0]:.3g} +- {shown.check[1]:.2g}"
        for name, shown in result.paths.items()
        if shown.check
    ]
    if checks:
        print(f"independent estimate of the length: {', '.join(checks)}")
    print(
        f"end frames against the images: PSNR {result.end_psnr[0]:.1f} and "
        f"{result.end_psnr[1]:.1f} dB"
    )
    print(f"{in_words(result.work)}, {duration(result.seconds)}")
    for notice in result.notices:
        print(f"note: {in_flags(notice, parser)}")
    first = next(iter(result.paths))
    print(
        f"wrote {folder}/report.html, filmstrip.png, {animations} and {len(result.frames)} frames "
        f"of the {first}"
    )
