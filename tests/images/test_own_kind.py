"""Pictures that a model does not know are named by every verb, and a wrong range of pixels too."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import diffodesic as dd
from diffodesic.denoisers.network import NetworkOptions
from diffodesic.images.diagnosis import diagnose
from diffodesic.images.distances import PairwiseDistances, pairwise
from diffodesic.images.editing import EditOptions, edit, edit_distance
from diffodesic.images.extrapolation import ExtrapolateOptions, extrapolate
from diffodesic.images.interpolation import InterpolateOptions, interpolate
from diffodesic.images.neighbours import NearestOptions, nearest
from diffodesic.images.own_kind import OUTSIDE, PICTURES, doubtful, strange, surprise
from diffodesic.images.pairs import PairwiseOptions
from diffodesic.images.spaces import EuclideanSpace
from diffodesic.models.model import Model, as_model
from diffodesic.numerics.cost import counting
from support.tiny import SIDE, exact_model, pictures, tiny_model

SHAPE = (1, SIDE, SIDE)


def spots() -> tuple[Model, Tensor]:
    """The exact denoiser of soft spots with some noise, and pictures of its law, (64, 1, 8, 8)."""
    known = 2 * pictures(60).flatten(1) - 1
    law = dd.GaussianMixture(known, std=0.05)
    drawn = law.sample(64, generator=torch.Generator().manual_seed(2))
    return exact_model(law, SHAPE), ((drawn + 1) / 2).clamp(0, 1).reshape(-1, *SHAPE)


def stripes() -> Tensor:
    return (torch.arange(SIDE) % 2).double().expand(1, 1, SIDE, SIDE)


def test_an_exact_denoiser_has_the_error_that_it_expects():
    law = dd.GaussianMixture(2 * pictures(60).flatten(1) - 1, std=0.05)
    found = surprise(law, law.sample(64, generator=torch.Generator().manual_seed(2)))
    # the identity holds on the mean; single pictures scatter by a quarter
    total = float(found.error.sum() / found.expected.sum())
    assert total == pytest.approx(1, abs=0.1)
    assert float((found.ratio < OUTSIDE).double().mean()) > 0.9


def test_its_cost_is_what_is_said():
    model = tiny_model()
    with counting() as cost:
        surprise(model.denoiser, model.codec.encode(pictures(2)))
    assert cost.evaluations == 2 * 12


def test_other_pictures_are_named():
    model, images = spots()
    (told,) = strange(model, torch.cat([images[:1], stripes()]), PICTURES)
    assert told.startswith("picture B is not of the model's kind: its denoising error near log SNR")
    assert "range of pixels" not in told


@pytest.mark.parametrize(
    ("low", "high", "told"), [(0, 1, True), (0, 1, False), (0, 255, True), (1, -1, True)]
)
def test_a_wrong_range_of_pixels_is_called_that(low, high, told):
    model, images = spots()
    unit = (high - low) / 2

    def network(x: Tensor, t: Tensor) -> Tensor:
        z = (x.flatten(1) - low) / unit - 1
        return ((model.denoiser(z, t / abs(unit)) + 1) * unit + low).reshape(x.shape)

    schedule = dd.schedules.EDM(0.002 * abs(unit), 80 * abs(unit))
    variance = model.denoiser.variance * (unit**2 if told else 1)
    denoiser = dd.from_network(
        network,
        shape=SHAPE,
        schedule=schedule,
        prediction="x0",
        variance=variance,
        options=NetworkOptions(trial=False),
    )
    (sentence,) = strange(as_model(denoiser, "other", source="here"), images[:1], PICTURES[:1])
    name = "its negative" if low > high else f"pixels in [{low:g}, {high:g}]"
    assert f"as {name}" in sentence
    assert "the range of pixels is wrong" in sentence


def test_every_verb_says_it(tmp_path):
    model, images = spots()
    a, b = images[0], stripes()[0]
    options = InterpolateOptions(
        space=EuclideanSpace(), nodes=2, frames=2, baselines=(), flow_steps=2
    )
    result = interpolate(model, a, b, options=options)
    (alarm,) = result.alarms
    assert result.notices[0] == alarm
    assert not any("flow_steps" in notice for notice in result.notices)
    folder = result.save(tmp_path / "out")
    assert json.loads((folder / "result.json").read_text())["alarms"] == [alarm]
    page = (folder / "report.html").read_text()
    assert page.count('<p class="status bad alarm">') == 1
    assert "picture B is not of the model&#39;s kind" in page
    asked = EditOptions(nodes=4, flow_steps=2)
    assert edit(model, a, b, options=asked).notices[0].startswith("picture B is not")
    told = diagnose(model, torch.stack([a, b]), log_snr=2.0, rank=4).notices
    assert told[0].startswith("picture 2 is not")


OPTIONS: dict[str, Any] = {"nodes": 2, "flow_steps": 1, "solver": dd.Relax(iterations=1)}
VERBS: dict[str, Callable[[Model, Tensor], Sequence[str]]] = {
    "interpolate": lambda model, x: (
        interpolate(
            model,
            *x[:2],
            options=InterpolateOptions(
                space=EuclideanSpace(), nodes=2, frames=2, baselines=(), flow_steps=1
            ),
        ).notices
    ),
    "extrapolate": lambda model, x: (
        extrapolate(
            model,
            *x[:2],
            options=ExtrapolateOptions(
                space=EuclideanSpace(), nodes=2, frames=2, points=1, flow_steps=1
            ),
        ).notices
    ),
    "edit": lambda model, x: edit(model, *x[:2], options=EditOptions(**OPTIONS)).notices,
    "edit_distance": lambda model, x: warned(
        lambda: edit_distance(model, *x[:2], options=EditOptions(**OPTIONS))
    ),
    "pairwise": lambda model, x: pairwise(model, x, options=PairwiseOptions(**OPTIONS)).notices,
    "pairwise by means": lambda model, x: pairwise(model, x, metric="mean").notices,
    "nearest": lambda model, x: (
        nearest(model, x, 1, options=NearestOptions(pivots=1, **OPTIONS)).notices
    ),
    "diagnose": lambda model, x: diagnose(model, x, log_snr=2.0, rank=2).notices,
}


def warned(ask: Callable[[], object]) -> list[str]:
    """The warnings of a function that returns numbers alone."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        ask()
    return [str(warning.message) for warning in said]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_names_strange_pictures_and_models_that_have_learned_nothing(verb):
    model, images = spots()
    spent = {"steps_done": 51, "denoising_error": 0.98, "linear_error": 0.5}
    untaught = replace(model, config={"training": spent})
    told = VERBS[verb](untaught, torch.cat([images[:1], stripes(), images[1:2]]))
    (strange,) = [text for text in told if "is not of the model's kind" in text]
    assert strange.startswith(("picture B", "picture 2"))
    assert sum("has learned nothing: after 51 steps" in text for text in told) == 1


