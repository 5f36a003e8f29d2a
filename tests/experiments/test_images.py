"""``spacetime/images``: its statistics against other libraries, its pairs, a quick run."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scipy import stats

from diffodesic.experiments import images
from diffodesic.experiments.common.statistics import correlation, draws, pair_draws
from diffodesic.experiments.experiment import Context
from diffodesic.images.evaluation import ssim
from support.checks import Draw, same
from support.tiny import tiny_model


@pytest.mark.parametrize(("kind", "oracle"), [("Pearson", "pearsonr"), ("Spearman", "spearmanr")])
def test_correlations_are_those_of_scipy(draw: Draw, kind: str, oracle: str):
    x = draw(60)
    y = (0.5 * x + draw(60)).round(decimals=1)  # with ties
    weights = draws(60, 4000, 0)
    r = correlation(x.tolist(), y.tolist(), kind, weights)
    # a resample is the correlation of its draws, one after the other
    often = weights[0].long()
    again = getattr(stats, oracle)(x.repeat_interleave(often), y.repeat_interleave(often))
    assert float(r.resamples[0]) == pytest.approx(again.statistic, abs=1e-10)
    assert r.value == pytest.approx(getattr(stats, oracle)(x, y).statistic, abs=1e-10)
    assert r.low < r.value < r.high
    # Pearson's standard error is about (1 - r^2) / sqrt(N - 1); a bootstrap of 60 is within 40 %
    assert r.error == pytest.approx((1 - r.value**2) / math.sqrt(59), rel=0.4)


def test_pairs_that_share_pictures_are_drawn_by_their_pictures():
    pairs = torch.tensor([[5, 7], [7, 9], [5, 9]])
    pictures = draws(3, 50, 0)
    assert torch.equal(pair_draws(pairs, 50, 0), pictures[:, [0, 1, 0]] * pictures[:, [1, 2, 2]])
    apart = torch.tensor([[5, 7], [1, 9], [3, 2]])
    assert torch.equal(pair_draws(apart, 50, 0), draws(3, 50, 0))


def test_intervals_over_shared_pictures_hold_what_they_say(rng: torch.Generator):
    """At least 95 of 100 hold a true correlation of 0; by pairs about 80 do.

    The chance of fewer than 88 is 3e-3 at a share of .95; of 88 or more at a share of .8, 3e-2.
    """
    labels, held = torch.arange(10).repeat_interleave(10), 0
    for seed in range(100):
        pairs = images._choose(labels, images.Settings(pairs=20, seed=seed))
        own = torch.randn(100, 2, generator=rng, dtype=torch.float64)
        noise = torch.randn(200, 2, generator=rng, dtype=torch.float64)
        x, y = (own[pairs].sum(1) + 0.7 * noise).T.tolist()
        r = correlation(x, y, "Pearson", pair_draws(pairs, 300, seed))
        held += r.low <= 0 <= r.high
    assert held >= 88


def test_ssim_of_one_window_is_its_formula(draw: Draw):
    a = draw(2, 1, 28, 28).sigmoid()
    same(ssim(a, a), torch.ones(2, dtype=torch.float64))
    # constant pictures have no variance: only the means are compared
    p, q = (torch.full((1, 1, 28, 28), v, dtype=torch.float64) for v in (0.25, 0.75))
    expected = (2 * 0.25 * 0.75 + 1e-4) / (0.25**2 + 0.75**2 + 1e-4)
    same(ssim(p, q), torch.full((1,), expected, dtype=torch.float64))
    assert bool((ssim(a, 1 - a) < 0).all())


def test_mnist_is_read_where_it_is(data_folder: Path):
    pictures, labels = images._pictures(data_folder)
    assert pictures.shape == (10_000, 1, 28, 28)
    assert (float(pictures.min()), float(pictures.max())) == (0, 1)
    assert labels.unique().tolist() == list(range(10))


def test_pairs_are_of_one_class_and_every_class_comes_early():
    labels = torch.arange(10).repeat(50)
    pairs = images._choose(labels, images.Settings(pairs=20))
    assert pairs.shape == (200, 2)
    assert torch.equal(labels[pairs[:, 0]], labels[pairs[:, 1]])
    assert labels[pairs[:10, 0]].tolist() == list(range(10))
    # enough digits: each is in one pair
    assert len(pairs.unique()) == 400
    few = images._choose(labels[:100], images.Settings(pairs=20))
    assert len(few.sort(-1).values.unique(dim=0)) == 200


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The exact denoiser of Gaussian digits, as a network."""
    return tiny_model(side=28, bend=0).save(tmp_path / "tiny")


@pytest.mark.slow
def test_a_quick_run_can_be_taken_up_again(model: Path, tmp_path: Path, monkeypatch):
    context = Context(tmp_path, quick=True, model=str(model))
    given = images.run(context)
    pairs = sorted((tmp_path / "pairs").glob("*.safetensors"))
    assert len(pairs) == 4
    given.pictures["paths.png"](tmp_path / "paths.png")
    assert (tmp_path / "paths.png").stat().st_size > 1000
    numbers = {number.quantity: number.measured for number in given.numbers}
    assert numbers["pairs"] == 4
    # for a Gaussian law closure and path estimator are both exact
    assert numbers["path estimator over closure, mean"] == pytest.approx(1, rel=0.1)
    # the edit that forgets everything is no shorter than the shortest
    assert numbers["via-noise distance over DiffED, mean"] > 1
    monkeypatch.setattr(images, "_distances", lambda *_: pytest.fail("solved again"))
    again = images.run(context)
    assert again.numbers[:5] == given.numbers[:5]
    with pytest.raises(ValueError, match="seed was 0 and is 1 now"):
        images.run(replace(context, seed=1))
    assert given.figure is not None
    given.figure(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_other_models_are_refused(tmp_path: Path):
    tiny_model().save(tmp_path / "tiny")
    with pytest.raises(ValueError, match="this takes"):
        images.run(Context(tmp_path, quick=True, model=str(tmp_path / "tiny")))
