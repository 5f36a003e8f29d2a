"""Tables, goals and the page of the docs, from the results on disk."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.record import read, read_runs, write

__all__ = ["best_lengths", "goals", "markdown", "ratios", "rows", "write_page"]

Row = dict[str, Any]
# Shares of the recipe's node gradients (or seconds) that are the goals of the suite.
GRADIENT_GOALS = {"digits": 200, "toy": 100, "mnist": 100, "network": 50}
SECONDS_GOALS = {"alanine": 100, "digits": 30}
EVALUATION_GOALS = {"c-2": 100, "c-64": 40}
OVERHEAD_GOALS = {"network": 0.15, "unet": 0.05}


def best_lengths(runs: list[Row], reference: Row) -> dict[str, list[float]]:
    """Shortest refined lengths known per problem and pair: the reference's, or any run's."""
    best: dict[str, list[float]] = {name: found["length"] for name, found in reference.items()}
    for run in runs:
        lengths = [math.inf if length is None else length for length in run.get("length", [])]
        if not lengths or "NEGATIVE_STEPS" in run["status"]:
            continue
        known = best.get(run["problem"], [math.inf] * len(lengths))
        best[run["problem"]] = [min(pair) for pair in zip(known, lengths, strict=True)]
    return best


def rows(runs: list[Row], best: dict[str, list[float]]) -> list[Row]:
    """The main table, one row per problem and solver."""
    return [_row(run, best) for run in runs]


def _row(run: Row, best: dict[str, list[float]]) -> Row:
    head = {"problem": run["problem"], "solver": run["solver"]}
    if "length" not in run:
        return {**head, "status": f"ERROR: {run['message']}"}
    lengths = [math.nan if length is None else length for length in run["length"]]
    pairs = zip(lengths, best[run["problem"]], strict=True)
    independent = run.get("independent")
    return {
        **head,
        "length": ", ".join(f"{length:.4f}" for length in lengths),
        "excess %": round(100 * max(found / known - 1 for found, known in pairs), 3),
        "independent": "{:.1f} ± {:.1f}".format(*independent) if independent else "",
        "node gradients": round(run["node_gradients"]),
        "evaluations": run["evaluations"],
        "derivatives": run["derivatives"],
        "wall s": round(run["seconds"], 2),
        "CPU s": round(run["cpu"], 2),
        "in denoiser %": round(100 * run["inside"]),
        "peak MiB": round(run["peak"]),
        "status": ", ".join(sorted(set(run["status"]))),
    }


def spent_at(run: Row, target: list[float]) -> list[float] | None:
    """What a run had spent when every pair first met its energy; None if that never was.

    Args:
        run: with its history.
        target: energies on the common grid, one per pair.

    Returns:
        Node gradients, evaluations, derivatives and processor seconds.
    """
    for *spent, energies in run["history"]:
        pairs = zip(energies, target, strict=True)
        if all(energy is not None and energy <= goal for energy, goal in pairs):
            return spent
    return None


def ratios(runs: list[Row]) -> list[Row]:
    """How many times less the default spends than the recipe, until its path is as good."""
    by_name = {(run["problem"], run["solver"]): run for run in runs}
    found = []
    for (problem, solver), recipe in by_name.items():
        default = by_name.get((problem, "default"))
        if solver == "recipe" and default and "history" in recipe and "history" in default:
            found.append(_ratio(problem, default, recipe))
    return found


def _ratio(problem: str, default: Row, recipe: Row) -> Row:
    target = recipe["energy"]
    head = {"problem": problem, "recipe's energy": ", ".join(f"{e:.4f}" for e in target)}
    reached = spent_at(default, target)
    settled = spent_at(recipe, [1.01 * energy for energy in target])
    if reached is None or settled is None:
        behind = spent_at(recipe, default["energy"])
        end = {"recipe as good as its end after": behind and round(behind[0])}
        return {**head, "default reaches it after": "never", **end}
    budget, _, _, seconds, _ = recipe["history"][-1]
    whole = default["history"][-1]
    return {
        **head,
        "default reaches it after": round(reached[0]),
        "recipe's budget": round(budget),
        "ratio": round(budget / reached[0], 1),
        "recipe within 1 % after": round(settled[0]),
        "ratio to that": round(settled[0] / reached[0], 1),
        "CPU s": f"{reached[3]:.3f} / {seconds:.1f}",
        "CPU ratio": round(seconds / reached[3], 1),
        "CPU ratio of whole solves": round(seconds / whole[3], 1),
    }


def within(runs: list[Row], best: dict[str, list[float]], problem: str) -> Row | None:
    """Evaluations of recipe and default until within 1 % of the best length, by C-shape's rule."""
    by_name = {run["solver"]: run for run in runs if run["problem"] == problem}
    if not all("history" in by_name.get(name, {}) for name in ("default", "recipe")):
        return None
    target = [(1.01 * length) ** 2 for length in best[problem]]
    default, recipe = (spent_at(by_name[name], target) for name in ("default", "recipe"))
    found: Row = {
        "problem": problem,
        "default": default and default[1],
        "recipe": recipe and recipe[1],
    }
    if default and recipe:
        found["ratio"] = round(recipe[1] / default[1], 1)
    return found


