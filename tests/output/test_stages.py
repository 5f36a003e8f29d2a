"""Stages: made once, bit by bit the same again, never those of another run, never damaged ones."""

from __future__ import annotations

import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from diffodesic.output.stages import AGAIN, Stage, Store, differences, fingerprint, held_file


class Maker:
    """Makes a stage of odd values and counts how often."""

    def __init__(self) -> None:
        self.count = 0
        self.x = torch.tensor([[torch.pi, torch.nan], [-0.0, 5e-324]]).double()

    def __call__(self) -> Stage:
        self.count += 1
        half = torch.tensor(1.5, dtype=torch.bfloat16)
        # a view that is not contiguous, a scalar, an empty tensor
        tensors = {"x": self.x.T, "half": half, "none": torch.zeros(0, 3)}
        return tensors, {"pair": (1, 0.1), "nan": float("nan"), "none": None}


def same_bits(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and fingerprint(a) == fingerprint(b)


@pytest.mark.parametrize("kept", [True, False])
def test_stages_come_back_bit_by_bit(tmp_path, kept):
    make, folder = Maker(), tmp_path / "c" if kept else None
    first = Store(folder, {"seed": 1}).stage("one", make)
    again = Store(folder, {"seed": 1}).stage("one", make)
    assert make.count == (1 if kept else 2)
    assert same_bits(first[0]["x"], make.x.T)
    for name, value in first[0].items():
        assert same_bits(value, again[0][name])
    # words are as JSON gives them back, whether they were made or read
    assert first[1]["pair"] == again[1]["pair"] == [1, 0.1]
    assert str(first[1]) == str(again[1])


def test_nothing_is_kept_without_a_folder_or_a_stage(tmp_path):
    store = Store(tmp_path / "c", {})
    with pytest.raises(ZeroDivisionError):
        store.stage("one", lambda: ({}, {"x": 1 / 0}))
    assert store.read("one") is None
    assert not (tmp_path / "c").exists()
    assert Store(None, {}).part("a").read("one") is None


def test_other_settings_are_refused_by_name(tmp_path):
    depends: dict[str, Any] = {"seed": 1, "solver": {"rtol": 0.1, "nodes": (8, 2)}, "gone": None}
    Store(tmp_path / "c", depends).stage("one", Maker())
    Store(tmp_path / "c", {**depends, "solver": {"rtol": 0.1, "nodes": [8, 2]}})  # JSON's lists
    now = {"seed": 1, "solver": {"rtol": 0.2, "nodes": (8, 2)}, "new": "a" * 100}
    with pytest.raises(ValueError, match="holds results of other settings") as refusal:
        Store(tmp_path / "c", now, "delete it by hand")
    text = str(refusal.value)
    assert text.startswith(f"{tmp_path / 'c'} holds results of other settings (")
    assert text.endswith("; delete it by hand")
    assert "solver.rtol was 0.1 and is 0.2 now, gone was null and is not given now" in text
    assert f'new was not given and is "{"a" * 36}... now' in text
    assert "seed" not in text


def test_parts_are_stores_of_their_own(tmp_path):
    store = Store(tmp_path, {"seed": 1})
    for name, value in (("a", 1.0), ("b", 2.0)):
        store.part(name).write("one", {"x": torch.tensor(value)}, {})
    (found, _) = store.part("b").read("one") or ({}, {})
    assert float(found["x"]) == 2
    assert store.read("one") is None
    with pytest.raises(ValueError, match="seed was 1 and is 2 now"):
        Store(tmp_path, {"seed": 2}).part("a")


def flip(file: Path, at: int) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damage", ["values", "words", "head", "half", "empty"])
def test_a_damaged_stage_is_made_again_with_a_notice(tmp_path, damage):
    make = Maker()
    store = Store(tmp_path, {"seed": 1})
    first = store.stage("one", make)
    file = tmp_path / "one.safetensors"
    if damage in {"values", "head"}:
        flip(file, -1 if damage == "values" else 0)
    elif damage == "words":
        flip(file, file.read_bytes().index(b"0.1") + 2)
    else:
        file.write_bytes(file.read_bytes()[: 100 if damage == "half" else 0])
    with pytest.warns(RuntimeWarning, match=r"one\.safetensors cannot be used .*made again"):
        again = Store(tmp_path, {"seed": 1}).stage("one", make)
    assert make.count == 2
    assert same_bits(first[0]["x"], again[0]["x"])
    assert Store(tmp_path, {"seed": 1}).stage("one", make)[1]["pair"] == [1, 0.1]
    assert make.count == 2


def put(kind: str, place: Path) -> None:
    """Something that is no file, in the place of one."""
    place.unlink()
    if kind == "a pipe":
        os.mkfifo(place)
    else:
        target = {"a folder": "..", "a device": "/dev/zero", "nothing": "none"}
        place.symlink_to(target.get(kind, place.name))


@pytest.mark.parametrize("kind", ["a pipe", "a folder", "a device", "nothing", "itself"])
def test_what_is_no_file_is_no_stage_and_is_replaced(tmp_path, kind):
    """A pipe has no writer and a device no end: neither is opened."""
    make = Maker()
    first = Store(tmp_path, {}).stage("one", make)
    Store(tmp_path, {}).array("rows", (2, 3)).fill_(7)
    for name in ("one.safetensors", "depends.json", "rows.bin"):
        put(kind, tmp_path / name)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        again = Store(tmp_path, {}).stage("one", make)
    there = kind not in ("nothing", "itself")
    assert [f"it is {kind}, not a file" in str(each.message) for each in said] == [True] * there
    assert same_bits(first[0]["x"], again[0]["x"])
    Store(tmp_path, {}).array("rows", (2, 3)).fill_(8)
    for name in ("one.safetensors", "depends.json", "rows.bin"):
        assert (tmp_path / name).is_file()
        assert not (tmp_path / name).is_symlink()


def test_a_folder_in_the_place_of_a_file_is_refused_before_anything_is_made(tmp_path):
    for name in ("one.safetensors", "depends.json"):
        (tmp_path / name / name).mkdir(parents=True)
        with pytest.raises(OSError, match="is a folder, where a file of results belongs"):
            Store(tmp_path / name, {}).stage("one", lambda: pytest.fail("it was made"))


@pytest.mark.parametrize(
    "head", [None, b"", b"[1, 2]", b"\xff{", b"[" * 9999, b'{"depends": {"seed": 3}}']
)
def test_stages_are_known_by_themselves_where_the_description_is_lost(tmp_path, head):
    """A folder without a readable description is not refused, and its stages are not believed."""
    make = Maker()
    Store(tmp_path, {"seed": 1}).stage("one", make)
    (tmp_path / "depends.json").unlink()
    if head is not None:
        (tmp_path / "depends.json").write_bytes(head)
    Store(tmp_path, {"seed": 1}).stage("one", make)
    assert make.count == 1
    with pytest.warns(RuntimeWarning, match="checksum differs"):
        Store(tmp_path, {"seed": 2}).stage("one", make)
    assert make.count == 2
    with pytest.raises(ValueError, match="seed was 2 and is 1 now"):
        Store(tmp_path, {"seed": 1})


def test_a_description_with_a_flipped_bit_refuses_nothing(tmp_path):
    """Every bit of it: the run goes on with its stages, or says that it makes them again."""
    make = Maker()
    Store(tmp_path, {"seed": 1}).stage("one", make)
    head = tmp_path / "depends.json"
    whole = head.read_bytes()
    for at in range(8 * len(whole)):
        content = bytearray(whole)
        content[at // 8] ^= 1 << at % 8
        head.write_bytes(content)
        Store(tmp_path, {"seed": 1}).stage("one", make)
    assert make.count == 1


def test_a_store_that_is_held_is_refused_to_others(tmp_path):
    with Store(tmp_path / "c", {}).held() as store:
        store.stage("one", Maker())
        with Store(tmp_path / "c", {}).held() as again:  # the same thread
            assert again.read("one") is not None
        with ThreadPoolExecutor(1) as pool:
            refused = pool.submit(lambda: Store(tmp_path / "c", {}).held().__enter__())
            assert "is in use by process" in str(refused.exception())
    assert sorted(os.listdir(tmp_path / "c")) == ["depends.json", "one.safetensors"]
    with Store(tmp_path / "d", {}).held(), Store(None, {}).held():
        assert (tmp_path / "d").exists()
    assert not (tmp_path / "d").exists()


def stopped_by(error: type[BaseException], place: Path) -> None:
    with pytest.raises(error), Store(place, {}).held():
        raise error


def told(store: Store) -> list[str]:
    lines: list[str] = []
    store.tell(lines.append)
    return lines


def test_a_run_that_was_stopped_with_nothing_finished_is_told_of_once(tmp_path):
    stopped_by(KeyboardInterrupt, tmp_path / "c")
    with Store(tmp_path / "c", {"other": "settings"}).held() as store:  # nothing is refused
        assert told(store) == [AGAIN]
    assert not (tmp_path / "c").exists()
    with Store(tmp_path / "c", {}).held() as store:
        assert told(store) == []


def test_a_run_that_failed_leaves_no_mark(tmp_path):
    stopped_by(ValueError, tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_what_is_finished_is_told_rather_than_the_stop(tmp_path):
    Store(tmp_path / "c", {}).stage("one", Maker())
    stopped_by(KeyboardInterrupt, tmp_path / "c")
    with Store(tmp_path / "c", {}).held() as store:
        assert told(store) == ["note: goes on from an earlier run, which has finished one"]


def test_a_file_that_a_stopped_run_has_not_begun_is_told_of(tmp_path):
    lines: list[str] = []
    file = tmp_path / "a.npz"
    with pytest.raises(KeyboardInterrupt), held_file(file, lines.append):
        raise KeyboardInterrupt
    assert not lines
    with held_file(file, lines.append), held_file(None, lines.append):
        file.write_bytes(b"")
    with held_file(file, lines.append):
        assert lines == [AGAIN]
    assert os.listdir(tmp_path) == ["a.npz"]


def test_a_stage_under_another_name_is_not_believed(tmp_path):
    store = Store(tmp_path, {})
    store.stage("one", Maker())
    (tmp_path / "one.safetensors").rename(tmp_path / "two.safetensors")
    with pytest.warns(RuntimeWarning, match="checksum differs"):
        assert store.read("two") is None


def test_an_array_is_mapped_and_keeps_what_was_written(tmp_path):
    array = Store(tmp_path / "c", {}).array("frames", (4, 3))
    array[:2] = 7
    again = Store(tmp_path / "c", {}).array("frames", (6, 3))
    assert again[:2].eq(7).all()
    assert not again[2:].any()
    assert (tmp_path / "c" / "frames.bin").stat().st_size == 8 * 18
    # a shorter view leaves the file as it is
    assert Store(tmp_path / "c", {}).array("frames", (1, 3)).eq(7).all()
    assert (tmp_path / "c" / "frames.bin").stat().st_size == 8 * 18
    assert Store(None, {}).array("frames", (4, 3)).shape == (4, 3)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="files can only be sparse here")
def test_an_array_has_its_room_on_the_disk_before_it_is_filled(tmp_path):
    Store(tmp_path, {}).array("frames", (1000, 100))
    assert 512 * (tmp_path / "frames.bin").stat().st_blocks >= 800_000


def test_a_fingerprint_knows_shape_dtype_and_value():
    x = torch.zeros(2, 3)
    assert fingerprint(x) == fingerprint(x.clone()) == fingerprint(x.T.contiguous().T)
    others = (x.T, x.double(), x + 1, -x, x.bool(), x[:0])
    assert len({fingerprint(x), *map(fingerprint, others)}) == 1 + len(others)
    assert fingerprint("ab", "c") != fingerprint("a", "bc")
    assert fingerprint("a", x) != fingerprint(x, "a")


def test_descriptions_that_agree_differ_in_nothing():
    assert differences({"a": {"b": 1}}, {"a": {"b": 1}}) == ""
    assert differences({}, {"a": 0}) == "a was not given and is 0 now"
