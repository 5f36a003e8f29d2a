"""``diffodesic reproduce``: the published experiments, published beside measured."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from diffodesic.cli.options import command, progress, seed

__all__ = ["add"]

EXAMPLES = """\
  diffodesic reproduce --list
  diffodesic reproduce spacetime/toy
  diffodesic reproduce spacetime/ode --quick --outdir somewhere
"""


def add(commands: Any) -> None:
    """Add the verb."""
    parser = command(commands, "reproduce", run, "run a published experiment", EXAMPLES)
    parser.add_argument("name", metavar="NAME", nargs="*", help="one or more experiments")
    parser.add_argument("--list", action="store_true", help="list the experiments")
    parser.add_argument("--quick", action="store_true", help="small settings: seconds, not numbers")
    parser.add_argument("--outdir", help="folder of the results (default out/NAME)")
    parser.add_argument("--seed", type=seed, default=0)
    parser.add_argument("--data", metavar="DIR", type=Path, help="folder of real data")
    parser.add_argument("--model", metavar="DIR", help="a model's name or folder")
    parser.add_argument("--device", help="where networks run, for experiments that take it")
    parser.add_argument("--pairs", metavar="DIR", type=Path, help="folder of pairs of images")


def run(options: argparse.Namespace) -> None:
    """List the experiments, or run them and print their tables."""
    from diffodesic.experiments.experiment import INPUTS, Context, table
    from diffodesic.experiments.registry import EXPERIMENTS, find, reproduce

    if options.list:
        width = max(len(experiment.name) for experiment in EXPERIMENTS)
        for experiment in EXPERIMENTS:
            print(f"{experiment.name:{width}}  {experiment.about}")
        return
    if not options.name:
        raise ValueError("name an experiment, or see them all with --list")
    if options.outdir and len(options.name) > 1:
        raise ValueError("--outdir takes the results of one experiment; leave it out for several")
    for name in options.name:
        find(name)  # a mistyped name must not wait for the experiments before it
    asked = {key: value for key in INPUTS if (value := getattr(options, key)) is not None}
    for name in options.name:
        folder = Path(options.outdir or Path("out") / name)
        with progress() as show:
            context = Context(folder, options.quick, options.seed, show, **asked)
            outcome = reproduce(name, context)
        mode = " (quick settings: not the numbers)" if options.quick else ""
        print(f"{name}{mode}\n{table(outcome)}\nwrote {folder}")
