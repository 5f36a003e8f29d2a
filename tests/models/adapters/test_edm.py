"""Pickles of the EDM project: what they hold, and that none is read without leave."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diffodesic.models.loading import load
from diffodesic.models.model import ModelError


class Denoising(nn.Module):
    """What a pickle of EDM holds: preconditioned, with its range on it."""

    img_resolution, img_channels, label_dim = 4, 3, 0
    sigma_min, sigma_max, sigma_data = 0, math.inf, 0.5

    def __init__(self, label_dim: int = 0) -> None:
        super().__init__()
        self.label_dim = label_dim
        self.bias = nn.Parameter(torch.tensor(0.1, dtype=torch.float16))

    def forward(
        self, x: Tensor, sigma: Tensor, labels: Tensor | None = None, force_fp32: bool = False
    ) -> Tensor:
        assert force_fp32
        share = 0.25 / (0.25 + sigma.reshape(-1, 1, 1, 1) ** 2)
        shift = 0 if labels is None else labels.argmax(-1).reshape(-1, 1, 1, 1)
        return share * x + (1 - share) * (self.bias + shift)


def pickled(path: Path, content: object) -> Path:
    path.write_bytes(pickle.dumps(content))
    return path


def test_edm_networks_are_denoisers_already(tmp_path, draw):
    path = pickled(tmp_path / "small.pkl", {"ema": Denoising()})
    model = load(f"edm:{path}", allow_pickle=True)
    assert (model.name, model.codec.shape) == ("small", (3, 4, 4))
    assert model.denoiser.schedule.time_range == (0.002, 80.0)
    z, sigma = draw(2, 48), torch.tensor([0.1, 3.0], dtype=torch.float64)
    share = (0.25 / (0.25 + sigma**2)).unsqueeze(-1)
    expected = share * z + (1 - share) * 0.1
    # the weight went through float16
    torch.testing.assert_close(model.denoiser(z, sigma), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ModelError, match="takes no label"):
        model.given({"label": 1})


def test_edm_classes(tmp_path):
    path = pickled(tmp_path / "classes.pkl", {"ema": Denoising(label_dim=5)})
    model = load(f"edm:{path}", allow_pickle=True)
    z, sigma = torch.zeros(1, 48, dtype=torch.float64), torch.tensor(1e3**0.5)
    with pytest.raises(ModelError, match="bind one by given"):
        model.denoiser(z, sigma)
    with pytest.raises(ModelError, match="classes 0 to 4"):
        model.given({"label": 5})
    found = model.given({"label": 3}).denoiser(z, sigma)
    torch.testing.assert_close(found, torch.full_like(z, 3.1), rtol=1e-3, atol=1e-3)


class Trap:
    """Something whose pickle runs code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (Path("sprung"), "!"))


def test_no_pickle_is_read_without_leave(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = pickled(tmp_path / "trap.pkl", Trap())
    with pytest.raises(ModelError, match="runs code of its author"):
        load(f"edm:{path}")
    assert not Path("sprung").exists()


class StabilityVAEEncoder:
    """Stands for the latent encoder of EDM2."""


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"ema": Denoising(), "encoder": StabilityVAEEncoder()}, "on the latents of a Stability"),
        ({"net": Denoising()}, "holds no network of the EDM project"),
        ([1], "holds no network of the EDM project"),
    ],
)
def test_other_pickles_are_refused(tmp_path, content, words):
    path = pickled(tmp_path / "other.pkl", content)
    with pytest.raises(ModelError, match=words):
        load(f"edm:{path}", allow_pickle=True)


def test_files_that_are_no_pickles_are_refused(tmp_path):
    with pytest.raises(ModelError, match="there is no file"):
        load(f"edm:{tmp_path / 'absent.pkl'}", allow_pickle=True)
    (tmp_path / "text.pkl").write_text("hello")
    with pytest.raises(ModelError, match="cannot be read as a pickle"):
        load(f"edm:{tmp_path / 'text.pkl'}", allow_pickle=True)
    needs = b"cabsent_module\nThing\n."
    (tmp_path / "needs.pkl").write_bytes(needs)
    with pytest.raises(ModelError, match="needs code of its project"):
        load(f"edm:{tmp_path / 'needs.pkl'}", allow_pickle=True)
