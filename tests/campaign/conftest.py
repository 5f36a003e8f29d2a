"""The budget of the campaign, its working folder, and the table that it prints."""

from __future__ import annotations

import faulthandler
import resource
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from campaign.oracle import CANARY, LIMIT
from support.kept import put_in

MEMORY = 2**31  # bytes that a case may take; all of them are small
OUTCOMES = ("right", "refused", "traceback", "hang", "code executed", "silently wrong", "unclear")


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A working folder of its own, a canary, and an end to memory and to what no alarm stops."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(CANARY, str(tmp_path / "canary-that-sang"))
    faulthandler.dump_traceback_later(5 * LIMIT, exit=True)
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)
    faulthandler.cancel_dump_traceback_later()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table of outcomes: cases by kind."""
    counts: dict[str, Counter[str]] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", ()):
                if name == "campaign" and report.when == "call":
                    kind, outcome, count = value
                    counts.setdefault(kind, Counter())[outcome] += count
    if not counts:
        return
    terminalreporter.section("campaign")
    rows = [*sorted(counts.items()), ("all", sum(counts.values(), Counter()))]
    terminalreporter.write_line("| kind | cases | " + " | ".join(OUTCOMES) + " |")
    terminalreporter.write_line("|---" * (len(OUTCOMES) + 2) + "|")
    for kind, found in rows:
        cells = [str(found[outcome]) for outcome in OUTCOMES]
        terminalreporter.write_line(f"| {kind} | {found.total()} | {' | '.join(cells)} |")
    if kept := terminalreporter.config.getoption("--outcomes"):
        kinds = counts.items()
        put_in(kept, {kind: {name: found[name] for name in OUTCOMES} for kind, found in kinds})
