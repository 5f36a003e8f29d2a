"""Foreign networks of three kinds: introduced rightly they are known, wrongly it is said how."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diffodesic.denoisers.mixture import GaussianMixture
from diffodesic.denoisers.network import NetworkOptions, from_network
from diffodesic.denoisers.schedules import EDM, VP, Cosine, FlowMatching, Tabulated
from diffodesic.images.conventions import self_check
from diffodesic.models.codec import PixelCodec
from diffodesic.models.datasets import shipped_digits
from diffodesic.models.loading import load
from diffodesic.models.model import Model
from support.tiny import pictures, tiny_model

SHAPE = (1, 8, 8)
SPREAD = 0.08  # of what the networks were trained on, about each of six pictures
KNOWN = 0.25 + 0.5 * pictures(6)
TYPICAL = KNOWN + SPREAD * torch.randn(
    KNOWN.shape, generator=torch.Generator().manual_seed(7), dtype=KNOWN.dtype
).clamp(-3, 3)


def law(low: float) -> GaussianMixture:
    """What the networks were trained on: spots, as [low, 1]."""
    return GaussianMixture(PixelCodec(SHAPE, low).encode(KNOWN), std=SPREAD * (1 - low))


def noise_in(
    low: float, schedule: Any
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]:
    """Data, noise and level that a perfect network sees in x_t at t."""
    exact = law(low)

    def seen(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        alpha, sigma = (s.reshape(-1, 1) for s in schedule.alpha_sigma(t.double()))
        flat = x.double().flatten(1)
        data = exact(flat / alpha, (sigma / alpha)[:, 0])
        return data, (flat - alpha * data) / sigma, sigma

    return seen


class EpsOfSteps(nn.Module):
    """Predicts the noise, at integer times of DDPM's table."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(1000, 1)
        self.seen = noise_in(-1.0, Tabulated.ddpm_linear())

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.table(t)  # takes integers only, from 0 to 999
        return self.seen(x, t)[1].reshape(x.shape).to(x)


def flow_of_unit_pixels(x: Tensor, t: Tensor) -> Tensor:
    """Data at 1, noise at 0, velocity from noise to data, of pixels in [0, 1]."""
    data, noise, _ = noise_in(0.0, FlowMatching())(x, 1 - t)
    return (data - noise).reshape(x.shape).to(x)


def edm_of_classes(x: Tensor, sigma: Tensor, class_labels: Tensor) -> Tensor:
    """EDM's denoiser D(x, sigma, label), preconditioning inside."""
    exact = GaussianMixture(
        PixelCodec(SHAPE).encode(KNOWN[:3] if class_labels[0, 0] else KNOWN[3:]), std=2 * SPREAD
    )
    return exact(x.double().flatten(1), sigma.double()).reshape(x.shape).to(x)


def eps(**given: Any) -> Model:
    network = EpsOfSteps().eval().requires_grad_(False)
    known: dict[str, Any] = {"schedule": Tabulated.ddpm_linear(), "prediction": "eps"} | given
    options = NetworkOptions(integer_time=True, trial=False)
    codec = known.pop("codec", PixelCodec(SHAPE))
    return Model(from_network(network, shape=SHAPE, options=options, **known), codec, "eps")


def flow(fn: Any = None, **given: Any) -> Model:
    known: dict[str, Any] = {"schedule": FlowMatching(), "prediction": "flow"} | given
    codec = known.pop("codec", PixelCodec(SHAPE, low=0))
    fn = fn or (lambda x, t: -flow_of_unit_pixels(x, 1 - t))
    made = from_network(fn, shape=SHAPE, options=NetworkOptions(trial=False), **known)
    return Model(made, codec, "flow")


def edm(fn: Any = edm_of_classes, **given: Any) -> Model:
    known: dict[str, Any] = {"schedule": EDM(), "prediction": "x0"} | given
    made = from_network(fn, shape=SHAPE, options=NetworkOptions(trial=False), **known)
    return Model(made, PixelCodec(SHAPE), "edm").given({"class_labels": torch.tensor([1.0, 0.0])})


RIGHT = {"eps": eps, "flow": flow, "edm": edm}


@pytest.mark.parametrize("kind", RIGHT)
def test_a_network_that_is_introduced_rightly_is_left_alone(kind):
    found = self_check(RIGHT[kind](), TYPICAL[:3])
    assert found.ok, str(found)
    assert found.left < 0.5
    assert "no other convention" in str(found)


def minus(x: Tensor, t: Tensor) -> Tensor:
    return flow_of_unit_pixels(x, 1 - t)


WRONG: dict[str, tuple[Callable[[], Model], str]] = {
    "eps taken for v": (lambda: eps(prediction="v"), 'prediction="eps"'),
    "eps taken for x0": (lambda: eps(prediction="x0"), 'prediction="eps"'),
    "eps taken for score": (lambda: eps(prediction="score"), 'prediction="eps"'),
    "steps taken for [0, 1]": (lambda: eps(schedule=VP()), "1000 t|ddpm_linear"),
    "pixels taken for [0, 1]": (
        lambda: eps(codec=PixelCodec(SHAPE, low=0)),
        r"pixels as \[-1, 1\]",
    ),
    "pixels taken for [-1, 1]": (lambda: flow(codec=PixelCodec(SHAPE)), r"pixels as \[0, 1\]"),
    "flow the other way": (lambda: flow(minus), "minus the output"),
    "flow with data at 1": (lambda: flow(flow_of_unit_pixels), "1 - t.* minus the output"),
    "flow taken for eps": (lambda: flow(prediction="eps"), 'prediction="flow"'),
    "another schedule": (lambda: flow(schedule=Cosine()), "schedule=dd.schedules.FlowMatching"),
    "sigma taken for EDM's own time": (
        lambda: edm(lambda x, t, **labels: edm_of_classes(x, (4 * t).exp(), **labels)),
        r"log\(sigma\) / 4",
    ),
    "a denoiser taken for the raw network": (
        lambda: edm(prediction="edm", sigma_data=0.5),
        'prediction="x0"',
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_introduced_wrongly_is_named(case):
    make, advice = WRONG[case]
    found = self_check(make(), TYPICAL[:3])
    assert not found.ok
    assert found.best < 0.5
    assert re.search(advice, " and ".join(found.changes)), str(found)
    assert len(found.changes) <= 2, str(found)


def test_a_network_that_knows_nothing_is_called_that():
    found = self_check(flow(lambda x, t: 0 * x, codec=PixelCodec(SHAPE)), TYPICAL[:2])
    assert not found.ok
    assert "the network is not trained" in str(found)


def test_shipped_digits_are_known_to_the_shipped_model():
    found = self_check(load("mnist"), shipped_digits()[0][:2])
    assert found.ok, str(found)


def test_what_cannot_be_checked_is_refused():
    with pytest.raises(ValueError, match="one colour"):
        self_check(tiny_model(), torch.zeros(SHAPE))
    with pytest.raises(TypeError, match="must be a Model, got a GaussianMixture"):
        self_check(law(0.0), KNOWN)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="made by from_network"):
        self_check(Model(law(0.0), PixelCodec(SHAPE), "law"), KNOWN)  # type: ignore[arg-type]
