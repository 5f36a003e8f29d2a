"""The command line in this process, and a folder with a tiny model and two pictures."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from PIL import Image

from diffodesic.cli import progress
from diffodesic.cli.main import main
from diffodesic.output.images import to_uint8
from support.commands import Run
from support.tiny import pictures, tiny_model


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command: exit code, standard output, standard error without announcements."""
    # what is long depends on the machine
    monkeypatch.setattr(progress, "LONG", math.inf)
    monkeypatch.setattr(progress, "EVERY", 3600.0)

    def command(*words: object) -> tuple[int, str, str]:
        try:
            code = main([str(word) for word in words])
        except SystemExit as leaving:  # argparse's way out
            code = int(leaving.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with two pictures and a tiny model."""
    for name, image in zip("ab", to_uint8(pictures(2)), strict=True):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    tiny_model().save(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path
