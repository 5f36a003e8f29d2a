"""The registry of published experiments, and the numbers of those on exact mixtures."""

from __future__ import annotations

import argparse
import inspect
import json
import math
from pathlib import Path

import pytest
import torch

from diffodesic.cli import reproduce as verb
from diffodesic.experiments import ode as ode_experiment
from diffodesic.experiments import registry
from diffodesic.experiments.experiment import Experiment, Outcome, Row, table
from diffodesic.experiments.registry import EXPERIMENTS, find, reproduce


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda e: e.name)
def test_every_experiment_can_be_called_as_it_says(experiment: Experiment):
    parameters = inspect.signature(experiment.function()).parameters
    wanted = {"quick", "outdir", "seed", "progress", *experiment.inputs}
    assert wanted == set(parameters)
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in parameters.values())
    assert set(experiment.inputs) <= {"data", "model", "pairs", "device"}


def test_names_are_unique():
    names = [experiment.name for experiment in EXPERIMENTS]
    assert len(set(names)) == len(names)


def test_unknown_names_and_inputs_are_said(tmp_path: Path):
    with pytest.raises(ValueError, match="no experiment 'spacetime/tow'; choose one of"):
        find("spacetime/tow")
    with pytest.raises(ValueError, match="spacetime/toy takes no model; leave it out"):
        reproduce("spacetime/toy", tmp_path, model="mnist")


def _register(monkeypatch: pytest.MonkeyPatch, run: object) -> None:
    class Given(Experiment):
        def function(self):
            return run

    given = Given("given", "nowhere:run", "A given one", ("data",))
    monkeypatch.setattr(registry, "EXPERIMENTS", (given,))


def test_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen = {}

    def run(**given):
        seen.update(given)
        rows = (
            Row("length", 1.5, published=1.4, error=0.25),
            Row("share", math.nan, expected=2.0),
        )
        values = torch.tensor([1.0, math.inf])
        return Outcome(
            {"nodes": (1, 2)}, rows, ("A note.",), {"x": values}, lambda path: path.write_text("")
        )

    _register(monkeypatch, run)
    outcome = reproduce("given", tmp_path / "a" / "b", quick=True, seed=3, data=Path("d"))
    folder = tmp_path / "a" / "b"
    assert seen == {
        "quick": True,
        "outdir": folder,
        "seed": 3,
        "progress": None,
        "data": Path("d"),
    }
    assert {p.name for p in folder.iterdir()} == {"result.json", "table.md", "figure.png"}
    record = json.loads((folder / "result.json").read_text())
    assert record["settings"] == {"nodes": [1, 2]}
    assert (record["quick"], record["seed"]) == (True, 3)
    assert record["arrays"] == {"x": [1.0, None]}
    assert record["rows"][0] == {
        "quantity": "length",
        "measured": 1.5,
        "published": 1.4,
        "expected": None,
        "error": 0.25,
    }
    page = (folder / "table.md").read_text()
    assert page.startswith("# given (quick settings: not the numbers)\n")
    assert table(outcome) in page
    assert "| length | 1.4       |          | 1.5 +- 0.25 |" in page
    assert page.endswith("A note.\n")


def test_columns_without_a_value_are_left_out():
    lines = table(Outcome({}, (Row("a", 1.0),))).splitlines()
    assert lines == ["|   | measured |", "| - | -------- |", "| a | 1        |"]


def test_a_failed_experiment_leaves_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def run(**given):
        raise ValueError("the data folder holds no images")

    _register(monkeypatch, run)
    with pytest.raises(ValueError, match="no images"):
        reproduce("given", tmp_path)
    assert not list(tmp_path.iterdir())


def _parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    verb.add(parser.add_subparsers())
    return parser.parse_args(["reproduce", *words])


def test_the_command_lists_runs_and_refuses(tmp_path: Path, capsys: pytest.CaptureFixture):
    options = _parse(["--list"])
    options.run(options)
    shown = capsys.readouterr().out
    assert all(experiment.name in shown for experiment in EXPERIMENTS)
    for words, message in (
        ([], "name an experiment"),
        (["spacetime/toy", "nothing"], "no experiment 'nothing'"),
        (["spacetime/toy", "spacetime/ode", "--outdir", "x"], "results of one experiment"),
    ):
        options = _parse(words)
        with pytest.raises(ValueError, match=message):
            options.run(options)
    options = _parse(["spacetime/collapse", "--quick", "--outdir", str(tmp_path / "c")])
    options.run(options)
    shown = capsys.readouterr().out
    assert "G_xx at x = 1, t = 0.1" in shown
    assert (tmp_path / "c" / "figure.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["toy", "ode", "pullback"])
def test_quick_experiments_write_everything(name: str, tmp_path: Path):
    lines: list[str] = []
    outcome = reproduce(f"spacetime/{name}", tmp_path, quick=True, progress=lines.append)
    assert lines
    assert all(math.isfinite(row.measured) for row in outcome.rows)
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "result.json").read_text())["quick"] is True


@pytest.mark.parametrize(
    ("ratio", "over_arc", "over_infimum"),
    [(0.5, 0.89, 0.89), (1, 0.40, 0.40), (2, 0, 0), (4, 0.97, 0.71)],
)
def test_excess_of_the_ode_on_gaussian_data(ratio: float, over_arc: float, over_infimum: float):
    excess, arc, escapes = ode_experiment.gaussian_excess(ode_experiment.Settings(), ratio)
    assert 100 * arc == pytest.approx(over_arc, abs=0.005)
    assert 100 * excess == pytest.approx(over_infimum, abs=0.005)
    assert escapes == (ratio == 4)


def _values(name: str, folder: Path) -> dict[str, Row]:
    return {row.quantity: row for row in reproduce(name, folder).rows}


@pytest.mark.slow
def test_numbers_of_the_toy(tmp_path: Path):
    rows = _values("spacetime/toy", tmp_path)
    assert rows["length (refined)"].measured == pytest.approx(6.408, abs=0.002)
    assert rows["length (Richardson)"].measured == pytest.approx(6.408, abs=0.002)
    assert rows["length of the recipe"].measured == pytest.approx(6.50, abs=0.01)
    assert rows["2E/L^2 of the recipe"].measured == pytest.approx(1.038, abs=1e-3)
    for name in ("G_xx", "G_xt", "G_tt"):
        row = rows[f"{name} at the first end"]
        assert row.expected is not None
        assert row.measured == pytest.approx(row.expected, abs=0.005)


@pytest.mark.slow
def test_numbers_of_the_sampling_ode(tmp_path: Path):
    rows = _values("spacetime/ode", tmp_path)
    for x in ("1", "0", "-1"):
        length, ratio = (
            rows[f"x_T = {x}: {what}"] for what in ("length of the ODE's path", "geodesic / ODE")
        )
        assert length.expected is not None
        assert ratio.expected is not None
        assert length.measured == pytest.approx(length.expected, abs=1e-3)
        assert ratio.measured == pytest.approx(ratio.expected, abs=2e-4)
        raw = rows[f"x_T = {x}: raw sum, ODE"]
        assert raw.published is not None
        # published to three digits, without the rule of its last step
        assert raw.measured == pytest.approx(raw.published, abs=1e-3)
