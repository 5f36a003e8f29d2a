"""The two plots of the page: a performance profile (Dolan & More 2002) and the scaling laws."""

from __future__ import annotations

import math
from pathlib import Path

from benchmarks.record import Record
from benchmarks.spent import spent_at
from diffodesic.output.figures import canvas

__all__ = ["performance_profile", "profile", "scaling_laws"]


def profile(runs: list[Record], tolerance: float = 0.01) -> dict[str, list[float]]:
    """Cost of every solver on every problem over the least of any solver.

    A solver has done a problem when its energy on the common grid is within ``tolerance`` of the
    least that any solver came to; its cost is the node gradients until then.

    Args:
        runs: with their histories.
        tolerance: relative, on the energy.

    Returns:
        Per solver the ratios, sorted; infinite where it failed or did not run.
    """
    runs = [run for run in runs if run.get("history")]
    ratios: dict[str, list[float]] = {name: [] for name in sorted({run["solver"] for run in runs})}
    for problem in sorted({run["problem"] for run in runs}):
        here = {run["solver"]: run for run in runs if run["problem"] == problem}
        if len(here) < 2:
            continue
        ends = [run["history"][-1][-1] for run in here.values()]
        finals = [[math.inf if e is None else e for e in energies] for energies in ends]
        target = [(1 + tolerance) * min(pair) for pair in zip(*finals, strict=True)]
        spent = {name: spent_at(run, target) for name, run in here.items()}
        costs = {name: work[0] for name, work in spent.items() if work}
        least = min(costs.values(), default=math.inf)
        for solver, values in ratios.items():
            values.append(costs.get(solver, math.inf) / least)
    return {solver: sorted(values) for solver, values in ratios.items()}


def performance_profile(runs: list[Record], path: Path) -> None:
    """Draw the share of problems done within a factor of the cheapest solver."""
    with canvas(path, width=6) as (axes,):
        for solver, values in profile(runs).items():
            finite = [value for value in values if math.isfinite(value)]
            shares = [(i + 1) / len(values) for i in range(len(finite))]
            end = (shares or [0])[-1]
            axes.step([1, *finite, 1e4], [0, *shares, end], where="post", label=solver)
        axes.set(
            xscale="log",
            xlim=(0.9, 1e4),
            ylim=(0, 1.02),
            xlabel="node gradients to 1 % of the least energy, over those of the cheapest solver",
            ylabel="share of problems",
        )
        axes.legend()


def scaling_laws(scaling: Record, path: Path) -> None:
    """Draw processor time, and node gradients where they vary, against size."""
    labels = {
        "nodes": "segments (toy)",
        "dimension": "dimension (mixture)",
        "pairs": "pairs at once (mixture-16)",
        "model": "parameters of the network",
    }
    units = {"pairs": "CPU s per pair", "model": "CPU s per node gradient"}
    with canvas(path, columns=len(labels), width=3.5) as panels:
        for axes, (law, label) in zip(panels, labels.items(), strict=True):
            table = scaling.get(law, [])
            sizes = [record["size"] for record in table]
            axes.loglog(sizes, [record["seconds"] for record in table], "o-", label="CPU s")
            axes.set(xlabel=label, ylabel=units.get(law, "CPU s"))
            if law in {"nodes", "dimension"} and table:
                twin = axes.twinx()
                gradients = [record["node gradients"] for record in table]
                twin.loglog(sizes, gradients, "s--", color="tab:orange")
                twin.set_ylabel("node gradients", color="tab:orange")
