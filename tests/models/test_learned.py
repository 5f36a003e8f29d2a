"""A run that has learned nothing says so, and so does every result of its model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from diffodesic.cli.main import main
from diffodesic.images.interpolation import InterpolateOptions, interpolate
from diffodesic.images.spaces import EuclideanSpace
from diffodesic.models.folder import read_config
from diffodesic.models.image_training import TrainSettings
from diffodesic.models.learned import pixelwise
from diffodesic.models.loading import load
from diffodesic.models.train import train
from support.tiny import pictures

TINY = TrainSettings(steps=200, batch=16, warmup=2, channels=(8, 16), blocks=(1, 1), heads=1)


def test_it_is_the_best_linear_denoiser_of_each_pixel():
    g = torch.Generator().manual_seed(3)
    scale = torch.tensor([0.1, 1.0, 3.0], dtype=torch.float64)
    x0 = 0.5 + scale * torch.randn(100_000, 3, generator=g, dtype=torch.float64)
    sigma = torch.tensor(0.7, dtype=torch.float64)
    z = x0 + sigma * torch.randn(x0.shape, generator=g, dtype=torch.float64)
    error = (pixelwise(z, x0, sigma) - x0).square().mean(0)
    # the posterior variance of Gaussian data; 100,000 squares scatter by 0.5 %
    torch.testing.assert_close(error, 1 / (1 / scale**2 + 1 / sigma**2), rtol=0.02, atol=0)


@pytest.mark.parametrize(("steps", "lr", "said"), [(2, 2e-4, True), (200, 5e-3, False)])
def test_a_run_says_whether_it_has_learned(tmp_path, steps, lr, said):
    images = 2 * pictures(64).float() - 1
    train(images, tmp_path, settings=replace(TINY, steps=steps, lr=lr), progress=False)
    training = read_config(tmp_path)["training"]
    assert (training["denoising_error"] >= training["linear_error"]) == said
    model = load(tmp_path)
    assert any("learned nothing" in sentence for sentence in model.caveats()) == said
    options = InterpolateOptions(
        space=EuclideanSpace(), nodes=2, frames=2, baselines=(), flow_steps=2
    )
    a, b = pictures(2)
    notices = interpolate(model, a, b, options=options).notices
    assert any(f"after {steps} steps" in notice for notice in notices) == said


def test_the_command_says_it(tmp_path, capsys):
    data = tmp_path / "data.npy"
    np.save(data, (255 * pictures(64)[:, 0]).byte().numpy())
    words = ["--steps=2", "--batch=16", "--channels", "8", "16", "--blocks", "1", "1", "--heads=1"]
    assert main(["train", str(data), "--outdir", str(tmp_path / "out"), *words]) == 0
    assert "note: training has learned nothing: after 2 steps" in capsys.readouterr().err


def test_the_shipped_model_is_not_blamed():
    assert load("mnist").caveats() == ()
