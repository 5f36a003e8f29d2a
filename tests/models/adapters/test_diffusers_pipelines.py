"""Every pipeline of diffusers: its own step, guidance and decoding, or a refusal with its cause.

A small random pipeline of each class runs as it is.  What it gives its scheduler is recorded,
guidance included, and the posterior mean of that step is compared with the denoiser's; so are its
pictures.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from diffodesic.models.adapters.diffusers import from_pipeline
from diffodesic.models.adapters.diffusers_pipelines import SUPPORTED, autoencoder, refused_pipeline
from diffodesic.models.model import ModelError
from support.checks import disagreement
from support.every_pipeline import EXAMPLES, Example
from tools import pipeline_table

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")
# of diffusers, where it gives tensors to NumPy or runs a pipeline that it calls old
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array_:DeprecationWarning", "ignore::FutureWarning"
)


@dataclass
class Recorded:
    """A run: its pictures, and what its scheduler and its autoencoder were given."""

    pictures: Tensor
    steps: list[tuple[Tensor, float, float, Tensor]]  # sample, alpha, sigma_t, posterior mean
    last: Tensor  # sample of the last step
    decoded: Tensor | None


def levels(scheduler: Any, t: Tensor) -> tuple[float, float]:
    """alpha and sigma_t of the sample at a time, by hand."""
    if hasattr(scheduler, "betas"):
        signal = float(torch.cumprod(1 - scheduler.betas.double(), 0)[int(t)])
        return signal**0.5, (1 - signal) ** 0.5
    place = int((scheduler.timesteps == t).nonzero()[0])
    sigma = float(scheduler.sigmas[place])
    return (1.0, sigma) if "VeScheduler" in type(scheduler).__name__ else (1 - sigma, sigma)


def mean_of_step(scheduler: Any, out: Tensor, t: Tensor, x: Tensor, result: Any) -> Tensor:
    """The posterior mean that a scheduler's step used."""
    if type(scheduler).__name__ == "PNDMScheduler":
        return scheduler._get_prev_sample(x, t, -1, out)
    if hasattr(scheduler, "betas"):
        return result[1] if isinstance(result, tuple) else result.pred_original_sample
    alpha, sigma = levels(scheduler, t)
    if alpha == 1:
        return x + sigma**2 * out
    place = int((scheduler.timesteps == t).nonzero()[0])
    rate = (result[0] - x) / (scheduler.sigmas[place + 1] - scheduler.sigmas[place])
    return x - sigma * rate


def run(pipe: Any, example: Example, monkeypatch: pytest.MonkeyPatch) -> Recorded:
    """Run a pipeline and record what its scheduler and its autoencoder are given."""
    scheduler, vae = pipe.scheduler, autoencoder(pipe)
    name = "step_pred" if hasattr(scheduler, "step_pred") else "step"
    step, steps, ends, decoded = getattr(scheduler, name), [], [], []

    def recorded(out: Tensor, t: Tensor, x: Tensor, *rest: Any, **more: Any) -> Any:
        result = step(out, t, x, *rest, **more)
        steps.append((x, *levels(scheduler, t), mean_of_step(scheduler, out, t, x, result)))
        noiseless = getattr(result, "prev_sample_mean", None)
        ends.append(result[0] if noiseless is None else noiseless)
        return result

    def decoding(decode: Any, z: Tensor, **more: Any) -> Any:
        decoded.append(z)
        return decode(z, **more)

    # pipelines look at the signature to see what it takes
    recorded.__signature__ = inspect.signature(step)  # type: ignore[attr-defined]
    monkeypatch.setattr(scheduler, name, recorded)
    if vae is not None:
        monkeypatch.setattr(vae, "decode", partial(decoding, vae.decode))
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    out = pipe(num_inference_steps=4, generator=generator, output_type="np", **example.call)
    pictures = torch.as_tensor(out.images)[0].permute(2, 0, 1)
    return Recorded(pictures, steps, ends[-1], decoded[0] if decoded else None)


def unpacked(pipe: Any, latents: Tensor) -> Tensor:
    """Latents as (1, c, h, w), by the pipeline's own unpacking."""
    if latents.ndim == 4:
        return latents
    side = int(latents.shape[1] ** 0.5) * 2 * pipe.vae_scale_factor
    return pipe._unpack_latents(latents, side, side, pipe.vae_scale_factor)


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_pipeline_is_agreed_with(name, monkeypatch):
    example = EXAMPLES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        pipe = example.make()
    assert type(pipe).__name__ == name.split()[0]
    model = from_pipeline(pipe, condition=dict(example.words), size=example.size)
    seen = run(pipe, example, monkeypatch)
    worst, compared = 0.0, 0
    low, high = model.denoiser.schedule.log_snr_range
    for x, alpha, sigma, mean in seen.steps:
        level = torch.tensor(sigma / alpha if alpha else torch.inf, dtype=torch.float64)
        if not low <= -2 * float(level.log()) <= high:
            continue  # a first step from pure noise
        z = unpacked(pipe, x).double().flatten(1) / alpha
        found, expected = model.denoiser(z, level), unpacked(pipe, mean).double().flatten(1)
        worst = max(worst, disagreement(found, expected))
        compared += 1
    assert compared >= 2
    assert worst < 1e-5

    last = unpacked(pipe, seen.last[:1]).flatten(1)  # guided pipelines may keep a copy
    torch.testing.assert_close(model.codec.decode(last)[0], seen.pictures, rtol=0, atol=1e-5)

    # where the autoencoder loses nothing, pictures are encoded to what they were decoded from
    assert model.codec.lossless == (seen.decoded is None)
    if seen.decoded is None:
        black = float(model.codec.encode(torch.zeros_like(seen.pictures)).min())
        last = last.clamp(black, 1)
    else:
        exact = SimpleNamespace(latents=seen.decoded)
        monkeypatch.setattr(autoencoder(pipe), "encode", lambda image: exact)
    torch.testing.assert_close(model.codec.encode(seen.pictures)[None], last, rtol=0, atol=1e-5)


# --- those that are refused ---------------------------------------------------------------------


def test_every_supported_class_is_compared():
    assert {name.split()[0] for name in EXAMPLES} == set(SUPPORTED)
    assert set(SUPPORTED) <= set(pipeline_table.pipeline_names())


def test_every_other_class_is_refused_by_name():
    refused = [name for name in pipeline_table.pipeline_names() if name not in SUPPORTED]
    assert len(refused) > 200
    for name in refused:
        assert refused_pipeline(name)
        made = type(name, (), {"components": {}})()
        with pytest.raises(ModelError, match=f"pipelines of class {name} are not supported: "):
            from_pipeline(made)


def test_the_tables_of_the_page_are_what_the_adapter_says():
    page = pipeline_table.PAGE.read_text("utf-8")
    if f"Of diffusers {diffusers.__version__}:" not in page:
        pytest.skip("the page was written with another version of diffusers")
    assert pipeline_table.with_tables(page) == page  # python -m tools.pipeline_table
