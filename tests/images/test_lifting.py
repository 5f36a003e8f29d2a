"""Images to points and back, and the metrics that verbs know by name."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch

from diffodesic.denoisers.flow import clean_log_snr
from diffodesic.denoisers.mixture import GaussianMixture
from diffodesic.images.baselines.between import Rival, rival_curve
from diffodesic.images.baselines.latent import slerp
from diffodesic.images.lifting import Bridge, as_images
from diffodesic.images.spaces import MetricName, image_metric, noise_level
from diffodesic.metrics.score import ScoreMetric
from diffodesic.metrics.score_published import FrozenScore
from diffodesic.metrics.spacetime.metric import Spacetime
from support.tiny import exact_model, pictures, tiny_model


def test_up_and_down_is_the_image_and_its_grain():
    """What stays is the grain, less what the last mean takes away."""
    law = GaussianMixture(torch.zeros(1, 4).double(), std=0.5)
    model, image = exact_model(law, (1, 2, 2)), as_images(torch.full((2, 2), 0.6))
    bridge = Bridge(model, 1.0, flow_steps=96, seed=3)
    back = bridge.images(bridge.lift(image), torch.tensor([1.0]).double())
    sigma = math.exp(-clean_log_snr(model.denoiser) / 2)
    noise = torch.randn(4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    shrink = 0.25 / (0.25 + sigma**2)
    expected = shrink * (model.codec.encode(image) + sigma * noise)
    torch.testing.assert_close(back, model.codec.decode(expected), rtol=0, atol=1e-5)


def test_images_of_any_kind_are_one_tensor():
    grey = torch.full((3, 3), 51, dtype=torch.uint8)
    found = as_images(grey, torch.full((1, 3, 3), 0.2))
    assert found.shape == (2, 1, 3, 3)
    torch.testing.assert_close(found, torch.full_like(found, 0.2), rtol=0, atol=1e-8)
    with pytest.raises(ValueError, match=r"differ in shape: \(1, 3, 3\), \(1, 3, 4\)"):
        as_images(grey, torch.zeros(3, 4))


@pytest.mark.parametrize("name", get_args(MetricName))
def test_what_is_packed_is_unpacked(name):
    bridge = Bridge(tiny_model(), noise_level(tiny_model(), name), flow_steps=4)
    z = bridge.lift(pictures(2))
    space = image_metric(bridge, name, z)
    packed = bridge.pack(space, z)
    assert packed.shape == (2, 65 if isinstance(space, Spacetime) else 64)
    again, level = bridge.unpack(space, packed)
    torch.testing.assert_close(again, z)
    assert level.tolist() == [bridge.log_snr] * 2


def test_paper_mode_is_the_published_setting():
    """DDPM's time 400: alpha^2 = .194; one noise for all; a weight of 1000 in x = alpha z."""
    model = tiny_model()
    bridge = Bridge(model, noise_level(model, "score", mode="paper"), seed=5, mode="paper")
    alpha2 = 1 / (1 + math.exp(-bridge.log_snr))
    assert alpha2 == pytest.approx(0.194, abs=5e-4)
    images = pictures(2)
    noise = (bridge.lift(images) - model.codec.encode(images)) * math.exp(bridge.log_snr / 2)
    torch.testing.assert_close(noise[0], noise[1])
    expected = torch.randn(64, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    torch.testing.assert_close(noise[0], expected)
    space = image_metric(bridge, "score", bridge.lift(images))
    assert isinstance(space, FrozenScore)
    assert space.weight == pytest.approx(1000 / alpha2)
    with pytest.raises(ValueError, match="recipe for the metric \"score\", not 'jacobian'"):
        noise_level(model, "jacobian", mode="paper")
    with pytest.raises(ValueError, match="unknown mode 'best'; choose one of sound, paper"):
        noise_level(model, "score", mode="best")


def test_a_weight_and_a_rank_belong_to_their_metrics():
    bridge = Bridge(tiny_model(), 0.0, flow_steps=2)
    z = bridge.lift(pictures(2))
    space = image_metric(bridge, "score", z, weight=3.0, rank=4)
    assert isinstance(space, ScoreMetric)
    with torch.no_grad():
        size = space.score(z).square().sum(-1).mean()
    assert space.rank == 4
    assert space.weight * float(size) == pytest.approx(3.0)
    with pytest.raises(ValueError, match='rank belongs to the metric "score"'):
        image_metric(bridge, "conformal", z, rank=2)
    with pytest.raises(ValueError, match="rank must be between 1 and 64, got 65"):
        image_metric(bridge, "score", z, rank=65)
    with pytest.raises(ValueError, match="weight must be >= 0 and finite, got -1"):
        image_metric(bridge, "score", z, weight=-1.0)


@pytest.mark.parametrize("name", get_args(Rival))
def test_every_baseline_joins_the_ends_in_batches(name):
    bridge = Bridge(tiny_model(), 0.0, flow_steps=2)
    images = pictures(4).reshape(2, 2, 1, 8, 8)
    ends = bridge.lift(images)
    s = torch.linspace(0, 1, 5).double()
    curve = rival_curve(name, bridge, (images[0], images[1]), (ends[0], ends[1]))
    points = curve(s)
    assert points.shape == (2, 5, 64)
    torch.testing.assert_close(points[:, [0, -1]], torch.stack([ends[0], ends[1]], 1))
    alone = rival_curve(name, bridge, (images[0, 1], images[1, 1]), (ends[0, 1], ends[1, 1]))
    torch.testing.assert_close(alone(s), points[1], rtol=1e-4, atol=1e-4)
    if name == "SLERP":
        torch.testing.assert_close(points, slerp(ends[0], ends[1], s))


def test_an_unknown_baseline_is_named():
    bridge = Bridge(tiny_model(), 0.0)
    with pytest.raises(ValueError, match="unknown baseline 'pixel'; choose one of LERP, SLERP"):
        rival_curve("pixel", bridge, (pictures(2)[0],) * 2, (torch.ones(64),) * 2)
