"""The benchmark suite: its problems, its measures, and the default solver's lead."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import estimators, problems
from benchmarks.__main__ import main
from benchmarks.best import best_known
from benchmarks.measure import Run, common_energy, measure, timed
from benchmarks.plots import profile
from benchmarks.problems import PROBLEMS, Problem, from_native, load, ode, to_native, toy
from benchmarks.record import failure, path_of, read, write
from benchmarks.scaling import measure_law
from benchmarks.spent import spent_at
from benchmarks.tables import best_lengths, goals, ratios, summary, within, write_page
from diffodesic import Denoiser, GaussianMixture, Relax, Spacetime, Status, counting, geodesic
from diffodesic.geometry.solvers.reference.adam_spline import AdamSpline
from diffodesic.numerics.ode import rk45
from support.checks import Draw

SMALL = ("toy", "ode", "gaussian-8", "gaussian-64", "mixture-16", "c-2", "c-64")


# The recipe and the default ------------------------------------------------------------------


@pytest.fixture(scope="module")
def on_toy() -> dict[str, Run]:
    """Figure 1 of 2505.17517 by its own recipe, one cubic in (x_t, t), and by the default."""
    return {name: measure(toy(), name) for name in ("recipe", "default")}


def test_the_recipe_gives_the_published_length(on_toy: dict[str, Run]):
    recipe = on_toy["recipe"]
    assert recipe.length[0] == pytest.approx(6.504, abs=0.01)
    assert recipe.status == ["FIXED_BUDGET"]


def test_the_recipe_costs_its_published_budget(on_toy: dict[str, Run]):
    recipe = on_toy["recipe"]
    assert recipe.history[-1][0] == 128 * 1000
    assert recipe.node_gradients == 128 * 1000 + 128  # one gradient for the certificate


def test_the_default_leads_on_the_toy(on_toy: dict[str, Run]):
    default, recipe = on_toy["default"], on_toy["recipe"]
    assert default.length[0] < recipe.length[0] - 0.09
    assert default.status == ["CONVERGED"]
    (found,) = ratios([asdict(default), asdict(recipe)])
    assert found["ratio"] >= 100
    assert found["ratio to that"] >= 10


@pytest.mark.slow
def test_the_default_leads_on_digits():
    pytest.importorskip("sklearn", reason="the 8 x 8 digits are scikit-learn's")
    default, recipe = (measure(load("digits"), name) for name in ("default", "recipe"))
    (found,) = ratios([asdict(default), asdict(recipe)])
    assert found["ratio"] >= 100
    assert found["ratio to that"] >= 50
    assert default.status == ["CONVERGED"]
    # as measured when the recipe was studied: the default ends at 27.0, the recipe above 30
    assert default.energy[0] == pytest.approx(27.0, abs=0.1)
    assert recipe.energy[0] > 30


# Problems ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL)
def test_a_problem_is_ready_to_be_solved(name: str):
    problem = load(name)
    assert problem.name == name
    assert problem.a.shape == problem.b.shape
    s = torch.linspace(0, 1, 5, dtype=torch.float64)[:, None]
    chord = torch.lerp(problem.a[..., None, :], problem.b[..., None, :], s)
    found = problem.space.energy().evaluate(chord, order=0)
    assert bool((found.squared_steps > 0).all())
    assert not bool(found.doubtful.any())
    assert problem.recipe is not None


@pytest.mark.parametrize("name", ["mnist", "alanine"])
def test_problems_of_the_data_folder(name: str, data_folder: Path):
    problem = load(name)
    assert isinstance(problem.space, Spacetime)
    assert problem.space.estimator == "exact"
    if name == "mnist":
        assert isinstance(problem.space.denoiser, GaussianMixture)
        assert problem.space.denoiser.means.shape == (2000, 784)
    chord = torch.stack([problem.a, (problem.a + problem.b) / 2, problem.b])
    assert bool((problem.space.squared_steps(chord) > 0).all())


def test_the_folder_of_data_must_be_known(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("DIFFODESIC_DATA", raising=False)
    with pytest.raises(ValueError, match="--data"):
        load("alanine")
    with pytest.raises(ValueError, match="unknown problem"):
        load("nothing")


def test_the_ends_of_the_ode_lie_on_its_flow():
    problem, law = ode(), problems.toy_mixture()

    def slope(s: float, x: Tensor) -> Tensor:  # t = 1 - .9 s
        lam = torch.tensor(10 - 20 * (1 - 0.9 * s), dtype=torch.float64)
        alpha, noise = torch.sigmoid(lam).sqrt(), torch.sigmoid(-lam)
        mean = law(x / alpha, (-lam / 2).exp())
        return -0.9 * (-10 * noise * x - 10 * (alpha * mean - x))

    start = torch.tensor([[1.0], [0.0], [-1.0]], dtype=torch.float64)
    torch.testing.assert_close(to_native(problem.a)[:, :1], start, rtol=1e-12, atol=1e-12)
    exact = rk45(slope, start, rtol=1e-8)
    # Euler's rule with 512 steps, over which the slope changes by about 10
    torch.testing.assert_close(to_native(problem.b)[:, :1], exact, rtol=0, atol=2e-2)


def test_native_coordinates_of_the_toy_round_trip(draw: Draw):
    x = draw(5, 2)
    torch.testing.assert_close(from_native(to_native(x)), x)


def test_the_best_length_is_the_exact_one():
    # isotropic Gaussian data: hyperbolic space
    law = GaussianMixture(torch.zeros(1, 2, dtype=torch.float64), std=1.0)
    space = Spacetime(law)
    a, b = space.point(torch.tensor([[0.5, 0.1], [-0.4, 0.3]], dtype=torch.float64), 1.0)
    found = best_known(Problem("oracle", space, a, b, None, nodes=8))
    exact = float(space.gaussian.distance(a, b))
    assert found["nodes"] == 32
    assert found["length"][0] == pytest.approx(exact, rel=1e-4)


# Measures ------------------------------------------------------------------------------------


def test_the_common_grid_does_not_depend_on_the_parameter():
    # the same curve at another speed has the same energy on the common grid
    problem = toy()
    path = geodesic(problem.space, problem.a, problem.b, nodes=64, solver=Relax(rtol=1e-4))
    s = torch.linspace(0, 1, 129, dtype=torch.float64)
    uneven = path(s + 0.1 * torch.sin(torch.pi * s) * s)
    energies = common_energy(problem.space, torch.stack([path(s), uneven]))
    assert float(energies[1]) == pytest.approx(float(energies[0]), rel=1e-4)
    assert float(energies[0]) == pytest.approx(float(2 * path.energy), rel=1e-3)


def test_looking_on_costs_nothing():
    problem = load("gaussian-8")
    with counting() as cost:
        geodesic(problem.space, problem.a, problem.b, nodes=problem.nodes)
    found = measure(problem, "default")
    assert found.node_gradients == cost.node_gradients
    assert found.evaluations == cost.evaluations
    assert len(found.history) > 3
    assert 0 < found.inside < 1
    assert math.isfinite(found.peak)


class _Ticking(Denoiser):
    """``m = z / 2``; forward takes 3 s and backward 5 s of a clock of its own."""

    dim = 2
    now = 0.0

    def posterior_mean(self, z: Tensor, sigma: Tensor) -> Tensor:
        _Ticking.now += 3
        return _Slow.apply(z)


class _Slow(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        return z / 2

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        _Ticking.now += 5
        return grad / 2


def test_the_clock_sees_the_denoiser_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(time, "perf_counter", lambda: _Ticking.now)
    denoiser = _Ticking()
    z = torch.ones(4, 2, requires_grad=True)

    class Outside(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            _Ticking.now += 100
            return 2 * x

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            _Ticking.now += 100
            return 2 * grad

    with timed(denoiser) as clock:
        out = Outside.apply(denoiser(Outside.apply(z), torch.tensor(1.0)))
        assert clock.seconds == 3
        out.sum().backward()
        assert clock.seconds == 3 + 5
        denoiser.score(z.detach(), torch.tensor(1.0))  # a method that is built on another
        assert clock.seconds == 3 + 5 + 3
    denoiser(z, torch.tensor(1.0))
    assert clock.seconds == 3 + 5 + 3
    assert _Ticking.__call__ is Denoiser.__call__
    assert z.grad is not None
    assert torch.equal(z.grad, torch.full((4, 2), 2.0))


# Tables --------------------------------------------------------------------------------------


def fake(problem: str, solver: str, history: list[tuple[float, float]], **more: Any) -> dict:
    """A run with one pair; its history holds node gradients and energy."""
    end = history[-1][1]
    run = Run(
        problem=problem,
        solver=solver,
        settings="",
        nodes=64,
        length=[math.sqrt(end)],
        energy=[end],
        status=["CONVERGED"],
        negative=[0.0],
        iterations=[len(history)],
        start=["chord"],
        node_gradients=history[-1][0],
        evaluations=2,
        derivatives=3,
        seconds=2.0,
        cpu=1.0,
        inside=0.9,
        peak=10.0,
        batch=None,
        resident=100.0,
        history=[(spent, int(2 * spent), 0, spent / 100, [e]) for spent, e in history],
        machine={"torch": "0"},
    )
    return {**asdict(run), **more}


RECIPE = fake("digits", "recipe", [(1000, 20.0), (2000, 16.1), (9000, 16.0)])
DEFAULT = fake("digits", "default", [(10, 30.0), (30, 15.0), (90, 9.0)])


def test_ratios_are_to_the_whole_budget_and_to_the_first_good_step():
    (found,) = ratios([RECIPE, DEFAULT])
    assert found["default reaches it after"] == 30
    assert found["ratio"] == 9000 / 30
    assert found["recipe within 1 % after"] == 2000
    assert found["ratio to that"] == round(2000 / 30, 1)
    assert found["CPU ratio"] == 300
    worse = fake("digits", "default", [(10, 30.0)])
    assert ratios([RECIPE, worse])[0]["default reaches it after"] == "never"


def test_a_run_has_met_an_energy_when_every_pair_has():
    run = {"history": [[1, 0, 0, 0, [1.0, 9.0]], [2, 0, 0, 0, [None, 1]], [3, 0, 0, 0, [1, 2]]]}
    found = spent_at(run, [1.0, 2.0])
    assert found is not None
    assert found[0] == 3
    assert spent_at(run, [0.5, 2.0]) is None


def test_excess_is_over_the_shortest_known():
    best = best_lengths([RECIPE, DEFAULT], {"digits": {"length": [2.9]}})
    assert best == {"digits": [2.9]}
    assert summary(DEFAULT, best)["excess %"] == round(100 * (3 / 2.9 - 1), 3)
    # a run with negative steps is no length; one that is shorter than the reference is
    assert best_lengths([{**DEFAULT, "status": ["NEGATIVE_STEPS"]}], {}) == {}
    assert best_lengths([DEFAULT], {"digits": {"length": [3.5]}}) == {"digits": [3.0]}


def test_goals_say_what_was_not_run():
    best = best_lengths([RECIPE, DEFAULT], {})
    found = {goal["goal"]: goal for goal in goals([RECIPE, DEFAULT], best, {})}
    assert found["digits: node gradients, recipe over default >= 200"]["met"] == "yes"
    assert found["digits: processor time, recipe over default >= 30"]["measured"] == "300"
    assert found["digits: excess over best known <= .1 %"]["met"] == "yes"
    assert found["toy: node gradients, recipe over default >= 100"]["measured"] == "not run"
    poor = [fake("unet", "default", [(1, 1.0)], inside=0.5, peak=150.0, batch=50.0)]
    found = {goal["goal"]: goal for goal in goals(poor, {"unet": [1.0]}, {})}
    assert found["unet: time outside the denoiser <= 5%"]["met"] == "no"
    memory = found["unet: peak memory over one inference batch <= 1.3"]
    assert memory["measured"] == f"{250 / 150:.4g}"


def test_work_until_one_per_cent_of_the_best_length():
    adam = fake("c-2", "recipe", [(100, 10.0), (5000, 9.1)])
    mine = fake("c-2", "default", [(20, 9.2), (40, 9.0)])
    found = within([adam, mine], {"c-2": [3.0]}, "c-2")
    # energies are squared lengths: (1.01 * 3)^2 = 9.18
    assert found == {"problem": "c-2", "default": 80, "recipe": 10000, "ratio": 125.0}
    assert within([adam], {"c-2": [3.0]}, "c-2") is None
    never = within([adam, mine], {"c-2": [2.0]}, "c-2")
    assert never == {"problem": "c-2", "default": None, "recipe": None}


def test_without_a_denoiser_there_is_nothing_to_time():
    with timed(None) as clock:
        pass
    assert clock.seconds == 0


def test_the_profile_counts_what_a_solver_does_not_do():
    slow = fake("toy", "recipe", [(100, 5.0), (400, 4.0)])
    quick = fake("toy", "default", [(100, 4.03)])
    found = profile([RECIPE, DEFAULT, slow, quick])
    assert found["default"] == [1.0, 1.0]
    assert found["recipe"] == [4.0, math.inf]  # never within 1 % on digits


# Files ---------------------------------------------------------------------------------------


def test_what_is_not_finite_is_null(tmp_path: Path):
    write(tmp_path / "a" / "b.json", {"x": [math.nan, 1.0], "y": (math.inf,)})
    assert read(tmp_path / "a" / "b.json") == {"x": [None, 1.0], "y": [None]}
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.json"]


def test_the_page_holds_every_table(tmp_path: Path):
    pytest.importorskip("matplotlib")
    for run in (RECIPE, DEFAULT, failure("toy", "neb", "stopped")):
        write(path_of(tmp_path, run["problem"], run["solver"]), run)
    table = [{"size": size, "seconds": 1.0, "node gradients": 2.0} for size in (1, 2)]
    write(tmp_path / "scaling.json", {"nodes": table})
    write_page(tmp_path, tmp_path / "docs")
    page = (tmp_path / "docs" / "benchmarks.md").read_text("utf-8")
    assert "{{" not in page
    assert "| digits | recipe | 4.0000 |" in page
    assert "ERROR: stopped" in page
    assert "| 300.0 |" in page
    for name in ("benchmarks-profile.png", "benchmarks-scaling.png"):
        assert (tmp_path / "docs" / name).stat().st_size > 1000
    assert json.loads((tmp_path / "benchmarks.json").read_text())["best"] == {"digits": [3.0]}


def test_runs_resume_and_failures_are_recorded(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("DIFFODESIC_DATA", raising=False)
    line = ["run", "--out", str(tmp_path), "--solvers", "default", "--problems"]
    write(path_of(tmp_path, "toy", "default"), DEFAULT)
    assert main([*line, "toy,alanine"]) == 1  # alanine has no data here
    out = capfd.readouterr().out
    assert "toy default: there already" in out
    found = read(path_of(tmp_path, "alanine", "default"))
    assert found["status"] == ["ERROR"]
    assert "DIFFODESIC_DATA" in found["message"]


def test_one_run_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["one", "--problems", "gaussian-8", "--out", str(tmp_path)]) == 0
    assert "gaussian-8 default: length" in capsys.readouterr().out
    found = read(path_of(tmp_path, "gaussian-8", "default"))
    assert found["status"] == [Status.CONVERGED.name]
    assert set(PROBLEMS) >= set(SMALL)


@pytest.mark.slow
def test_estimators_and_scaling_run():
    relative = estimators.entropies(8)
    assert {record["law"] for record in relative} == set(estimators.CASES)
    for record in estimators.refined((2,), rounds=2):
        # exact lengths on one number of nodes: none is below the shortest
        others = [record["closure's"], record["refined, 2 pairs"]]
        assert min(others) > record["shortest"] * (1 - 1e-6)
        assert record["frozen, 2 pairs"] != record["refined, 2 pairs"]
    sizes = measure_law("dimension")
    assert [record["size"] for record in sizes] == [2, 8, 32, 128, 512]
    assert {status for record in sizes for status in record["statuses"]} == {"CONVERGED"}


def test_recipes_are_the_published_ones():
    budgets = {"toy": 128 * 1000, "ode": 512 * 2000, "mixture-16": 16 * 350 + 64 * 250}
    for name, budget in budgets.items():
        recipe = load(name).recipe
        assert isinstance(recipe, AdamSpline)
        assert sum(points * steps for points, steps in recipe.schedule) == budget
