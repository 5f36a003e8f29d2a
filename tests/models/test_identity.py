"""The identity of a model: equal for equal models, another for whatever changes an answer."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.denoisers.mixture import GaussianMixture
from diffodesic.models.codec import PixelCodec
from diffodesic.models.identity import identity, short
from diffodesic.models.model import Model
from diffodesic.numerics.cost import counting
from diffodesic.output.stages import differences
from support.tiny import tiny_model


def other_weight(model: Model) -> Model:
    """One bit of one weight: far less than shows in three digits of an answer."""
    network = copy.deepcopy(model.denoiser.fn)
    assert isinstance(network, torch.nn.Module)
    next(network.parameters()).view(torch.int32).view(-1)[3] ^= 1
    return replace(model, denoiser=replace(model.denoiser, fn=network))


def other_codec(model: Model) -> Model:
    class Darker(PixelCodec):
        def encode(self, images: Tensor) -> Tensor:
            return super().encode(images) - 0.1

    return replace(model, codec=Darker(model.codec.shape))


CHANGES: dict[str, Callable[[Model], Model]] = {
    "weights": other_weight,
    "codec": other_codec,
    "name": lambda m: replace(m, name="other"),
    "condition": lambda m: replace(m, words={"label": 1}),
    "precision": lambda m: m.running(precision="bfloat16"),
    "derivatives": lambda m: replace(m, denoiser=replace(m.denoiser, jvp_mode="forward")),
    "answers": lambda m: replace(m, denoiser=replace(m.denoiser, sigma_data=0.51)),
    "levels": lambda m: replace(m, denoiser=replace(m.denoiser, log_snr_range=(-7.0, 9.0))),
}


@pytest.mark.parametrize("key", CHANGES)
def test_whatever_differs_is_named(key):
    before, now = identity(tiny_model()), identity(CHANGES[key](tiny_model()))
    assert f"{key}" in differences(before, now)
    assert short(before) != short(now)
    if key in {"weights", "precision", "name", "derivatives"}:
        assert {k for k in before if before[k] != now[k]} == {key}


@pytest.mark.parametrize(
    "same",
    [
        lambda m: m,
        lambda m: m.running(chunk=1),
        lambda m: copy.deepcopy(m),
        lambda m: m.running(precision="float32"),
    ],
)
def test_how_a_model_is_run_does_not_matter(same):
    assert identity(same(tiny_model())) == identity(tiny_model())


def test_a_compiled_network_is_told_from_a_plain_one_with_the_same_weights(monkeypatch):
    class Compiled(torch.nn.Module):  # as torch.compile wraps a network, without its minute
        def __init__(self, network: torch.nn.Module) -> None:
            super().__init__()
            self._orig_mod = network

    monkeypatch.setattr(torch, "compile", Compiled)
    plain = replace(tiny_model(), denoiser=replace(tiny_model().denoiser, jvp_mode="forward"))
    before, now = identity(plain), identity(plain.running(compile=True))
    assert {k for k in before if before[k] != now[k]} == {"precision", "derivatives"}
    assert now["precision"] == "float32, compiled"


def test_denoisers_without_weights_are_known_by_their_answers():
    generator = torch.Generator().manual_seed(3)
    means = torch.randn(40, 2, generator=generator, dtype=torch.float64) * 3
    moved = means.clone()
    moved[7, 1] += 0.01

    def function(means: Tensor) -> Denoiser:
        law = GaussianMixture(means, std=0.3)
        return Denoiser.from_callable(law.posterior_mean, dim=2, variance=law.variance)

    for make in (lambda m: GaussianMixture(m, std=0.3), function):
        assert identity(make(means)) == identity(make(means))
        assert "answers" in differences(identity(make(means)), identity(make(moved)))
    wider = identity(GaussianMixture(means, std=0.31))
    assert "answers" in differences(identity(GaussianMixture(means, std=0.3)), wider)


def test_a_condition_of_tensors_is_known_by_the_answers():
    """Words show the shape of a tensor alone."""

    class Shifted(torch.nn.Module):
        def forward(self, x: Tensor, t: Tensor, by: Tensor) -> Tensor:
            return x + by.reshape(-1, 1, 1, 1)

    model = tiny_model()
    model = replace(model, denoiser=replace(model.denoiser, fn=Shifted()))
    one, two = (identity(model.given({"by": torch.tensor(x)})) for x in (0.1, 0.2))
    assert one["condition"] == two["condition"]
    assert one["answers"] != two["answers"]


def test_no_evaluation_is_counted_and_nothing_random_is_drawn():
    state = torch.random.get_rng_state()
    with counting() as cost:
        identity(tiny_model())
    assert cost.evaluations == 0
    assert torch.equal(state, torch.random.get_rng_state())


def test_answers_that_are_not_finite_are_part_of_it():
    def broken(x: Tensor, t: Tensor) -> Tensor:
        return x / 0 * 0

    model = tiny_model()
    assert identity(replace(model, denoiser=replace(model.denoiser, fn=broken)))["answers"]
