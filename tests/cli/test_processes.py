"""A process that is stopped, has no room, or prints where it cannot: one line, and nothing torn.

Commands run inside this process; a signal comes while a file is being written, which is when it
would leave half of one.
"""

from __future__ import annotations

import io
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import diffodesic
from diffodesic.cli.main import main
from diffodesic.cli.signals import Signals, Stopped
from diffodesic.models.datasets import load_images
from diffodesic.output.images import to_uint8
from support.commands import FAST, TINY, Run
from support.tiny import pictures

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals and limits are those of POSIX")

STATES = ("--potential", "mueller-brown", "--from=-0.56,1.44", "--to=0.62,0.03")
COMMANDS = {
    "interpolate": TINY,
    "chain": ("interpolate", "a.png", "b.png", "c.png", "--model", "tiny", *FAST),
    "extrapolate": ("extrapolate", "a.png", "b.png", "--model", "tiny", *FAST, "--points", "2"),
    "distance": ("distance", "a.png", "b.png", "--model", "tiny", "--nodes", "4", "--iterations=2"),
    "distances": ("distances", ".", "--model", "tiny", "--nodes", "4"),
    "diagnose": ("diagnose", "a.png", "--model", "tiny", "--flow-steps", "4", "--log-snr", "1"),
    "train": ("train", "data.npy", "--steps=3", "--batch=4", "--channels=4", "--blocks=1",
              "--heads=1", "--threads=1"),
    "paths": ("paths", *STATES, "--nodes=8", "--paths=40", "--block=20", "--langevin-steps=2",
              "--store=store"),
    "reproduce": ("reproduce", "spacetime/pullback", "--quick"),
}  # fmt: skip
RESUMING = {"interpolate", "chain", "distances", "train", "paths"}


@pytest.fixture
def stocked(place: Path) -> Path:
    """The working folder with one picture more, and data to learn from."""
    Image.fromarray(to_uint8(pictures(3))[2]).save("c.png")
    np.save("data.npy", np.stack(to_uint8(pictures(50))))
    return place


def torn(place: Path) -> list[str]:
    """Files and folders that a writer had not finished."""
    return [str(p) for p in place.rglob("*") if p.name.endswith(".part") or ".partial" in p.name]


STOPS = [("interpolate", 1, "SIGTERM"), ("interpolate", 2, "SIGINT"), ("interpolate", 4, "SIGHUP")]
SLOW = [pytest.param(name, 1, "SIGTERM", marks=pytest.mark.slow) for name in COMMANDS]


@pytest.mark.parametrize(("command", "write", "name"), [*STOPS, *SLOW])
def test_a_signal_is_one_line_and_leaves_nothing_half_written(
    run: Run, stocked, monkeypatch, command, write, name
):
    number, sync, writes = getattr(signal, name), os.fsync, 0

    def stopped(descriptor: int) -> None:
        nonlocal writes
        writes += 1
        if writes == write:
            for _ in range(2):  # as a shell and `timeout` do together
                os.kill(os.getpid(), number)
        sync(descriptor)

    monkeypatch.setattr("os.fsync", stopped)
    code, _, err = run(*COMMANDS[command], "--outdir", "out")
    monkeypatch.setattr("os.fsync", sync)
    if writes < write:
        pytest.skip(f"{command} writes {writes} files")
    assert code == 128 + number
    more = ", and the same command goes on from what is finished" * (command in RESUMING)
    assert err == f"diffodesic: stopped by {name}; no half-written files are left{more}\n"
    assert torn(stocked) == []
    assert run(*COMMANDS[command], "--outdir", "out")[0] == 0
    assert torn(stocked) == []


def test_signals_are_handled_in_the_block_alone_and_stay_ignored_where_they_were():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        old = signal.getsignal(signal.SIGTERM)
        with Signals() as signals:
            signals.working = True
            os.kill(os.getpid(), signal.SIGHUP)
            with pytest.raises(Stopped, match="SIGTERM"):
                os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is old
    finally:
        signal.signal(signal.SIGHUP, before)


