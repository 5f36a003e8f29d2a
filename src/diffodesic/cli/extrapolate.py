"""``diffodesic extrapolate``: the geodesic through two images, continued beyond the second."""

from __future__ import annotations

import argparse
from typing import Any, get_args

from diffodesic.cli.interpolate import _level
from diffodesic.cli.model_options import add_model_options, open_model
from diffodesic.cli.options import command, progress, seed

__all__ = ["add"]

EXAMPLES = """\
  diffodesic extrapolate                                  two shipped digits, results in out/
  diffodesic extrapolate A.png B.png --amount 0.5         half the path again
  diffodesic extrapolate A.png B.png --method score-guided
"""


def add(commands: Any) -> None:
    """Add the verb."""
    from diffodesic.images.spaces import MetricName
    from diffodesic.metrics.continuation import Method

    parser = command(
        commands,
        "extrapolate",
        run,
        "continue the geodesic between two images beyond the second",
        EXAMPLES,
    )
    parser.add_argument(
        "images", nargs="*", metavar="IMAGE", help="two pictures; none: two digits of the package"
    )
    parser.add_argument("--amount", type=float, default=0.5, help="how far, as a share of the path")
    parser.add_argument(
        "--method",
        default="exponential",
        choices=get_args(Method),
        help="the geodesic itself, or the stepper of arXiv 2505.11128",
    )
    add_model_options(parser)
    parser.add_argument("--metric", default="score", choices=get_args(MetricName))
    parser.add_argument("--points", type=int, default=8, help="number of images beyond the second")
    parser.add_argument("--frames", type=int, default=9, help="images between, ends included")
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
        "--no-alarm", action="store_true", help="do not stop where the model is no longer believed"
    )
    parser.add_argument(
        "--flow-steps", type=int, default=24, help="steps of the probability-flow ODE each way"
    )
    parser.add_argument("--seed", type=seed, default=0)
    parser.add_argument("--outdir", default="out")
    parser.add_argument(
        "--no-resize",
        action="store_true",
        help="refuse pictures of another size or other channels than the model's",
    )


def run(options: argparse.Namespace) -> None:
    """Extrapolate, print a summary, write the folder."""
    from diffodesic.cli.pictures import read_pair
    from diffodesic.images.extrapolation import extrapolate
    from diffodesic.metrics.continuation import Alarm
    from diffodesic.output.folder import check_outdir

    model = open_model(options)
    images = read_pair(model, options.images, resize=not options.no_resize)
    check_outdir(options.outdir)
    alarm = Alarm(density=None, dimension=None, curvature=None) if options.no_alarm else Alarm()
    with progress() as say:
        result = extrapolate(
            model,
            *images,
            amount=options.amount,
            method=options.method,
            metric=options.metric,
            points=options.points,
            frames=options.frames,
            alarm=alarm,
            nodes=options.nodes,
            log_snr=options.log_snr,
            weight=options.weight,
            rank=options.rank,
            flow_steps=options.flow_steps,
            seed=options.seed,
            progress=say,
        )
        say("writing")
        folder = result.save(options.outdir)
    found = result.continuation
    print(f"{found.stop.name}: {found.stop.value}")
    print(
        f"reached {found.reached:.3g} of the path beyond the second image by the {found.method} "
        f"method; the geodesic between: {found.path.status.name}, length "
        f"{float(found.path.length):.4g}"
    )
    for notice in result.notices:
        print(f"note: {notice}")
    print(f"wrote {folder}/filmstrip.png, result.json and {len(result.frames)} frames")
