"""Training on images: it learns, resumes exactly, and refuses what it cannot use."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from diffodesic.models.image_training import (
    ImageTraining,
    TrainSettings,
    sigma_quantile,
    train,
)
from support.training import interrupted
from tools import model_card

TINY = TrainSettings(
    steps=8, batch=16, warmup=2, rotation=30.0, channels=(8, 16), blocks=(1, 1), heads=1, lr=5e-3
)


@pytest.fixture
def blobs() -> Tensor:
    """Soft spots at random places, shape (64, 1, 8, 8)."""
    g = torch.Generator().manual_seed(1)
    y, x = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    centre = 2 + 4 * torch.rand(64, 2, 1, 1, generator=g)
    distance = (y - centre[:, 0]) ** 2 + (x - centre[:, 1]) ** 2
    return (2 * (-distance / 3).exp() - 1)[:, None]


def weights(folder: Path) -> bytes:
    return (folder / "weights.safetensors").read_bytes()


def test_loss_goes_down(blobs, tmp_path):
    train(blobs, tmp_path, settings=replace(TINY, steps=200), progress=False)
    losses = json.loads((tmp_path / "config.json").read_text())["training"]["losses"]
    assert len(losses) == 2
    assert losses[1] < 0.8 * losses[0]


def test_written_model_is_the_average(blobs, tmp_path):
    train(blobs, tmp_path, settings=TINY)
    mean, config = model_card.load_trained(tmp_path)
    assert config["prediction"] == "edm"
    command = "diffodesic train DATA --outdir OUTDIR --steps 8 --batch 16 --lr 0.005 --warmup 2"
    assert command in (tmp_path / "CARD.md").read_text()
    assert config["shape"] == [1, 8, 8]
    assert config["sigma_data"] == pytest.approx(float(blobs.std()))
    run = ImageTraining(blobs, TINY, tmp_path)
    run.restore()
    run.net.load_state_dict(run.average.module.state_dict())
    sigma = torch.tensor([0.1, 2.0])
    # EDM's coefficients as the paper writes them
    level, s = sigma.reshape(2, 1, 1, 1), run.sigma_data
    c_in = 1 / (level**2 + s**2).sqrt()
    z = blobs[:2] + level
    out = run.net(c_in * z, sigma.log() / 4)
    expected = s**2 / (level**2 + s**2) * z + level * s * c_in * out
    torch.testing.assert_close(mean(z, sigma), expected)


def test_resume_is_exact(blobs, tmp_path):
    settings = replace(TINY, checkpoint_minutes=0.0)
    train(blobs, tmp_path / "whole", settings=settings)
    with interrupted(ImageTraining, step=5):
        train(blobs, tmp_path / "broken", settings=settings)
    train(blobs, tmp_path / "broken", settings=settings)
    assert weights(tmp_path / "broken") == weights(tmp_path / "whole")
    train(blobs, tmp_path / "other", settings=replace(settings, seed=1))
    assert weights(tmp_path / "other") != weights(tmp_path / "whole")


def test_training_by_minutes_ends(blobs, tmp_path):
    settings = replace(TINY, steps=None, minutes=0.005, snapshot_minutes=(0.001,))
    train(blobs, tmp_path, settings=settings)
    training = json.loads((tmp_path / "config.json").read_text())["training"]
    assert training["steps_done"] >= 1


def test_bad_images_are_refused(blobs, tmp_path):
    broken = blobs.clone()
    broken[3, 0, 2, 2] = math.nan
    cases = [
        (broken, "NaN"),
        (blobs[:, 0], r"\(N, C, H, W\)"),
        (255 * blobs, "rescale"),
        (torch.zeros_like(blobs), "constant"),
        (blobs[..., :7], "divisible by 2"),
    ]
    for images, words in cases:
        with pytest.raises(ValueError, match=words):
            train(images, tmp_path, settings=TINY)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": None}, "either steps or minutes"),
        ({"sigma_min": 50.0}, "sigma_min < sigma_max"),
        ({"batch": 0}, "at least 1"),
        ({"threads": 0}, "at least 1"),
        ({"seed": 2**32}, r"from 0 to 2\^32 - 1"),
        ({"blocks": (1,)}, "one number of blocks"),
    ],
)
def test_bad_settings_are_refused(blobs, tmp_path, change, words):
    with pytest.raises(ValueError, match=words):
        train(blobs, tmp_path, settings=replace(TINY, **change))


def test_the_largest_seed_trains(blobs, tmp_path):
    train(blobs, tmp_path, settings=replace(TINY, steps=2, seed=2**32 - 1, name="two words"))
    assert "--seed 4294967295 --name 'two words'" in (tmp_path / "CARD.md").read_text()


def test_diverged_loss_is_an_error(blobs, tmp_path):
    with pytest.raises(ValueError, match="lower lr"):
        train(blobs, tmp_path, settings=replace(TINY, lr=1e30))


def test_a_checkpoint_of_another_run_is_refused(blobs, tmp_path, monkeypatch):
    train(blobs, tmp_path, settings=TINY)
    with pytest.raises(ValueError, match=r"other settings \(lr was 0.005 and is 0.001 now\)"):
        train(blobs, tmp_path, settings=replace(TINY, lr=1e-3))
    with pytest.raises(ValueError, match=r"\(data was .* now\); give the same settings and data"):
        train(blobs.flip(0), tmp_path, settings=TINY)
    with monkeypatch.context() as later:
        later.setattr("diffodesic.models.trainer._VERSION", 3)
        with pytest.raises(ValueError, match=r"\(training was 2 and is 3 now\)"):
            train(blobs, tmp_path, settings=TINY)
    other = weights(tmp_path)
    train(blobs.flip(0), tmp_path, settings=TINY, resume=False)
    assert weights(tmp_path) != other


def test_a_damaged_checkpoint_is_no_checkpoint(blobs, tmp_path):
    whole = weights(train(blobs, tmp_path, settings=TINY))
    file = tmp_path / "checkpoint" / "state.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1  # one bit of a weight
    for damaged in (content, b"not a checkpoint"):
        file.write_bytes(damaged)
        with pytest.warns(RuntimeWarning, match="cannot be used"):
            train(blobs, tmp_path, settings=TINY)
        assert weights(tmp_path) == whole


def test_levels_follow_a_cut_normal_law():
    settings = replace(TINY, sigma_min=0.1, sigma_max=10.0, log_sigma_mean=0.0)
    sigma = sigma_quantile((torch.arange(1000) + 0.5) / 1000, settings)
    assert float(sigma[0]) > 0.1
    assert float(sigma[-1]) < 10.0
    assert float(sigma.log().mean()) == pytest.approx(0.0, abs=1e-4)
    assert bool((sigma.diff() > 0).all())
