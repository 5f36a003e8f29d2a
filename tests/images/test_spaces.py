"""The spaces in which images are joined, by name and with options."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from diffodesic.cli.main import main
from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.geometry.metric import Metric
from diffodesic.images.interpolation import InterpolateOptions, interpolate
from diffodesic.images.placement import JoinOptions, place
from diffodesic.images.spaces import (
    SPACES,
    ConformalSpace,
    EuclideanSpace,
    Fixed,
    PublishedScoreSpace,
    ScoreSpace,
    Space,
    SpacetimeSpace,
)
from diffodesic.metrics.elementary import Conformal, Euclidean
from diffodesic.metrics.score import ScoreMetric
from diffodesic.metrics.score_published import FrozenScore
from diffodesic.metrics.spacetime.metric import Spacetime
from diffodesic.output.options import option
from support.tiny import pictures, tiny_model

FAST = InterpolateOptions(frames=3, nodes=4, flow_steps=3)


@pytest.mark.parametrize("name", SPACES)
def test_what_is_packed_is_unpacked(name: str):
    there = place(tiny_model(), SPACES[name](), pictures(2), JoinOptions(flow_steps=4))
    points = there.points
    assert points.shape == (2, 65 if name == "spacetime" else 64)
    again, log_snr = there.unpack(points)
    torch.testing.assert_close(again, there.z)
    assert log_snr.tolist() == [there.lifting.log_snr] * 2


def test_the_published_recipe_is_the_published_setting():
    """DDPM's time 400: alpha^2 = .194; one noise for all; a weight of 1000 in x = alpha z."""
    model, images = tiny_model(), pictures(2)
    there = place(model, PublishedScoreSpace(), images, JoinOptions(seed=5))
    alpha2 = 1 / (1 + math.exp(-there.lifting.log_snr))
    assert alpha2 == pytest.approx(0.194, abs=5e-4)
    noise = (there.z - model.codec.encode(images)) * math.exp(there.lifting.log_snr / 2)
    torch.testing.assert_close(noise[0], noise[1])
    expected = torch.randn(64, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    torch.testing.assert_close(noise[0], expected)
    assert isinstance(there.metric, FrozenScore)
    assert there.metric.weight == pytest.approx(1000 / alpha2)


def test_a_weight_is_in_units_of_the_score_at_the_ends():
    there = place(tiny_model(), ScoreSpace(log_snr=0.0, weight=3.0, rank=4), pictures(2))
    metric = there.metric
    assert isinstance(metric, ScoreMetric)
    with torch.no_grad():
        size = metric.score(there.z).square().sum(-1).mean()
    assert metric.rank == 4
    assert metric.weight * float(size) == pytest.approx(3.0)


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_weights_out_of_range_are_refused(weight: float):
    for kind in (ScoreSpace, ConformalSpace):
        with pytest.raises(ValueError, match="weight must be"):
            kind(weight=weight)


def test_a_rank_belongs_to_the_score():
    with pytest.raises(TypeError, match=r"ConformalSpace\(\) has no option 'rank'; it has log_snr"):
        ConformalSpace(rank=2)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="'wieght'; did you mean 'weight'"):
        ScoreSpace(wieght=2)  # type: ignore[call-arg]


@dataclass(frozen=True, kw_only=True)
class TwiceSpace(Space):
    """A sixth space: a multiple of the flat metric.

    Args:
        factor: the multiple.
    """

    name = "twice"

    factor: float = option(2.0, above=0)

    def metric(self, denoiser: Denoiser, ends: Tensor, log_snr: float, *, seed: int = 0) -> Metric:
        return Conformal(lambda x: x.new_full(x.shape[:-1], self.factor), denoiser.dim)


def test_one_class_adds_a_space(monkeypatch, tmp_path, capsys):
    """To ``metric=``, to ``--metric``, and its options to the flags."""
    monkeypatch.setitem(SPACES, "twice", TwiceSpace)
    flat, twice = (
        interpolate(tiny_model(), *pictures(2), metric=name, options=FAST).geodesic.length
        for name in ("euclidean", "twice")
    )
    assert float(twice) == pytest.approx(math.sqrt(2) * float(flat))
    with pytest.raises(SystemExit):
        main(["interpolate", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "--factor FACTOR the multiple (default: 2.0)" in text
    words = ["interpolate", "a.png", "b.png", "--outdir", str(tmp_path), "--metric", "twice"]
    assert main([*words, "--factor", "-1"]) == 2
    assert capsys.readouterr().err == "diffodesic: factor must be above 0, got -1.0\n"


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (Euclidean(3), "the metric Euclidean has 3 coordinates .* model 'tiny' have 64"),
        (Euclidean(65), "the metric Euclidean has 65 coordinates"),
    ],
)
def test_a_metric_of_another_dimension_is_refused(metric: Metric, message: str):
    with pytest.raises(ValueError, match=message):
        interpolate(tiny_model(), *pictures(2), space=metric, options=FAST)


def test_a_spacetime_of_ones_own_joins_images():
    """With its own estimator; its points are (z, log SNR), at the level of spacetime."""
    model = tiny_model()
    space = Spacetime(model.denoiser, estimator="closure")
    result = interpolate(model, *pictures(2), space=space, options=FAST)
    assert result.settings["estimator"] == "closure"
    assert result.settings["metric"] == "Spacetime"
    assert result.settings["log_snr"] == SpacetimeSpace.auto_log_snr


def test_a_metric_at_one_level_brings_its_level():
    model = tiny_model()
    metric = ScoreMetric(model.denoiser, log_snr=0.25, weight=0.1)
    assert Fixed(metric).lifting(model).log_snr == 0.25
    assert Fixed(metric, log_snr=0.5).lifting(model).log_snr == 0.5
    assert Fixed(Euclidean(64)).lifting(model).log_snr == EuclideanSpace.auto_log_snr
    assert repr(Fixed(metric)) == "Fixed(ScoreMetric, log_snr='auto')"
