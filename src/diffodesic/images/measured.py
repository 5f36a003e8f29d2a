"""What results of measuring pictures share: what they were made of, their cost, and their file."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.images.placement import run_of
from diffodesic.models.identity import identity, short
from diffodesic.models.model import Model
from diffodesic.numerics.cost import Cost
from diffodesic.output.folder import replace_files
from diffodesic.output.records import versions, write_json
from diffodesic.output.stages import fingerprint

__all__ = ["Measured", "made_of"]


@dataclass(frozen=True, repr=False, kw_only=True)
class Measured:
    """Numbers of pictures under a model.

    Attributes:
        cost: work spent.
        seconds: wall-clock time.
        settings: what was asked for and what was chosen, with what :func:`made_of` says.
        notices: what was left out or is doubtful, one sentence each.
    """

    command: ClassVar[str]
    file: ClassVar[str]  # of the numbers
    cost: Cost
    seconds: float
    settings: dict[str, object]
    notices: tuple[str, ...]

    def save(
        self, outdir: str | os.PathLike[str], *, inputs: tuple[tuple[str, str], ...] = ()
    ) -> Path:
        """Write the numbers into a folder, as ``file``, and what is drawn of them.

        Args:
            outdir: the folder, made if needed; files of the last run in it are removed.
            inputs: names of the pictures, with hashes; default the hash of their values.

        Returns:
            the folder.

        Raises:
            OSError: if it cannot be written; no file is left half-written.
        """
        content = {
            **{field.name: getattr(self, field.name) for field in fields(self)},
            "seconds": round(self.seconds, 2),
            "versions": versions(),
        }
        run = run_of(self.command, self.settings, (), inputs)
        run = replace(run, inputs=inputs or (("points", str(self.settings["inputs"])),))
        with replace_files(outdir, run) as folder:
            self._draw(folder)
            write_json(folder / self.file, content)
        return Path(outdir)

    def _draw(self, folder: Path) -> None:
        """Write pictures of the numbers, where there are any."""


def made_of(source: Model | Denoiser, points: Tensor) -> dict[str, object]:
    """What a result was made of, as its settings name it.

    Args:
        source: the model under its condition, or the denoiser.
        points: what was measured, (N, D).

    Returns:
        plain values by name.

    Cost: that of ``identity``.
    """
    words = source.words if isinstance(source, Model) else {}
    return {
        "model": source.name if isinstance(source, Model) else type(source).__name__,
        "fingerprint": short(identity(source)),
        **words,
        "points": len(points),
        "inputs": fingerprint(points),
    }
