"""The command line: parse, call, print.  Bad input is one line on stderr and exit code 2."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import NoReturn

import torch

import diffodesic

__all__ = ["main"]

COMMANDS = (
    "interpolate",
    "extrapolate",
    "distance",
    "diagnose",
    "paths",
    "reproduce",
    "models",
    "train",
)  # modules beside this one
EXAMPLES = """\
examples:
  diffodesic interpolate                                  two shipped digits, results in out/
  diffodesic interpolate A.png B.png --outdir ab          your own images
  diffodesic interpolate --metric score --frames 24
  diffodesic extrapolate A.png B.png --amount 0.5         past the end of the path
  diffodesic distance A.png B.png                         Diffusion Edit Distance, and the edit
  diffodesic diagnose A.png B.png --log-snr 0,2,4         local dimension, tangent spaces, symmetry
  diffodesic paths --potential mueller-brown --from -0.56,1.44 --to 0.62,0.03
  diffodesic reproduce --list                             the published experiments
  diffodesic train DATA --outdir my-model --minutes 60    a small model of your own images
  diffodesic interpolate A.png B.png --model my-model
  diffodesic train --potential alanine --outdir my-alanine
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
    given, unknown = _parser().parse_known_args(arguments)
    if unknown:
        given.parser.error(_unknown(unknown, given.parser))
    try:
        given.run(given)
    except KeyboardInterrupt:
        print("diffodesic: interrupted; no half-written files are left", file=sys.stderr)
        return 130
    except (ValueError, OSError, ImportError) as error:
        print(f"diffodesic: {_one_line(error)}", file=sys.stderr)
        return 2
    return 0


def _unknown(words: Sequence[str], parser: argparse.ArgumentParser) -> str:
    flags = [flag for action in parser._actions for flag in action.option_strings]
    near = get_close_matches(words[0].partition("=")[0], flags, 1)
    if words[0].startswith("-") and near:
        return f"no option {words[0]!r}; did you mean {near[0]!r}?"
    return f"unrecognized arguments: {' '.join(words)}"


def _one_line(error: Exception) -> str:
    if isinstance(error, ImportError) and "diffodesic[" not in str(error):
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
    for name in COMMANDS:
        import_module(f"diffodesic.cli.{name}").add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
