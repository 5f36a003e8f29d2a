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

import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from diffodesic.files import write_atomically

__all__ = ["EXPERIMENTS", "Experiment", "Outcome", "Row", "find", "reproduce", "table"]


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
        return getattr(import_module(f"{__name__}.{module}"), name)


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


EXPERIMENTS = (
    Experiment("spacetime/toy", "toy:run", "A geodesic of a one-dimensional mixture (Fig. 1)"),
    Experiment("spacetime/ode", "ode:run", "The sampling ODE against the geodesic (Fig. 3)"),
    Experiment("spacetime/collapse", "collapse:run", "Fisher-Rao geometry dies at the last time"),
    Experiment("spacetime/pullback", "pullback:run", "Geodesics of the decoder decode to chords"),
    Experiment(
        "spacetime/images",
        "images:run",
        "Edit distances of digits against other distances; with pairs, their interpolations",
        ("data", "model", "pairs", "device"),
    ),
    Experiment(
        "spacetime/alanine",
        "alanine:run",
        "Transition paths of alanine dipeptide on U(phi, psi)",
        ("data",),
    ),
    Experiment(
        "spacetime/alanine-low-variance",
        "alanine_constrained:low_variance",
        "The same with log SNR kept above a floor",
        ("data",),
    ),
    Experiment(
        "spacetime/alanine-avoid",
        "alanine_constrained:avoid",
        "The same kept away from a region",
        ("data",),
    ),
    Experiment(
        "spacetime/landscapes",
        "landscapes:run",
        "Landscapes where the shape of a path matters",
    ),
    Experiment(
        "score/sphere",
        "sphere:run",
        "The score metric on a sphere, where the truth is a great circle",
    ),
    Experiment(
        "score/surfaces",
        "surfaces:run",
        "Metrics of the score on surfaces whose normal turns",
    ),
    Experiment(
        "score/stable-diffusion",
        "morph:run",
        "Every metric and baseline on pairs of pictures of your own",
        ("data", "model", "pairs", "device"),
    ),
    Experiment(
        "score/rotated-mnist",
        "rotated_mnist:run",
        "From one angle of a digit to another, and past the end",
        ("data", "model", "device"),
    ),
    Experiment(
        "score/rotated-norm",
        "rotated_mnist:run_norm",
        "What the norm of noisy data is worth, on digits of their own",
        ("data", "model", "device"),
    ),
    Experiment(
        "score/rotated-lengths",
        "rotated_lengths:run",
        "How much longer the true rotation is than the straight way, metric by metric",
        ("data", "model"),
    ),
)


def find(name: str) -> Experiment:
    """Look an experiment up.

    Args:
        name: one of the names of ``EXPERIMENTS``.

    Returns:
        the experiment.

    Raises:
        ValueError: for an unknown name.
    """
    known = {experiment.name: experiment for experiment in EXPERIMENTS}
    if name not in known:
        raise ValueError(f"no experiment {name!r}; choose one of {', '.join(known)}")
    return known[name]


def reproduce(
    name: str,
    outdir: Path,
    *,
    quick: bool = False,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
    **inputs: Any,
) -> Outcome:
    """Run an experiment and write its result, table and figure.

    Args:
        name: one of the names of ``EXPERIMENTS``.
        outdir: folder of the results; made if it is missing.
        quick: small settings that take seconds, to see that everything works.
        seed: seed of everything random.
        progress: called with a short line now and then.
        **inputs: see :class:`Experiment`; None is the same as not given.

    Returns:
        what it found.

    Raises:
        ValueError: for an unknown name, or an input that the experiment does not take.

    Cost: that of the experiment.
    """
    experiment = find(name)
    given = {key: value for key, value in inputs.items() if value is not None}
    for key in given.keys() - set(experiment.inputs):
        raise ValueError(f"{name} takes no {key}; leave it out")
    function = experiment.function()
    outdir.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    outcome = function(quick=quick, outdir=outdir, seed=seed, progress=progress, **given)
    record = {
        "experiment": name,
        "quick": quick,
        "seed": seed,
        "settings": _plain(outcome.settings),
        "rows": [_plain(row) for row in outcome.rows],
        "notes": list(outcome.notes),
        "arrays": _plain(outcome.arrays),
        "seconds": round(time.perf_counter() - began, 2),
        "versions": {"diffodesic": _version(), "torch": torch.__version__},
    }
    content = json.dumps(record, indent=1, allow_nan=False) + "\n"
    write_atomically(outdir / "result.json", content.encode())
    mode = " (quick settings: not the numbers)" if quick else ""
    page = f"# {name}{mode}\n\n{experiment.about}.\n\n{table(outcome)}"
    write_atomically(outdir / "table.md", page.encode())
    if outcome.figure is not None:
        outcome.figure(outdir / "figure.png")
    return outcome


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


def _version() -> str:
    try:
        return version("diffodesic")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _plain(value: Any) -> Any:
    """What JSON can hold; numbers that are not finite become their names."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, torch.Tensor):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)
