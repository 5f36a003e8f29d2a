"""Digits at known angles, intervals by resampling digits, and the experiment that joins them."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from diffodesic.experiments.common.compared import front
from diffodesic.experiments.common.statistics import Estimate, SetDistances, draws, resampled_mean
from diffodesic.experiments.experiment import Context
from diffodesic.experiments.registry import reproduce
from diffodesic.experiments.rotated import run as rotated_mnist
from diffodesic.experiments.rotated import settings
from diffodesic.experiments.rotated.digits import ORBIT, angles_found, choose, measure, pairs
from diffodesic.images.evaluation import fid
from diffodesic.images.features import load_features
from diffodesic.images.spaces import ConformalSpace
from diffodesic.models.datasets import shipped_digits

DATA = Path(os.environ.get("DIFFODESIC_DATA", "nowhere"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="DIFFODESIC_DATA is not set")


def test_the_truth_is_its_own_truth_and_lies_on_its_orbit():
    digits = shipped_digits()[0][[3, 33, 45]].float()
    given = pairs(digits, 40.0, 5)
    assert given.angles.tolist() == [-20, -10, 0, 10, 20]
    scores = measure(given.truth, given, [load_features("digit-classifier-1")])
    assert bool((scores["truth PSNR"] == torch.inf).all())
    assert float(scores["truth, digit-classifier-1"].max()) == 0
    assert float(scores["orbit RMSE"].max()) < 1e-6  # the orbit has every even angle
    assert float(scores["angle error"].max()) == 0


def test_the_nearest_angle_is_found():
    digits = shipped_digits()[0][[33]].float()
    given = pairs(digits, 40.0, 5)
    index, rmse = angles_found(given.truth[:, 1:-1].double() * 0.99, given.orbit)
    assert ORBIT[index[0].cpu()].tolist() == [-10, 0, 10]
    assert 0 < float(rmse.max()) < 0.01


def test_a_resample_draws_digits_with_replacement():
    weights = draws(7, 50, seed=1)
    assert weights.shape == (50, 7)
    assert bool((weights.sum(1) == 7).all())
    assert torch.equal(weights, draws(7, 50, seed=1))


def test_the_interval_of_a_mean_is_that_of_its_standard_error(rng: torch.Generator):
    """2 x 1.96 standard errors wide, within 5 standard errors of the width of 4,000 resamples."""
    x = torch.randn(200, generator=rng, dtype=torch.float64)
    found = resampled_mean(x, draws(200, 4000, seed=0))
    assert found.value == pytest.approx(float(x.mean()))
    width = 2 * 1.96 * float(x.std(correction=0)) / 200**0.5
    assert found.high - found.low == pytest.approx(width, rel=0.1)


def test_differences_are_paired(rng: torch.Generator):
    x = torch.randn(100, generator=rng, dtype=torch.float64)
    weights = draws(100, 500, seed=0)
    change = resampled_mean(x + 0.01, weights).minus(resampled_mean(x, weights))
    assert change.value == pytest.approx(0.01)
    assert change.high - change.low < 1e-12


def test_fid_without_resampling_is_that_of_evaluate(rng: torch.Generator):
    x, y = torch.randn(2, 30, 4, 6, generator=rng, dtype=torch.float64)
    y = 1.5 * y + 0.3
    found = SetDistances(y, draws(30, 2, 0)).fid(x)
    assert found.value == pytest.approx(fid(x.flatten(0, 1), y.flatten(0, 1)), rel=1e-10)


def test_kid_is_the_mean_of_the_kernel_over_pairs_of_different_digits(rng: torch.Generator):
    x, y = torch.randn(2, 5, 2, 3, generator=rng, dtype=torch.float64)
    unit = float(y.square().mean().sqrt())
    weights = draws(5, 3, 0)
    found = SetDistances(y, weights).kid(x)

    def mean(a: torch.Tensor, b: torch.Tensor, w: torch.Tensor) -> float:
        total = mass = 0.0
        for i in range(5):
            for j in range(5):
                if i != j:
                    kernel = (a[i] @ b[j].T / unit**2 / 3 + 1) ** 3
                    total += float(w[i] * w[j] * kernel.mean())
                    mass += float(w[i] * w[j])
        return total / mass

    expected = [
        1000 * (mean(x, x, w) + mean(y, y, w) - 2 * mean(x, y, w))
        for w in (torch.ones(5).double(), *weights)
    ]
    assert found.value == pytest.approx(expected[0])
    moved = torch.tensor(expected[1:]).double()
    torch.testing.assert_close(found.resamples, moved - moved.mean() + expected[0])


def test_kid_of_equal_laws_is_zero_within_its_interval(rng: torch.Generator):
    x, y = torch.randn(2, 200, 3, 4, generator=rng, dtype=torch.float64)
    found = SetDistances(y, draws(200, 200, 0)).kid(x)
    spread = found.high - found.low
    assert abs(found.value) < spread  # four standard errors


def test_kid_of_few_units_has_an_interval(rng):
    """One resample in 64 draws one unit four times: it has no pair, and does not count."""
    x, y = torch.randn(2, 4, 3, 4, generator=rng, dtype=torch.float64)
    found = SetDistances(y, draws(4, 300, 0)).kid(x)
    assert bool(found.resamples.isnan().any())
    assert found.low < found.value < found.high


def test_the_front_is_what_none_betters():
    def row(*values: float) -> dict[str, Estimate]:
        names = [f"{what}, e" for what in ("FID", "KID", "PPL", "PDV")]
        none = torch.zeros(1)
        return {n: Estimate(v, v, v, none) for n, v in zip(names, values, strict=True)}

    table = {"sharp": row(1, 1, 9, 9), "smooth": row(9, 9, 1, 1), "neither": row(9, 9, 9, 9)}
    assert front(table, list(table["sharp"])) == {"sharp", "smooth"}


@needs_data
def test_splits_are_disjoint_balanced_and_new():
    first, labels = choose(DATA, 400, "validation")
    test, _ = choose(DATA, 200, "test")
    second, _ = choose(DATA, 100, "second")
    assert torch.bincount(labels).tolist() == [40] * 10
    seen = {x.numpy().tobytes() for x in first}
    shipped = {x.float().numpy().tobytes() for x in shipped_digits()[0]}
    assert len(seen) == 400
    others = [{x.numpy().tobytes() for x in part} for part in (test, second)]
    assert [len(part) for part in others] == [200, 100]
    assert not seen & (others[0] | others[1] | shipped)
    assert not others[0] & (others[1] | shipped)
    with pytest.raises(ValueError, match="there are 400 validation digits, not 500"):
        choose(DATA, 500, "validation")


@needs_data
def test_an_interrupted_run_goes_on_and_gives_the_same(tmp_path, monkeypatch):
    few = {name: settings.METHODS[name] for name in ("SLERP", settings.OURS)}
    monkeypatch.setattr(rotated_mnist, "METHODS", few)
    monkeypatch.setattr(rotated_mnist, "strips", lambda *_: None)
    context = Context(tmp_path, quick=True, data=DATA)
    reproduce("score/rotated-mnist", context)
    before = json.loads((tmp_path / "result.json").read_text())
    for kind in ("frames", "scores"):
        (tmp_path / "partial" / f"30 SLERP.{kind}.safetensors").unlink()
    made = []
    original = rotated_mnist.frames_of

    def counted(model, method, *rest):
        made.append(method)
        return original(model, method, *rest)

    monkeypatch.setattr(rotated_mnist, "frames_of", counted)
    reproduce("score/rotated-mnist", context)
    after = json.loads((tmp_path / "result.json").read_text())
    assert made == [few["SLERP"]]
    assert after["arrays"] == before["arrays"]
    assert after["notes"] == before["notes"]
    other = replace(few["SLERP"], log_snr=2.0)
    monkeypatch.setattr(rotated_mnist, "METHODS", {**few, "SLERP": other})
    with pytest.raises(ValueError, match="holds results of other settings"):
        reproduce("score/rotated-mnist", context)


def test_without_data_it_says_what_to_give(tmp_path):
    with pytest.raises(ValueError, match="--data DIR, a folder that holds mnist and squeezenet"):
        reproduce("score/rotated-mnist", Context(tmp_path))


@needs_data
def test_the_norm_and_the_lengths_run_too(tmp_path):
    norm, lengths = (
        reproduce(f"score/rotated-{name}", Context(tmp_path / name, quick=True, data=DATA))
        for name in ("norm", "lengths")
    )
    assert set(norm.arrays["methods"]) == set(settings.NORM_METHODS)
    assert not any("Past the end" in note for note in norm.notes)
    ratios = {number.quantity: number.measured for number in lengths.numbers}
    # true pictures turn aside in pixels already: no path is shorter than the chord
    assert min(v for name, v in ratios.items() if "Euclid" in name) > 1


def test_the_recommended_setting_is_the_default_of_the_conformal_metric():
    method = settings.NORM_METHODS[settings.KEPT]
    assert method.space() == ConformalSpace()
    assert method.log_snr == ConformalSpace.auto_log_snr
