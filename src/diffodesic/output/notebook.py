"""What a result shows in a notebook: a strip of pictures, how it ended, and its numbers.

One small piece of HTML with its picture inside, without script or style of its own beyond the
elements'; notebooks call it by ``_repr_html_``.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffodesic.output.pictures import Image

__all__ = ["MOST", "fragment"]

MOST = 9  # frames of a row: a notebook is narrow
_GOOD, _BAD = "#1a7f37", "#b35900"


def fragment(
    title: str,
    status: str,
    numbers: Mapping[str, object],
    *,
    ok: bool,
    notices: Sequence[str] = (),
    strip: Mapping[str, Sequence[Image]] | None = None,
) -> str:
    """A result as HTML.

    Args:
        title: what it is.
        status: how it ended, a sentence with code in backticks.
        numbers: by name.
        ok: whether it ended well.
        notices: what is doubtful, one sentence each.
        strip: rows of frames; all rows have the same number.

    Returns:
        a ``<div>``.
    """
    rows = "".join(
        f'<tr><th style="text-align:left">{escape(name)}</th>'
        f'<td style="text-align:left">{escape(str(value))}</td></tr>'
        for name, value in numbers.items()
    )
    doubts = "".join(f"<li>{_code(notice)}</li>" for notice in notices)
    return (
        f"<div><p><b>{escape(title)}</b><br>"
        f'<span style="color:{_GOOD if ok else _BAD}">{_code(status)}</span></p>'
        f"{_picture(strip) if strip else ''}<table>{rows}</table>"
        f"{f'<ul>{doubts}</ul>' if doubts else ''}</div>"
    )


def _picture(strip: Mapping[str, Sequence[Image]]) -> str:
    """The strip as an image inside the page, of at most ``MOST`` frames a row."""
    from diffodesic.output.pictures import draw_strip

    def few(frames: Sequence[Image]) -> list[Image]:
        last, count = len(frames) - 1, min(len(frames), MOST)
        return [frames[round(i * last / max(1, count - 1))] for i in range(count)]

    buffer = io.BytesIO()
    drawn = draw_strip({name: few(frames) for name, frames in strip.items()}, size=64)
    drawn.save(buffer, format="PNG", optimize=True)
    code = base64.b64encode(buffer.getvalue()).decode()
    names = escape(", ".join(strip), quote=True)
    return f'<img alt="frames of {names}" src="data:image/png;base64,{code}">'


def _code(sentence: str) -> str:
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(sentence))