def python(code: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(diffodesic.__file__).parents[1])},
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_modules_are_imported_is_no_traceback(number):
    """Even where whoever imports catches everything."""
    done = python(f"""
import os, signal
from diffodesic.cli import main as cli
def importing(name):
    try:
        os.kill(os.getpid(), {int(number)})
    except BaseException:
        pass
cli.import_module = importing
cli.main(["models"])
""")
    assert (done.returncode, done.stdout) == (128 + number, "")
    assert done.stderr == "diffodesic: stopped before it began\n"


def test_handlers_are_in_place_before_torch_is_imported():
    done = python("import sys, diffodesic.cli.main; sys.exit('torch' in sys.modules)")
    assert (done.returncode, done.stderr) == (0, "")


@contextmanager
def room(size: int) -> Iterator[None]:
    """No file may grow beyond ``size`` bytes: as a full disk, an error of the write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    "command",
    [c if c == "interpolate" else pytest.param(c, marks=pytest.mark.slow) for c in COMMANDS],
)
@pytest.mark.parametrize("size", [0, 900])
def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(run: Run, stocked, command, size):
    with room(size):
        code, out, err = run(*COMMANDS[command], "--outdir", "out")
    if code == 0:
        pytest.skip(f"the files of {command} are smaller")
    assert code == 2
    assert "wrote" not in out  # a distance is printed, and then written
    assert re.fullmatch(r"diffodesic: cannot write the results: .*; make room, and [^\n]*\n", err)
    assert torn(stocked) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is a device of Linux")
def test_lines_that_cannot_be_printed_are_an_error(run: Run, place, monkeypatch):
    with Path("/dev/full").open("w") as full, monkeypatch.context() as terminal:
        terminal.setattr("sys.stdout", full)
        code = main(["models"])
    assert code == 2
    assert run("--version")[0] == 0  # what could not be printed is not tried again


def test_too_little_memory_is_one_line(run: Run, place, monkeypatch):
    """What Python and torch raise for it, on a CPU and elsewhere."""
    words = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 4000000000 bytes"
    for error in (MemoryError(), RuntimeError(words), RuntimeError("CUDA out of memory.\nTry")):

        def short(*_: object, error: Exception = error, **__: object) -> None:
            raise error

        monkeypatch.setattr("diffodesic.models.loading.load", short)
        code, _, err = run(*TINY)
        assert (code, err.count("\n")) == (2, 1)
        assert "the memory does not suffice; give smaller numbers or pictures" in err


def test_other_faults_are_no_bad_input(run: Run, place, monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a fault of this program")

    monkeypatch.setattr("diffodesic.models.loading.load", broken)
    with pytest.raises(RuntimeError, match="a fault of this program"):
        run(*TINY)


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux alone")
def test_names_and_terminals_that_are_not_utf8_lose_nothing(place, monkeypatch):
    """Names of any bytes, on a terminal that has ASCII alone."""
    names = [
        os.fsdecode(name) for name in (b"\xff\xfe.png", "\u00e9\u4e2d.png".encode(), b"a\nb.png")
    ]
    os.mkdir("set")
    for name, image in zip(names, to_uint8(pictures(3)), strict=True):
        Image.fromarray(image).save(Path("set") / name)
    out = os.fsdecode(b"out\xff")
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", terminal)
    pair = [f"set/{name}" for name in names[:2]]
    for words in (
        ("distances", "set", "--model", "tiny", "--nodes", "4"),
        ("interpolate", *pair, "--model", "tiny", *FAST),
    ):
        assert main([*words, "--outdir", out + words[0]]) == 0
    assert len(load_images("set")) == 3
    table = (Path(out + "distances") / "distances.csv").read_text(encoding="utf-8")
    assert all(name in table for name in ("\\udcff\\udcfe.png", "\u00e9\u4e2d.png", '"a\nb.png"'))
    terminal.seek(0)
    assert "nearest to \\udcff\\udcfe.png: " in terminal.read()
