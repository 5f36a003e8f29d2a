"""Images to points and back, and the metrics that verbs know by name."""

from __future__ import annotations

import math

import pytest
import torch

from diffodesic.bridge import Bridge, as_images, image_metric, noise_level
from diffodesic.flow import clean_log_snr
from diffodesic.mixture import GaussianMixture
from diffodesic.spacetime import Spacetime
from tiny import exact_model, pictures, tiny_model


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


@pytest.mark.parametrize("name", ["spacetime", "score", "euclidean"])
def test_what_is_packed_is_unpacked(name):
    bridge = Bridge(tiny_model(), noise_level(tiny_model(), name), flow_steps=4)
    z = bridge.lift(pictures(2))
    space = image_metric(bridge, name, z)
    packed = bridge.pack(space, z)
    assert packed.shape == (2, 65 if isinstance(space, Spacetime) else 64)
    again, level = bridge.unpack(space, packed)
    torch.testing.assert_close(again, z)
    assert level.tolist() == [bridge.log_snr] * 2
