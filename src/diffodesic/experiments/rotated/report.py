"""Tables and figures of ``score/rotated-mnist``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from diffodesic.experiments.common.compared import (
    Table,
    differences,
    front,
    point,
    short,
    strip_rows,
)
from diffodesic.experiments.common.statistics import SetDistances, resampled_mean
from diffodesic.experiments.rotated.digits import Scores
from diffodesic.experiments.rotated.settings import Settings
from diffodesic.output.figures import canvas
from diffodesic.output.pictures import filmstrip
from diffodesic.output.tables import markdown

__all__ = ["conclusions", "pages", "picture", "strips"]

DIGIT, SQUEEZE = "digit-classifier-1", "squeezenet-1.1"
SHORT = {DIGIT: "c", SQUEEZE: "s"}
UPWARDS = ("truth PSNR", "truth SSIM", "end PSNR")  # more is better
SHARP = ("FID", "KID")
DECISIVE = ("orbit RMSE", "orbit, ", "FID, ", "KID, ")
STRIP = (
    "truth",
    "SLERP",
    "SLERP, full inversion",
    "NoiseDiffusion",
    "score metric, mode=paper",
    "score metric",
    "score Jacobian",
    "score size",
    "score size, norm kept",
)
NAMED = {  # in the figure, and where
    "SLERP": (-26, -12),
    "SLERP, full inversion": (-60, 6),
    "NAO": (4, -4),
    "NoiseDiffusion": (-52, 4),
    "score metric, mode=paper": (-70, 6),
    "score metric, weight 1000, log SNR 4": (4, 4),
    "score size": (2, -14),
    "score size, norm kept": (2, 6),
    "score Jacobian": (4, 4),
    "spacetime": (4, 4),
}


def conclusions(
    scores: Mapping[str, Scores], reference: Mapping[str, Tensor], weights: Tensor
) -> Table:
    """Every measure of every method; ``reference`` holds features (N, G, F), by extractor."""
    sets = {name: SetDistances(features, weights) for name, features in reference.items()}
    table = {}
    for method, own in scores.items():
        estimates = {name: resampled_mean(x, weights) for name, x in own.items() if x.ndim == 1}
        for name, distances in sets.items():
            estimates[f"FID, {name}"] = distances.fid(own[name])
            estimates[f"KID, {name}"] = distances.kid(own[name])
        table[method] = {name: estimates[name] for name in _order(sets)}
    return table


def _order(extractors: Iterable[str]) -> list[str]:
    """Measures in the order of the tables."""
    kinds = ("truth", "orbit", "FID", "KID", "PPL", "PDV")
    named = {kind: [f"{kind}, {name}" for name in extractors] for kind in kinds}
    truth = ["truth PSNR", "truth SSIM", *named["truth"]]
    orbit = ["orbit RMSE", *named["orbit"], "angle error"]
    return truth + orbit + [m for kind in kinds[2:] for m in named[kind]] + ["end PSNR"]


def pages(
    tables: Mapping[float, Table], beyond: Mapping[str, Any], ours: str, settings: Settings
) -> tuple[str, ...]:
    """Markdown: per gap all methods, and their differences from the recommended setting."""
    head = (
        f"{settings.digits} {settings.split} digits, {settings.frames - 2} inner frames each; "
        "value ± half of the 95 % interval over digits. c: features of digit-classifier-1, s: "
        "squeezenet-1.1 (distances unweighted: not LPIPS). FID and KID against the same digits at "
        "free angles in the gap; KID times 1000. (c), (s): on the Pareto front of FID, KID, PPL "
        "and PDV."
    )
    parts = [head]
    for gap, table in tables.items():
        parts += [f"## {gap:g} degrees", _values(table), _differences(table, ours)]
    return (*parts, "## Past the end", _beyond(beyond)) if beyond else tuple(parts)


def _title(measure: str) -> str:
    for name, letter in SHORT.items():
        measure = measure.replace(f", {name}", f" {letter}")
    return measure


def _values(table: Table) -> str:
    measures = list(next(iter(table.values())))
    best = ("FID", "KID", "PPL", "PDV")
    fronts = {name: front(table, [f"{what}, {name}" for what in best]) for name in SHORT}
    lines = []
    for method, own in table.items():
        marks = "".join(f" ({SHORT[name]})" for name in SHORT if method in fronts[name])
        lines.append([method + marks, *(short(own[name], 4) for name in measures)])
    return markdown(["", *map(_title, measures)], lines)


def _differences(table: Table, ours: str) -> str:
    """Ours minus every other."""
    names = [name for name in table[ours] if name.startswith(DECISIVE)]
    names += [name for name in table[ours] if name.startswith(("truth PSNR", "PPL", "PDV"))]
    measures = {name: _title(name) for name in names}
    return differences(table, ours, [name for name in table if name != ours], measures, UPWARDS)


def _beyond(beyond: Mapping[str, Any]) -> str:
    head = (
        f"From {-beyond['gap'] / 2:g} to {beyond['gap'] / 2:g} degrees, and on: mean error of the "
        "angle in degrees [95 % interval], and the share of digits whose path went so far; the "
        "exponential map stops at its alarms."
    )
    lines = []
    for j, t in enumerate(beyond["overshoot"]):
        cells = [f"{t:g}", f"{t * beyond['gap']:.3g}"]
        for points in _walks(beyond).values():
            error = points[j].get("angle error")
            text = "-" if error is None else f"{error[0]:.1f} [{error[1]:.1f}, {error[2]:.1f}]"
            cells.append(f"{text}, {points[j]['reached']:.0%}")
        lines.append(cells)
    return f"{head}\n\n{markdown(['overshoot', 'degrees', *_walks(beyond)], lines)}"


def _walks(beyond: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """What was measured at every overshoot, by method."""
    return {name: value["rows"] for name, value in beyond.items() if isinstance(value, Mapping)}


def picture(to: Path, tables: Mapping[float, Table], beyond: Mapping[str, Any]) -> None:
    """Sharpness against smoothness at every gap, and the angle past the end."""
    with canvas(to, rows=-(-(len(tables) + 1) // 3), columns=3, width=5) as panels:
        first, last = panels[: len(tables)], panels[len(tables)]
        for panel in panels[len(tables) + bool(beyond) :]:
            panel.set_axis_off()
        for panel, (gap, table) in zip(first, tables.items(), strict=True):
            for method, own in table.items():
                colour, name = ("C0", method) if method in NAMED else ("0.75", "")
                at = NAMED.get(method, (0, 0))
                point(panel, own[f"PDV, {DIGIT}"], own[f"FID, {DIGIT}"], colour, name, at=at)
            panel.set(xscale="log", yscale="log", title=f"{gap:g} degrees", xlabel="PDV")
        first[0].set(ylabel="FID")
        if not beyond:
            return
        degrees = [t * beyond["gap"] for t in beyond["overshoot"]]
        last.plot(degrees, degrees, "k--", lw=0.8, label="truth")
        for name, points in _walks(beyond).items():
            went = [
                (true, point["angle past the end"][0])
                for true, point in zip(degrees, points, strict=True)
                if "angle past the end" in point
            ]
            if went:
                last.plot(*zip(*went, strict=True), "o-", ms=3, label=name)
        last.set(xlabel="true angle past the end", title="extrapolation")
        last.legend(fontsize=6)


def strips(shown: Mapping[str, Tensor], to: Path) -> None:
    """Frames (D, F, 1, 28, 28) of some methods, two digits, one under the other."""
    named = [name for name in STRIP if name in shown]
    filmstrip(strip_rows(shown, named, min(2, len(shown["truth"]))), to)
