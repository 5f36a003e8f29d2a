"""Folders of results: refused before work is spent, filled whole or left as they were."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffodesic.output.folder import check_outdir, replace_files


def files(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): file.read_text()
        for file in folder.rglob("*")
        if file.is_file()
    }


def test_a_folder_that_exists_is_left_as_it_is(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    assert check_outdir(tmp_path) == tmp_path
    assert files(tmp_path) == {"mine.txt": "mine"}


def test_what_is_no_folder_is_refused_before_the_block_runs(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(OSError, match="out is a file; give a folder"):  # noqa: SIM117
        with replace_files(tmp_path / "out"):
            pytest.fail("work was spent")
    with pytest.raises(OSError, match=r"cannot write into .*Not a directory; give another"):
        check_outdir(tmp_path / "out" / "deeper")
    assert files(tmp_path) == {"out": "mine"}


def test_files_arrive_together_and_stale_ones_go(tmp_path):
    out = tmp_path / "out"
    for name in ("a.txt", "part-2/a.txt", "part-3/a.txt", "part-3/mine.txt", "mine.txt"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("old")
    with replace_files(out, stale=("a.txt", "b.txt", "part-[0-9]/a.txt")) as folder:
        (folder / "b.txt").write_text("new")
        (folder / "part-1").mkdir()
        (folder / "part-1" / "a.txt").write_text("new")
        assert "b.txt" not in files(out)
    kept = {"part-3/mine.txt": "old", "mine.txt": "old"}
    assert files(out) == {"b.txt": "new", "part-1/a.txt": "new", **kept}
    assert not (out / "part-2").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_error_leaves_everything_as_it_was(tmp_path, error):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(error):  # noqa: SIM117
        with replace_files(tmp_path, stale=("a.txt",)) as folder:
            (folder / "a.txt").write_text("new")
            raise error
    assert files(tmp_path) == {"a.txt": "old"}
    assert list(tmp_path.iterdir()) == [tmp_path / "a.txt"]
