"""``diffodesic reproduce``: the published experiments, published beside measured."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from diffodesic.cli.options import add_flags, chosen, command
from diffodesic.cli.progress import progress
from diffodesic.experiments.experiment import Context, table
from diffodesic.experiments.registry import EXPERIMENTS, find, reproduce

__all__ = ["add"]

EXAMPLES = """\
  diffodesic reproduce --list
  diffodesic reproduce spacetime/toy
  diffodesic reproduce spacetime/ode --quick --outdir somewhere
"""


def add(commands: Any) -> None:
    """Add the command."""
    parser = command(commands, "reproduce", run, "run a published experiment", EXAMPLES)
    parser.add_argument("name", metavar="NAME", nargs="*", help="one or more experiments")
    parser.add_argument("--list", action="store_true", help="list the experiments (default: no)")
    parser.add_argument("--outdir", help="folder of the results (default out/NAME)")
    add_flags(parser, Context, skip=("outdir", "progress"))


def run(given: argparse.Namespace) -> None:
    """List the experiments, or run them and print their tables."""
    if given.list:
        width = max(len(experiment.name) for experiment in EXPERIMENTS)
        for experiment in EXPERIMENTS:
            print(f"{experiment.name:{width}}  {experiment.about}")
        return
    if not given.name:
        raise ValueError("name an experiment, or see them all with --list")
    if given.outdir and len(given.name) > 1:
        raise ValueError("--outdir takes the results of one experiment; leave it out for several")
    for name in given.name:
        find(name)  # a mistyped name must not wait for the experiments before it
    for name in given.name:
        folder = Path(given.outdir or Path("out") / name)
        with progress() as show:
            context = chosen(Context, given, outdir=folder, progress=show)
            outcome = reproduce(name, context)
        mode = " (quick settings: not the numbers)" if context.quick else ""
        print(f"{name}{mode}\n{table(outcome)}\nwrote {folder}")
