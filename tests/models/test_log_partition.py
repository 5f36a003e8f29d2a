"""Log-partition models: trained from pictures or after a teacher, saved, loaded, refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import diffodesic as dd
from diffodesic.cli.main import main
from diffodesic.denoisers.log_partition import LogPartitionDenoiser
from diffodesic.models.codec import PixelCodec
from diffodesic.models.image_training import Batch, TrainSettings
from diffodesic.models.log_partition import LogPartitionNet, covariance
from diffodesic.models.log_partition_training import LogPartitionTraining
from diffodesic.models.model import Model, ModelError
from diffodesic.models.train import train
from diffodesic.models.training_data import Examples
from support.training import interrupted

TINY = TrainSettings(
    steps=6, batch=8, warmup=2, channels=(4, 8), blocks=(1, 1), heads=1, log_partition=True,
    threads=1,
)  # fmt: skip


def pictures() -> Tensor:
    """Noisy versions of two pictures, (64, 1, 4, 4)."""
    g = torch.Generator().manual_seed(1)
    base = torch.tensor([[0.5, -0.5], [-0.5, 0.5]]).repeat(1, 8).reshape(2, 1, 4, 4)
    return base[torch.arange(64) % 2] + 0.1 * torch.randn(64, 1, 4, 4, generator=g)


@pytest.fixture
def two() -> Tensor:
    """As :func:`pictures`."""
    return pictures()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model after a few steps."""
    return train(pictures(), tmp_path_factory.mktemp("model"), settings=TINY, progress=False)


