"""Training on images: it learns, resumes exactly, and refuses what it cannot use."""

import json
import math
import re
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import diffodesic
from diffodesic.models.image_training import (
    Batch,
    ImageTraining,
    TrainSettings,
    sigma_quantile,
)
from diffodesic.models.model import ModelError
from diffodesic.models.train import train
from diffodesic.models.training_data import Examples
from diffodesic.models.unet import UNet
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
    run = ImageTraining(Examples(blobs), TINY, tmp_path)
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
        (blobs[:49], "at least 50"),
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
        ({"held_out": 1.0}, "held_out = 1.0: give a fraction"),
        ({"label_drop": -0.1}, "label_drop = -0.1: give a fraction"),
        ({"size": 0}, "size = 0: give at least 1"),
        ({"turned": 1.5}, "turned = 1.5: give a share"),
        ({"turned": 0.5, "rotation": 0.0}, "give both"),
        ({"codec": "taesd"}, "rotation turns pixels"),
        ({"codec": "taesd", "rotation": 0.0}, r"latents are 1x1: .* \(--size\)"),
        ({"codec": "taesd", "rotation": 0.0, "size": 20}, "divisible by 8"),
    ],
)
def test_bad_settings_are_refused(blobs, tmp_path, change, words):
    with pytest.raises(ValueError, match=words):
        train(blobs, tmp_path, settings=replace(TINY, **change))


def test_a_share_of_the_pictures_is_turned(blobs, tmp_path):
    rows, kept = torch.arange(64), {}
    for share in (0.0, 0.5, 1.0):
        run = ImageTraining(Examples(blobs), replace(TINY, turned=share), tmp_path)
        turned = run.clean(rows, torch.Generator().manual_seed(0))
        kept[share] = int(((turned - blobs).abs().amax((1, 2, 3)) < 1e-5).sum())
    assert kept[0.0] == 64
    assert kept[1.0] == 0
    assert 16 <= kept[0.5] <= 48  # four standard deviations


def test_the_largest_seed_trains(blobs, tmp_path):
    train(blobs, tmp_path, settings=replace(TINY, steps=2, seed=2**32 - 1, name="two words"))
    assert "--seed 4294967295 --name 'two words'" in (tmp_path / "CARD.md").read_text()


@pytest.fixture
def coloured() -> Tensor:
    """Plain colours, red or blue, shape (64, 3, 16, 16), for latents of 2x2."""
    g = torch.Generator().manual_seed(2)
    images = torch.full((64, 3, 16, 16), -1.0)
    strength = 2 * torch.rand(64, 1, 1, generator=g) - 1
    images[:32, 0], images[32:, 2] = strength[:32], strength[32:]
    return images


KINDS = ["red"] * 32 + ["blue"] * 32


def test_latents_with_labels_resume_exactly_and_load(coloured, tmp_path):
    settings = replace(TINY, rotation=0.0, codec="taesd", bf16=True, half=True)
    train(coloured, tmp_path / "whole", labels=KINDS, settings=settings)
    with interrupted(ImageTraining, step=5):
        frequent = replace(settings, checkpoint_minutes=0.0)
        train(coloured, tmp_path / "broken", labels=KINDS, settings=frequent)
    train(coloured, tmp_path / "broken", labels=KINDS, settings=settings)
    assert weights(tmp_path / "broken") == weights(tmp_path / "whole")
    assert all(
        x.dtype == torch.float16 for x in load_file(tmp_path / "whole/weights.safetensors").values()
    )
    card = (tmp_path / "whole" / "CARD.md").read_text()
    assert "of all, or of one of 2 kinds" in card
    assert "the latents 4x2x2 of colour images 16x16 under TAESD" in card
    assert "--outdir OUTDIR --labels --steps 8" in card
    assert "--codec taesd" in card

    model = diffodesic.load(tmp_path / "whole")
    assert model.codec.shape == (3, 16, 16)
    assert model.config["labels"] == ["blue", "red"]
    z = model.codec.encode((coloured[:2] + 1) / 2)
    assert model.codec.decode(z).shape == (2, 3, 16, 16)
    sigma = torch.tensor(1.0)
    outputs = [
        m.denoiser(z, sigma) for m in (model, model.given({"label": 0}), model.given({"label": 1}))
    ]
    for one, other in combinations(outputs, 2):
        assert not torch.equal(one, other)
    with pytest.raises(ModelError, match="classes 0 to 1"):
        model.given({"label": 2})
    saved = diffodesic.load(model.save(tmp_path / "saved"))
    torch.testing.assert_close(saved.denoiser(z, sigma), outputs[0])
    torch.testing.assert_close(saved.codec.encode((coloured[:2] + 1) / 2), z)


