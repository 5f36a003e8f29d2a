"""The command line: parse, call, print.  Bad input is one line on stderr and exit code 2.

Whatever takes time to import is imported after the handlers of signals are in place, so that
Ctrl-C is no traceback in the first seconds either.
"""

from __future__ import annotations

import argparse
import errno
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import NoReturn

import diffodesic
from diffodesic.cli.signals import Signals, Stopped

__all__ = ["main"]

COMMANDS = (
    "interpolate",
    "extrapolate",
    "distance",
    "likelihood",
    "diagnose",
    "explore",
    "paths",
    "reproduce",
    "models",
    "train",
)  # modules beside this one
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
EXAMPLES = """\
examples:
  diffodesic interpolate                                  two shipped photographs, results in out/
  diffodesic interpolate A.png B.png --outdir ab          your own images
  diffodesic interpolate --metric score --frames 24
  diffodesic extrapolate A.png B.png --amount 0.5         past the end of the path
  diffodesic distance A.png B.png                         Diffusion Edit Distance, and the edit
  diffodesic likelihood A.png B.png --among HELD-OUT      log density, bits per dimension, rank
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


class _Completion(argparse.Action):
    """Prints the completion of a shell, by the extra ``completion``."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> NoReturn:
        """Print it and leave."""
        try:
            import shtab
        except ImportError:
            parser.error("the extra is missing: pip install 'diffodesic[completion]'")
        print(shtab.complete(parser, str(values)))
        parser.exit()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: words of the command line; default those of the process.

    Returns:
        the exit code: 0, 2 for bad input, 128 and the number of the signal after an interruption,
        which is 130 for Ctrl-C and 143 for SIGTERM.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # names of files and symbols that a terminal lacks
            stream.reconfigure(errors="backslashreplace")
    words = list(sys.argv[1:] if arguments is None else arguments)
    with Signals() as signals, _warnings_in_one_line():
        parser = _parser()
        for word in words:
            if re.fullmatch(r"--[\w-]+=--", word):  # argparse would make an empty list of it
                parser.error(f"{word}: give a value in place of the last two hyphens")
        given, unknown = parser.parse_known_args(words)
        if unknown:
            given.parser.error(_unknown(unknown, given.parser))
        signals.working = True
        try:
            given.run(given)
            sys.stdout.flush()
        except KeyboardInterrupt as stopped:
            number = stopped.number if isinstance(stopped, Stopped) else 2
            print(f"diffodesic: {_interrupted(stopped, given)}", file=sys.stderr)
            return 128 + number
        except Exception as error:
            line = _one_line(error)
            if line is None:
                raise
            _drop_output()
            print(f"diffodesic: {line}", file=sys.stderr)
            return 2
    return 0


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Show warnings as errors are shown, without the line of Python that they come from."""

    def line(message: Warning | str, *_: object, **__: object) -> str:
        return f"diffodesic: warning: {' '.join(str(message).split())}\n"

    before, warnings.formatwarning = warnings.formatwarning, line
    try:
        yield
    finally:
        warnings.formatwarning = before


def _interrupted(stopped: KeyboardInterrupt, given: argparse.Namespace) -> str:
    again = ", and the same command goes on from what is finished" if given.resumes else ""
    return f"stopped by {str(stopped) or 'SIGINT'}; no half-written files are left{again}"


def _drop_output() -> None:
    """Give up lines that cannot be printed: Python tries again when it ends."""
    try:
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _unknown(words: Sequence[str], parser: argparse.ArgumentParser) -> str:
    from difflib import get_close_matches

    flags = [flag for action in parser._actions for flag in action.option_strings]
    near = get_close_matches(words[0].partition("=")[0], flags, 1)
    if words[0].startswith("-") and near:
        return f"no option {words[0]!r}; did you mean {near[0]!r}?"
    return f"unrecognized arguments: {' '.join(words)}"


def _one_line(error: Exception) -> str | None:
    """What to say of an error that a user can mend; None for a fault of this program."""
    text = " ".join(str(error).split())
    if isinstance(error, ImportError) and "diffodesic[" not in text:
        return f"{text}: install the command line's extra, pip install 'diffodesic[app]'"
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return f"cannot write the results: {text}; make room, and give the same command again"
    # torch has no class of its own for too little memory of a CPU
    if isinstance(error, MemoryError) or "allocate memory" in text or "out of memory" in text:
        return f"the memory does not suffice; give smaller numbers or pictures ({text})"
    return text if isinstance(error, ValueError | OSError | ImportError) else None


def _parser() -> argparse.ArgumentParser:
    from importlib.metadata import version

    parser = _Parser(
        prog="diffodesic",
        description=(diffodesic.__doc__ or "").partition("\n")[0],
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version",
        action="version",
        version=f"diffodesic {diffodesic.__version__}, torch {version('torch')}",
    )
    parser.add_argument(
        "--print-completion",
        action=_Completion,
        choices=("bash", "zsh", "tcsh"),
        help="print what makes a shell complete commands and options, and exit",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name in COMMANDS:
        import_module(f"diffodesic.cli.{name}").add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
