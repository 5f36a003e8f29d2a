"""What an experiment is: a function ``run(context) -> Outcome``, and one line of the registry.

``experiments/NAME.py`` holds ``run`` and what the experiment alone needs.  A :class:`Context` says
how it is run; the :class:`Outcome` puts what was published, or what a closed form expects, beside
what was measured.  :func:`diffodesic.experiments.registry.reproduce` writes

    result.json   settings, numbers, notes, arrays, versions, seconds
    table.md      the numbers and the notes
    figure.png    what the figure shows is what the notes say

each whole or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from diffodesic.numerics.cost import part

__all__ = ["INPUTS", "Context", "Experiment", "Number", "Outcome", "table"]

INPUTS = ("data", "model", "pairs", "device")
S = TypeVar("S")


def _silent(_: str) -> None:
    """Show no progress."""


@dataclass(frozen=True)
class Context:
    """How an experiment is run; the fields of ``INPUTS`` count for experiments that declare them.

    Attributes:
        outdir: folder of the results, and of what an interrupted run needs to go on.
        quick: small settings that take seconds, to see that everything works.
        seed: of everything random.
        progress: called with a short line now and then.
        data: folder of real data.
        model: name or folder of a model; default that of the experiment.
        pairs: folder of folders of two pictures each.
        device: where networks run.
    """

    outdir: Path
    quick: bool = False
    seed: int = 0
    progress: Callable[[str], None] = _silent
    data: Path | None = None
    model: str = ""
    pairs: Path | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be between 0 and 2^63 - 1, got {self.seed}")

    def part(self, text: str, *, of: int) -> None:
        """Say that the next of ``of`` parts of the run begins, all about as long."""
        part(of)
        self.progress(text)

    def settings(self, full: S, **small: Any) -> S:
        """The full settings (a dataclass), or with ``quick`` those with small values in places."""
        return replace(full, **small) if self.quick else full  # type: ignore[type-var]

    def need(self, name: str, what: str) -> Path:
        """The folder ``data`` or ``pairs``; ValueError, saying ``what`` it holds, without it."""
        folder = getattr(self, name)
        if folder is None:
            raise ValueError(f"this takes --{name} DIR, {what}")
        return folder


@dataclass(frozen=True)
class Experiment:
    """A name, and where its function is."""

    name: str  # what the command line calls it
    place: str  # ``module:function``, the module inside this package
    about: str  # one line
    inputs: tuple[str, ...] = ()  # what it takes, of ``INPUTS``; the only place that says so
    model: str = "mnist"  # where it takes one and none is named

    def function(self) -> Callable[[Context], Outcome]:
        """The experiment itself; its module is imported now."""
        module, name = self.place.split(":")
        return getattr(import_module(f"diffodesic.experiments.{module}"), name)


@dataclass(frozen=True)
class Number:
    """One number of an experiment."""

    quantity: str  # what it is, with its unit
    measured: float  # its value in this run
    published: float | None = None  # the paper's value, where it prints one
    expected: float | None = None  # the value of a closed form or of an independent computation
    error: float | None = None  # standard error of ``measured``, where it is an average


@dataclass(frozen=True)
class Outcome:
    """The results of an experiment."""

    settings: Any  # everything the numbers depend on: a dataclass or a mapping
    numbers: tuple[Number, ...]  # the table
    # sentences that belong to the table: what agrees, what does not, and why
    notes: tuple[str, ...] = ()
    # longer results, plain lists and numbers, for ``result.json`` alone
    arrays: Mapping[str, Any] = field(default_factory=dict)
    figure: Callable[[Path], object] | None = None  # draws the figure into the file it is given
    # further ones by the name of their file
    pictures: Mapping[str, Callable[[Path], object]] = field(default_factory=dict)


def table(outcome: Outcome) -> str:
    """The numbers and notes of an outcome as Markdown; columns without a value are left out."""
    if not outcome.numbers:
        return "\n\n".join(outcome.notes) + "\n"
    lines = [("", "published", "expected", "measured")]
    for number in outcome.numbers:
        spread = "" if number.error is None else f" +- {_short(number.error)}"
        measured = _short(number.measured) + spread
        quantity = number.quantity.replace("|", "\\|")
        lines.append((quantity, _short(number.published), _short(number.expected), measured))
    kept = [c for c in range(4) if c in (0, 3) or any(line[c] for line in lines[1:])]
    widths = [max(len(line[c]) for line in lines) for c in range(4)]
    lines.insert(1, tuple("-" * width for width in widths))  # type: ignore[arg-type]
    cells = ["| " + " | ".join(f"{line[c]:<{widths[c]}}" for c in kept) + " |" for line in lines]
    return "\n".join([*cells, "", *outcome.notes]).rstrip() + "\n"


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
