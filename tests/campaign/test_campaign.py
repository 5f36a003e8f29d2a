"""Spoilt inputs of every kind: each ends right, or in one clear sentence.

A case is a kind and a number, which seeds everything about it.  A few cases of each kind run in
every test run; ``python -m pytest tests/campaign --campaign full -n auto`` runs all.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from campaign import datasets, folders, pictures, pipelines, potentials, resume, structures, words
from campaign.oracle import Fault

KEPT = Path(__file__).parents[2] / "results" / "campaign.json"  # made by `make campaign`
Case = Callable[[int, Random, Path], str]
Record = Callable[[str, object], None]

KINDS: dict[str, tuple[Case, int, int]] = {
    "pictures": (pictures.case, 360, 40),
    "model folders": (folders.case, 240, 24),
    "pipelines": (pipelines.case, 200, 12),
    "data sets": (datasets.case, 240, 24),
    "resume files": (resume.case, 240, 16),
    "potentials": (potentials.case, 240, 24),
    "structures": (structures.case, 200, 16),
    "command line": (words.case, 200, 10),
}
"""What is spoilt: the case, and how many are tried in full and otherwise."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "kind" not in metafunc.fixturenames:
        return
    full = metafunc.config.getoption("--campaign", "quick") == "full"
    cases = [
        pytest.param(kind, index, id=f"{kind}-{index}")
        for kind, (_, most, few) in KINDS.items()
        for index in (range(most) if full else sorted(Random(0).sample(range(most), few)))
    ]
    metafunc.parametrize(("kind", "index"), cases)


def test_spoilt(kind: str, index: int, tmp_path: Path, record_property: Record):
    case, rng = KINDS[kind][0], Random(f"{kind} {index}")
    try:
        outcome = case(index, rng, tmp_path)
    except Fault as fault:
        record_property("campaign", (kind, fault.outcome, 1))
        raise
    record_property("campaign", (kind, outcome, 1))


def test_the_kept_outcomes_are_those_of_all_cases_and_none_is_a_fault():
    kept = json.loads(KEPT.read_text(encoding="utf-8"))
    for kind, outcomes in kept.items():
        assert {name for name, count in outcomes.items() if count} <= {"right", "refused"}, kind
    tried = {kind: sum(outcomes.values()) for kind, outcomes in kept.items()}
    assert tried.pop("Python API") > 0
    assert tried == {kind: most for kind, (_, most, _) in KINDS.items()}
