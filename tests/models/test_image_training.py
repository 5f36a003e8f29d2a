"""Training: it learns, resumes exactly, refuses what it cannot use; its network differentiates."""

import gzip
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.func import jvp, vjp

import diffodesic
from diffodesic.images.digit_classifier import accuracy, load_classifier
from diffodesic.models.datasets import held_out, load_images, load_mnist, rotate, unit
from diffodesic.models.image_training import (
    TrainSettings,
    _Run,
    sigma_quantile,
    train,
)
from diffodesic.models.unet import UNet
from tools import model_card
from tools.example_digits import write_digits

TINY = TrainSettings(
    steps=8, batch=16, warmup=2, rotation=30.0, channels=(8, 16), blocks=(1, 1), heads=1, lr=5e-3
)
SHIPPED = Path(diffodesic.__file__).parent


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
    run = _Run(blobs, TINY, tmp_path)
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


def test_resume_is_exact(blobs, tmp_path, monkeypatch):
    settings = replace(TINY, checkpoint_minutes=0.0)
    train(blobs, tmp_path / "whole", settings=settings)
    advance = _Run.advance

    def break_off(run: _Run) -> float:
        if run.step == 5:
            raise KeyboardInterrupt
        return advance(run)

    with monkeypatch.context() as patch:
        patch.setattr(_Run, "advance", break_off)
        with pytest.raises(KeyboardInterrupt):
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


def test_sources_agree(tmp_path):
    g = torch.Generator().manual_seed(2)
    pixels = torch.randint(0, 256, (5, 8, 8), generator=g, dtype=torch.uint8)
    (tmp_path / "idx").mkdir()
    head = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in pixels.shape)
    idx = tmp_path / "idx" / "train-images-idx3-ubyte.gz"
    idx.write_bytes(gzip.compress(head + pixels.numpy().tobytes()))
    (tmp_path / "png" / "sub").mkdir(parents=True)
    for i, picture in enumerate(pixels.numpy()):
        Image.fromarray(picture).save(tmp_path / "png" / "sub" / f"{i}.png")
    np.save(tmp_path / "a.npy", pixels.numpy())
    np.savez(tmp_path / "a.npz", pixels.numpy()[..., None])
    np.save(tmp_path / "float.npy", unit(pixels).numpy())
    for source in ("idx", "png", "a.npy", "a.npz", "float.npy"):
        torch.testing.assert_close(load_images(tmp_path / source), unit(pixels)[:, None])


