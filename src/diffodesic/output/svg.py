"""Curves over s in [0, 1] as inline SVG, for pages.

The data attributes of a chart hold the position of its cursor at every frame, in units of its
`viewBox`. The script of the page therefore needs no scale.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

# width, height and margins of the plot, in units of the viewBox
_WIDTH, _HEIGHT = 460.0, 190.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 12.0, 10.0, 26.0


@dataclass(frozen=True)
class Curve:
    """One curve of a chart.

    Args:
        index: which path it belongs to; 0 is the geodesic, which the cursor's dot follows.
        s: m parameters in [0, 1], increasing.
        values: m values; those that are not finite leave a gap.
    """

    index: int
    s: Sequence[float]
    values: Sequence[float]


def chart(
    curves: Sequence[Curve], *, label: str, frames: Sequence[float], from_zero: bool = False
) -> Markup:
    """Return a chart of curves over s as an SVG element.

    Args:
        curves: at least one; the first is drawn on top.
        label: what the values are, for screen readers.
        frames: the parameters s at which the cursor can stand.
        from_zero: whether the axis must reach 0.

    Returns:
        The SVG element.
    """
    ticks = _ticks([v for curve in curves for v in curve.values], from_zero=from_zero)
    low, high = ticks[0], ticks[-1]

    def x(s: float) -> float:
        return _LEFT + s * (_WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        return _HEIGHT - _BOTTOM - (value - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    grid = "".join(
        f'<line class=grid x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(t):.1f}" y2="{y(t):.1f}"/>'
        f'<text class=tick text-anchor=end x="{_LEFT - 7}" y="{y(t) + 3.5:.1f}">{_tick(t)}</text>'
        for t in ticks
    )
    foot = "".join(
        f'<text class=tick text-anchor=middle x="{x(s):.1f}" y="{_HEIGHT - 8}">{text}</text>'
        for s, text in ((0.0, "0"), (0.25, "0.25"), (0.5, "s = 0.5"), (0.75, "0.75"), (1.0, "1"))
    )
    lines = "".join(
        f'<path class=curve data-path={curve.index} d="'
        f'{_outline([(x(s), y(v)) for s, v in zip(curve.s, curve.values, strict=True)])}"/>'
        for curve in reversed(curves)
    )
    first = curves[0]
    dots = [y(float(v)) for v in np.interp(frames, first.s, first.values)]
    return Markup(
        f'<svg role=img aria-label="{escape(label)} along the path" '
        f'viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" '
        f'data-x="{_join([x(s) for s in frames])}" data-y="{_join(dots)}">{grid}{foot}{lines}'
        f'<line class=cursor y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>'
        f"<circle class=dot data-path={first.index} r=4.5 /></svg>"
    )


def _ticks(values: Sequence[float], *, from_zero: bool) -> list[float]:
    """Three to six round numbers that span the values."""
    finite = [v for v in values if math.isfinite(v)] or [0.0]
    low, high = min(finite), max(finite)
    if from_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    # else a constant curve would be drawn as its rounding errors
    if high - low <= 1e-6 * max(abs(low), abs(high)):
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def _tick(value: float) -> str:
    return f"{value + 0.0:.6g}".replace("-", "−")


def _outline(points: Sequence[tuple[float, float]]) -> str:
    """An SVG path through the points, with a gap at those that are not finite."""
    parts, pen = [], "M"
    for px, py in points:
        if math.isfinite(py):
            parts.append(f"{pen}{px:.1f} {py:.1f}")
            pen = "L"
        else:
            pen = "M"
    return "".join(parts)


def _join(numbers: Sequence[float]) -> str:
    return " ".join(f"{v:.1f}" if math.isfinite(v) else "0" for v in numbers)