class Tanh(nn.Module):
    """A layer of features of x (N, 1, 4, 4) and the level (N,)."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(17, 64), nn.Linear(64, 16)
        nn.init.zeros_(self.leave.weight)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        seen = torch.cat([x.flatten(1), noise[:, None]], 1)
        return self.leave(torch.tanh(self.enter(seen))).reshape(x.shape)


class Small(LogPartitionTraining):
    """A run that takes milliseconds a step."""

    def inner(self, settings: TrainSettings) -> tuple[nn.Module, bool]:
        return Tanh(), False


def test_it_learns_mean_and_spread(two, tmp_path):
    settings = replace(TINY, steps=300, batch=64, lr=1e-2, held_out=0.0, warmup=20)
    run = Small(Examples(two), settings, tmp_path)
    run.loop(progress=False)
    network = cast(LogPartitionNet, run.average.module)
    denoiser = network.double().requires_grad_(False).denoiser()
    # the two modes are told apart, which no Gaussian does
    sigma = torch.full((64,), 0.5).double()
    g = torch.Generator().manual_seed(2)
    clean = two.flatten(1).double()
    z = clean + sigma[:, None] * torch.randn(clean.shape, generator=g, dtype=torch.float64)
    law = dd.GaussianMixture(torch.stack([clean[::2].mean(0), clean[1::2].mean(0)]), std=0.1)
    (m, second), (exact, _) = denoiser.moments(z, sigma), law.moments(z, sigma)
    mean, basis, values, _ = covariance(clean)
    shrunk = values / (values + 0.25)
    gaussian = mean + (shrunk * ((z - mean) @ basis.T)) @ basis
    error, before = ((one - exact).square().mean() for one in (m, gaussian))
    assert float(error) < 0.7 * float(before)
    spread = (second - m.square().sum(-1)).mean()
    seen = (m - clean).square().sum(-1).mean()
    assert float(spread) == pytest.approx(float(seen), rel=0.25)


def test_its_gaussian_is_that_of_turned_pictures(two, tmp_path):
    same = two[:1].expand(64, -1, -1, -1).clone()
    for degrees, varies in ((0.0, False), (90.0, True)):
        run = Small(Examples(same), replace(TINY, rotation=degrees), tmp_path)
        assert (float(cast(LogPartitionNet, run.net).values[0]) > 0.01) == varies


def test_a_folder_of_it_is_a_denoiser_with_exact_moments(two, folder, tmp_path):
    model = dd.load(folder)
    assert isinstance(model.denoiser, LogPartitionDenoiser)
    assert dd.Spacetime(model.denoiser).estimator == "exact"
    again = dd.load(model.save(tmp_path / "second")).denoiser
    z, sigma = two[:3].flatten(1).double(), torch.tensor([0.1, 1.0, 5.0]).double()
    for one, other in zip(model.denoiser.moments(z, sigma), again.moments(z, sigma), strict=True):
        torch.testing.assert_close(one, other)
    training = json.loads((folder / "config.json").read_text())["training"]
    assert 0 <= training["negative_steps"] <= 1
    card = (folder / "CARD.md").read_text()
    assert "--log-partition" in card
    assert "not convex" in card
    for how in ({"precision": "bfloat16"}, {"compile": True}):
        with pytest.raises(ModelError, match="float32 and without compile"):
            model.running(**how)


def test_resume_is_exact(two, tmp_path):
    settings = replace(TINY, checkpoint_minutes=0.0)
    train(two, tmp_path / "whole", settings=settings, progress=False)
    with interrupted(LogPartitionTraining, step=3):
        train(two, tmp_path / "broken", settings=settings, progress=False)
    train(two, tmp_path / "broken", settings=settings, progress=False)
    whole, broken = ((tmp_path / name / "weights.safetensors") for name in ("whole", "broken"))
    assert whole.read_bytes() == broken.read_bytes()


def test_it_starts_from_a_teacher_and_follows_it(two, tmp_path):
    plain = replace(TINY, log_partition=False, steps=20)
    teacher = train(two, tmp_path / "teacher", settings=plain, progress=False)
    settings = replace(TINY, teacher=str(teacher))
    train(two, tmp_path / "student", settings=settings, progress=False)
    config = json.loads((tmp_path / "student" / "config.json").read_text())
    assert config["log_partition"]["offset"]
    assert config["network"] == json.loads((teacher / "config.json").read_text())["network"]
    dd.load(tmp_path / "student")
    other = train(two, tmp_path / "other", settings=replace(plain, seed=1), progress=False)
    with pytest.raises(ValueError, match="another outdir"):  # other answers, another run
        train(two, tmp_path / "student", settings=replace(TINY, teacher=str(other)))


def test_the_command_trains_one(two, tmp_path, capsys):
    np.save(tmp_path / "pictures.npy", two[:, 0].clamp(-1, 1).numpy())
    words = f"train {tmp_path / 'pictures.npy'} --outdir {tmp_path / 'model'} --log-partition"
    main([*words.split(), "--steps", "2", "--batch", "8", "--channels", "4", "8", "--blocks", "1",
          "1", "--heads", "1"])  # fmt: skip
    assert isinstance(dd.load(tmp_path / "model").denoiser, LogPartitionDenoiser)
    assert "wrote" in capsys.readouterr().out
    assert main([*words.split(), "--half"]) == 2
    assert "leave them out" in capsys.readouterr().err


def test_any_denoiser_is_a_teacher(two, tmp_path):
    law = dd.GaussianMixture(two.flatten(1)[:2], std=0.1)
    denoiser = dd.from_network(
        lambda x, t: law(x.flatten(1), (4 * t).exp()).reshape(x.shape),
        shape=(1, 4, 4),
        schedule=dd.schedules.EDM(0.01, 40.0),
        prediction="x0",
        options=dd.denoisers.NetworkOptions(trial=False),
    )
    teacher = Model(denoiser, PixelCodec((1, 4, 4)), "exact")
    examples = Examples(two)
    run = LogPartitionTraining(examples, TINY, tmp_path, "cpu", teacher)
    batch = run.draw(run.trained_on, 4, torch.Generator().manual_seed(0))
    followed = run.followed(batch.z.flatten(1), batch.x0.flatten(1), batch.sigma)
    torch.testing.assert_close(followed, denoiser(batch.z.flatten(1), batch.sigma))
    run.run(resume=False, progress=False)
    assert not dd.load(tmp_path).config["log_partition"]["offset"]


def test_after_a_teacher_a_step_is_the_gradient_of_the_loss(two, tmp_path):
    law = dd.GaussianMixture(two.flatten(1)[:2].double(), std=0.1)
    teacher = Model(cast(Any, law), PixelCodec((1, 4, 4)), "exact")
    run = Small(Examples(two.double()), TINY, tmp_path)
    run.teacher = teacher
    network = cast(LogPartitionNet, run.net).double()
    g = torch.Generator().manual_seed(3)
    weights = list(network.parameters())
    with torch.no_grad():  # no weight is zero
        for weight in weights:
            weight.add_(0.1 * torch.randn(weight.shape, generator=g))
    batch = run.draw(run.trained_on, 8, torch.Generator().manual_seed(0))
    batch = Batch(batch.z.double(), batch.x0.double(), batch.sigma.double())
    gradient = torch.autograd.grad(run.loss(network, batch, False), weights)
    along = [torch.randn(weight.shape, generator=g).double() for weight in weights]
    ends = []
    for step in (1e-5, -2e-5):
        with torch.no_grad():
            for weight, way in zip(weights, along, strict=True):
                weight.add_(step * way)
        ends.append(float(run.loss(network, batch, False).detach()))
    slope = sum(float((one * way).sum()) for one, way in zip(gradient, along, strict=True))
    # central differences: an error of order 1e-10
    assert slope == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-6)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"log_partition": False, "teacher": "mnist"}, "give both or none"),
        ({"half": True}, "leave them out"),
        ({"bf16": True}, "leave them out"),
        ({"compile": True}, "leave them out"),
    ],
)
def test_settings_that_contradict_are_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        replace(TINY, **change)


def test_teachers_of_other_pictures_or_levels_are_refused(two, tmp_path):
    with pytest.raises(ValueError, match="1x28x28 pixels, and the data are 1x4x4 pixels"):
        train(two, tmp_path, settings=replace(TINY, teacher="mnist"), progress=False)
    plain = replace(TINY, log_partition=False, sigma_min=0.1)
    teacher = train(two, tmp_path / "teacher", settings=plain, progress=False)
    with pytest.raises(ValueError, match="sigma_min and sigma_max within"):
        train(two, tmp_path / "student", settings=replace(TINY, teacher=str(teacher)))


@pytest.mark.parametrize(
    "entry", [{"rank": 3.0, "offset": False}, {"rank": 99, "offset": False}, {"rank": 4}, 7]
)
def test_configurations_that_do_not_fit_are_refused(folder, tmp_path, entry):
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "log_partition": entry}))
    shutil.copy(folder / "weights.safetensors", tmp_path)
    with pytest.raises(ModelError):
        dd.load(tmp_path)


def test_directions_beyond_the_rank_keep_their_mean_variance():
    g = torch.Generator().manual_seed(4)
    wide = torch.randn(300, 2100, generator=g) * torch.linspace(0.1, 1, 2100)
    _, basis, values, rest = covariance(wide)
    total = wide.double().var(0, correction=0).sum()
    assert float(values.sum()) + (2100 - len(values)) * rest == pytest.approx(
        float(total), rel=0.02
    )
    torch.testing.assert_close(basis @ basis.T, torch.eye(len(basis)).double(), atol=1e-8, rtol=0)
