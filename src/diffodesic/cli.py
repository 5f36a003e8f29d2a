"""The command line: parse, call, print.  Bad input is one line on stderr and exit code 2."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, get_args

import torch

import diffodesic

__all__ = ["main"]

EXAMPLES = """\
examples:
  diffodesic interpolate                                  two shipped digits, results in out/
  diffodesic interpolate A.png B.png --outdir ab          your own images
  diffodesic interpolate --metric score --frames 24
  diffodesic train DATA --outdir my-model --minutes 60    a small model of your own images
  diffodesic interpolate A.png B.png --model my-model
"""


class _Parser(argparse.ArgumentParser):
    """argparse with one line per error."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {' '.join(message.split())} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: words of the command line; default those of the process.

    Returns:
        the exit code: 0, 2 for bad input, 130 after an interruption.
    """
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except KeyboardInterrupt:
        print("diffodesic: interrupted; no half-written files are left", file=sys.stderr)
        return 130
    except (ValueError, OSError, ImportError) as error:
        print(f"diffodesic: {_one_line(error)}", file=sys.stderr)
        return 2
    return 0


def _one_line(error: Exception) -> str:
    if isinstance(error, ImportError):
        return f"{error}: install the command line's extra, pip install 'diffodesic[app]'"
    return " ".join(str(error).split())


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="diffodesic",
        description=diffodesic.__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version",
        action="version",
        version=f"diffodesic {diffodesic.__version__}, torch {torch.__version__}",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for add in (_add_interpolate, _add_models, _add_train):
        add(commands)
    return parser


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], None], text: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=text,
        description=text,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def _add_interpolate(commands: Any) -> None:
    from diffodesic.interpolate import MetricName

    parser = _command(
        commands,
        "interpolate",
        _interpolate,
        "the geodesic between two images, its frames and its report",
    )
    parser.add_argument(
        "images", nargs="*", metavar="IMAGE", help="two pictures; none: two digits of the package"
    )
    parser.add_argument("--model", default="mnist", help="a name (see `models`) or a folder")
    parser.add_argument("--metric", default="spacetime", choices=get_args(MetricName))
    parser.add_argument("--frames", type=int, default=16, help="number of images, ends included")
    parser.add_argument("--nodes", type=int, default=32, help="segments of the path")
    parser.add_argument(
        "--log-snr", type=_level, default="auto", help="noise level of the ends, or auto"
    )
    parser.add_argument(
        "--weight",
        type=float,
        default=10.0,
        help="score metric: weight of the score term, in units of 1/|score|^2",
    )
    parser.add_argument(
        "--flow-steps", type=int, default=24, help="steps of the probability-flow ODE each way"
    )
    parser.add_argument("--seed", type=_seed, default=0)
    parser.add_argument("--device", default="cpu", help="where the network runs")
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


def _seed(text: str) -> int:
    try:
        seed = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if not 0 <= seed < 2**63:  # what torch's generators take
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 2^63 - 1")
    return seed


def _interpolate(options: argparse.Namespace) -> None:
    from diffodesic.image import read_image, shipped_digits
    from diffodesic.interpolate import interpolate
    from diffodesic.model import load
    from diffodesic.output import check_outdir

    if len(options.images) not in (0, 2):
        raise ValueError(f"give two images or none, not {len(options.images)}")
    model = load(options.model, device=options.device)
    if options.images:
        shape, resize = model.codec.shape, not options.no_resize
        pictures = [read_image(path, shape, resize=resize) for path in options.images]
        images = [image for image, _ in pictures]
        for notice in (notice for _, notices in pictures for notice in notices):
            print(notice, file=sys.stderr)
    elif model.codec.shape == (1, 28, 28):
        digits, _ = shipped_digits()
        images = [digits[DIGITS[0]], digits[DIGITS[1]]]
    else:
        raise ValueError("the shipped digits do not fit this model; give two images")
    check_outdir(options.outdir)
    with _progress() as say:
        result = interpolate(
            model,
            *images,
            metric=options.metric,
            frames=options.frames,
            nodes=options.nodes,
            log_snr=options.log_snr,
            weight=options.weight,
            flow_steps=options.flow_steps,
            seed=options.seed,
            progress=say,
        )
        say("writing")
        folder = result.save(options.outdir)
    _summarise(result, folder)


DIGITS = (33, 83)  # of the package, for a run without arguments: a 3 and an 8


def _summarise(result: Any, folder: object) -> None:
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


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """One line that is rewritten on a terminal, and nothing elsewhere."""
    from tqdm.auto import tqdm

    with tqdm(bar_format="{desc} [{elapsed}]", disable=None, leave=False) as bar:
        yield lambda text: bar.set_description_str(text)


def _add_models(commands: Any) -> None:
    _command(commands, "models", _models, "list the models that can be loaded")


def _models(options: argparse.Namespace) -> None:
    from diffodesic.model import available

    for name, text in available().items():
        print(f"{name:12} {text}")
    print("FOLDER       any folder written by `diffodesic train` or Model.save")


def _add_train(commands: Any) -> None:
    from diffodesic.train import TrainSettings

    parser = _command(commands, "train", _train, "train a small model on a folder of images")
    parser.add_argument(
        "data",
        metavar="DATA",
        help="folder of images, folder with MNIST's IDX files, or .npy/.npz array",
    )
    parser.add_argument("--outdir", required=True)
    parser.add_argument("--fresh", action="store_true", help="do not resume from a checkpoint")
    for field in dataclasses.fields(TrainSettings):
        flag = "--" + field.name.replace("_", "-")
        default = field.default
        if isinstance(default, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=default)
        elif isinstance(default, tuple):
            kind = float if "float" in str(field.type) else int
            parser.add_argument(flag, type=kind, nargs="*", default=default)
        else:
            scalar = next(t for t in (float, int, str) if t.__name__ in str(field.type))
            parser.add_argument(flag, type=scalar, default=default)


def _train(options: argparse.Namespace) -> None:
    from diffodesic.dataset import load_images
    from diffodesic.output import check_outdir
    from diffodesic.train import TrainSettings, train

    values = {f.name: getattr(options, f.name) for f in dataclasses.fields(TrainSettings)}
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    if values["minutes"] is not None:
        values["steps"] = None
    images = load_images(options.data)
    folder = train(
        images,
        check_outdir(options.outdir),
        settings=TrainSettings(**values),
        resume=not options.fresh,
    )
    print(f"wrote {folder}: try `diffodesic interpolate A.png B.png --model {folder}`")


if __name__ == "__main__":
    sys.exit(main())
