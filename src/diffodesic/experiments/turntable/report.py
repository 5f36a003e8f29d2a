"""Tables and figures of ``score/turntable``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffodesic.experiments.common.statistics import (
    Estimate,
    SetDistances,
    draws,
    resampled_mean,
)
from diffodesic.experiments.turntable.judging import MEASURES, Scores
from diffodesic.experiments.turntable.settings import REFERENCES, Settings
from diffodesic.output.figures import canvas
from diffodesic.output.images import to_uint8
from diffodesic.output.pictures import filmstrip
from diffodesic.output.tables import markdown

__all__ = ["Table", "conclusions", "front", "pages", "picture", "plain", "strips"]

LESS = {**MEASURES, "FID": True, "KID": True}
Table = Mapping[str, Mapping[str, Estimate]]


def conclusions(scores: Mapping[str, Scores], reference: Tensor, settings: Settings) -> Table:
    """Every measure of every method, resampled by object.

    Args:
        scores: by method, of its first n objects.
        reference: features (N, G, size) of real pictures.
        settings: how many components and resamples.

    Returns:
        estimates by method and measure; methods of as many objects share their draws.
    """
    sets: dict[int, tuple[Tensor, SetDistances, SetDistances]] = {}
    centre, axes = _components(reference, settings.components)
    table = {}
    for method, own in scores.items():
        count = len(own["pooled"])
        if count not in sets:
            weights = draws(count, settings.resamples, settings.seed)
            real = reference[:count]
            parts = (SetDistances((real - centre) @ axes, weights), SetDistances(real, weights))
            sets[count] = (weights, *parts)
        weights, few, whole = sets[count]
        found = {k: resampled_mean(own[k].double(), weights) for k in MEASURES if k in own}
        found["FID"] = few.fid((own["pooled"] - centre) @ axes)
        found["KID"] = whole.kid(own["pooled"])
        table[method] = found
    return table


def _components(reference: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean (size,) and first principal axes (size, count) of features (..., size)."""
    flat = reference.flatten(0, -2)
    centre = flat.mean(0)
    return centre, torch.linalg.svd(flat - centre, full_matrices=False).Vh[:count].T


def plain(table: Table) -> dict[str, dict[str, dict[str, float]]]:
    """A table without its resamples."""
    return {
        method: {k: {"value": e.value, "low": e.low, "high": e.high} for k, e in own.items()}
        for method, own in table.items()
    }


def front(table: Table, measures: Sequence[str]) -> set[str]:
    """Methods than which no other is better in all of some measures at once."""
    values = {method: [own[name].value for name in measures] for method, own in table.items()}

    def beaten(mine: list[float]) -> bool:
        return any(
            all(x <= y for x, y in zip(other, mine, strict=True)) and other != mine
            for other in values.values()
        )

    return {method for method, mine in values.items() if not beaten(mine)}


def pages(
    tables: Mapping[str, Table],
    counts: Mapping[str, int],
    ours: str,
    settings: Settings,
    checked: Sequence[str],
) -> tuple[str, ...]:
    """Markdown: per set of pairs all methods, and differences of the chosen one from them.

    Args:
        tables: by title of the set.
        counts: objects that each method joined.
        ours: the chosen method.
        settings: of the run.
        checked: sentences on the measures themselves.

    Returns:
        paragraphs and tables.
    """
    few = [name for name, count in counts.items() if count < settings.objects]
    head = (
        f"{settings.objects} objects ({settings.split}), one pair of views each at every gap, "
        f"{settings.frames - 2} inner frames; value ± half of the 95 % interval by resampling "
        "objects. Nearest: of all photographs of the object through the autoencoder (raw where "
        "said), at 64 x 64; features: squeezenet-1.1, unweighted, not LPIPS. Fine energy: above "
        "a quarter of the sampling frequency, 1 is that of the photographs. FID in "
        f"{settings.components} principal components of the photographs between the ends, KID "
        "times 1000; of morphs against photographs of other fruit. (f): on the front of nearest "
        "features (morphs: KID) against largest step, references apart."
    )
    if few:
        head += f" Of the first {settings.searched} objects only: {', '.join(few)}."
    parts = [head, *checked]
    for title, table in tables.items():
        parts += [f"## {title}", _values(table), _differences(table, counts, ours)]
    return tuple(parts)


def _values(table: Table) -> str:
    measures = [name for name in LESS if any(name in own for own in table.values())]
    best = "nearest, features" if "nearest, features" in measures else "KID"
    rated = {name: own for name, own in table.items() if name not in REFERENCES}
    fronts = front(rated, (best, "largest step"))
    lines = []
    for method, own in table.items():
        mark = " (f)" if method in fronts else ""
        lines.append([method + mark, *(_short(own[name]) for name in measures)])
    return markdown(["", *measures], lines)


def _differences(table: Table, counts: Mapping[str, int], ours: str) -> str:
    """The chosen method minus every other of as many objects; bold where it is surely better."""
    measures = [k for k, less in LESS.items() if less is not None and k in table[ours]]
    lines = []
    for method in (m for m in table if m != ours and counts[m] == counts[ours]):
        cells = [method]
        for name in measures:
            change = table[ours][name].minus(table[method][name])
            better = change.high < 0 if LESS[name] else change.low > 0
            text = f"{change.value:+.3g} [{change.low:+.3g}, {change.high:+.3g}]"
            cells.append(f"**{text}**" if better else text)
        lines.append(cells)
    return markdown([f"{ours} minus", *measures], lines)


def _short(estimate: Estimate) -> str:
    return f"{estimate.value:.3g} ± {(estimate.high - estimate.low) / 2:.2g}"


def picture(to: Path, tables: Mapping[str, Table], ours: str) -> None:
    """Distance to the nearest photograph (of morphs: KID) against the largest step, per set."""
    with canvas(to, rows=-(-len(tables) // 3), columns=3, width=5) as panels:
        for panel in panels[len(tables) :]:
            panel.set_axis_off()
        for panel, (title, table) in zip(panels, tables.items(), strict=False):
            name = "nearest, features" if "nearest, features" in table[ours] else "KID"
            for method, own in table.items():
                _point(panel, method, own["largest step"], own[name], method == ours)
            panel.set(title=title, xlabel="largest step, features", ylabel=name)


def _point(panel: Any, method: str, x: Estimate, y: Estimate, ours: bool) -> None:
    errors = {"xerr": (x.high - x.low) / 2, "yerr": (y.high - y.low) / 2}
    colour = "C3" if ours else "0.6" if method in REFERENCES else "C0"
    panel.errorbar(x.value, y.value, **errors, fmt="o", ms=3, lw=0.5, color=colour)
    place = {"xytext": (3, 3), "textcoords": "offset points"}
    panel.annotate(method, (x.value, y.value), **place, fontsize=5)


def strips(shown: Mapping[str, Tensor], to: Path) -> None:
    """Frames (D, F, 3, H, W) of the methods, object after object, one under the other."""
    objects = range(min(map(len, shown.values())))
    filmstrip({name + " " * i: to_uint8(shown[name][i]) for i in objects for name in shown}, to)
