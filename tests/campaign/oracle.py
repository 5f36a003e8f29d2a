"""What may come of a spoilt input: the right result or one clear sentence, and nothing else."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from diffodesic.cli.main import main

__all__ = ["CANARY", "Fault", "Trap", "command", "judge", "judge_command", "trap"]

T = TypeVar("T")
LIMIT = 60.0  # seconds: on a busy machine the slowest case takes a tenth of it
FAMILY = (ValueError, OSError, ImportError)
"""Exceptions of bad files and numbers, as the command line knows them."""
CANARY = "DIFFODESIC_CANARY"  # names the file that code from a pickle would write


class Fault(AssertionError):
    """A case that ended otherwise: a traceback, a hang, code executed, a wrong result."""

    def __init__(self, outcome: str, what: str, detail: str) -> None:
        super().__init__(f"{outcome}: {_short(what)}: {_short(detail)}")
        self.outcome = outcome


def _short(text: str) -> str:
    return text if len(text) < 400 else f"{text[:200]} ... {text[-200:]}"


class _Overdue(BaseException):
    """Raised by the alarm; nothing but a bare ``except`` catches it."""


@contextlib.contextmanager
def _within(seconds: float) -> Iterator[None]:
    def ring(*_: object) -> None:
        raise _Overdue

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without warnings, and without what libraries write to the screen."""
    nowhere = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stderr(nowhere):
        warnings.simplefilter("ignore")
        yield


def judge(
    what: str,
    do: Callable[[], T],
    right: Callable[[T], object],
    *,
    names: str = "",
    family: tuple[type[Exception], ...] = FAMILY,
) -> str:
    """Run a case.

    Args:
        what: the input in words, for reports.
        do: uses the input.
        right: whether a result is the right one; whatever it raises is a wrong result.
        names: what the sentence of a refusal must contain, such as the file's name.
        family: exceptions that are refusals.

    Returns:
        ``right`` or ``refused``.

    Raises:
        Fault: for everything else.
    """
    try:
        with _quiet(), _within(LIMIT):
            found = do()
    except _Overdue:
        raise Fault("hang", what, f"no end after {LIMIT:g} s") from None
    except Exception as error:
        said, outcome = f"{type(error).__name__}: {error}", "refused"
        if not isinstance(error, (*FAMILY, *family)):
            raise Fault("traceback", what, said) from error
        sentence = str(error).strip()
        if (
            not sentence
            or "\n" in sentence
            or names not in sentence
            or not isinstance(error, family)
        ):
            raise Fault("unclear", what, said) from error
    else:
        outcome = "right"
        try:
            with _quiet():
                wrong = "the result is not that of the input" if not right(found) else ""
        except Exception as error:
            wrong = f"{type(error).__name__}: {error}"
        if wrong:
            raise Fault("silently wrong", what, wrong)
    if Path(os.environ[CANARY]).exists():
        raise Fault("code executed", what, f"and then {outcome}")
    return outcome


def command(*words: object) -> tuple[int, str]:
    """Run the command line in this process: exit code and standard error."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(word) for word in words])
        except SystemExit as leaving:  # argparse's way out
            code = leaving.code if isinstance(leaving.code, int) else 0
    return code, err.getvalue()


def judge_command(what: str, *words: object, right: Callable[[], object], names: str = "") -> str:
    """Run a command as a case; see :func:`judge`.

    Args:
        what: the input in words.
        words: of the command line.
        right: whether what it wrote is right.
        names: what the sentence of a refusal must contain.

    Returns:
        ``right`` or ``refused``.

    Raises:
        Fault: for everything else.
    """

    def ask() -> None:
        code, said = command(*words)
        if code == 0:
            return
        line = said.strip().rpartition("\n")[2]
        if code != 2 or "Traceback" in said or not line.startswith("diffodesic"):
            raise RuntimeError(f"exit code {code}: {said}")
        raise ValueError(line)

    return judge(what, ask, lambda _: right(), names=names)


class Trap:
    """Writes a file when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        code = f"open({os.environ[CANARY]!r}, 'w').close()"
        return exec, (code,)


def trap(protocol: int = 2) -> bytes:
    """A pickle that writes the canary's file."""
    return pickle.dumps(Trap(), protocol)
