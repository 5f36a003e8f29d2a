"""What the model card of the shipped digits reports, on exact denoisers and on itself."""

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import diffodesic
from diffodesic.images.digit_classifier import load_classifier
from diffodesic.models.datasets import held_out, unit
from diffodesic.models.folder import ModelError
from tools import model_card, photographs
from tools.digit_classifier import accuracy
from tools.example_digits import write_digits

SHIPPED = Path(diffodesic.__file__).parent


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


def test_photographs_that_are_held_out(tmp_path, monkeypatch):
    encoded = []
    for row in range(6):
        picture = io.BytesIO()
        Image.new("RGB", (10, 10), (40 * row, 7, 255)).save(picture, "PNG")
        encoded.append(np.frombuffer(picture.getvalue(), np.uint8))
    offsets, test = np.cumsum([0, *map(len, encoded)]), np.array([0, 0, 0, 0, 1, 1])
    file = tmp_path / "a.npz"
    np.savez(file, data=np.concatenate(encoded), offsets=offsets, is_test=test)
    trained = photographs.read_photographs(file, size=8)
    assert (trained.shape, trained.dtype) == ((4, 8, 8, 3), torch.uint8)
    assert trained[:, 4, 4].tolist() == [[40 * row, 7, 255] for row in range(4)]
    monkeypatch.setattr(photographs, "_TRAINED", 2)
    held = photographs.held_out_photographs(file, 1)
    assert held.shape == (3, 3, 128, 128)
    assert (held[:, 0, 9, 9] * 255).round().tolist() == [80, 160, 200]  # a row not seen, the tests


def test_shipped_classifier_reads_shipped_digits():
    from safetensors.torch import load_file

    digits = load_file(SHIPPED / "models/assets/digits.safetensors")
    images, labels = unit(digits["images"][:, None]), digits["labels"].long()
    assert labels.tolist() == sorted(10 * list(range(10)))
    assert accuracy(load_classifier(), images, labels) >= 0.95
    with pytest.raises(ModelError, match=r"lacks config\.json and weights\.safetensors"):
        load_classifier(SHIPPED)


def test_shipped_weights_have_a_checksum():
    found = sorted(SHIPPED.rglob("weights.safetensors"))
    assert len(found) == 4
    for file in found:
        assert json.loads((file.parent / "config.json").read_text())["checksum"]


def test_frechet_tells_noise_from_digits():
    from safetensors.torch import load_file

    x = load_file(SHIPPED / "models/assets/digits.safetensors")["images"][:, None] / 255
    *sets, digits = (x[i::4] for i in range(4))
    noise = torch.rand(digits.shape, generator=torch.Generator().manual_seed(9))
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
    model_card.sheet((images + 1) / 2, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as picture:
        assert picture.size == (8 * 30 * 3, 30 * 3)


def test_shipped_model_of_photographs_keeps_its_promises():
    folder = SHIPPED / "models/assets/fruits"
    report = json.loads((folder / "quality.json").read_text())
    assert report["features"] == "squeezenet-1.1"
    assert report["frechet"]["ratio"] < 5
    for row in report["jacobian"]:
        assert abs(row["ratio"] - 1) < 0.1 + 2 * row["ratio_se"]
    model, (images, _) = diffodesic.load("fruits"), diffodesic.shipped_photographs()
    z = model.codec.encode(images)
    lost = (model.codec.decode(z) - images).square().mean((1, 2, 3))
    assert float((-10 * lost.log10()).min()) > 26
    # latents have variance .25; of that the model finds most again under noise of their own size
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(11))
    sigma = torch.tensor(0.5)
    error = (model.denoiser(z + sigma * noise, sigma) - z).square().mean()
    assert float(error) < 0.25 / 4
    size = sum(
        file.stat().st_size
        for name in ("fruits", "taesd")
        for file in (SHIPPED / "models/assets" / name).glob("*.safetensors")
    )
    assert size <= 12e6
