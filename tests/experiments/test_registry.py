"""The registry of published experiments, and the numbers of those on exact mixtures."""

from __future__ import annotations

import argparse
import inspect
import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from diffodesic import experiments
from diffodesic.cli import reproduce as verb
from diffodesic.experiments import likelihood, registry
from diffodesic.experiments import ode as ode_experiment
from diffodesic.experiments.experiment import (
    INPUTS,
    Context,
    Experiment,
    Number,
    Outcome,
    table,
)
from diffodesic.experiments.registry import EXPERIMENTS, find, reproduce
from diffodesic.images.likelihoods import LikelihoodOptions


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda e: e.name)
def test_every_experiment_is_called_with_a_context_alone(experiment: Experiment):
    assert list(inspect.signature(experiment.function()).parameters) == ["context"]
    assert set(experiment.inputs) <= set(INPUTS)


def test_names_are_unique():
    names = [experiment.name for experiment in EXPERIMENTS]
    assert len(set(names)) == len(names)


def test_unknown_names_and_inputs_are_said(tmp_path: Path):
    with pytest.raises(ValueError, match="no experiment 'spacetime/tow'; choose one of"):
        find("spacetime/tow")
    with pytest.raises(ValueError, match="spacetime/toy takes no model; leave it out"):
        reproduce("spacetime/toy", Context(tmp_path, model="other"))


PARABOLA = """
from dataclasses import dataclass

import torch

from diffodesic.experiments.experiment import Context, Number, Outcome


@dataclass(frozen=True)
class Settings:
    nodes: int = 1000
    name: str = "x^2"


def run(context: Context) -> Outcome:
    settings = context.settings(Settings(), nodes=10)
    folder = context.need("data", "a folder that holds nothing")
    context.progress(f"data in {folder.name}")
    x = torch.linspace(0, 1, settings.nodes + 1, dtype=torch.float64)
    area = float(torch.trapezoid(x**2, x))
    numbers = (
        Number("area", area, published=0.33, expected=1 / 3, error=0.25),
        Number("share", float("nan"), expected=2.0),
    )
    arrays = {"x": torch.tensor([1.0, torch.inf])}
    return Outcome(settings, numbers, ("A note.",), arrays, lambda path: path.write_text("drawn"))
"""


def _add(monkeypatch: pytest.MonkeyPatch, folder: Path, text: str) -> None:
    """One file among the experiments, and one line of the registry."""
    (folder / "parabola.py").write_text(text)
    monkeypatch.setattr(experiments, "__path__", [*experiments.__path__, str(folder)])
    monkeypatch.delitem(sys.modules, "diffodesic.experiments.parabola", raising=False)
    line = Experiment("given/parabola", "parabola:run", "The area under a parabola", ("data",))
    monkeypatch.setattr(registry, "EXPERIMENTS", (*EXPERIMENTS, line))


def test_an_experiment_is_one_file_and_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    _add(monkeypatch, tmp_path, PARABOLA)
    folder = tmp_path / "a" / "b"
    words = ["given/parabola", "--quick", "--seed", "3", "--outdir", str(folder)]
    options = _parse([*words, "--data", "somewhere"])
    options.run(options)
    assert {p.name for p in folder.iterdir()} == {
        "result.json",
        "run.json",
        "table.md",
        "figure.png",
    }
    assert (folder / "figure.png").read_text() == "drawn"
    record = json.loads((folder / "result.json").read_text())
    assert record["settings"] == {"nodes": 10, "name": "x^2"}
    assert (record["quick"], record["seed"]) == (True, 3)
    assert record["arrays"] == {"x": [1.0, None]}
    assert record["rows"][0] == {
        "quantity": "area",
        "measured": pytest.approx(1 / 3 + 1 / 600),  # the trapezoidal rule errs by h^2/6
        "published": 0.33,
        "expected": 1 / 3,
        "error": 0.25,
    }
    page = (folder / "table.md").read_text()
    assert page.startswith("# given/parabola (quick settings: not the numbers)\n")
    assert "| area  | 0.33      | 0.333333 | 0.335 +- 0.25 |" in page
    assert "| share |           | 2        | nan           |" in page
    assert page.endswith("A note.\n")
    assert page.partition("parabola.\n\n")[2] in capsys.readouterr().out


