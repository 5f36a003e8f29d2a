"""The benchmark suite: problems x solvers, each in a process of its own.

    python -m benchmarks run [--problems toy,digits] [--solvers default,recipe] [--force]
    python -m benchmarks reference [--problems toy,digits]    best known lengths
    python -m benchmarks scaling                              cost against size
    python -m benchmarks table                                tables, plots, docs/benchmarks.md

A run whose result is there is not run again.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.record import RESULTS, failure, path_of, read, write


def main(arguments: list[str] | None = None) -> int:
    """Parse and call; the number of runs that failed."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    if options.data:
        os.environ["DIFFODESIC_DATA"] = str(options.data)
    return int(options.call(options) or 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    verbs = parser.add_subparsers(required=True)
    for name, call in (
        ("run", _run),
        ("one", _one),
        ("reference", _reference),
        ("scaling", _scaling),
        ("table", _table),
    ):
        verb = verbs.add_parser(name)
        verb.set_defaults(call=call)
        verb.add_argument(
            "--problems", type=_names, help="names (of scaling laws), with commas; default all"
        )
        both = ["default", "recipe"]
        verb.add_argument("--solvers", type=_names, default=both if name == "run" else both[:1])
        verb.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
        verb.add_argument("--data", type=Path, help="folder of data; default $DIFFODESIC_DATA")
        verb.add_argument("--threads", type=int, default=1, help="of torch")
        verb.add_argument("--force", action="store_true", help="run again what is there")
        verb.add_argument("--limit", type=float, default=7200.0, help="seconds for one run")
    return parser


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _run(options: argparse.Namespace) -> int:
    """Every problem with every solver that has no result yet; a failure does not stop the rest."""
    from benchmarks.problems import PROBLEMS

    failed = 0
    for problem in options.problems or PROBLEMS:
        for solver in options.solvers:
            target = path_of(options.out, problem, solver)
            if target.exists() and not options.force:
                print(f"{problem} {solver}: there already")
                continue
            print(f"{problem} {solver}: running", flush=True)
            line = [sys.executable, "-m", "benchmarks", "one", "--problems", problem]
            line += ["--solvers", solver, "--out", str(options.out)]
            line += ["--threads", str(options.threads)]
            try:
                done = subprocess.run(
                    line, timeout=options.limit, check=False, stderr=subprocess.PIPE, text=True
                )
                message = done.stderr.strip().splitlines()[-1:] if done.returncode else []
            except subprocess.TimeoutExpired:
                message = [f"stopped after {options.limit:g} s"]
            if message:
                failed += 1
                print(f"{problem} {solver}: {message[0]}")
                write(target, failure(problem, solver, message[0]))
    return failed


def _one(options: argparse.Namespace) -> None:
    from benchmarks.measure import measure
    from benchmarks.problems import load

    for name in options.problems:
        for solver in options.solvers:
            run = measure(load(name), solver)
            write(path_of(options.out, name, solver), run)
            lengths = ", ".join(f"{length:.4f}" for length in run.length)
            spent = f"{run.node_gradients:.0f} node gradients, {run.seconds:.2f} s"
            print(f"{name} {solver}: length {lengths}; {spent}; {', '.join(run.status)}")


def _reference(options: argparse.Namespace) -> None:
    from benchmarks.best import best_known
    from benchmarks.problems import PROBLEMS, load

    target = options.out / "reference.json"
    known = read(target)
    for name in options.problems or PROBLEMS:
        if (name in known and not options.force) or name in {"network", "unet"}:
            continue
        known[name] = best_known(load(name))
        print(f"{name}: {known[name]['length']} from {known[name]['start']}", flush=True)
        write(target, known)


def _scaling(options: argparse.Namespace) -> None:
    from benchmarks.scaling import LAWS, measure_law

    target = options.out / "scaling.json"
    known = read(target)
    for name in options.problems or LAWS:
        if name not in known or options.force:
            known[name] = measure_law(name)
            print(f"{name}: {known[name]}", flush=True)
            write(target, known)


def _table(options: argparse.Namespace) -> None:
    from benchmarks.tables import write_page

    write_page(options.out, RESULTS.parents[1] / "docs")


if __name__ == "__main__":
    sys.exit(main())
