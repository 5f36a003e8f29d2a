"""Tables, goals and the page of the docs, from the results on disk."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from benchmarks.plots import performance_profile, scaling_laws
from benchmarks.record import Record, read, read_runs, table_of, write
from benchmarks.spent import spent_at

__all__ = ["best_lengths", "goals", "ratios", "summary", "within", "write_page"]

# Shares of the recipe's node gradients (or seconds) that are the goals of the suite.
GRADIENT_GOALS = {"digits": 200, "toy": 100, "mnist": 100, "network": 50}
SECONDS_GOALS = {"alanine": 100, "digits": 30}
EVALUATION_GOALS = {"c-2": 100, "c-64": 40}
OVERHEAD_GOALS = {"network": 0.15, "unet": 0.05}


def best_lengths(runs: list[Record], reference: Record) -> dict[str, list[float]]:
    """Shortest refined lengths known per problem and pair: the reference's, or any run's."""
    best: dict[str, list[float]] = {name: known["length"] for name, known in reference.items()}
    for run in runs:
        lengths = [math.inf if length is None else length for length in run.get("length", [])]
        if not lengths or "NEGATIVE_STEPS" in run["status"]:
            continue
        known = best.get(run["problem"], [math.inf] * len(lengths))
        best[run["problem"]] = [min(pair) for pair in zip(known, lengths, strict=True)]
    return best


def summary(run: Record, best: dict[str, list[float]]) -> Record:
    """What the main table says of a run."""
    head = {"problem": run["problem"], "solver": run["solver"]}
    if "length" not in run:
        return {**head, "status": f"ERROR: {run['message']}"}
    lengths = [math.nan if length is None else length for length in run["length"]]
    pairs = zip(lengths, best[run["problem"]], strict=True)
    independent = run.get("independent")
    return {
        **head,
        "length": ", ".join(f"{length:.4f}" for length in lengths),
        "excess %": round(100 * max(length / known - 1 for length, known in pairs), 3),
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


def _both(runs: list[Record], problem: str) -> tuple[Record, Record] | None:
    """The default's run of a problem and the recipe's; None without both histories."""
    by_solver = {run["solver"]: run for run in runs if run["problem"] == problem}
    default, recipe = (by_solver.get(name, {}) for name in ("default", "recipe"))
    return (default, recipe) if "history" in default and "history" in recipe else None


def ratios(runs: list[Record]) -> list[Record]:
    """How many times less the default spends than the recipe, until its path is as good."""
    problems = [run["problem"] for run in runs if run["solver"] == "recipe"]
    return [_ratio(name, *both) for name in problems if (both := _both(runs, name))]


def _ratio(problem: str, default: Record, recipe: Record) -> Record:
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


def within(runs: list[Record], best: dict[str, list[float]], problem: str) -> Record | None:
    """Evaluations of recipe and default until within 1 % of the best length."""
    both = _both(runs, problem)
    if both is None:
        return None
    target = [(1.01 * length) ** 2 for length in best[problem]]
    default, recipe = (spent_at(run, target) for run in both)
    spent: Record = {
        "problem": problem,
        "default": default and default[1],
        "recipe": recipe and recipe[1],
    }
    if default and recipe:
        spent["ratio"] = round(recipe[1] / default[1], 1)
    return spent


def goals(runs: list[Record], best: dict[str, list[float]], scaling: Record) -> list[Record]:
    """What the suite is meant to show, what it shows, and whether that is enough."""
    return [*_leads(runs, best), *_bounds(runs, best, scaling)]


def _goal(title: str, measured: float | None, bound: float, *, least: bool = False) -> Record:
    """A goal "measured >= bound" with ``least``, else "measured <= bound"."""
    if measured is None:
        return {"goal": title, "measured": "not run", "met": "-"}
    met = measured >= bound if least else measured <= bound
    return {"goal": title, "measured": f"{measured:.4g}", "met": "yes" if met else "no"}


def _leads(runs: list[Record], best: dict[str, list[float]]) -> Iterator[Record]:
    """Goals that are factors between the default and the recipe."""
    table = {ratio["problem"]: ratio for ratio in ratios(runs)}
    for name, bound in GRADIENT_GOALS.items():
        ratio = table.get(name, {})
        value = 0.0 if "never" in ratio.values() else ratio.get("ratio")
        title = f"{name}: node gradients, recipe over default >= {bound}"
        yield _goal(title, value, bound, least=True)
    for name, bound in SECONDS_GOALS.items():
        title = f"{name}: processor time, recipe over default >= {bound}"
        yield _goal(title, table.get(name, {}).get("CPU ratio"), bound, least=True)
    for name, bound in EVALUATION_GOALS.items():
        value = (within(runs, best, name) or {}).get("ratio")
        title = f"{name}: evaluations to 1 %, Adam over default >= {bound}"
        yield _goal(title, value, bound, least=True)


def _bounds(runs: list[Record], best: dict[str, list[float]], scaling: Record) -> Iterator[Record]:
    """Goals that bound what the default leaves, spends beside the network, and scales by."""
    for run in runs:
        name = run["problem"]
        if run["solver"] != "default" or "length" not in run:
            continue
        if name in OVERHEAD_GOALS:
            bound = OVERHEAD_GOALS[name]
            title = f"{name}: time outside the denoiser <= {bound:.0%}"
            yield _goal(title, 1 - run["inside"], bound)
        else:
            excess = summary(run, best)["excess %"]
            yield _goal(f"{name}: excess over best known <= .1 %", excess, 0.1)
        if run.get("batch") and name == "unet":
            value = (run["resident"] + run["peak"]) / (run["resident"] + run["batch"])
            yield _goal(f"{name}: peak memory over one inference batch <= 1.3", value, 1.3)
            value = run["peak"] / run["batch"]
            yield _goal(f"{name}: the same, both above the loaded model <= 1.3", value, 1.3)
    for law, bound in (("pairs", 0.25), ("network pairs", 1.0)):
        sizes = scaling.get(law)
        ratio = sizes[-1]["seconds"] / sizes[0]["seconds"] if sizes else None
        yield _goal(f"{law}: time per pair, all at once over alone <= {bound}", ratio, bound)
        apart = sizes[-1]["apart"] if sizes else None
        yield _goal(f"{law}: lengths, all at once against alone <= 1e-4", apart, 1e-4)


def write_page(results: Path, docs: Path) -> None:
    """Write ``benchmarks.json`` beside the results, and the page and its plots into the docs.

    Args:
        results: folder of the results.
        docs: folder of the page.
    """
    runs = read_runs(results)
    reference, scaling = (read(results / name) for name in ("reference.json", "scaling.json"))
    best = best_lengths(runs, reference)
    tables = {
        "goals": goals(runs, best, scaling),
        "ratios": ratios(runs),
        "within 1 % of the best length": [
            spent for name in EVALUATION_GOALS if (spent := within(runs, best, name))
        ],
        "runs": [summary(run, best) for run in runs],
    }
    write(results / "benchmarks.json", {**tables, "best": best, "scaling": scaling})
    docs.mkdir(parents=True, exist_ok=True)
    performance_profile(runs, docs / "benchmarks-profile.png")
    scaling_laws(scaling, docs / "benchmarks-scaling.png")
    page = (Path(__file__).parent / "page.md").read_text("utf-8")
    for name, table in tables.items():
        page = page.replace(f"{{{{{name}}}}}", table_of(table))
    machines = {tuple(sorted(run["machine"].items())) for run in runs if "machine" in run}
    shown = ["; ".join(f"{key} {value}" for key, value in machine) for machine in sorted(machines)]
    page = page.replace("{{machines}}", "\n".join(f"- {line}" for line in shown))
    (docs / "benchmarks.md").write_text(page, "utf-8")
