"""A process that has imported everything, forks to run commands, and may kill them on the way.

It takes one request per line on its standard input, as JSON, and answers each by a line.  A forked
run starts at once, so that a kill after some seconds of processor time falls into its work, however
busy the machine is.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

__all__ = ["Ended", "Forks", "forks"]


@dataclass(frozen=True)
class Ended:
    """How a run ended.

    Attributes:
        code: its exit code, or minus the signal that ended it.
        cpu: seconds of processor time that it took.
        struck: whether it was sent a signal.
        said: what it printed.
    """

    code: int
    cpu: float
    struck: bool
    said: str


class Forks:
    """Runs of commands in forks of one process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(
        self, *words: str, cwd: Path, after: float | None = None, number: int = signal.SIGKILL
    ) -> Ended:
        """Run a command in a folder; ``after`` seconds of processor time it gets a signal."""
        asked = {"words": words, "cwd": str(cwd), "after": after, "number": int(number)}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return Ended(**json.loads(self._process.stdout.readline()))


@contextmanager
def forks() -> Iterator[Forks]:
    """The process, for the length of a block."""
    words = [sys.executable, __file__]
    with subprocess.Popen(
        words,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        yield Forks(process)
        process.kill()


def _serve() -> None:
    main = import_module("diffodesic.cli.main").main
    for name in ("images.page", "output.figures", "transitions.saving"):  # what commands put off
        import_module(f"diffodesic.{name}")
    for line in sys.stdin:
        print(json.dumps(vars(_one(main, **json.loads(line)))), flush=True)


def _one(main: Any, words: list[str], cwd: str, after: float | None, number: int) -> Ended:
    log = Path(cwd) / ".log"
    pid = os.fork()
    if pid == 0:
        os.chdir(cwd)
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        code = 70
        try:
            code = main(words)
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    struck = False
    while True:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            cpu = usage.ru_utime + usage.ru_stime
            return Ended(os.waitstatus_to_exitcode(status), cpu, struck, log.read_text())
        if after is not None and not struck and _cpu(pid) >= after:
            os.kill(pid, number)
            struck = True
        time.sleep(0.003)  # processor time is told in hundredths of a second


def _cpu(pid: int) -> float:
    """Processor time of all threads of a process, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    _serve()
