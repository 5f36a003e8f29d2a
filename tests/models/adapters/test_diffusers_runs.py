"""Networks of diffusers as they are: their derivatives, and whole runs from a folder, offline."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from diffodesic.denoisers.network import JvpMode
from diffodesic.images.interpolation import InterpolateOptions, interpolate
from diffodesic.images.result import Interpolation
from diffodesic.metrics.one_level import NETWORK_SEARCH
from diffodesic.models.adapters.diffusers import from_pipeline
from diffodesic.models.loading import load
from diffodesic.models.model import Model
from support import pipelines

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

QUICK = ("ddpm", "sd3")  # of the families; the others are as quick, but there are many
FAMILIES = [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
    for name in pipelines.MAKERS
]


# --- derivatives ----------------------------------------------------------------------------------


SIGMAS = torch.tensor([0.1, 1.0, 8.0], dtype=torch.float64)


@pytest.mark.parametrize("name", FAMILIES)
def test_jacobian_products_agree_with_central_differences(name, draw):
    """1e-3 of their size is asked for; in float64 differences are good to 1e-6 and better."""
    denoiser = model_of(name).denoiser
    in_double(denoiser)
    z, v = draw(2, len(SIGMAS), denoiser.dim)
    expected = denoiser.difference(z, SIGMAS, v)[1]
    modes: tuple[JvpMode, ...] = ("auto", "forward", "double-vjp")
    for mode in modes:
        found = replace(denoiser, jvp_mode=mode).jvp(z, SIGMAS, v)[1]
        error = (found - expected).norm(dim=-1) / expected.norm(dim=-1)
        assert float(error.max()) < 1e-5, mode
    assert denoiser.auto_mode == ["forward"]


@pytest.mark.parametrize("name", FAMILIES)
def test_derivatives_of_derivatives(name, draw):
    """Of v.Jv, in reverse mode through reverse and through forward mode, by no shared formula."""
    denoiser = model_of(name).denoiser
    in_double(denoiser)
    z, v = draw(2, len(SIGMAS), denoiser.dim)
    leaf = z.clone().requires_grad_()
    (pulled,) = torch.autograd.grad((denoiser(leaf, SIGMAS) * v).sum(), leaf, create_graph=True)
    (twice,) = torch.autograd.grad((pulled * v).sum(), leaf)
    (crossed,) = torch.autograd.grad((denoiser.jvp(leaf, SIGMAS, v)[1] * v).sum(), leaf)
    # time goes through float32 inside diffusers, once for each
    torch.testing.assert_close(crossed, twice, rtol=1e-5, atol=1e-6 * float(twice.abs().max()))
    second = denoiser.second_difference(z, SIGMAS, v, v)
    along = (twice * v).sum(-1)
    # at sigma = .1 rounding of float64 leaves e |z| |v|^3 / (4 h^2 sqrt(D)) = 1e-4 in the sum
    torch.testing.assert_close(along, (second * v).sum(-1), rtol=1e-3, atol=5e-4)
    assert float(along.abs().max()) > 1e-3


def test_chunks_change_nothing_and_bound_the_batch(draw):
    denoiser = model_of("sd1").denoiser
    z, sizes = draw(5, denoiser.dim), []
    network: Any = denoiser.fn
    network.network.register_forward_hook(lambda _m, _i, out: sizes.append(len(out[0])))
    whole = denoiser(z, torch.tensor(1.0))
    part = replace(denoiser, chunk=2)(z, torch.tensor(1.0))
    assert sizes == [5, 2, 2, 1]
    torch.testing.assert_close(part, whole, rtol=1e-4, atol=1e-5)


def in_double(denoiser: Any) -> None:
    denoiser.fn.double()


def model_of(name: str) -> Model:
    return from_pipeline(pipelines.MAKERS[name](), condition=pipelines.WORDS.get(name, {}))


def run(model: Model, metric: str) -> Interpolation:
    a, b = torch.rand(2, *model.codec.shape, generator=torch.Generator().manual_seed(0))
    solver = replace(
        NETWORK_SEARCH, iterations=2, splines=None
    )  # how far it gets is no matter here
    options = InterpolateOptions(frames=3, nodes=3, flow_steps=3, solver=solver)
    return interpolate(model, a, b, metric=metric, options=options)


@pytest.mark.parametrize("metric", ["score", pytest.param("spacetime", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_goes_through_interpolate(name, metric, tmp_path, monkeypatch):
    pipelines.MAKERS[name]().save_pretrained(tmp_path / name)
    pipelines.unplug(monkeypatch)
    words = pipelines.WORDS.get(name, {"prompt": "a cat"} if name.startswith("sd") else {})
    model = load(f"diffusers:{tmp_path / name}")
    result = run(model.given(words) if words else model, metric)
    assert result.frames.shape == (3, *model.codec.shape)
    assert bool(torch.isfinite(result.frames).all())
    assert result.settings == result.settings | words
    told = any("autoencoder alone" in notice for notice in result.notices)
    assert told == (not model.codec.lossless)


def test_guided_lengths_are_named():
    model = model_of("sd1").given({"prompt": "a cat", "guidance": 2.0})
    assert any("guidance 2" in notice for notice in run(model, "euclidean").notices)
