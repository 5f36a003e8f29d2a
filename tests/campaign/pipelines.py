"""Folders of pipelines of diffusers: each is read as diffusers reads it, or refused."""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from random import Random
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
from torch import Tensor

from campaign.mutators import copied, spoil_file, spoil_json
from campaign.oracle import judge, trap
from diffodesic.denoisers.network import NonFiniteError
from diffodesic.models.folder import ModelError
from diffodesic.models.loading import load
from diffodesic.models.model import Model
from support.pipelines import MAKERS

FAMILIES = ("ddpm", "sd1", "ddpm", "edm")
LEVELS, TIMES = (0.1, 0.7, 5.0), (20, 300, 900)
# schedulers that know one table of noise, and say x0 themselves
SAMPLERS = ("DDIMScheduler", "DDPMScheduler", "DPMSolverMultistepScheduler",
            "EulerDiscreteScheduler", "HeunDiscreteScheduler", "PNDMScheduler",
            "UniPCMultistepScheduler", "LCMScheduler",
            "TCDScheduler", "CMStochasticIterativeScheduler", "Nothing")  # fmt: skip


def case(index: int, rng: Random, folder: Path) -> str:
    """A pipeline's folder with one thing changed."""
    pytest.importorskip("diffusers")
    family = FAMILIES[index % len(FAMILIES)]
    place = copied(_saved(family), folder / family)
    what = f"{family}: {_spoil(rng, place)}"
    return judge(
        what,
        lambda: _asked(place),
        lambda found: _agrees(*found, family, place),
        family=(ModelError, NonFiniteError),
    )


def _asked(place: Path) -> tuple[Model, Tensor | None]:
    """The model and its answers; None where its noise levels are others."""
    model = load(f"diffusers:{place}")
    low, high = model.denoiser.log_snr_range
    inside = low < -2 * math.log(LEVELS[-1]) and -2 * math.log(LEVELS[0]) < high
    return model, _answers(model) if inside else None


@cache
def _saved(family: str) -> Path:
    folder = Path(mkdtemp()) / family
    MAKERS[family]().save_pretrained(folder)
    return folder


def _spoil(rng: Random, place: Path) -> str:
    files = sorted(place.rglob("*.json"))
    configs = [file for file in files if "config" in file.name or file.name == "model_index.json"]
    which = rng.randrange(8)
    if which < 4:
        file = rng.choice([file for file in configs if "text_encoder" not in str(file)])
        change, text = spoil_json(rng, file.read_text(encoding="utf-8"))
        file.write_bytes(text.encode("utf-8", "surrogatepass"))
        return f"{file.relative_to(place)}: {change}"
    if which == 4:
        return _sampler(rng, place / "scheduler/scheduler_config.json")
    if which == 5:
        weights = rng.choice(sorted(place.rglob("*.safetensors")))
        weights.rename(weights.with_suffix(".bin"))
        weights.with_suffix(".bin").write_bytes(trap())
        return f"a pickle in place of {weights.relative_to(place)}"
    return spoil_file(rng, rng.choice(sorted(file for file in place.rglob("*") if file.is_file())))


def _sampler(rng: Random, file: Path) -> str:
    """Another scheduler, or another choice of it."""
    words = json.loads(file.read_text(encoding="utf-8"))
    kind = rng.choice(SAMPLERS)
    choices: list[dict[str, Any]] = [
        {"prediction_type": "sample"}, {"prediction_type": "v_prediction"},
        {"prediction_type": "flow"}, {"beta_schedule": "squaredcos_cap_v2"},
        {"beta_schedule": "sigmoid"}, {"beta_schedule": "none"}, {"beta_end": 1.5},
        {"beta_start": -0.1}, {"num_train_timesteps": 100}, {"num_train_timesteps": 0},
        {"trained_betas": [0.01] * 1000}, {"trained_betas": [0.01]},
        {"rescale_betas_zero_snr": True},
        {"timestep_spacing": "linspace"}, {"use_karras_sigmas": True}, {"sigma_data": 1.0},
        {"timestep_type": "continuous"}, {"thresholding": True}, {"clip_sample": False}, {},
    ]  # fmt: skip
    choice = rng.choice(choices)
    file.write_text(json.dumps({**words, **choice, "_class_name": kind}), encoding="utf-8")
    index = file.parent.parent / "model_index.json"
    known = json.loads(index.read_text(encoding="utf-8"))
    index.write_text(json.dumps({**known, "scheduler": ["diffusers", kind]}), encoding="utf-8")
    return f"scheduler {kind} with {choice}"


