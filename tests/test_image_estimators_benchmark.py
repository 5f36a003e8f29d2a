"""The benchmark of estimators on networks of pictures: what it keeps, and which space a row has."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import image_estimators
from benchmarks.record import read
from diffodesic.images.spaces import SpacetimeSpace
from support.tiny import pictures, tiny_model


def test_every_estimator_measures_every_pair_by_one_judge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    named = {"one": (0, 1, 1), "two": (1, 2, 1)}
    monkeypatch.setattr(image_estimators, "cases", lambda _: (tiny_model(), pictures(3), named))
    monkeypatch.setattr(image_estimators, "SpacetimeSpace", lambda: SpacetimeSpace(log_snr=0.0))
    asked = ["digits", "--out", str(tmp_path), "--estimators", "secant, 2 probes;path"]
    assert image_estimators.main(asked) == 0
    rows = read(tmp_path / "image_estimators.json")["digits"]
    assert [(row["estimator"], row["pair"]) for row in rows] == [
        ("secant, 2 probes", "one"),
        ("secant, 2 probes", "two"),
        ("path", "one"),
        ("path", "two"),
    ]
    assert all(abs(row["reported over independent"] - 1) < 0.06 for row in rows)
    assert image_estimators.main(asked) == 0  # nothing is measured twice
    assert read(tmp_path / "image_estimators.json")["digits"] == rows


def test_a_row_of_a_log_partition_network_needs_its_folder(tmp_path: Path):
    with pytest.raises(SystemExit, match="--log-partition names the folder"):
        image_estimators.main(["digits", "--out", str(tmp_path), "--estimators", "log-partition"])


def test_means_are_compared_on_the_same_noisy_pictures():
    model = tiny_model()
    rows = image_estimators.errors(model, model, pictures(3))
    assert [row["log SNR"] for row in rows] == [-4, -2, 0, 2, 4, 6]
    assert all(row["excess"] == 0 for row in rows)
    assert rows[0]["shipped"] < rows[2]["shipped"]  # next to nothing beside much noise