def goals(runs: list[Row], best: dict[str, list[float]], scaling: Row) -> list[Row]:
    """What the suite is meant to show, what it shows, and whether that is enough."""
    table = {row["problem"]: row for row in ratios(runs)}
    found: list[Row] = []

    def add(goal: str, measured: float | None, enough: Callable[[float], bool]) -> None:
        met = "-" if measured is None else "yes" if enough(measured) else "no"
        shown = "not run" if measured is None else f"{measured:.4g}"
        found.append({"goal": goal, "measured": shown, "met": met})

    for name, least in GRADIENT_GOALS.items():
        row = table.get(name, {})
        value = 0.0 if "never" in row.values() else row.get("ratio")
        add(f"{name}: node gradients, recipe over default >= {least}", value, _least(least))
    for name, least in SECONDS_GOALS.items():
        value = table.get(name, {}).get("CPU ratio")
        add(f"{name}: processor time, recipe over default >= {least}", value, _least(least))
    for name, least in EVALUATION_GOALS.items():
        value = (within(runs, best, name) or {}).get("ratio")
        add(f"{name}: evaluations to 1 %, Adam over default >= {least}", value, _least(least))
    for run in runs:
        name, exact = run["problem"], run["problem"] not in OVERHEAD_GOALS
        if run["solver"] != "default" or "length" not in run:
            continue
        if exact:
            add(f"{name}: excess over best known <= .1 %", _row(run, best)["excess %"], _most(0.1))
        else:
            most = OVERHEAD_GOALS[name]
            share = f"{name}: time outside the denoiser <= {most:.0%}"
            add(share, 1 - run["inside"], _most(most))
        if run.get("batch") and name == "unet":
            value = (run["resident"] + run["peak"]) / (run["resident"] + run["batch"])
            add(f"{name}: peak memory over one inference batch <= 1.3", value, _most(1.3))
            value = run["peak"] / run["batch"]
            add(f"{name}: the same, both above the loaded model <= 1.3", value, _most(1.3))
    for law, most in (("pairs", 0.25), ("network pairs", 1.0)):
        parts = scaling.get(law)
        value = parts[-1]["seconds"] / parts[0]["seconds"] if parts else None
        add(f"{law}: time per pair, all at once over alone <= {most}", value, _most(most))
        value = parts[-1]["apart"] if parts else None
        add(f"{law}: lengths, all at once against alone <= 1e-4", value, _most(1e-4))
    return found


def _least(bound: float) -> Callable[[float], bool]:
    return lambda value: value >= bound


def _most(bound: float) -> Callable[[float], bool]:
    return lambda value: value <= bound


def markdown(table: list[Row]) -> str:
    """A table in Markdown; cells that a row lacks stay empty."""
    if not table:
        return "Nothing has been run yet."
    columns = list(dict.fromkeys(key for row in table for key in row))
    lines = [columns, ["---"] * len(columns)]
    lines += [[str(row.get(column, "")) for column in columns] for row in table]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_page(results: Path, docs: Path) -> None:
    """Write ``benchmarks.json`` beside the results, and the page and its plots into the docs.

    Args:
        results: folder of the results.
        docs: folder of the page.
    """
    from benchmarks.plots import performance_profile, scaling_laws

    runs = read_runs(results)
    reference, scaling = (
        read(results / name) if (results / name).exists() else {}
        for name in ("reference.json", "scaling.json")
    )
    best = best_lengths(runs, reference)
    tables = {
        "goals": goals(runs, best, scaling),
        "ratios": ratios(runs),
        "within 1 % of the best length": [
            row for name in EVALUATION_GOALS if (row := within(runs, best, name))
        ],
        "runs": rows(runs, best),
    }
    write(results / "benchmarks.json", {**tables, "best": best, "scaling": scaling})
    docs.mkdir(parents=True, exist_ok=True)
    performance_profile(runs, docs / "benchmarks-profile.png")
    scaling_laws(scaling, docs / "benchmarks-scaling.png")
    page = (Path(__file__).parent / "page.md").read_text("utf-8")
    for name, table in tables.items():
        page = page.replace(f"{{{{{name}}}}}", markdown(table))
    machines = {tuple(sorted(run["machine"].items())) for run in runs if "machine" in run}
    shown = ["; ".join(f"{key} {value}" for key, value in found) for found in sorted(machines)]
    page = page.replace("{{machines}}", "\n".join(f"- {line}" for line in shown))
    (docs / "benchmarks.md").write_text(page, "utf-8")
