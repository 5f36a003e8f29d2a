"""Sampled paths in a folder: what an interrupted run has finished, and more than memory holds.

    paths.json        what the paths were drawn with; paths of another kind are refused
    frames.bin        states of all paths, float64, in the order (path, frame, coordinate)
    block-00000.pt    the rest of a finished block; it is written last and makes the block count

The frames are mapped into memory, not read: they come from disk as they are looked at.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import torch
from torch import Tensor

from diffodesic.output.files import write_atomically

__all__ = ["Shelf"]

_FORMAT = 2


class Shelf:
    """Blocks of paths of one kind, in a folder or, without one, in memory only.

    Args:
        store: the folder, made if needed; None keeps nothing.
        kind: what the paths depend on, for JSON.

    Raises:
        ValueError: if the folder holds paths of another kind.
    """

    def __init__(self, store: Path | str | None, kind: dict[str, object]) -> None:
        self.folder, self._held = None if store is None else Path(store), 0
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        label = self.folder / "paths.json"
        text = json.dumps({"format": _FORMAT, **kind}, indent=1)
        if label.exists() and label.read_text(encoding="utf-8") != text:
            raise ValueError(
                f"{self.folder} holds paths drawn with other settings (see {label.name}); "
                "choose another folder or remove it"
            )
        write_atomically(label, text.encode())

    def frames(self, shape: tuple[int, int, int]) -> Tensor:
        """Room for the frames of all paths, (P, F, d); with a folder, those already there.

        What is written into it is written into the file: copy frames before changing them.

        Args:
            shape: (P, F, d).

        Returns:
            the frames.
        """
        if self.folder is None:
            return torch.empty(shape, dtype=torch.float64)
        path, file = 8 * shape[1] * shape[2], self.folder / "frames.bin"
        size = shape[0] * shape[1] * shape[2]
        # torch would make the file longer too, but spoils its first byte on the way
        with file.open("ab") as end:
            self._held = end.tell() // path
            end.truncate(max(end.tell(), 8 * size))
        return torch.from_file(str(file), shared=True, size=size, dtype=torch.float64).view(shape)

    def load(self, block: int, count: int, last: int) -> dict[str, Tensor] | None:
        """A finished block of ``count`` paths, or None.

        Args:
            block: its number.
            count: its paths; the last block of a run for fewer or more paths is drawn again.
            last: number of paths up to its end; a block whose frames were not all there when
                :meth:`frames` made room for them is drawn again.

        Returns:
            what :meth:`save` was given.
        """
        if self.folder is None or last > self._held or not self._file(block).exists():
            return None
        found: dict[str, Tensor] = torch.load(self._file(block), weights_only=True)
        return found if len(found["max_energy"]) == count else None

    def save(self, block: int, found: dict[str, Tensor]) -> None:
        """Keep a finished block, whose frames are in their place already."""
        if self.folder is None:
            return
        buffer = io.BytesIO()
        torch.save(found, buffer)
        write_atomically(self._file(block), buffer.getvalue())

    def _file(self, block: int) -> Path:
        assert self.folder is not None
        return self.folder / f"block-{block:05d}.pt"
