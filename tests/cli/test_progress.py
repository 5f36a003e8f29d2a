"""What a reader who waits is told."""

from __future__ import annotations

import io
import re
import signal
import time
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor
from tqdm import auto

from diffodesic.cli import progress as told
from diffodesic.denoisers.mixture import GaussianMixture
from diffodesic.images.lifting import Lifting
from diffodesic.numerics.cost import Cost, expect, record, stage
from diffodesic.output.stages import AGAIN
from support.commands import TINY, Run


def heard(capsys, about: str, count: int) -> list[str]:
    """The first lines about something, however long a busy machine takes to print them."""
    lines: list[str] = []
    limit = time.monotonic() + 60
    while len(lines) < count and time.monotonic() < limit:
        time.sleep(0.01)
        lines += [line for line in capsys.readouterr().err.splitlines() if about in line]
    return lines


def test_without_a_terminal_a_plain_line_comes_now_and_then(monkeypatch, capsys):
    monkeypatch.setattr(told, "EVERY", 0.02)
    with told.progress() as say:
        expect({"searching": 100, "frames": 100})
        with stage("searching"):
            record(evaluations=50)
        say("round 3")
        lines = heard(capsys, "round 3", 2)
    assert len(lines) >= 2
    assert all(
        re.fullmatch(r"diffodesic: round 3; about 25% done, about \d+ s left", line)
        for line in lines
    ), lines


def test_a_share_that_is_not_known_is_not_told(monkeypatch, capsys):
    monkeypatch.setattr(told, "EVERY", 0.02)
    with told.progress() as say:
        say("round 3")
        lines = heard(capsys, "round 3", 1)
    assert lines
    assert all(re.fullmatch(r"diffodesic: round 3; \d+ s so far", line) for line in lines), lines


def lines_of(shares: dict[float, float], monkeypatch) -> list[str]:
    """What is told at times of the clock, by the share that is done then."""
    clock = iter(shares)
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    say = told.Progress(Cost(expected={"": 1000}), None, print)
    lines = []
    for passed in clock:
        monkeypatch.setattr(time, "monotonic", lambda passed=passed: passed)
        say.cost.stages[""] = round(1000 * shares[passed])
        lines.append(say.line())
    return lines


def left(line: str) -> float:
    return float(re.search(r"about (\d+) s left", line)[1])  # type: ignore[index]


def test_at_an_even_pace_the_time_left_is_exact(monkeypatch):
    for line, expected in zip(
        lines_of({t: t / 100 for t in range(10, 100, 10)}, monkeypatch),
        range(90, 0, -10),
        strict=True,
    ):
        assert left(line) == expected


