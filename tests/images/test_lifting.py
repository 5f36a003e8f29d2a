"""Images to points at one noise level, and back."""

from __future__ import annotations

import math

import pytest
import torch

from diffodesic.denoisers.flow import clean_log_snr
from diffodesic.denoisers.mixture import GaussianMixture
from diffodesic.images.lifting import Lifting, as_images
from support.tiny import exact_model


def test_up_and_down_is_the_image_and_its_grain():
    """What stays is the noise of the cleanest level, less what the last mean takes away."""
    law = GaussianMixture(torch.zeros(1, 4).double(), std=0.5)
    model, image = exact_model(law, (1, 2, 2)), as_images(torch.full((2, 2), 0.6))
    lifting = Lifting(model, 1.0, flow_steps=96, seed=3)
    back = lifting.images(lifting.lift(image), 1.0)
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
    with pytest.raises(TypeError, match="images is complex"):
        as_images(grey, grey * 1j)
