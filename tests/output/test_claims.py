"""Claims: one process at a time, never a stale one, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from diffodesic.output.claims import claimed

HOLD = """
import sys, time
from pathlib import Path
from diffodesic.output.claims import claimed
with claimed(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def held_elsewhere(target: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that claims something."""
    words = [sys.executable, "-c", HOLD, str(target)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.mark.parametrize("file", [False, True])
def test_another_process_is_refused_with_the_holder_and_no_lock_is_stale(tmp_path, file):
    target = tmp_path / "a.npz" if file else tmp_path
    with held_elsewhere(target) as process:
        with pytest.raises(OSError, match=rf"is in use by process {process.pid} on .*; wait"):  # noqa: SIM117
            with claimed(target):
                pytest.fail("two at once")
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert os.listdir(tmp_path) == [".a.npz.lock" if file else ".lock"]
        with claimed(target):
            pass
    assert os.listdir(tmp_path) == []


def test_blocks_of_one_thread_nest_and_threads_exclude_each_other(tmp_path):
    def other() -> None:
        with claimed(tmp_path):
            pass

    with claimed(tmp_path), claimed(tmp_path), ThreadPoolExecutor(1) as pool:
        with pytest.raises(OSError, match=f"process {os.getpid()} "):
            pool.submit(other).result()
        assert (tmp_path / ".lock").exists()
    other()
    assert os.listdir(tmp_path) == []


def test_many_at_once_exclude_each_other(tmp_path):
    """A lock file that its holder removes must not let two in."""
    inside, most, entered = [0], [0], [0]

    def enter(_: int) -> None:
        try:
            with claimed(tmp_path):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                entered[0] += 1
                time.sleep(1e-4)
                inside[0] -= 1
        except OSError:
            pass

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(enter, range(400)))
    assert most[0] == 1
    assert entered[0]
    assert os.listdir(tmp_path) == []


def test_what_a_killed_process_left_half_written_goes_and_nothing_else(tmp_path):
    stale = (".a.json.12.part", "pair-1/.b.png.7.part", ".partial-x/deep/c", ".d.npz.99.part")
    mine = ("a.json", ".hidden", "b.part", ".x.part", "pair-1/b.png", "pair-1/deep/.c.png.7.part")
    for name in stale + mine:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with claimed(tmp_path / "d.npz"):
        assert not (tmp_path / ".d.npz.99.part").exists()
        assert (tmp_path / ".a.json.12.part").exists()
    with claimed(tmp_path):
        left = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert left == {*mine, ".lock"}
    assert not (tmp_path / ".partial-x").exists()


def test_a_file_system_without_locks_warns(tmp_path, monkeypatch):
    def none(handle: int) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("diffodesic.output.claims._lock", none)
    with pytest.warns(RuntimeWarning, match="cannot be locked"), claimed(tmp_path):
        pass
    assert os.listdir(tmp_path) == []


def test_none_claims_nothing():
    with claimed(None):
        pass
