"""Every public function of a denoiser, a model, a schedule, a potential or a metric, given another.

The functions are found by their annotations, so that a new one is tested without being named here.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest
import torch
from torch import Tensor

import diffodesic as dd
from diffodesic.metrics import spacetime

# what a type checker would refuse
MIXTURE: Any = dd.GaussianMixture(torch.tensor([[1.0, 0.0], [-1.0, 0.5]]), std=0.7)
KINDS = ("Denoiser", "Model", "Schedule", "Potential", "Metric", "Spacetime", "ScoreMetric")
PACKAGES = (
    dd,
    dd.denoisers,
    dd.geometry,
    dd.metrics,
    spacetime,
    dd.images,
    dd.transitions,
)
# results and settings, which the library makes of what it has checked
MADE = {"Geodesic", "MetricEnergy", "Edit", "TransitionPaths", "Model"}


def function(z: Tensor) -> Tensor:
    """What is given most often in place of an object."""
    return z


FUNCTION: Any = function
CLASS: Any = dd.schedules.VP


def doors() -> dict[str, tuple[Any, str, list[str]]]:
    """Name -> function, argument and kinds, of all required arguments of these kinds."""
    found = {}
    for package in PACKAGES:
        for name in package.__all__:
            made = getattr(package, name)
            plain = inspect.isfunction(made) or inspect.isclass(made)
            if not plain or name in MADE or inspect.isabstract(made) or name.endswith("Warning"):
                continue
            for argument in inspect.signature(made).parameters.values():
                kinds = re.findall(r"\w+", str(argument.annotation))
                if argument.default is argument.empty and set(kinds) <= {*KINDS, "None"} and kinds:
                    found[f"{package.__name__}.{name}"] = (made, argument.name, kinds)
    return found


DOORS = doors()


@pytest.mark.parametrize("wrong", [FUNCTION, "vp", None, 3.0], ids=["function", "str", "None", "3"])
@pytest.mark.parametrize("door", DOORS)
def test_what_is_of_another_kind_is_named_with_its_cure(door: str, wrong: object) -> None:
    made, argument, kinds = DOORS[door]
    others = {
        name: torch.zeros(2)
        for name, one in inspect.signature(made).parameters.items()
        if one.default is one.empty and name != argument and one.kind is not one.VAR_POSITIONAL
    }
    got = f"must be a {' or a '.join(kinds)}, got a {type(wrong).__name__}: "
    with pytest.raises(TypeError, match=re.escape(f"{argument} {got}")):
        made(**{argument: wrong}, **others)


def test_the_table_has_every_verb() -> None:
    assert {f"diffodesic.{name}" for name in ("Spacetime", "ScoreMetric", "likelihood")} <= {*DOORS}
    assert {"diffodesic.from_network", "diffodesic.pathways", "diffodesic.geodesic"} <= {*DOORS}
    assert len(DOORS) >= 60


@pytest.fixture(scope="module")
def model() -> Any:
    return dd.load("mnist")


def test_a_model_has_its_denoiser(model: Any) -> None:
    for make in (dd.Spacetime, lambda d: dd.ScoreMetric(d, log_snr=1.0)):
        with pytest.raises(
            TypeError, match=r"must be a Denoiser, got a Model: give model\.denoise"
        ):
            make(model)
    with pytest.raises(TypeError, match=r"potential must be a Potential, got a Model: make one of"):
        dd.pathways(model, torch.zeros(2), torch.ones(2))


def test_a_metric_has_its_denoiser_and_a_denoiser_has_metrics() -> None:
    space: Any = dd.Spacetime(MIXTURE)
    with pytest.raises(TypeError, match=r"got a Spacetime: give spacetime\.denoiser"):
        dd.ScoreMetric(space, log_snr=1.0)
    with pytest.raises(TypeError, match=r"be a Metric, got a GaussianMixture: .*Spacetime"):
        dd.geodesic(MIXTURE, torch.zeros(2), torch.ones(2))
    with pytest.raises(TypeError, match=r"be a Model, got a GaussianMixture: .*`load`"):
        dd.likelihood(MIXTURE, torch.zeros(2))


def test_a_class_is_to_be_called() -> None:
    with pytest.raises(TypeError, match=r"a Schedule, got the class VP: give VP\(\.\.\.\)"):
        dd.from_network(function, shape=(2,), schedule=CLASS, prediction="eps")


def test_optional_denoisers_are_checked_too() -> None:
    ends = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
    with pytest.raises(TypeError, match="denoiser must be a Denoiser, got a function: make one of"):
        dd.pathways(dd.transitions.DoubleWell(), *ends, denoiser=FUNCTION)