def test_labels_are_learned_and_dropped(coloured, tmp_path):
    """What red teaches is the mean of reds; without label it is that of both kinds."""
    settings = replace(TINY, rotation=0.0, steps=100, log_sigma_mean=2.0, log_sigma_std=0.5)
    train(coloured[..., ::4, ::4], tmp_path, labels=KINDS, settings=settings, progress=False)
    model = diffodesic.load(tmp_path)
    noise = 30 * torch.randn(64, 48, generator=torch.Generator().manual_seed(7))

    def warmth(label: int | None) -> float:
        given = model if label is None else model.given({"label": label})
        mean = given.denoiser(noise, torch.tensor(30.0)).unflatten(-1, (3, -1)).mean((0, 2))
        return float(mean[0] - mean[2])

    # the strength has mean 0 in one channel, and the other one is -1
    assert warmth(1) > 0.5
    assert warmth(0) < -0.5
    assert abs(warmth(None)) < 0.3


def test_pictures_held_out_are_not_seen(blobs, tmp_path):
    run = ImageTraining(Examples(blobs), replace(TINY, held_out=0.25), tmp_path)
    assert len(run.trained_on) == 48
    assert sorted([*run.trained_on.tolist(), *run.held_out.tolist()]) == list(range(64))
    run.points[run.held_out] = math.nan
    run.advance()  # a loss that is not finite is an error
    assert "nan on pictures held out" in run.check()


def test_progress_is_said_in_words(blobs, tmp_path, capsys):
    train(blobs, tmp_path, settings=replace(TINY, checkpoint_minutes=0.0))
    lines = [line for line in capsys.readouterr().err.splitlines() if "left:" in line]
    assert len(lines) == 9  # one a step, and the end
    assert lines[3].startswith("step 4, 50% done, 0 minutes left: denoising error ")
    assert re.search(r"on pictures trained on, \d\.\d+ on pictures held out", lines[3])
    train(blobs, tmp_path, settings=TINY, progress=False)
    assert capsys.readouterr().err == ""


def test_out_of_memory_takes_smaller_parts(blobs, tmp_path, monkeypatch):
    run = ImageTraining(Examples(blobs), TINY, tmp_path)
    loss, whole = run.gradients()
    error, sizes = ImageTraining.error, list[int]()

    def limited(run: ImageTraining, net: UNet, batch: Batch, low: bool = False) -> Tensor:
        sizes.append(len(batch.z))
        if len(batch.z) > limit:
            raise torch.OutOfMemoryError
        return error(run, net, batch, low)

    monkeypatch.setattr(ImageTraining, "error", limited)
    limit = 3
    with pytest.warns(RuntimeWarning, match="out of memory") as warned:
        again, parts = run.gradients()
    assert [str(w.message).split("taken in ")[1] for w in warned] == [
        f"{n} parts from now on, which changes no step" for n in (4, 8)
    ]
    assert set(sizes) == {8, 4, 2}
    assert again == pytest.approx(loss, rel=1e-5)
    # the same sums in another order
    for one, other in zip(parts, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    limit = 0
    with pytest.raises(ValueError, match="one picture at a time"), pytest.warns(RuntimeWarning):
        run.gradients()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_refused(blobs, tmp_path):
    with pytest.raises(ValueError, match="device cuda is not there"):
        train(blobs, tmp_path, settings=replace(TINY, device="cuda"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_trains_and_resumes(coloured, tmp_path):
    settings = replace(TINY, rotation=0.0, codec="taesd", bf16=True, device="cuda")
    folder = train(coloured, tmp_path, settings=settings)
    longer = replace(settings, steps=None, minutes=0.05)
    train(coloured, folder, settings=longer, resume=False)
    assert diffodesic.load(folder, device="cuda").codec.shape == (3, 16, 16)


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
        later.setattr("diffodesic.models.trainer._VERSION", 4)
        with pytest.raises(ValueError, match=r"\(training was 3 and is 4 now\)"):
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