def _agrees(found: Model, answers: Tensor | None, family: str, place: Path) -> bool:
    """Whether the model answers as before, or as the pipeline that diffusers reads."""
    before = _undisturbed(family)
    if answers is not None and answers.shape == before.shape and _near(answers, before):
        return True
    ours, theirs = _beside(found, place)
    return _near(ours, theirs)


def _near(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-3, atol=1e-4)


@cache
def _undisturbed(family: str) -> Tensor:
    return _answers(load(f"diffusers:{_saved(family)}"))


def _answers(model: Model) -> Tensor:
    """E[x0 | z] at three levels of noise."""
    generator = torch.Generator().manual_seed(0)
    sigma = torch.tensor(LEVELS)
    z = (0.5 + sigma[:, None]) * torch.randn(3, model.denoiser.dim, generator=generator)
    return model.denoiser(z, sigma)


def _beside(found: Model, place: Path) -> tuple[Tensor, Tensor]:
    """E[x0 | z] of the model and of diffusers, at times of the scheduler's table."""
    from diffusers import DDIMScheduler, DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(place, local_files_only=True)
    if hasattr(pipe.scheduler, "precondition_inputs"):
        return _beside_edm(found, pipe)
    # among the names that a config begins with _ are those of defaults, which would win
    kept = {key: value for key, value in pipe.scheduler.config.items() if key[0] != "_"}
    words = {**kept, "clip_sample": False, "thresholding": False}
    sampler = DDIMScheduler.from_config(words)
    sampler.set_timesteps(sampler.config.num_train_timesteps)
    ours, theirs = [], []
    generator = torch.Generator().manual_seed(1)
    for t in TIMES:
        t = t * sampler.config.num_train_timesteps // 1000
        alpha = sampler.alphas_cumprod[t]
        x = torch.randn(1, *found.denoiser.shape, generator=generator)
        with torch.no_grad():
            out = pipe.unet(x, torch.tensor([t]), **_condition(pipe)).sample
        theirs.append(sampler.step(out, t, x).pred_original_sample.flatten(1))
        sigma = ((1 - alpha) / alpha).sqrt()
        ours.append(found.denoiser((x / alpha.sqrt()).flatten(1), sigma.reshape(1)))
    return torch.cat(ours), torch.cat(theirs)


def _beside_edm(found: Model, pipe: Any) -> tuple[Tensor, Tensor]:
    """E[x0 | z] of the model and of a pipeline with EDM's preconditioning."""
    from diffusers import EDMEulerScheduler

    rule = EDMEulerScheduler.from_config(pipe.scheduler.config)
    ours, theirs = [], []
    for level in LEVELS:
        x = torch.randn(1, *found.denoiser.shape, generator=torch.Generator().manual_seed(1))
        sigma = torch.tensor([level])
        with torch.no_grad():
            out = pipe.unet(
                rule.precondition_inputs(x, sigma), rule.precondition_noise(sigma)
            ).sample
        theirs.append(rule.precondition_outputs(x, out, sigma).flatten(1))
        ours.append(found.denoiser(x.flatten(1), sigma))
    return torch.cat(ours), torch.cat(theirs)


def _condition(pipe: Any) -> dict[str, Any]:
    if getattr(pipe, "text_encoder", None) is None:
        return {}
    text, _ = pipe.encode_prompt("", "cpu", 1, False)
    return {"encoder_hidden_states": text}