def test_bad_sources_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="give a folder"):
        load_images(tmp_path / "missing")
    with pytest.raises(FileNotFoundError, match="no image"):
        load_images(tmp_path)
    with pytest.raises(FileNotFoundError, match="MNIST"):
        load_mnist(tmp_path)
    files = {"a.txt": b"x", "a.npy": b"x", "train-images-idx3-ubyte.gz": b"x"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    for name in ("a.txt", "a.npy", "."):
        with pytest.raises(ValueError, match=r"a\.txt|a\.npy|idx3"):
            load_images(tmp_path / name)
    np.save(tmp_path / "b.npy", np.zeros((4, 4)))
    with pytest.raises(ValueError, match=r"\(4, 4"):
        load_images(tmp_path / "b.npy")


def test_rotation():
    g = torch.Generator().manual_seed(3)
    x = 2 * torch.rand(2, 1, 6, 6, generator=g) - 1
    for degrees, turns in ((0.0, 0), (90.0, 1), (-90.0, -1)):
        turned = rotate(x, torch.full((2,), degrees))
        torch.testing.assert_close(turned, torch.rot90(x, turns, (2, 3)), atol=1e-5, rtol=0)
    wide = x[:, :, :4]
    turned = rotate(wide, torch.full((2,), 180.0))
    torch.testing.assert_close(turned, wide.flip(2, 3), atol=1e-5, rtol=0)


def test_levels_follow_a_cut_normal_law():
    settings = replace(TINY, sigma_min=0.1, sigma_max=10.0, log_sigma_mean=0.0)
    sigma = sigma_quantile((torch.arange(1000) + 0.5) / 1000, settings)
    assert float(sigma[0]) > 0.1
    assert float(sigma[-1]) < 10.0
    assert float(sigma.log().mean()) == pytest.approx(0.0, abs=1e-4)
    assert bool((sigma.diff() > 0).all())


@pytest.fixture
def net() -> UNet:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        net = UNet(2, (8, 16, 16), (1, 2, 1), heads=2, width=16).double()
        for p in net.parameters():  # a fresh network is zero
            p.data += 0.1 * torch.randn_like(p)
    return net


def test_jvp_is_adjoint_to_vjp(net):
    g = torch.Generator().manual_seed(5)
    x, u, v = torch.randn(3, 2, 2, 8, 8, generator=g, dtype=torch.float64)
    t, dt = torch.randn(2, 2, generator=g, dtype=torch.float64)
    right = jvp(net, (x, t), (u, dt))[1]
    left, left_t = vjp(net, x, t)[1](v)
    torch.testing.assert_close((v * right).sum(), (left * u).sum() + (left_t * dt).sum())
    h = 1e-5
    difference = (net(x + h * u, t + h * dt) - net(x - h * u, t - h * dt)) / (2 * h)
    torch.testing.assert_close(right, difference, rtol=1e-5, atol=1e-7)


def test_reverse_over_forward(net):
    g = torch.Generator().manual_seed(6)
    x, u, w = torch.randn(3, 1, 2, 8, 8, generator=g, dtype=torch.float64)
    t = torch.zeros(1, dtype=torch.float64)

    def energy(x: Tensor) -> Tensor:
        return jvp(lambda y: net(y, t), (x,), (u,))[1].square().sum()

    gradient = torch.func.grad(energy)(x)
    h = 1e-5
    difference = (energy(x + h * w) - energy(x - h * w)) / (2 * h)
    torch.testing.assert_close((gradient * w).sum(), difference, rtol=1e-6, atol=1e-7)


def gaussian(z: Tensor, sigma: Tensor) -> Tensor:
    """Posterior mean for data N(0, 0.3^2)."""
    return z * (0.09 / (0.09 + sigma**2))[:, None, None, None]


def test_jacobian_report_of_an_exact_denoiser():
    g = torch.Generator().manual_seed(7)
    clean = 0.3 * torch.randn(400, 1, 4, 4, generator=g)
    row = model_card.jacobian(gaussian, clean, 1.0, generator=g)
    assert row["asymmetry"] < 1e-6
    assert row["trace"] == pytest.approx(16 * 0.09 / (0.09 + math.exp(-1)), rel=1e-5)
    assert abs(row["ratio"] - 1) < 4 * row["ratio_se"]


def test_sampler_of_an_exact_denoiser():
    g = torch.Generator().manual_seed(8)
    config = {"sigma_min": 0.01, "sigma_max": 40.0, "shape": [1, 4, 4]}
    x = model_card.sample(gaussian, config, 500, generator=g)
    assert float(x.std()) == pytest.approx(0.3, rel=0.02)


def test_held_out_digits(tmp_path):
    assert held_out(torch.tensor([1, 0, 1, 1, 0, 0]), 2).tolist() == [1, 4, 0, 2]
    with pytest.raises(FileNotFoundError, match="t10k"):
        write_digits(tmp_path, tmp_path / "digits.safetensors")


def test_shipped_classifier_reads_shipped_digits():
    from safetensors.torch import load_file

    digits = load_file(SHIPPED / "models/assets/digits.safetensors")
    images, labels = unit(digits["images"][:, None]), digits["labels"].long()
    assert labels.tolist() == sorted(10 * list(range(10)))
    assert accuracy(load_classifier(), images, labels) >= 0.95
    with pytest.raises(FileNotFoundError, match="train_classifier"):
        load_classifier(SHIPPED)


def test_frechet_tells_noise_from_digits():
    from safetensors.torch import load_file

    x = unit(load_file(SHIPPED / "models/assets/digits.safetensors")["images"][:, None])
    *sets, digits = (x[i::4] for i in range(4))
    noise = torch.rand(digits.shape, generator=torch.Generator().manual_seed(9)) * 2 - 1
    close, far = model_card.frechet(digits, sets), model_card.frechet(noise, sets)
    assert close["ratio"] < 2 < far["ratio"]


def test_shipped_model_keeps_its_promises(tmp_path):
    report = json.loads((SHIPPED / "models/assets/mnist" / "quality.json").read_text())
    assert report["frechet"]["ratio"] < 5
    for row in report["jacobian"]:
        assert abs(row["ratio"] - 1) < 0.1 + 2 * row["ratio_se"]
    mean, config = model_card.load_trained(SHIPPED / "models/assets/mnist")
    g = torch.Generator().manual_seed(10)
    images = model_card.sample(mean, config, 8, steps=12, generator=g)
    # a digit is dark with some ink
    assert -0.98 < float(images.mean()) < -0.4
    model_card.sheet(images, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as picture:
        assert picture.size == (8 * 30 * 3, 30 * 3)