def test_the_time_left_does_not_leap_where_the_pace_does(monkeypatch):
    even = {float(t): t / 160 for t in range(1, 81)}
    # nothing is done for three seconds, and then as much as in nine
    stalled = {81.0: 0.5, 82.0: 0.5, 83.0: 0.5, 84.0: 89 / 160}
    times = [left(line) for line in lines_of(even | stalled, monkeypatch)[-5:]]
    assert times[0] == 80
    assert max(abs(b - a) for a, b in pairwise(times)) <= 2


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_one_line_that_is_rewritten(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setattr(auto.tqdm, "monitor_interval", 0)  # no thread of its own
    with told.progress() as say:
        expect({"frames": 4})
        with stage("frames"):
            record(evaluations=1)
        say("bringing back")
    shown = screen.getvalue()
    assert "bringing back; about 25% done, about 0 s left" in shown
    assert "\n" not in shown


def test_a_long_run_is_announced_by_its_evaluations_and_their_time(monkeypatch, capsys):
    mix = GaussianMixture(torch.zeros(1, 2, dtype=torch.float64))
    monkeypatch.setattr(told, "LONG", 0.0)
    with told.progress(mix) as say:
        say("nothing is known yet")
        expect({"searching": 6000, "frames": 521})
        say("lifting")
        say("searching")
    assert re.fullmatch(
        r"diffodesic: about 6,500 evaluations, \d+ s where nothing else runs\n",
        capsys.readouterr().err,
    )
    assert say.cost.stages == {}  # timing is no work of the run


def test_the_time_of_an_evaluation_is_that_of_one_core_where_several_wait_for_each_other(
    monkeypatch,
):
    threads: list[int] = []

    class Waiting(GaussianMixture):
        """Takes 40 units of processor time on two threads that wait, and one on one thread."""

        def posterior_mean(self, z: Tensor, sigma: Tensor) -> Tensor:
            threads.append(torch.get_num_threads())
            spent[0] += len(z) * (1e-3 if threads[-1] == 1 else 4e-2)
            return super().posterior_mean(z, sigma)

    spent = [0.0]
    monkeypatch.setattr("time.process_time", lambda: spent[0])
    cores = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = told.seconds_per_evaluation(Waiting(torch.zeros(1, 2, dtype=torch.float64)))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(cores)
    assert found == pytest.approx(1e-3)
    assert set(threads) == {1, 2}


def test_pairs_are_announced_with_what_could_be_run_instead(monkeypatch, capsys):
    mix = GaussianMixture(torch.zeros(1, 2, dtype=torch.float64))
    monkeypatch.setattr(told, "seconds_per_evaluation", lambda _: 0.01)
    with told.progress(mix, 2, lambda each: f"; all of them would take {100 * each:g} s") as say:
        expect({"searching": 8000}, pairs=5)
        say("searching")
    assert capsys.readouterr().err == (
        "diffodesic: 5 pairs, 16 s each: about 8,000 evaluations, 40 s by 2 workers "
        "where nothing else runs; all of them would take 800 s\n"
    )


def test_a_short_run_is_not_announced(capsys):
    mix = GaussianMixture(torch.zeros(1, 2, dtype=torch.float64))
    with told.progress(mix) as say:
        expect({"frames": 3})
        say("frames")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("seconds", "text"), [(40.2, "40 s"), (99, "99 s"), (170, "3 min"), (9000, "2.5 h")]
)
def test_times_are_short(seconds, text):
    assert told.duration(seconds) == text


def test_work_is_told_by_stage_for_the_whole_run(run: Run, place: Path):
    code, out, _ = run(*TINY)
    assert code == 0
    found = re.search(
        r"^([\d,]+) evaluations and derivatives of the network \((.*)\), \d+ s$", out, re.M
    )
    assert found, out
    parts = dict(part.rsplit(" ", 1) for part in found[2].split(", "))
    assert parts.keys() == {"lifting", "starts", "searching", "judging", "frames"}
    assert sum(int(n.replace(",", "")) for n in parts.values()) == int(found[1].replace(",", ""))


def test_a_run_that_goes_on_says_so_and_counts_the_whole(run: Run, place: Path, monkeypatch):
    code, whole, _ = run(*TINY, "--outdir", "whole")
    interpolation = import_module("diffodesic.images.interpolation")
    real = interpolation.show_path

    def stops(*words, **named):
        signal.raise_signal(signal.SIGINT)
        return real(*words, **named)

    monkeypatch.setattr(interpolation, "show_path", stops)
    code, _, err = run(*TINY)
    assert code == 130
    assert "the same command goes on from what is finished" in err
    monkeypatch.setattr(interpolation, "show_path", real)
    code, out, err = run(*TINY)
    assert (code, err) == (
        0,
        "note: goes on from an earlier run, which has finished ends, path\n",
    )
    work = [line for line in out.splitlines() if "derivatives of the network" in line]
    assert work[0].rpartition(",")[0] in whole


def test_a_run_that_was_stopped_before_its_first_stage_says_that_it_begins_again(
    run: Run, place: Path, monkeypatch
):
    real = Lifting.lift

    def stops(*words, **named):
        signal.raise_signal(signal.SIGINT)
        return real(*words, **named)

    monkeypatch.setattr(Lifting, "lift", stops)
    assert run(*TINY)[0] == 130
    monkeypatch.setattr(Lifting, "lift", real)
    code, _, err = run(*TINY)
    assert (code, err) == (0, f"{AGAIN}\n")
    assert run(*TINY)[2] == ""


def test_an_experiment_tells_share_and_time_left(run: Run, place: Path, monkeypatch):
    shown: list[str] = []
    monkeypatch.setattr(told.Progress, "__call__", lambda say, _: shown.append(say.line()))
    assert run("reproduce", "spacetime/ode", "--quick")[0] == 0
    assert any(re.search(r"about \d+% done, about \d+ s left$", line) for line in shown), shown
