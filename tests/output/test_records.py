"""Results as JSON: strict at any depth, one rule for what it cannot hold."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch

from diffodesic.output.records import json_ready, versions, write_json


@dataclass(frozen=True)
class Point:
    x: torch.Tensor
    name: str = "a"


def test_values_become_plain_and_unknown_numbers_null():
    value = {
        1: Point(torch.tensor([1.0, math.nan])),
        "list": (True, None, 3, [math.inf, -0.5]),
        "path": Path("a/b"),
    }
    assert json_ready(value) == {
        "1": {"x": [1.0, None], "name": "a"},
        "list": [True, None, 3, [None, -0.5]],
        "path": "a/b",
    }


def test_floats_come_back_to_the_last_digit(tmp_path):
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    values = torch.rand(20, dtype=torch.float64) * 1e-7
    path = write_json(tmp_path / "a.json", {"x": values, "y": math.nan})
    found = json.loads(path.read_text(), parse_constant=refuse)
    assert found == {"x": values.tolist(), "y": None}
    assert write_json(tmp_path / "b.json", [1, 2], indent=None).read_text() == "[1, 2]\n"


def test_versions_name_what_a_result_rests_on():
    assert {"python", "diffodesic", "torch", "numpy", "safetensors"} == versions().keys()
    assert torch.__version__.startswith(versions()["torch"].partition("+")[0])