@pytest.mark.parametrize("verb", [interpolate, edit])
def test_a_strange_picture_is_named_before_the_search(verb):
    model, images = spots()
    said: list[str] = []
    options = (InterpolateOptions if verb is interpolate else EditOptions)(**OPTIONS)
    verb(model, images[0], stripes()[0], options=options, progress=said.append)
    (place,) = [i for i, line in enumerate(said) if "is not of the model's kind" in line]
    assert said[place].startswith("note: picture B")
    assert not any("nodes" in line for line in said[:place])
    assert any("nodes" in line for line in said[place:])


def test_a_file_of_distances_keeps_what_was_said(tmp_path):
    model, images = spots()
    pictured = torch.cat([images[:1], stripes()])
    file, options = tmp_path / "d.npz", PairwiseOptions(**OPTIONS)
    (sentence,) = pairwise(model, pictured, file=file, options=options).notices
    assert sentence.startswith("picture 2 is not of the model's kind")
    assert PairwiseDistances.load(file).notices == (sentence,)
    assert pairwise(model, pictured, file=file, options=options).notices == (sentence,)


def test_many_strange_pictures_are_counted():
    model, images = spots()
    told = doubtful(model, torch.cat([images[:2], stripes().expand(5, *SHAPE)]))
    assert len(told) == 4
    assert told[-1] == "2 more pictures are not of the model's kind"
    assert doubtful(model.denoiser, images) == ()
