"""The published experiments, one module each: ``diffodesic reproduce NAME`` runs one of them.

An experiment is a function ``run(*, quick, outdir, seed, progress, ...) -> Outcome``.  Its rows
put what was published, or what a closed form expects, beside what was measured.
:func:`reproduce` writes

    result.json   settings, rows, notes, arrays, versions, seconds
    table.md      the rows and the notes
    figure.png    what the figure shows is what the notes say

each whole or not at all.  A new experiment is one module and one line of ``EXPERIMENTS``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

__all__ = ["Experiment", "Outcome", "Row", "table"]


@dataclass(frozen=True)
class Experiment:
    """A name, and where its function is.

    Attributes:
        name: what the command line calls it.
        place: ``module:function``, the module inside this package.
        about: one line.
        inputs: what the function takes beside ``quick``, ``outdir``, ``seed`` and ``progress`` (a
            function of a short line): any of ``data`` (a folder), ``model`` (a name or folder),
            ``pairs`` (a folder) and ``device``.
    """

    name: str
    place: str
    about: str
    inputs: tuple[str, ...] = ()

    def function(self) -> Callable[..., Outcome]:
        """The experiment itself; its module is imported now."""
        module, name = self.place.split(":")
        return getattr(import_module(f"diffodesic.experiments.{module}"), name)


@dataclass(frozen=True)
class Row:
    """One number of an experiment.

    Attributes:
        quantity: what it is, with its unit.
        measured: the value found here.
        published: the paper's value, where it prints one.
        expected: the value of a closed form or of an independent computation.
        error: standard error of ``measured``, where it is an average.
    """

    quantity: str
    measured: float
    published: float | None = None
    expected: float | None = None
    error: float | None = None


@dataclass(frozen=True)
class Outcome:
    """What an experiment found.

    Attributes:
        settings: everything the numbers depend on: a dataclass or a mapping.
        rows: the numbers.
        notes: sentences that belong to the table: what agrees, what does not, and why.
        arrays: longer results, plain lists and numbers, for ``result.json`` alone.
        figure: draws the figure into the file it is given.
    """

    settings: Any
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    arrays: Mapping[str, Any] = field(default_factory=dict)
    figure: Callable[[Path], object] | None = None


def table(outcome: Outcome) -> str:
    """The rows and notes of an outcome as Markdown; columns without a value are left out."""
    lines = [("", "published", "expected", "measured")]
    for row in outcome.rows:
        spread = "" if row.error is None else f" +- {_short(row.error)}"
        measured = _short(row.measured) + spread
        quantity = row.quantity.replace("|", "\\|")
        lines.append((quantity, _short(row.published), _short(row.expected), measured))
    kept = [c for c in range(4) if c in (0, 3) or any(line[c] for line in lines[1:])]
    widths = [max(len(line[c]) for line in lines) for c in range(4)]
    lines.insert(1, tuple("-" * width for width in widths))  # type: ignore[arg-type]
    if not outcome.rows:
        return "\n\n".join(outcome.notes) + "\n"
    rows = ["| " + " | ".join(f"{line[c]:<{widths[c]}}" for c in kept) + " |" for line in lines]
    return "\n".join([*rows, "", *outcome.notes]).rstrip() + "\n"


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
