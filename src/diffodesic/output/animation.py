"""Frames that move: an animated GIF, and a video.

Frames are uint8 arrays, (H, W) grey or (H, W, 3) RGB.  Videos are H.264 in mp4, by PyAV, an extra
that brings FFmpeg's libraries; nothing else is taken in its place.

**Cost** no network evaluation.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from diffodesic.output.files import write_atomically
from diffodesic.output.options import Options, option

if TYPE_CHECKING:  # options need torch alone, pictures the extra app
    from diffodesic.output.pictures import Image

__all__ = ["AnimationOptions", "write_gif", "write_video"]

_FASTEST = 50  # viewers of GIFs play anything under 20 ms at 100 ms
_SECONDS = 2.5  # from the first frame to the last, where no rate is given


@dataclass(frozen=True, kw_only=True)
class AnimationOptions(Options):
    """How frames become a GIF, and a video.

    Args:
        video: write a video (mp4) beside the GIF; it needs the package av.
        fps: frames per second of GIF and video; auto takes 2.5 seconds from the first image to the
            last.
        loop: run back to the first image, and begin again in the GIF; else play once.
        height: of GIF and video in pixels; small frames grow by a whole factor.
    """

    video: bool = False
    fps: float | Literal["auto"] = option("auto", above=0, most=_FASTEST)
    loop: bool = True
    height: int = option(256, least=16, most=4096)

    def __post_init__(self) -> None:
        """Check every value, and that videos can be written: before any work is spent.

        Raises:
            ValueError: for a value out of its range, or a video without the package av.
        """
        super().__post_init__()
        if self.video:
            try:
                import av  # noqa: F401
            except ImportError as error:
                raise ValueError(
                    "video needs the package av: pip install 'diffodesic[video]', or leave it out"
                ) from error

    def rate(self, count: int) -> float:
        """Frames per second for ``count`` frames."""
        return min(_FASTEST, count / _SECONDS) if self.fps == "auto" else float(self.fps)

    def pictures(self, frames: Sequence[Image]) -> list[Any]:
        """Pillow's pictures of everything that is shown, at its size."""
        from diffodesic.output.pictures import enlarged

        shown = enlarged(frames, self.height)
        return shown + shown[-2:0:-1] if self.loop else shown


def write_gif(
    frames: Sequence[Image], path: str | os.PathLike[str], options: AnimationOptions | None = None
) -> Path:
    """Write frames as an animated GIF, whose times are in hundredths of a second.

    Args:
        frames: n pictures of one shape.
        path: the GIF file; replaced whole or not at all.
        options: rate, height, and whether it runs back; default ``AnimationOptions()``.

    Returns:
        the path written.

    Raises:
        ValueError: if there are no frames, or they differ in shape.
    """
    from diffodesic.output.pictures import png_or_gif

    asked = options or AnimationOptions()
    first, *rest = asked.pictures(frames)
    words = {"loop": 0} if asked.loop else {}
    period = round(1000 / asked.rate(len(frames)))
    content = png_or_gif(
        first, format="GIF", save_all=True, append_images=rest, duration=period, **words
    )
    return write_atomically(path, content)


def write_video(
    frames: Sequence[Image], path: str | os.PathLike[str], options: AnimationOptions | None = None
) -> Path:
    """Write frames as a video: H.264 in mp4, with sides made even by repeating the last row.

    Arguments and errors are those of :func:`write_gif`.

    Returns:
        the path written.

    Raises:
        ModuleNotFoundError: without the package av.
    """
    import av
    import numpy as np

    asked, buffer = options or AnimationOptions(), io.BytesIO()
    rate = Fraction(asked.rate(len(frames))).limit_denominator(1000)
    shown = [np.asarray(picture) for picture in asked.pictures(frames)]
    height, width = shown[0].shape[:2]
    odd = ((0, height % 2), (0, width % 2), (0, 0))
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "16"})
        stream.height, stream.width, stream.pix_fmt = (
            height + height % 2,
            width + width % 2,
            "yuv420p",
        )
        for picture in shown:
            frame = av.VideoFrame.from_ndarray(np.pad(picture, odd, "edge"), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return write_atomically(path, buffer.getvalue())
