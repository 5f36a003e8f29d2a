"""Folders of results: refused before work is spent, filled whole or left as they were."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from diffodesic.output.folder import check_outdir, own_outdir, replace_files
from diffodesic.output.manifest import MANIFEST, Run

RUN = Run(command="one")


def files(folder: Path) -> dict[str, str]:
    """What a folder holds beside its ``run.json``."""
    return {
        str(file.relative_to(folder)): file.read_text()
        for file in folder.rglob("*")
        if file.is_file() and file.name != MANIFEST
    }


def write(out: Path, run: Run = RUN, **content: str) -> None:
    """A run that writes these files; a double underscore stands for a folder."""
    with replace_files(out, run) as folder:
        for name, text in content.items():
            file = folder / name.replace("__", "/")
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)


def test_a_folder_that_exists_is_left_as_it_is(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    assert check_outdir(tmp_path) == tmp_path
    assert files(tmp_path) == {"mine.txt": "mine"}


def test_what_is_no_folder_is_refused_before_the_block_runs(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(OSError, match="out is a file; give a folder"):  # noqa: SIM117
        with replace_files(tmp_path / "out", RUN):
            pytest.fail("work was spent")
    with pytest.raises(OSError, match=r"cannot write into .*Not a directory; give another"):
        check_outdir(tmp_path / "out" / "deeper")
    assert files(tmp_path) == {"out": "mine"}


@pytest.mark.parametrize("command", ["one", "other"])
def test_files_of_the_last_run_go_whatever_the_command(tmp_path, command):
    write(tmp_path, a="old", b="old", part1__a="old", part2__a="old", part2__b="old")
    assert json.loads((tmp_path / MANIFEST).read_text())["files"].keys() == files(tmp_path).keys()
    write(tmp_path, Run(command=command), b="new", part1__a="new")
    assert files(tmp_path) == {"b": "new", "part1/a": "new"}
    assert not (tmp_path / "part2").exists()


def test_files_of_the_user_stay(tmp_path):
    """Those that no run wrote, and those that were changed since a run wrote them."""
    write(tmp_path, a="old", b="old", part__a="old")
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "part/mine").write_text("mine")
    (tmp_path / "a").write_text("edited")
    write(tmp_path, c="new")
    kept = {"mine": "mine", "part/mine": "mine", "a": "edited"}
    assert files(tmp_path) == {"c": "new", **kept}
    write(tmp_path, d="new")
    assert files(tmp_path) == {"d": "new", **kept}


def test_names_that_lead_out_of_the_folder_are_not_followed(tmp_path):
    (tmp_path / "mine").write_text("mine")
    out = tmp_path / "out"
    write(out, a="mine")
    manifest = json.loads((out / MANIFEST).read_text())
    hash = manifest["files"]["a"]
    manifest["files"] = {"../mine": hash, str(tmp_path / "mine"): hash}
    (out / MANIFEST).write_text(json.dumps(manifest))
    write(out, b="new")
    assert files(tmp_path) == {"mine": "mine", "out/a": "mine", "out/b": "new"}


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b'{"files": 3}', b'"text"'])
def test_a_damaged_manifest_lists_nothing(tmp_path, content):
    write(tmp_path, a="old")
    (tmp_path / MANIFEST).write_bytes(content)
    write(tmp_path, b="new")
    assert files(tmp_path) == {"a": "old", "b": "new"}


@pytest.mark.parametrize("moved", [0, 1, 2, 3])
@pytest.mark.parametrize("command", ["one", "other"])
def test_a_run_that_was_killed_while_it_moved_files_is_not_mixed_with_another(
    tmp_path, monkeypatch, moved, command
):
    """Whatever the next run is, no file of the two before it is left."""
    write(tmp_path, a="1", b="1", c="1", z="1")

    class Killed(BaseException):
        pass

    replace, count = Path.replace, 0

    def killed(self: Path, target: Path) -> Path:
        nonlocal count
        if ".partial-" in str(self):
            if count == moved:
                raise Killed
            count += 1
        return replace(self, target)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Path, "replace", killed)
        write(tmp_path, a="2", b="2", c="2", d="2")
    write(tmp_path, Run(command=command), e="3")
    assert files(tmp_path) == {"e": "3"}
    assert sorted(os.listdir(tmp_path)) == ["e", MANIFEST]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_error_leaves_everything_as_it_was(tmp_path, error):
    write(tmp_path, a="old")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(error):  # noqa: SIM117
        with replace_files(tmp_path, RUN) as folder:
            (folder / "a").write_text("new")
            raise error
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_results_that_are_kept_are_refused_to_other_commands(tmp_path):
    kept = Run(command="train", kept=True)
    write(tmp_path, kept, weights="1")
    with pytest.raises(ValueError, match=r"holds results of `train` that one would remove; give"):
        write(tmp_path, a="2")
    with pytest.raises(ValueError, match="give another folder"):  # noqa: SIM117
        with own_outdir(tmp_path, "one"):
            pytest.fail("work was spent")
    write(tmp_path, kept, weights="2")
    assert files(tmp_path) == {"weights": "2"}


def test_the_manifest_says_what_the_files_are_of(tmp_path):
    inputs, model = (("a.png", "ab12"), ("a.png", "ab12")), {"model": "m", "fingerprint": "cd"}
    write(tmp_path, Run(command="one", inputs=inputs, model=model, settings={"seed": 1}), a="x")
    content = json.loads((tmp_path / MANIFEST).read_text())
    sha256 = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    assert content.pop("versions").keys() >= {"diffodesic", "torch", "python"}
    assert content == {
        "command": "one",
        "inputs": [{"name": "a.png", "hash": "ab12"}] * 2,
        "model": model,
        "settings": {"seed": 1},
        "kept": False,
        "files": {"a": sha256},
    }
