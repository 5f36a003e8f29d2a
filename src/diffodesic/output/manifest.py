"""What a folder of results says about itself: ``run.json``.

    command     what was run
    versions    of Python, this package and the libraries behind it
    inputs      what it was made of: names and hashes
    model       name and fingerprint of the model, if there was one
    settings    what was asked for and what was chosen
    kept        whether other commands must leave the folder alone
    files       the files of this run, with their SHA-256

The next run in the folder removes what is listed and still holds the same bytes.  All else is the
user's.  While files are moved, ``before`` lists those of the last run that still lie there.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffodesic.output.records import read_json, versions, write_json

__all__ = ["MANIFEST", "Run", "hashed", "hashed_whole", "refuse_inputs", "refuse_kept",
           "replaced", "sha256"]  # fmt: skip

MANIFEST = "run.json"


@dataclass(frozen=True, kw_only=True)
class Run:
    """What results were made by, and of.

    Attributes:
        command: what was run.
        inputs: names of what it was made of, each with a hash of it.
        model: name and fingerprint of the model; empty where there is none.
        settings: what was asked for and what was chosen.
        kept: whether other commands are refused in the folder, since a result took long or is
            taken up again.
    """

    command: str
    inputs: tuple[tuple[str, str], ...] = ()
    model: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    kept: bool = False

    @property
    def origin(self) -> dict[str, str]:
        """Names and values for a page: command, inputs and model."""
        lines = {"command": self.command}
        for i, (name, code) in enumerate(self.inputs):
            lines[f"input {i + 1}"] = f"{name} ({code[:16]})"
        return lines | {name: str(value) for name, value in self.model.items()}


def hashed(paths: Iterable[str | os.PathLike[str]]) -> tuple[tuple[str, str], ...]:
    """Files by name, each with the SHA-256 of its bytes."""
    return tuple((os.fspath(path), sha256(Path(path))) for path in paths)


def hashed_whole(place: Path) -> tuple[str, str]:
    """A file, or a folder with all in it, by name, with one SHA-256.

    Args:
        place: the file or the folder.

    Returns:
        its name, and the hash of its bytes; of a folder, that of the names and hashes of its files.
    """
    if place.is_file():
        return str(place), sha256(place)
    digest = hashlib.sha256()
    for file in sorted(inner for inner in place.rglob("*") if inner.is_file()):
        digest.update(f"{file.relative_to(place).as_posix()}\0{sha256(file)}\n".encode())
    return str(place), digest.hexdigest()


def refuse_kept(target: Path, command: str, inputs: Iterable[str | os.PathLike[str]] = ()) -> None:
    """Refuse a folder whose results another command must leave alone.

    Args:
        target: the folder.
        command: what is to be run in it.
        inputs: files that it reads; other words are no file of the folder.

    Raises:
        ValueError: if it holds a model, or distances, and the command is another, or if an input is
            a result of the last run.
    """
    before = _read(target)
    if before.get("kept") and before.get("command") != command:
        raise ValueError(
            f"{target} holds results of `{before['command']}` that {command} would remove; give "
            "another folder"
        )
    refuse_inputs(target, command, inputs, {**before.get("before", {}), **before.get("files", {})})


def refuse_inputs(
    target: Path, command: str, inputs: Iterable[str | os.PathLike[str]], names: Container[str]
) -> None:
    """Refuse to remove or replace what a command reads.

    Args:
        target: the folder of the results.
        command: what is run in it.
        inputs: files that it reads.
        names: of the files in the folder that go.

    Raises:
        ValueError: if an input is one of these.
    """
    home = Path(os.path.realpath(target))  # which takes links in a circle, unlike resolve()
    for file in inputs:
        place = Path(os.path.realpath(file))
        if place.is_relative_to(home) and place.relative_to(home).as_posix() in names:
            raise ValueError(
                f"{os.fspath(file)} is read by {command} and would be replaced by its results; "
                "give another folder"
            )


@contextmanager
def replaced(target: Path, run: Run, files: Mapping[str, str]) -> Iterator[None]:
    """Remove the files of the last run before the block moves those of this one into the folder.

    Args:
        target: the folder.
        run: what made the new files.
        files: their names, each with its hash.

    Yields:
        nothing; files of both runs are listed until the block ends.
    """
    before = _of_last(target)
    content = {**vars(run), "inputs": [{"name": n, "hash": code} for n, code in run.inputs]}
    content |= {"versions": versions(), "files": dict(files)}
    write_json(target / MANIFEST, {**content, "before": before})
    for file in [target / name for name in before.keys() - files.keys()]:
        file.unlink()
        if file.parent != target and not any(file.parent.iterdir()):
            file.parent.rmdir()
    yield
    write_json(target / MANIFEST, content)


def _of_last(target: Path) -> dict[str, str]:
    """What the last run wrote and nobody has changed since: names and hashes."""
    last, found = _read(target), {}
    for name, code in [*last.get("before", {}).items(), *last.get("files", {}).items()]:
        file = target / name
        # a name that leads out of the folder was not written by us
        inside = file.resolve().is_relative_to(target.resolve())
        if inside and file.is_file() and sha256(file) == code:
            found[name] = code
    return found


def _read(target: Path) -> dict[str, Any]:
    """What the last run said; nothing where it said nothing that can be read."""
    try:
        content = read_json(target / MANIFEST)
        lists = [content.get(name, {}) for name in ("before", "files")]
    except (OSError, ValueError):
        return {}
    sound = all(isinstance(each, dict) for each in lists)
    return content if sound else {}


def sha256(file: Path) -> str:
    """The SHA-256 of the bytes of a file."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
