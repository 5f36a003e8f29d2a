"""Stages of a long run in a folder: what is done is read again, and only the rest is made.

    kind.json             what the stages depend on; a folder of another kind is refused
    NAME.safetensors      tensors of a finished stage, and its numbers and words as metadata

A stage is written whole or not at all.  Tensors come back bit by bit, so a run that goes on ends
where it would have ended without the interruption.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffodesic.output.files import write_atomically

__all__ = ["Checkpoint", "fingerprint"]

_HEAD = "kind.json"
Stage = tuple[dict[str, Tensor], dict[str, Any]]


class Checkpoint:
    """Stages of one run.

    Args:
        folder: where they are kept, made if needed; None keeps nothing.
        kind: what they depend on, for JSON.

    Raises:
        ValueError: if the folder holds stages of another kind.
    """

    def __init__(self, folder: Path | str | None, kind: Mapping[str, Any]) -> None:
        self.folder = None if folder is None else Path(folder)
        self.depends, self.kind = kind, json.dumps(kind, indent=1)
        if self.folder is None:
            return
        head = self.folder / _HEAD
        if head.exists() and head.read_text(encoding="utf-8") != self.kind:
            raise ValueError(
                f"{self.folder} holds results of other settings (see {head.name}); "
                "remove it or choose another folder"
            )

    def stage(
        self, name: str, make: Callable[[], Stage], device: torch.device | str = "cpu"
    ) -> Stage:
        """Tensors and plain values of a stage: made, or read where it was made before.

        Args:
            name: of the stage, and of its file.
            make: makes it.
            device: where tensors that are read come to.

        Returns:
            what ``make`` returned.
        """
        if self.folder is None:
            return make()
        from safetensors import safe_open
        from safetensors.torch import save

        file = self.folder / f"{name}.safetensors"
        if not file.exists():
            tensors, words = make()
            self.folder.mkdir(parents=True, exist_ok=True)  # not before there is something to keep
            write_atomically(self.folder / _HEAD, self.kind.encode())
            kept = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
            write_atomically(file, save(kept, {"words": json.dumps(words)}))
            return tensors, words
        with safe_open(file, "pt") as content:
            names = content.keys()
            tensors = {key: content.get_tensor(key).to(device) for key in names}
            return tensors, json.loads(content.metadata()["words"])

    def part(self, name: str) -> Checkpoint:
        """A checkpoint of its own inside this one, which depends on the same."""
        return Checkpoint(None if self.folder is None else self.folder / name, self.depends)


def fingerprint(*tensors: Tensor) -> str:
    """A short hash of shapes, dtypes and values."""
    found = hashlib.sha256()
    for x in tensors:
        found.update(f"{x.dtype}{tuple(x.shape)}".encode())
        found.update(x.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]
