"""Measures of frames against closed forms; extractors by name, and never another one instead."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from diffodesic import evaluate, shipped_digits
from diffodesic.images.evaluation import fid, frechet, kid, psnr, square_root, ssim
from diffodesic.images.features import Digits, Features, FeaturesError, SqueezeNet, load_features

scipy_linalg = pytest.importorskip("scipy.linalg")


class Brightness(Features):
    """Two features: mean brightness and contrast of a picture; distance of the first."""

    name, size, distance_name = "brightness", 2, "difference of brightness"

    def pooled(self, images: Tensor) -> Tensor:
        flat = images.flatten(1)
        return torch.stack([flat.mean(-1), flat.std(-1)], -1)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        return (a.flatten(1).mean(-1) - b.flatten(1).mean(-1)).abs()


def _pictures(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, 1, 6, 6, generator=generator, dtype=torch.float64)


def _grey(levels: list[float]) -> Tensor:
    return torch.tensor(levels, dtype=torch.float64)[:, None, None, None].expand(-1, 1, 6, 6)


def test_frechet_of_gaussians_in_closed_form(draw):
    # covariances with the same axes: |m - m'|^2 + sum (s_i - s'_i)^2 over the standard deviations
    axes = torch.linalg.qr(draw(5, 5)).Q
    first, second = draw(5).abs() + 0.1, draw(5).abs() + 0.1
    mean, other = draw(5), draw(5)
    covariance = axes @ torch.diag(first**2) @ axes.T
    root = square_root(axes @ torch.diag(second**2) @ axes.T)
    expected = (mean - other).square().sum() + (first - second).square().sum()
    torch.testing.assert_close(frechet(mean, covariance, other, root), expected)


def test_frechet_of_linear_images_in_closed_form(draw):
    # x -> A x with A symmetric and positive is the optimal transport from N(0, C) to N(0, A C A):
    # the distance is E |x - A x|^2 = tr (1 - A) C (1 - A)
    b, c = draw(2, 6, 6)
    a, covariance = b @ b.T / 6 + 0.1 * torch.eye(6).double(), c @ c.T
    gap = torch.eye(6).double() - a
    zero, root = torch.zeros(6).double(), square_root(a @ covariance @ a)
    distance = frechet(zero, covariance, zero, root)
    torch.testing.assert_close(distance, (gap @ covariance @ gap).trace())


def test_fid_is_the_formula(draw):
    a, b = draw(40, 3), 1.5 * draw(50, 3) + 0.7
    means = (a.mean(0) - b.mean(0)).square().sum()
    first, second = (torch.cov(x.T).numpy() for x in (a, b))
    root = scipy_linalg.sqrtm(first @ second).real
    expected = float(means) + float(np.trace(first + second - 2 * root))
    assert fid(a, b) == pytest.approx(expected, rel=1e-9)
    assert fid(a, a) == pytest.approx(0, abs=1e-9)


def test_kid_is_the_unbiased_kernel_distance(draw):
    a, b = draw(300, 3), draw(300, 3) + 0.3

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / 3 + 1) ** 3

    def within(x: Tensor) -> float:
        k = kernel(x, x)
        return float((k.sum() - k.diagonal().sum()) / (len(x) * (len(x) - 1)))

    exact = 1000 * (within(a) + within(b) - 2 * float(kernel(a, b).mean()))
    value, error = kid(a, b, subsets=400)
    # the mean over 400 random halves is the whole set's to a small share of its own error
    assert abs(value - exact) < 3 * error / math.sqrt(400) * 4
    same, error = kid(a, draw(300, 3), subsets=400)
    assert abs(same) < 4 * error
    with pytest.raises(ValueError, match="at least 4"):
        kid(a[:3], b)


def test_the_error_of_kid_is_that_of_repeats():
    generator = torch.Generator().manual_seed(0)
    values, errors = [], []
    for _ in range(40):
        a, b = torch.randn(2, 60, 2, generator=generator, dtype=torch.float64)
        value, error = kid(a, b, subsets=40)
        values.append(value)
        errors.append(error)
    ratio = sum(errors) / len(errors) / float(torch.tensor(values).std())
    # 40 repeats know a standard deviation to 11 %; too small by the root of two would be .71
    assert 0.8 < ratio < 1.4


def test_psnr_and_ssim_of_known_pictures():
    black, grey = _grey([0.0]), _grey([0.1])
    assert float(psnr(black, grey)) == pytest.approx(20)
    assert float(psnr(black, black)) == math.inf
    # flat pictures: only the first factor is left, (2 p q + c) / (p^2 + q^2 + c), c = 1e-4
    flat = torch.tensor([0.2, 0.5, 0.8]).double()[:, None, None, None].expand(3, 2, 12, 12)
    expected = (2 * 0.2 * 0.5 + 1e-4) / (0.2**2 + 0.5**2 + 1e-4)
    assert float(ssim(flat[:1], flat[1:2])) == pytest.approx(expected)
    digits = shipped_digits()[0][:4].double()
    torch.testing.assert_close(ssim(digits, digits), torch.ones(4).double())
    # a negative has the opposite structure
    assert float(ssim(digits, 1 - digits).max()) < 0


def test_smoothness_of_known_steps():
    frames = torch.stack([_grey([0, 0.25, 0.5, 1.0]), _grey([0, 0, 0, 0])])
    found = evaluate(frames, features=Brightness())
    torch.testing.assert_close(found.ppl, torch.tensor([1.0, 0.0]).double())
    # steps 1/4, 1/4, 1/2: mean 1/3, variance 1/72
    torch.testing.assert_close(found.pdv, torch.tensor([1 / 72, 0.0]).double())
    assert (found.extractor, found.distance) == ("brightness", "difference of brightness")
    assert "fid" not in found.as_dict()
    same = evaluate(frames, features=Brightness(), truth=frames).as_dict()
    assert same["psnr"] == [[None] * 4] * 2
    json.dumps(same, allow_nan=False)


def test_truth_orbit_and_ends():
    frames = _grey([0, 0.5, 1.0])[None]
    truth = _grey([0.1, 0.5, 0.9])[None]
    orbit = _grey([0.1, 0.9])[None]
    found = evaluate(
        frames, features=Brightness(), truth=truth, orbit=orbit, ends=_grey([0, 0.9])[None]
    )
    assert found.psnr is not None
    assert found.ends is not None
    assert found.feature is not None
    torch.testing.assert_close(found.feature, torch.tensor([[0.1, 0, 0.1]]).double())
    torch.testing.assert_close(found.orbit, torch.tensor([[0.1, 0.4, 0.1]]).double())
    assert found.psnr[0].tolist() == [pytest.approx(20), math.inf, pytest.approx(20)]
    assert found.ends[0].tolist() == [math.inf, pytest.approx(20)]
    one = evaluate(frames[0], features=Brightness(), truth=truth[0])
    torch.testing.assert_close(one.feature, found.feature)


def test_sets_are_compared_with_enough_pictures():
    frames, real = _pictures(2, 10), _pictures(30, seed=1)
    found = evaluate(frames, real, features=Brightness())
    pooled = Brightness().pooled
    assert found.fid == pytest.approx(fid(pooled(frames.flatten(0, 1)), pooled(real)))
    assert math.isfinite(found.kid)
    assert found.kid_error > 0
    with pytest.raises(ValueError, match="at least 192 pictures"):
        evaluate(torch.rand(1, 9, 1, 28, 28), torch.rand(400, 1, 28, 28))
    few = evaluate(torch.rand(1, 9, 1, 28, 28), torch.rand(12, 1, 28, 28), force=True)
    assert few.frames == 9
    assert few.fid > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": torch.rand(3, 6, 6)}, "P, F, C, H, W"),
        ({"reference": torch.rand(9, 1, 6, 5)}, "one size"),
        ({"truth": torch.rand(2, 2, 1, 6, 6)}, "truth has shape"),
        ({"ends": torch.rand(2, 3, 1, 6, 6)}, "ends has shape"),
        ({"frames": torch.rand(2, 3, 1, 6, 6) + 1}, r"in \[0, 1\]"),
        ({"reference": torch.zeros(9, 1, 6, 6, dtype=torch.uint8)}, "floating-point"),
        ({"features": "vgg"}, "unknown feature extractor"),
        ({"features": "digit-classifier-1"}, "28x28"),
        ({"features": "squeezenet:nowhere.onnx"}, "is not there"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        evaluate(**{"frames": _pictures(2, 3), "features": Brightness(), **options})


def test_the_digit_extractor_knows_digits():
    images, labels = shipped_digits()
    images, labels = images[:40].float(), labels[:40]
    same = labels[:, None] == labels[None]
    pooled = Digits().pooled(images)
    away = torch.cdist(pooled, pooled)
    off = ~torch.eye(40, dtype=torch.bool)
    assert float(away[same & off].mean()) < 0.7 * float(away[~same].mean())
    both = Digits().distance(images[:1], images[1:2])
    assert float(both) == pytest.approx(float(away[0, 1]), rel=1e-4)


@pytest.fixture
def weights(data_folder: Path) -> Path:
    pytest.importorskip("onnx", reason="SqueezeNet needs onnx, of diffodesic[evaluate]")
    return data_folder / "squeezenet" / "SqueezeNet_fp16.onnx"


def test_squeezenet_gives_its_stored_output(weights: Path):
    onnx = pytest.importorskip("onnx")
    image_module = pytest.importorskip("PIL.Image")
    with image_module.open(weights.parent / "fish.png") as file:
        fish = torch.tensor(np.asarray(file.convert("RGB"))).permute(2, 0, 1)[None] / 255
    layers = next(iter(SqueezeNet(weights)._layers(fish)))
    assert [layer.shape[1] for layer in layers] == list(SqueezeNet.WIDTHS)
    head = {
        t.name: torch.tensor(onnx.numpy_helper.to_array(t)).float()
        for t in onnx.load(weights).graph.initializer
        if t.name.startswith("conv10")
    }
    logits = torch.nn.functional.conv2d(layers[-1], head["conv10_w_0"], head["conv10_b_0"])
    chance = logits.relu().mean((-2, -1)).softmax(-1)[0]
    table = np.loadtxt(weights.parent / "Squeezenet_fp16_fish_input_CPU.csv", delimiter=",",
                       skiprows=1)  # fmt: skip
    # stored in half precision, computed there too
    torch.testing.assert_close(
        chance, torch.tensor(table[:, 1], dtype=torch.float32), rtol=0, atol=1e-3
    )


def test_squeezenet_is_not_called_lpips(weights: Path):
    found = load_features(f"squeezenet:{weights}")
    assert isinstance(found, SqueezeNet)
    assert "LPIPS" not in found.distance_name
    a, b = torch.rand(2, 3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    assert torch.equal(found.distance(a, a), torch.zeros(3))
    torch.testing.assert_close(found.distance(a, b), found.distance(b, a))
    assert found.pooled(a).shape == (3, 512)
    # enlarged to exactly 64 pixels on the short side, whatever it was
    for side in (28, 49, 63):
        assert next(iter(found._layers(torch.rand(1, 3, side, side))))[0].shape[-1] == 31


def test_wrong_files_are_named(tmp_path: Path):
    pytest.importorskip("onnx", reason="SqueezeNet needs onnx, of diffodesic[evaluate]")
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"no network")
    with pytest.raises(FeaturesError, match=r"bad\.onnx does not hold"):
        SqueezeNet(bad)
