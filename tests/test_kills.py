"""Runs that are killed at random moments end, when run again, as if nothing had happened.

Each trial kills a command after a random share of its processor time, some of them twice, and runs
it again.  The results are those of an undisturbed run, and nothing unfinished is left: no partial
file or folder, no lock.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffodesic.output.images import to_uint8
from support.forks import Ended, Forks, forks
from support.kept import put_in
from support.tiny import files, pictures, tiny_model

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")

MODEL = ("--model=tiny", "--nodes=4", "--flow-steps=2")
COMMANDS = {
    "interpolate": ("interpolate", "a.png", "b.png", *MODEL, "--frames=3"),
    "chain": ("interpolate", "a.png", "b.png", "c.png", *MODEL, "--frames=4"),
    "distances": ("distances", "set", *MODEL, "--batch=1", "--check=2"),
    "train": (
        *("train", "data.npy", "--steps=8", "--batch=4", "--checkpoint-minutes=1e-6", "--heads=1"),
        *("--channels", "4", "8", "--blocks", "1", "1", "--threads=1"),
    ),
    "paths": (
        *("paths", "--potential=double-well", "--from=-1,0", "--to=1,0", "--nodes=8"),
        *("--langevin-steps=8", "--paths=30", "--block=3", "--store=out/store"),
    ),
}
STRUCK = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
# these name the time that a run took, and a hash of those that do
TIMED = ("seconds", "minutes_done", "files")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A model and four pictures."""
    (tmp_path / "set").mkdir()
    for name, image in zip("abcd", to_uint8(pictures(4)), strict=True):
        for folder in (tmp_path, tmp_path / "set"):
            Image.fromarray(image).save(folder / f"{name}.png")
    np.save(tmp_path / "data.npy", np.stack(to_uint8(pictures(50))))
    tiny_model().save(tmp_path / "tiny")
    return tmp_path


def untimed(value: object) -> object:
    if isinstance(value, dict):
        return {key: untimed(inner) for key, inner in value.items() if key not in TIMED}
    return [untimed(inner) for inner in value] if isinstance(value, list) else value


def results(out: Path) -> dict[str, object]:
    """All that a run left, without the time that it took."""
    found: dict[str, object] = {}
    for name, content in files(out).items():
        if name.endswith(".json"):
            found[name] = untimed(json.loads(content))
        elif name == "distances.npz":
            with np.load(out / name) as arrays:
                found[name] = [
                    arrays[key].tobytes() for key in ("matrix", "errors", "apexes", "statuses")
                ]
        elif name == "checkpoint/state.safetensors":
            found[name] = None  # holds the seconds, and a checksum of them
        elif name.endswith(".safetensors"):  # the order of words in a head is drawn anew
            head = 8 + int.from_bytes(content[:8], "little")
            found[name] = (json.loads(content[8:head]), content[head:])
        else:
            found[name] = None if name.endswith((".html", ".md")) else content
    return found


def trials(
    server: Forks, place: Path, name: str, numbers: Sequence[int], seed: int
) -> Counter[int]:
    """Disturb a command once or twice per signal; returns how many of each struck."""
    words, dice, struck = COMMANDS[name], random.Random(f"{name} {seed}"), Counter[int]()

    def fresh() -> None:
        shutil.rmtree(place / "out", ignore_errors=True)

    def run(after: float | None = None, number: int = signal.SIGKILL) -> Ended:
        return server.run(*words, "--outdir=out", cwd=place, after=after, number=number)

    fresh()
    whole = run()
    assert whole.code == 0, whole.said
    wanted = results(place / "out")
    for number in numbers:
        fresh()
        while True:
            ended = run(dice.uniform(0, whole.cpu), number)
            if ended.struck and ended.code != 0:
                struck[number] += 1
                if dice.random() < 0.7:
                    break
            else:  # it was faster than the signal
                fresh()
        again = run()
        assert again.code == 0, (name, number, again.said)
        assert results(place / "out") == wanted, (name, number)
    return struck


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_killed_run_ends_as_if_nothing_had_happened(place, name):
    with forks() as server:
        trials(server, place, name, list(STRUCK[: 2 if name == "train" else 1]), 0)


@pytest.mark.nightly
@pytest.mark.parametrize("name", COMMANDS)
def test_a_hundred_kills(place, name, request):
    """20 SIGKILL, 2 SIGTERM and 2 SIGINT at least per command.

    ``--outcomes results/kills.json`` keeps how many struck; a trial that fails is not counted.
    """
    numbers = [signal.SIGKILL] * 20 + [signal.SIGTERM] * 2 + [signal.SIGINT] * 2
    with forks() as server:
        struck = trials(server, place, name, numbers, 1)
    if kept := request.config.getoption("--outcomes"):
        put_in(kept, {name: {number.name: struck[number] for number in STRUCK}})


@pytest.mark.slow
def test_two_trainings_at_once_end_as_one(place):
    """The second is refused, or comes late and finds all done; neither spoils the other."""
    words = [str(place / word) if word == "data.npy" else word for word in COMMANDS["train"]]
    folders = [place / "one", place / "other"]  # each has a log of its own
    for folder in folders:
        folder.mkdir()

    with ExitStack() as stack:
        servers = [stack.enter_context(forks()) for _ in folders]
        threads = stack.enter_context(ThreadPoolExecutor(2))

        def both(outdir: Path) -> list[Ended]:
            def one(server: Forks, folder: Path) -> Ended:
                return server.run(*words, f"--outdir={outdir}", cwd=folder)

            return list(threads.map(one, servers, folders))

        alone = servers[0].run(*words, f"--outdir={place / 'alone'}", cwd=folders[0])
        assert alone.code == 0, alone.said
        servers[1].run("models", cwd=folders[1])  # both have imported everything
        ended = both(place / "out")
    assert {run.code for run in ended} <= {0, 2}
    assert min(run.code for run in ended) == 0
    for run in ended:
        if run.code == 2:
            assert re.search(r"out is in use by process \d+ on .*; wait for its end", run.said)
    assert results(place / "out") == results(place / "alone")
