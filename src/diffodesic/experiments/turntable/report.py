"""Tables and figures of ``score/turntable``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffodesic.experiments.common.compared import (
    Table,
    differences,
    front,
    short,
    strip_rows,
)
from diffodesic.experiments.common.statistics import SetDistances, draws, resampled_mean
from diffodesic.experiments.turntable.judging import MEASURES, Scores
from diffodesic.experiments.turntable.settings import OURS, REFERENCES, Settings
from diffodesic.output.figures import canvas
from diffodesic.output.pictures import filmstrip
from diffodesic.output.tables import markdown

__all__ = ["FEW", "conclusions", "pages", "picture", "strips"]

LESS = {**MEASURES, "FID": True, "KID": True}
FEW = f"{OURS}, first objects"  # what slow methods, which join a few pairs, are compared with


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
    few = [name for name, count in counts.items() if count < settings.objects and name != FEW]
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
        head += f" Of the first {settings.few} objects only: {', '.join(few)}."
        head += " The pixel model has frames of 64 x 64; its fine energy and ends are taken there."
    parts = [head, *checked]
    for title, table in tables.items():
        parts += [f"## {title}", _values(table, counts), _differences(table, counts, ours)]
    return tuple(parts)


def _values(table: Table, counts: Mapping[str, int]) -> str:
    measures = [name for name in LESS if any(name in own for own in table.values())]
    best = "nearest, features" if "nearest, features" in measures else "KID"
    whole = max(counts.values())
    rated = {k: own for k, own in table.items() if k not in REFERENCES and counts[k] == whole}
    fronts = front(rated, (best, "largest step"))
    lines = []
    for method, own in table.items():
        mark = " (f)" if method in fronts else ""
        lines.append([method + mark, *(short(own[name]) for name in measures)])
    return markdown(["", *measures], lines)


def _differences(table: Table, counts: Mapping[str, int], ours: str) -> str:
    """The chosen method minus every other, on the objects of the other."""
    measures = {k: k for k, less in LESS.items() if less is not None and k in table[ours]}
    more = [name for name in measures if not LESS[name]]
    parts = []
    for own in (name for name in (ours, FEW) if name in table):
        others = [name for name in table if counts[name] == counts[own] and name != own]
        parts.append(differences(table, own, others, measures, more))
    return "\n\n".join(parts)


def picture(to: Path, tables: Mapping[str, Table], ours: str) -> None:
    """Distances to the nearest photograph (of morphs: KID) and largest steps, a line a method."""
    with canvas(to, rows=len(tables), columns=2, width=5) as panels:
        for i, (title, table) in enumerate(tables.items()):
            name = "nearest, features" if "nearest, features" in table[ours] else "KID"
            _lines(panels[2 * i], table, name, ours)
            panels[2 * i].set(title=title, xlabel=name)
            _lines(panels[2 * i + 1], table, "largest step", ours)
            panels[2 * i + 1].set(xlabel="largest step, features", yticklabels=[])


def _lines(panel: Any, table: Table, measure: str, ours: str) -> None:
    """Values and intervals of a measure, a line a method from the top down."""
    methods = [name for name in table if name != FEW]
    for line, method in enumerate(methods):
        own = table[method][measure]
        colour = "C3" if method == ours else "0.6" if method in REFERENCES else "C0"
        panel.plot([own.low, own.high], [line, line], color=colour, lw=0.8)
        panel.plot(own.value, line, "o", ms=3, color=colour)
    panel.set_yticks(range(len(methods)), methods, fontsize=6)
    panel.invert_yaxis()
    panel.grid(axis="x", lw=0.3)


def strips(shown: Mapping[str, Tensor], to: Path) -> None:
    """Frames (D, F, 3, H, W) of the methods, object after object, one under the other."""
    count = min(map(len, shown.values()))
    filmstrip(strip_rows(shown, list(shown), count), to)
