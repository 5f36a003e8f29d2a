"""``diffodesic interpolate``: the geodesic between two images, its frames and its report."""

from __future__ import annotations

import argparse
import hashlib
import shutil
from pathlib import Path
from typing import Any, get_args

from diffodesic.cli.model_options import add_model_options, open_model
from diffodesic.cli.options import command, progress, seed

__all__ = ["add"]

EXAMPLES = """\
  diffodesic interpolate                                  two shipped digits, results in out/
  diffodesic interpolate A.png B.png --outdir ab          your own images
  diffodesic interpolate --metric score --frames 24
  diffodesic interpolate A.png B.png C.png --pace perceptual   through several images
  diffodesic interpolate A.png B.png --model my-model     a model of your own (see train)
  diffodesic interpolate A.jpg B.jpg --model diffusers:DIR --prompt cat
"""


def add(commands: Any) -> None:
    """Add the verb."""
    from diffodesic.images.baselines.between import Rival
    from diffodesic.images.lifting import Mode
    from diffodesic.images.shown_path import Pace
    from diffodesic.images.spaces import MetricName

    parser = command(
        commands,
        "interpolate",
        run,
        "the geodesic between two images, its frames and its report",
        EXAMPLES,
    )
    parser.add_argument(
        "images",
        nargs="*",
        metavar="IMAGE",
        help="two pictures or more, in their order; none: two digits of the package",
    )
    add_model_options(parser)
    parser.add_argument("--metric", default="spacetime", choices=get_args(MetricName))
    parser.add_argument(
        "--mode",
        default="sound",
        choices=get_args(Mode),
        help="paper: the recipe of arXiv 2505.11128 as published, for --metric score",
    )
    parser.add_argument("--frames", type=int, default=16, help="number of images, ends included")
    parser.add_argument("--nodes", type=int, default=32, help="segments of the path")
    parser.add_argument(
        "--log-snr", type=_level, default="auto", help="noise level of the ends, or auto"
    )
    parser.add_argument(
        "--weight",
        type=float,
        help="of the score in its metric and the conformal one, in units of 1/|score|^2 "
        "(default 10 and 100)",
    )
    parser.add_argument("--rank", type=int, default=1, help="score metric: number of scores")
    parser.add_argument(
        "--flow-steps", type=int, default=24, help="steps of the probability-flow ODE each way"
    )
    parser.add_argument(
        "--baselines",
        nargs="*",
        default=["LERP", "SLERP"],
        choices=get_args(Rival),
        metavar="NAME",
        help=f"rows beside the geodesic: {', '.join(get_args(Rival))} (default LERP SLERP)",
    )
    parser.add_argument(
        "--pace",
        default="metric",
        choices=get_args(Pace),
        help="frames at equal steps of the metric, or of the distance under --features",
    )
    parser.add_argument(
        "--features",
        default="digit-classifier-1",
        help="extractor of a perceptual pace: digit-classifier-1 or squeezenet:FILE.onnx",
    )
    parser.add_argument("--seed", type=seed, default=0)
    parser.add_argument("--outdir", default="out")
    parser.add_argument(
        "--no-resize",
        action="store_true",
        help="refuse pictures of another size or other channels than the model's",
    )


def _level(text: str) -> float | str:
    if text == "auto":
        return text
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor auto") from None


def run(options: argparse.Namespace) -> None:
    """Interpolate, print a summary, write the folder."""
    from diffodesic.cli.pictures import DIGITS, read_pictures
    from diffodesic.output.folder import check_outdir

    if len(options.images) == 1:
        raise ValueError("give two images or more, or none, not 1")
    model = open_model(options)
    images = read_pictures(model, options.images, default=DIGITS, resize=not options.no_resize)
    # a command that was stopped goes on; another begins anew beside what it left
    kind = {**vars(options), "run": None}
    name = hashlib.sha256(repr(sorted(kind.items())).encode()).hexdigest()[:12]
    stages = check_outdir(options.outdir) / "partial"
    with progress() as say:
        result = _interpolate(model, images, options, stages / name, say)
        say("writing")
        folder = result.save(options.outdir)
    shutil.rmtree(stages / name)
    if not any(stages.iterdir()):  # another command that was stopped may still go on
        stages.rmdir()
    _summarise(result, folder)


def _interpolate(
    model: Any, images: list[Any], options: argparse.Namespace, checkpoint: Path, say: Any
) -> Any:
    """The path between two images, or through more."""
    from diffodesic.images.interpolation import interpolate
    from diffodesic.images.sequence import interpolate_through

    asked = {
        "metric": options.metric,
        "mode": options.mode,
        "frames": options.frames,
        "nodes": options.nodes,
        "log_snr": options.log_snr,
        "weight": options.weight,
        "rank": options.rank,
        "flow_steps": options.flow_steps,
        "baselines": options.baselines,
        "pace": options.pace,
        "features": options.features,
        "seed": options.seed,
        "checkpoint": checkpoint,
        "progress": say,
    }
    if len(images) == 2:
        return interpolate(model, *images, **asked)
    return interpolate_through(model, images, **asked)


def _summarise(result: Any, folder: object) -> None:
    if hasattr(result, "parts"):
        for i, part in enumerate(result.parts):
            print(f"pair {i + 1}: {part!r}")
        where = ", ".join(map(str, result.keys))
        print(f"length in all {result.length:.4g}; the images are frames {where}")
        for notice in dict.fromkeys(notice for part in result.parts for notice in part.notices):
            print(f"note: {notice}")
        print(f"wrote {folder}/filmstrip.png, path.gif, {len(result.frames)} frames, pair-1 ...")
        return
    path = result.geodesic
    print(f"{path.status.name}: {path.status.value}")
    lengths = ", ".join(f"{name} {row.length:.4g}" for name, row in result.rows.items())
    print(f"length in the {result.settings['metric']} metric: {lengths}")
    checks = [
        f"{name} {row.check[0]:.3g} +- {row.check[1]:.2g}"
        for name, row in result.rows.items()
        if row.check
    ]
    if checks:
        print(f"independent estimate of the length: {', '.join(checks)}")
    print(
        f"end frames against the images: PSNR {result.end_psnr[0]:.1f} and "
        f"{result.end_psnr[1]:.1f} dB; {path.evaluations} network evaluations for the path, "
        f"{result.seconds:.0f} s in all"
    )
    for notice in result.notices:
        print(f"note: {notice}")
    print(f"wrote {folder}/report.html, filmstrip.png, path.gif and {len(result.frames)} frames")
