"""The two plots of the page: a performance profile (Dolan & More 2002) and the scaling laws."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from benchmarks.tables import spent_at

__all__ = ["performance_profile", "profile", "scaling_laws"]

Row = dict[str, Any]


def profile(runs: list[Row], tolerance: float = 0.01) -> dict[str, list[float]]:
    """Cost of every solver on every problem over the least of any solver.

    A solver has done a problem when its energy on the common grid is within ``tolerance`` of the
    least that any solver came to; its cost are the node gradients until then.

    Args:
        runs: with their histories.
        tolerance: relative, on the energy.

    Returns:
        Per solver the ratios, sorted; infinite where it failed or did not run.
    """
    runs = [run for run in runs if run.get("history")]
    problems = sorted({run["problem"] for run in runs})
    solvers = sorted({run["solver"] for run in runs})
    found: dict[str, list[float]] = {solver: [] for solver in solvers}
    for problem in problems:
        here = {run["solver"]: run for run in runs if run["problem"] == problem}
        if len(here) < 2:
            continue
        ends = [run["history"][-1][-1] for run in here.values()]
        finals = [[math.inf if e is None else e for e in energies] for energies in ends]
        target = [(1 + tolerance) * min(pair) for pair in zip(*finals, strict=True)]
        costs = {}
        for name, run in here.items():
            spent = spent_at(run, target)
            costs[name] = spent[0] if spent else math.inf
        least = min(costs.values())
        for solver in solvers:
            found[solver].append(costs.get(solver, math.inf) / least)
    return {solver: sorted(values) for solver, values in found.items()}


def performance_profile(runs: list[Row], path: Path) -> None:
    """Draw the share of problems done within a factor of the cheapest solver."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.6), constrained_layout=True)
    for solver, values in profile(runs).items():
        finite = [value for value in values if math.isfinite(value)]
        shares = [(i + 1) / len(values) for i in range(len(finite))]
        axes.step([1, *finite, 1e4], [0, *shares, (shares or [0])[-1]], where="post", label=solver)
    axes.set(
        xscale="log",
        xlim=(0.9, 1e4),
        ylim=(0, 1.02),
        xlabel="node gradients to 1 % of the least energy, over those of the cheapest solver",
        ylabel="share of problems",
    )
    axes.legend()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def scaling_laws(scaling: Row, path: Path) -> None:
    """Draw processor time, and node gradients where they vary, against size."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    labels = {
        "nodes": "segments (toy)",
        "dimension": "dimension (mixture)",
        "pairs": "pairs at once (mixture-16)",
        "model": "parameters of the network",
    }
    units = {"pairs": "CPU s per pair", "model": "CPU s per node gradient"}
    figure, panels = plt.subplots(1, 4, figsize=(14, 3), constrained_layout=True)
    for axes, (law, label) in zip(panels, labels.items(), strict=True):
        table = scaling.get(law, [])
        sizes = [row["size"] for row in table]
        axes.loglog(sizes, [row["seconds"] for row in table], "o-", label="CPU s")
        axes.set(xlabel=label, ylabel=units.get(law, "CPU s"))
        if law in {"nodes", "dimension"} and table:
            twin = axes.twinx()
            gradients = [row["node gradients"] for row in table]
            twin.loglog(sizes, gradients, "s--", color="tab:orange")
            twin.set_ylabel("node gradients", color="tab:orange")
    figure.savefig(path, dpi=150)
    plt.close(figure)
