"""Results as JSON: strict at any depth, one rule for what it cannot hold."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from diffodesic.output.records import json_ready, read_json, versions, write_json


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


def test_what_is_no_object_in_a_file_of_bounded_size_is_a_sentence(tmp_path):
    file = tmp_path / "a.json"
    for content, words in {
        b"[1]": "it holds a list, not an object",
        b"{": "Expecting",
        b"\xff": "utf-8",
        b"[" * 9999: "nested too deeply",
        b'{"a": 1' + b"0" * 9999 + b"}": "integer",
    }.items():
        file.write_bytes(content)
        with pytest.raises(ValueError, match=words):
            read_json(file)
    os.truncate(file, 2**26 + 1)  # sparse
    with pytest.raises(ValueError, match="more than 67,108,864 bytes"):
        read_json(file)
    os.mkfifo(tmp_path / "pipe")
    for other, kind in {
        "/dev/zero": "a device",
        tmp_path: "a folder",
        tmp_path / "pipe": "a pipe",
    }.items():
        with pytest.raises(ValueError, match=f"it is {kind}, not a file"):
            read_json(other)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none")
    assert read_json(write_json(file, {"a": [1]})) == {"a": [1]}
