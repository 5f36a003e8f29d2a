"""Pictures of paths: a labelled filmstrip.

Frames are uint8 arrays, (H, W) grey or (H, W, 3) RGB; Pillow alone draws them.

**Cost** no network evaluation.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from diffodesic.output.files import write_atomically

Image = npt.NDArray[np.uint8]

_PAPER, _INK, _SOFT = (255, 255, 255), (28, 30, 34), (93, 98, 107)


def filmstrip(
    rows: Mapping[str, Sequence[Image]],
    path: str | os.PathLike[str],
    *,
    marks: Mapping[int, str] | None = None,
    size: int = 96,
    gap: int = 4,
) -> Path:
    """Draw rows of frames, one under the other, with their names on the left and marks below.

    Args:
        rows: name of a path -> its n frames; the same n and one picture shape for all.
        path: the PNG file; replaced whole or not at all.
        marks: what stands below a frame, by its number; the frame is ruled off too, but for the
            first and the last. Default "s = 0" and "s = 1" below these.
        size: height of a frame on the strip, in pixels; small frames grow by a whole factor.
        gap: pixels between frames.

    Returns:
        The path written.

    Raises:
        ValueError: if there are no frames, or they differ in number or shape.
    """
    strip = draw_strip(rows, marks=marks, size=size, gap=gap)
    return write_atomically(path, png_or_gif(strip, format="PNG", optimize=True))


def draw_strip(
    rows: Mapping[str, Sequence[Image]],
    *,
    marks: Mapping[int, str] | None = None,
    size: int = 96,
    gap: int = 4,
) -> PillowImage.Image:
    """The picture that :func:`filmstrip` writes; arguments and errors as there."""
    count, shape = _common(rows)
    cell_h, cell_w = _cell(shape, size)
    font = ImageFont.load_default(size=max(12, round(cell_h / 5.5)))
    margin = round(cell_h / 5)
    label = round(max(font.getlength(name) for name in rows)) + 2 * margin
    width = label + count * (cell_w + gap) - gap + margin
    foot = round(cell_h / 2.6)
    height = margin + len(rows) * (cell_h + gap) - gap + foot
    strip = PillowImage.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(strip)
    for i, (name, frames) in enumerate(rows.items()):
        top = margin + i * (cell_h + gap)
        draw.text((margin, top + cell_h / 2), name, fill=_INK, font=font, anchor="lm")
        for j, frame in enumerate(frames):
            strip.paste(_fit(frame, (cell_w, cell_h)), (label + j * (cell_w + gap), top))
    for j, text in (marks or {0: "s = 0", count - 1: "s = 1"}).items():
        left = label + j * (cell_w + gap)
        draw.text((left + cell_w / 2, height - foot / 2), text, fill=_SOFT, font=font, anchor="mm")
        if 0 < j < count - 1:
            edge = (left - gap / 2, margin - gap / 2, left + cell_w + gap / 2 - 1, height - foot)
            draw.rectangle(edge, outline=_INK, width=max(1, gap // 3))
    return strip


def enlarged(frames: Sequence[Image], size: int) -> list[PillowImage.Image]:
    """Frames in colour at a height in pixels, as :func:`filmstrip` shows them.

    Args:
        frames: n pictures of one shape.
        size: the height; small frames grow by a whole factor, large ones are reduced to it.

    Returns:
        the pictures.

    Raises:
        ValueError: if there are no frames, or they differ in shape.
    """
    height, width = _cell(_common({"animation": frames})[1], size)
    return [_fit(frame, (width, height)) for frame in frames]


def _common(rows: Mapping[str, Sequence[Image]]) -> tuple[int, tuple[int, ...]]:
    """The number and the shape that all rows share."""
    shapes = {frame.shape for frames in rows.values() for frame in frames}
    counts = {len(frames) for frames in rows.values()}
    if len(shapes) != 1 or len(counts) != 1:
        raise ValueError(
            f"frames must agree: found numbers {sorted(counts)} and shapes {sorted(shapes)}; "
            "give every row the same number of frames of one shape"
        )
    return counts.pop(), shapes.pop()


def _cell(shape: tuple[int, ...], size: int) -> tuple[int, int]:
    """Height and width of a frame: enlarged by whole factors, reduced by any factor."""
    height, width = shape[:2]
    factor = size / height if height > size else max(1, round(size / height))
    return round(height * factor), round(width * factor)


def _fit(frame: Image, size: tuple[int, int]) -> PillowImage.Image:
    picture = PillowImage.fromarray(np.ascontiguousarray(frame)).convert("RGB")
    grow = size[1] >= picture.height
    kind = PillowImage.Resampling.NEAREST if grow else PillowImage.Resampling.LANCZOS
    return picture.resize(size, kind)


def png_or_gif(picture: PillowImage.Image, **options: Any) -> bytes:
    """A picture as the bytes of its file; options are those of ``Image.save``."""
    buffer = io.BytesIO()
    picture.save(buffer, **options)
    return buffer.getvalue()
