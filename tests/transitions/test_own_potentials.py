"""Potentials from functions: what they become, and what is no energy."""

from __future__ import annotations

import math

import pytest
import torch

from diffodesic.transitions.grid_denoiser import GridDenoiser
from diffodesic.transitions.own_potentials import from_callable
from diffodesic.transitions.potentials import Potential
from diffodesic.transitions.stationary import relax, relax_to_saddle
from support.checks import same

TURN = 2 * math.pi
POINT = torch.ones(1, 1, dtype=torch.float64)


def box(low: float, high: float) -> tuple[tuple[float, float], ...]:
    return ((low, high),)


def test_a_callable_becomes_a_potential():
    found = from_callable(
        lambda x: x[..., 0].cos(), dim=1, kT=2.0, box=box(0, TURN), period=(TURN,), unit="kJ/mol"
    )
    assert isinstance(found, Potential)
    same(found.gradient(POINT)[1], -POINT.sin())
    assert found.at(5.0).kT == 5
    assert found.kT == 2


class Bare(Potential):
    """A potential of one's own that sets what it is given."""

    def __init__(self, **given: object) -> None:
        self.__dict__ |= {"dim": 1, "period": (None,), "box": box(-2, 2)} | given

    def energy(self, x: torch.Tensor) -> torch.Tensor:
        return (x[..., 0] ** 2 - 1) ** 2


def test_a_subclass_without_a_temperature_is_refused():
    assert relax(Bare(kT=2.494, unit="kJ/mol"), POINT / 2).sub(1).abs().item() < 1e-4
    for given, absent in (({}, "kT, unit"), ({"unit": "kJ/mol"}, "kT"), ({"kT": 1.0}, "unit")):
        for entry in (relax, relax_to_saddle, lambda bare, _: GridDenoiser(bare)):
            with pytest.raises(TypeError, match=rf"is a Bare without {absent}; set what every Pot"):
                entry(Bare(**given), POINT)


@pytest.mark.parametrize(
    ("function", "options", "match"),
    [
        (lambda x: x, {}, "must return a tensor of shape"),
        (lambda x: 1.0, {}, "returned float"),
        (lambda x: x[..., 0] * math.nan, {}, "returned NaN at"),
        (lambda x: x[..., 0], {"period": (TURN,)}, "energy changes by"),
        (lambda x: x[..., 0].cos(), {"period": (1.0,)}, "span one period"),
        (lambda x: x[..., 0], {"period": (None, None)}, "one entry for each"),
        (lambda x: x[..., 0], {"kT": 0.0}, "kT must be a positive number"),
        (lambda x: x[..., 0], {"box": box(1, 0)}, "must increase"),
    ],
)
def test_wrong_callables_are_found_at_once(function, options, match):
    settings = {"dim": 1, "kT": 1.0, "box": box(0, TURN), "unit": "kJ/mol"} | options
    with pytest.raises(ValueError, match=match):
        from_callable(function, **settings)


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (lambda x: x.detach().square().sum(-1), "energies of potential have no derivative"),
        (lambda x: torch.zeros_like(x[..., 0]), "energies of potential have no derivative"),
        (lambda x: x.square().sum(-1).long(), "returned int64"),
        (lambda x: torch.complex(x[..., 0], x[..., 1]), "returned complex128"),
    ],
)
def test_functions_that_are_no_energy(function, sentence):
    x = torch.tensor([[0.5, -0.5], [1.0, 0.25]], dtype=torch.float64)
    with pytest.raises(ValueError, match=sentence):
        from_callable(function, dim=2, kT=1.0, box=((-2, 2),) * 2, unit="kT").gradient(x)
