"""What every result made of frames shares: how it is written into a folder."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from diffodesic.output.animation import AnimationOptions
from diffodesic.output.folder import replace_files
from diffodesic.output.images import to_pil
from diffodesic.output.manifest import Run

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["SavedFrames"]


class SavedFrames(ABC):
    """A result with frames, which knows its run and writes its own files."""

    @property
    @abstractmethod
    def frames(self) -> Tensor:
        """Images, (F, C, H, W) in [0, 1]."""

    @abstractmethod
    def _run(self, inputs: tuple[tuple[str, str], ...]) -> Run:
        """What the folder says of the run behind it; ``inputs`` as in :meth:`save`."""

    @abstractmethod
    def _write(self, folder: Path, run: Run, animation: AnimationOptions) -> None:
        """Write all files into an empty folder."""

    def pictures(self) -> list[Image]:
        """The frames as PIL images."""
        return to_pil(self.frames)

    def save(
        self,
        outdir: str | os.PathLike[str],
        *,
        fps: float | None = None,
        video: bool | None = None,
        animation: AnimationOptions | None = None,
        inputs: tuple[tuple[str, str], ...] = (),
    ) -> Path:
        """Write frames, filmstrip, GIF, video, report and ``result.json`` into a folder.

        Args:
            outdir: the folder, made if needed; files of the last run in it are removed.
            fps: frames per second, in place of ``animation.fps``.
            video: whether to write ``path.mp4``, in place of ``animation.video``.
            animation: everything else about GIF and video; default ``AnimationOptions()``.
            inputs: names of the images, with hashes; default hashes of their values.

        Returns:
            the folder. Of two images it holds ``path.safetensors`` too, of several the folders
            ``pair-1``, ... with what is written for two.

        Raises:
            OSError: if it cannot be written; nothing is left half-written.
            ValueError: for a rate out of range, or a video without the package av.
        """
        moving = (animation or AnimationOptions()).but(fps=fps, video=video)
        run = self._run(inputs)
        with replace_files(outdir, run) as folder:
            self._write(folder, run, moving)
        return Path(outdir)
