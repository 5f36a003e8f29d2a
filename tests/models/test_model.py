"""Models on disk: exact round trips, and errors that say what to change for everything else."""

from __future__ import annotations

import json
import math
import pickle
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffodesic.denoisers.mixture import GaussianMixture
from diffodesic.models.codec import PixelCodec
from diffodesic.models.loading import available, load
from diffodesic.models.model import ModelError
from diffodesic.models.unet import UNet
from support.tiny import exact_model, files, pictures, tiny_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny model on disk."""
    return tiny_model().save(tmp_path / "tiny")


def state(fn: object) -> dict[str, Tensor]:
    assert isinstance(fn, UNet)
    return fn.state_dict()


def test_round_trip_is_bit_exact(tmp_path, draw):
    model = tiny_model()
    again = load(model.save(tmp_path / "a"))
    saved, loaded = state(model.denoiser.fn), state(again.denoiser.fn)
    assert saved.keys() == loaded.keys()
    assert all(torch.equal(saved[name], loaded[name]) for name in saved)
    assert (again.name, again.codec) == (model.name, model.codec)
    for name in ("shape", "prediction", "schedule", "sigma_data", "variance", "jvp_mode"):
        assert getattr(again.denoiser, name) == getattr(model.denoiser, name)
    z, sigma = draw(3, 64), torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64)
    twice = load(again.save(tmp_path / "b"))
    assert torch.equal(twice.denoiser(z, sigma), again.denoiser(z, sigma))
    # another memory layout may sum in another order: float32 rounding
    torch.testing.assert_close(
        again.denoiser(z, sigma), model.denoiser(z, sigma), rtol=1e-4, atol=1e-5
    )
    assert sorted(files(tmp_path / "a")) == ["config.json", "run.json", "weights.safetensors"]


def test_what_is_loaded_is_saved_as_it_was(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "training": {"steps": 3}}))
    model = load(folder)
    assert model.config["training"] == {"steps": 3}
    other = model.save(tmp_path / "other")
    assert json.loads((other / "config.json").read_text()) == dict(model.config)
    assert (other / "weights.safetensors").read_bytes() == (
        folder / "weights.safetensors"
    ).read_bytes()


def test_loaded_networks_only_evaluate(folder):
    network = load(folder).denoiser.fn
    assert isinstance(network, UNet)
    assert not network.training
    assert not any(weight.requires_grad for weight in network.parameters())


def test_interrupted_saving_keeps_the_earlier_model(folder, monkeypatch):
    before = files(folder)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("safetensors.torch.save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        replace(tiny_model(), name="new").save(folder)
    assert files(folder) == before


def test_foreign_networks_are_not_saved(tmp_path):
    model = exact_model(GaussianMixture(torch.zeros(1, 4).double()), (1, 2, 2))
    with pytest.raises(ModelError, match="only models with diffodesic's own network"):
        model.save(tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_shipped_models_are_listed_and_load():
    assert "mnist" in available()
    assert "1x28x28" in available()["mnist"]
    model = load("mnist")
    assert (model.name, model.codec.shape) == ("mnist", (1, 28, 28))


def test_conditions_are_bound_before_geometry_starts():
    model = tiny_model()
    label = torch.tensor(3)
    assert model.given({"class_labels": label}).denoiser.condition == {"class_labels": label}
    assert model.denoiser.condition == {}


WORDS = ("prompt", "prompt_b", "blend", "negative_prompt", "guidance", "label")


@pytest.mark.parametrize("word", WORDS)
def test_words_that_a_model_does_not_take_are_refused(folder, word):
    for model in (tiny_model(), load(folder)):  # of a network of one's own, and of a folder
        with pytest.raises(ValueError, match=rf"takes no {word};"):
            model.given({word: 1})


@pytest.mark.parametrize("source", ["nonesuch", "digit_classifier", "no/such/folder"])
def test_unknown_names_are_refused_with_the_known_ones(source):
    words = rf"unknown model '{source}': neither a shipped model \(.*mnist.*\) nor a folder"
    with pytest.raises(ModelError, match=words):
        load(source)


def test_folders_without_a_model_are_refused(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"lacks config\.json and weights\.safetensors"):
        load(tmp_path / "empty")
    (folder / "weights.safetensors").unlink()
    with pytest.raises(ModelError, match=r"lacks weights\.safetensors"):
        load(folder)


BROKEN = {
    "empty": b"",
    "torn": b"{",
    "list": b"[1, 2]",
    "null": b"null",
    "foreign": b'{"architectures": ["UNet2DModel"]}',
    "binary": b"\xff\xfe\x00",
    "deep": b"[" * 9999,
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN.keys())
def test_other_configurations_are_refused(folder, content):
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ModelError, match=r"config\.json does not describe a diffodesic model"):
        load(folder)


@pytest.mark.parametrize(
    ("where", "key", "value"),
    [
        ("config", "prediction", "eps"),
        ("config", "shape", [3, 8, 8]),
        ("config", "shape", [1, 9, 9]),
        ("config", "shape", [1, 8]),
        ("config", "shape", [1, 8, math.inf]),
        ("config", "sigma_min", -1.0),
        ("config", "sigma_max", math.nan),
        ("config", "sigma_data", 0.0),
        ("config", "sigma_data", None),
        ("config", "sigma_max", 1e308),
        ("config", "sigma_max", True),
        ("config", "sigma_max", "40"),
        ("config", "sigma_min", 1e-320),
        ("config", "shape", [True, 8, 8]),
        ("network", "blocks", [1, True]),
        ("network", "heads", True),
        ("network", "width", 96.0),
        ("network", "in_channels", -1),
        ("network", "channels", []),
        ("network", "heads", 3),
        ("network", "heads", -1),
        ("network", "depth", 3),
    ],
)
def test_configurations_that_cannot_work_are_refused(folder, where, key, value):
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    (config if where == "config" else config["network"])[key] = value
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"config\.json does not describe a diffodesic model"):
        load(folder)


@pytest.mark.parametrize(
    ("where", "key", "value", "words"),
    [
        ("network", "blocks", [1, 10**9], "give at most 1000 in all"),
        ("network", "blocks", [1, 1e30], "not made of whole numbers"),
        ("network", "blocks", [1, 9], "other tensors"),
        ("network", "channels", [4, 10**9], "Storage size|other tensors"),
        ("network", "channels", [4, 2**70], "does not describe a diffodesic model"),
        ("network", "width", 10**12, "Storage size|other tensors"),
        ("network", "in_channels", 10**12, "other tensors"),
        ("config", "shape", [1, 10**6, 10**6], "more than 67,108,864 numbers"),
        ("config", "shape", [10**9, 8, 8], "more than 67,108,864 numbers"),
        ("config", "shape", [8, 8, 8], "does not describe a diffodesic model"),
    ],
)
def test_sizes_that_no_weights_bear_out_are_refused_before_they_are_made(
    folder, monkeypatch, where, key, value, words
):
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    (config if where == "config" else config["network"])[key] = value
    (folder / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(
        "diffodesic.models.loading.for_evaluation", lambda _: pytest.fail("a network was made")
    )
    with pytest.raises(ModelError, match=words) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_truncated_weights_are_refused(folder):
    weights = folder / "weights.safetensors"
    content = weights.read_bytes()
    for part in (b"", content[:5], content[:200], content[:-1], content + b"more"):
        weights.write_bytes(part)
        with pytest.raises(ModelError, match="does not hold the weights of this model") as caught:
            load(folder)
        assert "\n" not in str(caught.value)


def test_weights_of_another_network_are_refused(folder):
    path = folder / "weights.safetensors"
    weights = load_file(path)
    first = next(iter(weights))
    others = (
        {"w": torch.zeros(2)},
        {k: v for k, v in weights.items() if k != first},
        {**weights, "extra": torch.zeros(2)},
        {**weights, first: torch.zeros(7)},
    )
    for other in others:
        save_file(other, path)
        with pytest.raises(ModelError, match=r"\(other tensors\); train or copy it again$"):
            load(folder)
    for dtype in (torch.int8, torch.complex64):
        save_file({**weights, first: weights[first].to(dtype)}, path)
        with pytest.raises(ModelError, match=r"\(tensors of integers or complex numbers\)"):
            load(folder)


def test_other_bytes_than_were_written_are_refused(folder):
    """Bits of the weights, weights of another training, settings; not words that describe."""
    weights, config = folder / "weights.safetensors", folder / "config.json"
    whole, words = weights.read_bytes(), json.loads(config.read_text())
    for at in (len(whole) - 4000, len(whole) - 1):
        weights.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(ModelError, match=r"is damaged: the checksum differs"):
            load(folder)
    other = {name: value + 1 for name, value in load_file(weights).items()}
    save_file(other, weights)
    with pytest.raises(ModelError, match=r"is damaged: the checksum differs"):
        load(folder)
    weights.write_bytes(whole)
    for name, value in {"sigma_max": 41.0, "checksum": None}.items():
        config.write_text(json.dumps({**words, name: value}))
        with pytest.raises(ModelError, match=r"is damaged: the checksum differs"):
            load(folder)
    config.write_text(json.dumps({**words, "name": "mine", "training": {}}))
    assert load(folder).name == "mine"
    del words["checksum"]  # as an earlier version wrote it
    config.write_text(json.dumps(words))
    load(folder)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused(folder, bad):
    path = folder / "weights.safetensors"
    weights = load_file(path)
    next(iter(weights.values())).view(-1)[0] = bad
    save_file(weights, path)
    with pytest.raises(ModelError, match="weights that are not finite"):
        load(folder)


class Trap:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.path,)  # type: ignore[return-value]


@pytest.mark.parametrize("kind", ["pickle", "torch"])
def test_pickles_are_never_opened(folder, tmp_path, kind):
    sprung, trap = tmp_path / "sprung", tmp_path / "trap.pt"
    if kind == "pickle":
        trap.write_bytes(pickle.dumps(Trap(sprung)))
        pickle.loads(trap.read_bytes())
    else:
        torch.save({"w": Trap(sprung)}, trap)
        torch.load(trap, weights_only=False)
    assert sprung.exists()  # the trap works
    sprung.unlink()
    (folder / "weights.safetensors").write_bytes(trap.read_bytes())
    with pytest.raises(ModelError, match="does not hold the weights of this model"):
        load(folder)
    assert not sprung.exists()


@pytest.mark.parametrize("device", ["nonesuch", "meta", "cuda:99"])
def test_devices_that_are_not_there_are_refused(folder, device):
    words = rf"cannot run on device '{re.escape(device)}' .*; try cpu$"
    with pytest.raises(ModelError, match=words) as caught:
        load(folder, device=device)
    assert "\n" not in str(caught.value)


def test_codec_is_without_loss_and_flattens_the_last_three_axes():
    codec, images = PixelCodec((2, 8, 8)), pictures(4, 2)
    z = codec.encode(images)
    assert z.shape == (4, 128)
    assert float(z.min()) >= -1
    assert float(z.max()) <= 1
    torch.testing.assert_close(codec.decode(z), images, rtol=0, atol=1e-15)
    assert torch.equal(codec.encode(images[0]), z[0])


def test_codec_cuts_what_leaves_the_range():
    z = torch.tensor([-3.0, -1.0, 0.0, 1.0])
    assert PixelCodec((1, 2, 2)).decode(z).flatten().tolist() == [0.0, 0.0, 0.5, 1.0]


def test_codec_refuses_what_is_no_shape_of_pictures():
    with pytest.raises(ValueError, match=r"shape is \(8, 8\): give \(C, H, W\)"):
        PixelCodec((8, 8))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (torch.zeros(1, 8, 9), r"images have shape \(1, 8, 9\); this model takes \(1, 8, 8\)"),
        (torch.zeros(8, 8), "this model takes"),
        (torch.full((1, 8, 8), math.nan), "not finite"),
        (torch.full((1, 8, 8), math.inf), "not finite"),
        (torch.full((1, 8, 8), -0.1), "between 0 and 1"),
        (torch.full((1, 8, 8), 255.0), "divide 8-bit values by 255"),
        (torch.zeros(1, 8, 8, dtype=torch.uint8), "divide 8-bit values by 255"),
    ],
)
def test_codec_refuses_what_is_no_picture(image, words):
    with pytest.raises(ValueError, match=words):
        PixelCodec((1, 8, 8)).encode(image)
