"""The benchmark of the search on networks: its pairs, and what it keeps."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import learned
from benchmarks.record import read
from diffodesic.images.spaces import SpacetimeSpace
from support.tiny import pictures, tiny_model


def test_pairs_that_are_held_out_share_no_picture_with_those_that_chose():
    _, _, chosen = learned.cases("choosing")
    pairs = learned.held_out()
    places = [place for pair in pairs for place in pair]
    assert len(set(places)) == 20
    assert not {*places} & {
        place for first, second, _ in chosen.values() for place in (first, second)
    }
    assert not {*places} & {*learned.SHOWN}


@pytest.mark.usefixtures("data_folder")
def test_photographs_that_are_held_out_are_none_of_those_that_chose():
    (_, chosen, pairs), (_, left, others) = (
        learned.cases(kind) for kind in ("photographs", "photographs-held-out")
    )
    assert len(pairs) == len(others) == 8
    assert not set(pairs) & set(others)
    assert {place for a, b, _ in others.values() for place in (a, b)} == set(range(16))
    gap = (chosen[:, None] - left[None]).abs().flatten(2).amax(-1)
    assert float(gap.min()) > 0.1


def test_searches_are_kept_pair_by_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    named = {"one": (0, 1, 1), "two": (1, 2, 1)}
    monkeypatch.setattr(learned, "cases", lambda _: (tiny_model(), pictures(3), dict(named)))
    monkeypatch.setattr(learned, "SpacetimeSpace", lambda: SpacetimeSpace(log_snr=0.0))
    three = named.pop("two")
    assert learned.main(["seeds", "--out", str(tmp_path)]) == 0
    first = read(tmp_path / "learned.json")
    named["two"] = three
    assert learned.main(["seeds", "--out", str(tmp_path)]) == 0
    rows = read(tmp_path / "learned.json")["seeds"]
    assert [row["pair"] for row in rows] == ["one", "two"]
    assert rows[0] == first["seeds"][0]
    # both lengths are known to 1 %, by noise of their own
    assert all(row["error"] < 0.02 * row["independent"] for row in rows)
    assert all(abs(row["reported"] / row["independent"] - 1) < 0.06 for row in rows)
