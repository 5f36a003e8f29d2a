"""Methods beside one another: tables of estimates, fronts, paired differences, figures."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import Tensor

from diffodesic.experiments.common.statistics import Estimate
from diffodesic.output.images import to_uint8
from diffodesic.output.tables import markdown

__all__ = ["Table", "differences", "front", "plain", "point", "short", "strip_rows"]

Table = Mapping[str, Mapping[str, Estimate]]
"""Estimates by method and measure."""


def plain(table: Table) -> dict[str, dict[str, dict[str, float]]]:
    """A table without its resamples."""
    return {
        method: {k: {"value": e.value, "low": e.low, "high": e.high} for k, e in own.items()}
        for method, own in table.items()
    }


def front(table: Table, measures: Sequence[str]) -> set[str]:
    """Methods than which no other is better in all of some measures, of which less is better."""
    values = {method: [own[name].value for name in measures] for method, own in table.items()}

    def beaten(mine: list[float]) -> bool:
        return any(
            all(x <= y for x, y in zip(other, mine, strict=True)) and other != mine
            for other in values.values()
        )

    return {method for method, mine in values.items() if not beaten(mine)}


def differences(
    table: Table,
    ours: str,
    others: Sequence[str],
    measures: Mapping[str, str],
    more: Collection[str],
) -> str:
    """Ours minus others on the same draws, in Markdown; bold where it is surely better.

    Args:
        table: the estimates.
        ours: the method that the others are taken from.
        others: of as many units.
        measures: their titles, by name.
        more: measures of which more is better.

    Returns:
        the table.
    """
    lines = []
    for method in others:
        cells = [method]
        for name in measures:
            change = table[ours][name].minus(table[method][name])
            better = change.low > 0 if name in more else change.high < 0
            text = f"{change.value:+.3g} [{change.low:+.3g}, {change.high:+.3g}]"
            cells.append(f"**{text}**" if better else text)
        lines.append(cells)
    return markdown([f"{ours} minus", *measures.values()], lines)


def short(estimate: Estimate, digits: int = 3) -> str:
    """A value to so many digits, and half of its interval."""
    return f"{estimate.value:.{digits}g} ± {(estimate.high - estimate.low) / 2:.2g}"


def point(
    panel: Any,
    x: Estimate,
    y: Estimate,
    colour: str,
    name: str = "",
    *,
    at: tuple[float, float] = (3, 3),
    size: int = 6,
) -> None:
    """Draw a method with its intervals, and its name where it is given.

    Args:
        panel: axes of matplotlib.
        x: of the method.
        y: of the method.
        colour: of its point.
        name: what stands beside it.
        at: where, in points from it.
        size: of the letters.
    """
    errors = {"xerr": (x.high - x.low) / 2, "yerr": (y.high - y.low) / 2}
    panel.errorbar(x.value, y.value, **errors, fmt="o", ms=3, lw=0.7, color=colour)
    if name:
        place = {"xytext": at, "textcoords": "offset points"}
        panel.annotate(name, (x.value, y.value), **place, fontsize=size)


def strip_rows(shown: Mapping[str, Tensor], names: Sequence[str], count: int) -> dict[str, Any]:
    """Rows of a strip: frames (D, F, C, H, W) of methods, unit after unit, one under the other."""
    # a row's name is its key: spaces keep those of later units apart
    return {name + " " * i: to_uint8(shown[name][i]) for i in range(count) for name in names}
