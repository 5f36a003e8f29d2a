"""Stages of a long run in a folder: what is made is read again, and only the rest is made.

    depends.json          what the stages depend on; a folder of other settings is refused
    NAME.safetensors      a finished stage: tensors, and as metadata plain values and a checksum
    NAME.bin              an array too large to be read: rows of float64, mapped into memory

A stage is written whole or not at all, and its tensors come back bit by bit. A run that goes on
therefore ends where it would have ended without the interruption. A stage that is damaged, or of
another run, counts as not made: a warning says so, and it is made again.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffodesic.output.claims import begun, claimed
from diffodesic.output.files import not_a_file, write_atomically
from diffodesic.output.records import json_ready, read_json, write_json

__all__ = ["AGAIN", "GOES_ON", "NOTE", "Stage", "Store", "differences", "fingerprint", "held_file"]

NOTE = "note: "
"""How a line of progress begins that a reader should not miss."""

GOES_ON = f"{NOTE}goes on from an earlier run"
"""Such a line, where something is left of that run."""

AGAIN = f"{NOTE}begins again: an earlier run was stopped before it had finished anything"
"""The same, where nothing is left to go on from."""

_HEAD = "depends.json"
_FORMAT = 1

Stage = tuple[dict[str, Tensor], dict[str, Any]]
"""Tensors and plain values of a stage."""


class Store:
    """Stages of one run.

    Args:
        folder: where they are kept, made once there is something to keep; None keeps nothing.
        depends: everything that the stages depend on, as plain values.
        afresh: how to start afresh, the end of the sentence that refuses a folder.

    Raises:
        ValueError: if the folder holds stages of other settings; it names those that differ.
        OSError: here and where a stage is read, if a folder lies in the place of a file.
    """

    def __init__(
        self,
        folder: Path | str | None,
        depends: Mapping[str, Any],
        afresh: str = "remove it to start afresh, or choose another folder",
    ) -> None:
        self.folder = None if folder is None else Path(folder)
        self.stopped = False  # an earlier run was, as far as that is known; see held()
        self.depends = json_ready({"format": _FORMAT, **depends})
        before = None if self.folder is None else _described(_place(self.folder / _HEAD))
        # without a description the checksums of the stages tell, which hold it too
        if before not in (None, self.depends):
            raise ValueError(
                f"{self.folder} holds results of other settings "
                f"({differences(before, self.depends)}); {afresh}"
            )

    @contextmanager
    def held(self) -> Iterator[Store]:
        """Hold the folder for this process alone; one without a stage does not outlast the block.

        A run that is stopped, as by Ctrl-C, leaves its mark, so that the next can say so.

        Yields:
            the store.

        Raises:
            OSError: if another process, or another thread, is at work in the folder.
        """
        if self.folder is None:
            yield self
            return
        missing = [place for place in (self.folder, *self.folder.parents) if not place.exists()]
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with claimed(self.folder), begun(self.folder) as self.stopped:
                yield self
        finally:
            for place in missing or [self.folder] * self.stopped:
                if not any(place.iterdir()):
                    place.rmdir()

    def stage(
        self, name: str, make: Callable[[], Stage], device: torch.device | str = "cpu"
    ) -> Stage:
        """Tensors and plain values of a stage: read where it was made before, else made.

        Args:
            name: of the stage, and of its file.
            make: makes it.
            device: where the tensors come to.

        Returns:
            what ``make`` returned, the plain values as JSON gives them back.
        """
        return self.read(name, device) or self.write(name, *make(), device)

    def read(self, name: str, device: torch.device | str = "cpu") -> Stage | None:
        """Read a finished stage.

        Args:
            name: of the stage.
            device: where its tensors come to.

        Returns:
            the stage, or None where it is not made.
        """
        from safetensors import safe_open

        if self.folder is None or not _place(self._file(name)).exists():
            return None
        if kind := not_a_file(self._file(name)):
            self.warn(name, f"it is {kind}, not a file")
            return None
        try:
            with safe_open(self._file(name), "pt") as content:
                names, metadata = list(content.keys()), content.metadata()
                tensors = {key: content.get_tensor(key) for key in names}
            words, checksum = metadata["words"], metadata["checksum"]
        except Exception as error:  # a broken file leads its reader to any of them
            reason = f"{type(error).__name__}: {error}"
        else:
            if checksum == self._checksum(name, tensors, words):
                return {key: x.to(device) for key, x in tensors.items()}, json.loads(words)
            reason = "its checksum differs"
        self.warn(name, reason)
        return None

    def finished(self) -> list[str]:
        """Names of the stages in the folder, in the order in which they were made."""
        files = [] if self.folder is None else self.folder.glob("*.safetensors")
        return [file.stem for file in sorted(files, key=lambda file: file.stat().st_mtime_ns)]

    def tell(self, say: Callable[[str], None], within: str = "") -> None:
        """Say which stages of an earlier run are not made again, ``within`` a part of the run."""
        if names := self.finished():
            say(f"{GOES_ON}, which has finished {', '.join(names)}{within}")
        elif self.stopped:
            say(AGAIN)

    def write(
        self,
        name: str,
        tensors: Mapping[str, Tensor],
        words: Mapping[str, Any],
        device: torch.device | str = "cpu",
    ) -> Stage:
        """Keep a finished stage.

        Args:
            name: of the stage, and of its file.
            tensors: its tensors.
            words: its plain values.
            device: where the returned tensors come to.

        Returns:
            what :meth:`read` will return.
        """
        text = json.dumps(words)
        whole = {key: value.detach().contiguous() for key, value in tensors.items()}
        if self.folder is not None:
            from safetensors.torch import save

            self.folder.mkdir(parents=True, exist_ok=True)
            checksum = fingerprint(json.dumps(self.depends))
            write_json(self.folder / _HEAD, {"depends": self.depends, "checksum": checksum})
            kept = {key: value.cpu() for key, value in whole.items()}
            metadata = {"words": text, "checksum": self._checksum(name, kept, text)}
            write_atomically(self._file(name), save(kept, metadata))
        return {key: value.to(device) for key, value in whole.items()}, json.loads(text)

    def array(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Room for an array, with what an earlier run wrote into it.

        What is written into the array is written into its file. Whoever fills rows keeps a stage
        with their :func:`fingerprint`, and by it knows them again.

        Args:
            name: of the array, and of its file.
            shape: (N, ...); the file may hold more or fewer rows.

        Returns:
            the array, float64; without a folder in memory only.
        """
        if self.folder is None:
            return torch.empty(shape, dtype=torch.float64)
        self.folder.mkdir(parents=True, exist_ok=True)
        file, size = _place(self.folder / f"{name}.bin"), math.prod(shape)
        if os.path.lexists(file) and (not file.exists() or not_a_file(file)):
            file.unlink()  # a link to a device, or to nothing: no rows of ours are in it
        # torch would make the file longer too, but spoils its first byte on the way
        with file.open("ab") as end:
            if hasattr(os, "posix_fallocate"):  # a full disk is an error now, not a crash later
                os.posix_fallocate(end.fileno(), 0, 8 * size)
            end.truncate(max(end.seek(0, os.SEEK_END), 8 * size))
        return torch.from_file(str(file), shared=True, size=size, dtype=torch.float64).view(shape)

    def part(self, name: str) -> Store:
        """A store inside this one, which depends on the same."""
        return Store(None if self.folder is None else self.folder / name, self.depends)

    def warn(self, name: str, reason: str) -> None:
        """Say that a stage counts as not made."""
        warnings.warn(
            f"{self._file(name)} cannot be used ({reason}); it is made again",
            RuntimeWarning,
            stacklevel=3,
        )

    def _file(self, name: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{name}.safetensors"

    def _checksum(self, name: str, tensors: Mapping[str, Tensor], words: str) -> str:
        content = [part for key in sorted(tensors) for part in (key, tensors[key])]
        return fingerprint(json.dumps(self.depends), name, words, *content)


@contextmanager
def held_file(file: str | os.PathLike[str] | None, say: Callable[[str], None]) -> Iterator[None]:
    """Hold a file of results for this process alone; says where a stopped run has left none.

    Args:
        file: the file, which need not exist; None holds nothing.
        say: is told it.

    Yields:
        nothing.

    Raises:
        OSError: if another process, or another thread, is at work there.
    """
    if file is None:
        yield
        return
    with claimed(Path(file)), begun(Path(file)) as stopped:
        if stopped and not Path(file).exists():
            say(AGAIN)
        yield


def _place(file: Path) -> Path:
    """A file of a store; a folder there, which no file can replace, is refused."""
    if file.is_dir() and not file.is_symlink():
        raise OSError(f"{file} is a folder, where a file of results belongs; take it away")
    return file


def _described(head: Path) -> dict[str, Any] | None:
    """What the stages beside a file depend on; None where it is missing or damaged."""
    try:
        content = read_json(head)
        before, checksum = dict(content["depends"]), content["checksum"]
    except (OSError, LookupError, TypeError, ValueError):
        return None
    return before if checksum == fingerprint(json.dumps(before)) else None


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Say in which entries two descriptions differ, and how.

    Args:
        before: a description as JSON gives it back, of what is there.
        now: another, of what is asked for.

    Returns:
        e.g. "seed was 0 and is 1 now, solver.rtol was not given and is 0.01 now"; empty where
        they agree.
    """
    old, new = _flat(before), _flat(now)
    return ", ".join(
        f"{key} was {_short(old.get(key))} and is {_short(new.get(key))} now"
        for key in {**old, **new}
        if old.get(key) != new.get(key)
    )


def _short(text: str | None) -> str:
    return "not given" if text is None else text if len(text) <= 40 else f"{text[:37]}..."


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Entries of nested mappings by dotted keys, as JSON."""
    entries: dict[str, str] = {}
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            entries |= _flat(inner, f"{prefix}{key}.")
        else:
            entries[f"{prefix}{key}"] = json.dumps(inner)
    return entries


def fingerprint(*parts: Tensor | str) -> str:
    """A short hash of the shapes, dtypes and values of tensors, and of texts."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            digest.update(f"{len(part)}:{part}".encode())
        else:
            digest.update(f"{part.dtype}{tuple(part.shape)}".encode())
            flat = part.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(flat.numpy().data)
    return digest.hexdigest()[:16]