def test_full_settings_progress_and_folders_come_from_the_context(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    _add(monkeypatch, tmp_path, PARABOLA)
    lines: list[str] = []
    context = Context(tmp_path / "out", progress=lines.append, data=Path("here"))
    outcome = reproduce("given/parabola", context)
    assert outcome.settings.nodes == 1000
    assert lines == ["data in here"]
    with pytest.raises(ValueError, match="this takes --data DIR, a folder that holds nothing"):
        reproduce("given/parabola", Context(tmp_path / "out"))
    with pytest.raises(ValueError, match="given/parabola takes no device; leave it out"):
        reproduce("given/parabola", Context(tmp_path / "out", device="cuda"))


def test_the_record_names_the_inputs_with_their_hashes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    _add(monkeypatch, tmp_path, PARABOLA)
    data, found = tmp_path / "data", []
    (data / "inner").mkdir(parents=True)
    for content in ("one", "other", "one"):
        (data / "inner" / "file").write_text(content)
        reproduce("given/parabola", Context(tmp_path / "out", quick=True, data=data))
        run = json.loads((tmp_path / "out" / "run.json").read_text())
        (named,) = run["inputs"]
        assert named["name"] == str(data)
        found.append(named["hash"])
    assert found[0] == found[2] != found[1]
    assert run["model"] == {}  # it takes none
    reproduce("spacetime/toy", Context(tmp_path / "toy", quick=True))
    assert json.loads((tmp_path / "toy" / "run.json").read_text())["inputs"] == []


NAMES_ITS_MODEL = """
from diffodesic.experiments.experiment import Context, Number, Outcome


def run(context: Context) -> Outcome:
    return Outcome({"model": context.model}, (Number("one", 1.0),))
"""


def test_the_record_names_the_model_that_was_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    _add(monkeypatch, tmp_path, NAMES_ITS_MODEL)
    *others, line = registry.EXPERIMENTS
    line = replace(line, inputs=("model",), model="fruits")
    monkeypatch.setattr(registry, "EXPERIMENTS", (*others, line))
    for asked, ran in (("", "fruits"), ("mnist", "mnist")):
        outcome = reproduce("given/parabola", Context(tmp_path / "out", model=asked))
        run = json.loads((tmp_path / "out" / "run.json").read_text())
        assert outcome.settings["model"] == run["model"]["model"] == ran


def test_columns_without_a_value_are_left_out():
    lines = table(Outcome({}, (Number("a", 1.0),))).splitlines()
    assert lines == ["|   | measured |", "| - | -------- |", "| a | 1        |"]


def test_a_failed_experiment_leaves_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    _add(monkeypatch, tmp_path, "def run(context):\n    raise ValueError('no images')\n")
    with pytest.raises(ValueError, match="no images"):
        reproduce("given/parabola", Context(tmp_path / "out"))
    assert not list((tmp_path / "out").iterdir())


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


def test_the_note_on_likelihoods_names_the_steps_that_ran():
    few = replace(likelihood.Settings(), flow=LikelihoodOptions(steps=8))
    assert "of which there are 8, is not among them" in likelihood._notes(few)[0]


@pytest.mark.parametrize("name", ["toy", "ode", "pullback"])
def test_quick_experiments_write_everything(name: str, tmp_path: Path):
    lines: list[str] = []
    outcome = reproduce(f"spacetime/{name}", Context(tmp_path, quick=True, progress=lines.append))
    assert lines
    assert all(math.isfinite(number.measured) for number in outcome.numbers)
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


def _numbers(name: str, folder: Path) -> dict[str, Number]:
    return {number.quantity: number for number in reproduce(name, Context(folder)).numbers}


@pytest.mark.slow
def test_numbers_of_the_toy(tmp_path: Path):
    numbers = _numbers("spacetime/toy", tmp_path)
    assert numbers["length (refined)"].measured == pytest.approx(6.408, abs=0.002)
    assert numbers["length (Richardson)"].measured == pytest.approx(6.408, abs=0.002)
    assert numbers["length of the recipe"].measured == pytest.approx(6.50, abs=0.01)
    assert numbers["2E/L^2 of the recipe"].measured == pytest.approx(1.038, abs=1e-3)
    for name in ("G_xx", "G_xt", "G_tt"):
        number = numbers[f"{name} at the first end"]
        assert number.expected is not None
        assert number.measured == pytest.approx(number.expected, abs=0.005)


@pytest.mark.slow
def test_numbers_of_the_sampling_ode(tmp_path: Path):
    numbers = _numbers("spacetime/ode", tmp_path)
    for x in ("1", "0", "-1"):
        length, ratio = (
            numbers[f"x_T = {x}: {what}"] for what in ("length of the ODE's path", "geodesic / ODE")
        )
        assert length.expected is not None
        assert ratio.expected is not None
        assert length.measured == pytest.approx(length.expected, abs=1e-3)
        assert ratio.measured == pytest.approx(ratio.expected, abs=2e-4)
        raw = numbers[f"x_T = {x}: raw sum, ODE"]
        assert raw.published is not None
        # published to three digits, without the rule of its last step
        assert raw.measured == pytest.approx(raw.published, abs=1e-3)
