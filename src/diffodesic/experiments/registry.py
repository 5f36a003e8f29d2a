"""The published experiments by name."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from diffodesic.experiments.experiment import INPUTS, Context, Experiment, Outcome, table
from diffodesic.models.loading import available
from diffodesic.output.claims import begun
from diffodesic.output.files import write_text
from diffodesic.output.folder import own_outdir, replace_files
from diffodesic.output.manifest import Run, hashed_whole
from diffodesic.output.records import json_ready, versions, write_json
from diffodesic.output.stages import AGAIN, GOES_ON

__all__ = ["EXPERIMENTS", "find", "reproduce"]


ALANINE = "Transition paths of alanine dipeptide"

EXPERIMENTS = (
    Experiment("spacetime/toy", "toy:run", "A geodesic of a one-dimensional mixture (Fig. 1)"),
    Experiment("spacetime/ode", "ode:run", "The sampling ODE against the geodesic (Fig. 3)"),
    Experiment("spacetime/collapse", "collapse:run", "Fisher-Rao geometry dies at the last time"),
    Experiment("spacetime/pullback", "pullback:run", "Geodesics of the decoder decode to chords"),
    Experiment(
        "spacetime/images",
        "images:run",
        "Edit distances of digits against other distances; with pairs, their interpolations",
        INPUTS,
    ),
    Experiment(
        "spacetime/distances",
        "distances.run:run",
        "Which distance of pictures is worth its price: retrieval, triples, correlations",
        ("data", "device"),
    ),
    Experiment("spacetime/alanine", "alanine.free:run", f"{ALANINE} on U(phi, psi)", ("data",)),
    Experiment(
        "spacetime/alanine-low-variance",
        "alanine.constrained:low_variance",
        f"{ALANINE} with log SNR kept above a floor",
        ("data",),
    ),
    Experiment(
        "spacetime/alanine-avoid",
        "alanine.constrained:avoid",
        f"{ALANINE} kept away from a region",
        ("data",),
    ),
    Experiment(
        "spacetime/likelihood",
        "likelihood:run",
        "Two likelihoods of a network, and what they rank",
        ("data", "model", "device"),
    ),
    Experiment("spacetime/landscapes", "landscapes:run", "Where the shape of a path matters"),
    Experiment("score/sphere", "sphere:run", "The score metric against great circles of a sphere"),
    Experiment("score/surfaces", "surfaces:run", "Score metrics where the normal turns"),
    Experiment(
        "score/stable-diffusion",
        "morph:run",
        "Every metric and baseline on pairs of pictures of your own",
        INPUTS,
    ),
    Experiment(
        "score/rotated-mnist",
        "rotated.run:run",
        "From one angle of a digit to another, and past the end",
        ("data", "model", "device"),
    ),
    Experiment(
        "score/rotated-norm",
        "rotated.run:run_norm",
        "What the norm of noisy data is worth, on digits of their own",
        ("data", "model", "device"),
    ),
    Experiment(
        "score/turntable",
        "turntable.run:run",
        "From one view of a real turning object to another, and from fruit to fruit",
        ("data", "model", "device"),
        "fruits",
    ),
    Experiment(
        "score/turntable-choices",
        "turntable.run:run_choices",
        "Which arch, which noise and which pace, on objects of their own",
        ("data", "model", "device"),
        "fruits",
    ),
    Experiment(
        "score/rotated-lengths",
        "rotated.lengths:run",
        "How much longer the true rotation is than the straight way, metric by metric",
        ("data", "model"),
    ),
)


def find(name: str) -> Experiment:
    """The experiment of a name of ``EXPERIMENTS``; ValueError for an unknown one."""
    known = {experiment.name: experiment for experiment in EXPERIMENTS}
    if name not in known:
        raise ValueError(f"no experiment {name!r}; choose one of {', '.join(known)}")
    return known[name]


def reproduce(name: str, context: Context) -> Outcome:
    """Run an experiment and write its result, table and figure.

    Args:
        name: one of the names of ``EXPERIMENTS``.
        context: how to run it; its ``outdir`` is made if it is missing.

    Returns:
        the outcome.

    Raises:
        ValueError: for an unknown name, or an input that the experiment does not take.

    Cost: that of the experiment.
    """
    experiment = find(name)
    default = Context(context.outdir)
    for key in INPUTS:
        if key not in experiment.inputs and getattr(context, key) != getattr(default, key):
            raise ValueError(f"{name} takes no {key}; leave it out")
    if "model" in experiment.inputs:
        context = replace(context, model=context.model or experiment.model)
    run, inputs = experiment.function(), _inputs(experiment, context)
    with own_outdir(context.outdir, "reproduce"):
        began = time.perf_counter()
        with begun(context.outdir) as stopped:
            _tell_of_earlier(context, stopped)
            outcome = run(context)
        _write(experiment, context, outcome, inputs, time.perf_counter() - began)
    return outcome


def _tell_of_earlier(context: Context, stopped: bool) -> None:
    """Say what is kept of an earlier run."""
    kept = len(list(context.outdir.rglob("*.safetensors")))
    if kept:
        context.progress(f"{GOES_ON}, which has finished {kept} stages")
    elif stopped:
        context.progress(AGAIN)


def _inputs(experiment: Experiment, context: Context) -> tuple[tuple[str, str], ...]:
    """Folders of data and pairs, and a model that is no shipped one, each with its hash."""
    taken = [getattr(context, key) for key in ("data", "pairs") if key in experiment.inputs]
    if "model" in experiment.inputs and context.model not in available():
        taken.append(Path(context.model.partition(":")[2] or context.model))
    return tuple(hashed_whole(place) for place in taken if place is not None and place.exists())


def _write(
    experiment: Experiment,
    context: Context,
    outcome: Outcome,
    inputs: tuple[tuple[str, str], ...],
    seconds: float,
) -> None:
    """Write the files of an outcome."""
    name = experiment.name
    record = {
        "experiment": name,
        "quick": context.quick,
        "seed": context.seed,
        "settings": outcome.settings,
        "rows": outcome.numbers,
        "notes": outcome.notes,
        "arrays": outcome.arrays,
        "seconds": round(seconds, 2),
        "versions": versions(),
    }
    mode = " (quick settings: not the numbers)" if context.quick else ""
    page = f"# {name}{mode}\n\n{experiment.about}.\n\n{table(outcome)}"
    settings = {"experiment": name, **json_ready(outcome.settings)}
    model = {"model": context.model} if "model" in experiment.inputs else {}
    ran = Run(command="reproduce", inputs=inputs, model=model, settings=settings, kept=True)
    with replace_files(context.outdir, ran) as folder:
        write_json(folder / "result.json", record)
        write_text(folder / "table.md", page)
        if outcome.figure is not None:
            outcome.figure(folder / "figure.png")
        for file, draw in outcome.pictures.items():
            draw(folder / file)
