"""Axes of matplotlib for every figure.

Functions that draw call methods of the axes, so that no other file imports matplotlib.

**Cost** no network evaluation.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from diffodesic.output.files import write_atomically

__all__ = ["canvas"]

STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "savefig.dpi": 150,
}


@contextmanager
def canvas(
    path: str | os.PathLike[str], *, rows: int = 1, columns: int = 1, width: float = 4.0
) -> Iterator[list[Any]]:
    """Axes in rows and columns; the PNG file is written when the block ends without an error.

    Args:
        path: the PNG file; replaced whole or not at all.
        rows: number of rows.
        columns: number of columns.
        width: width of one of the axes, in inches; the height is 4/5 of it.

    Yields:
        the axes, row by row.
    """
    # a figure without pyplot: no window, no global state
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(columns * width, rows * width * 0.8), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False)
        yield list(axes.flat)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
    write_atomically(path, buffer.getvalue())
