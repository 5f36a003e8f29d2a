"""Every scheduler of diffusers: agreement with its own step, or a refusal that names the cause.

A random network is asked by the scheduler (its time, its scaling of the input, its conversion of
the output) and by the denoiser.  Both posterior means agree to 1e-5 of their size at every level.
"""

from __future__ import annotations

import copy
import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from diffodesic.models.adapters.diffusers import from_pipeline
from diffodesic.models.adapters.diffusers_scheduler import read_convention, refused_scheduler
from diffodesic.models.model import ModelError
from support import pipelines
from support.checks import disagreement
from tools import pipeline_table

diffusers = pytest.importorskip("diffusers")
# of diffusers, where it gives tensors to NumPy
pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")

STEPS = 16  # of tables
TABLE = {"num_train_timesteps": STEPS, "beta_start": 1e-4, "beta_end": 0.5}
ALL = ("epsilon", "sample", "v_prediction")
TWO = ("epsilon", "v_prediction")


@pytest.fixture(autouse=True)
def torchsde(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two modules of diffusers import torchsde for their noise, which is not drawn here."""
    monkeypatch.setitem(sys.modules, "torchsde", ModuleType("torchsde"))


def scheduler_class(name: str) -> Any:
    homes = {
        "CosineDPMSolverMultistepScheduler": "scheduling_cosine_dpmsolver_multistep",
        "DPMSolverSDEScheduler": "scheduling_dpmsolver_sde",
    }
    home = f"diffusers.schedulers.{homes[name]}" if name in homes else "diffusers.schedulers"
    return getattr(importlib.import_module(home), name)


# --- the posterior mean of a scheduler's own step ----------------------------------------------

Reading = Callable[[Any, Tensor, Tensor, Tensor], Tensor]


def returned(s: Any, out: Tensor, t: Tensor, x: Tensor) -> Tensor:
    return s.step(out, t, x).pred_original_sample


def repainted(s: Any, out: Tensor, t: Tensor, x: Tensor) -> Tensor:
    return s.step(out, t, x, x, torch.ones_like(x)).pred_original_sample


def without_noise(s: Any, out: Tensor, t: Tensor, x: Tensor) -> Tensor:
    s.noise_sampler = lambda *_: torch.zeros_like(x)
    return returned(s, out, t, x)


def converted(s: Any, out: Tensor, t: Tensor, x: Tensor) -> Tensor:
    return s.convert_model_output(out, sample=x)


def converted_to_noise(s: Any, out: Tensor, t: Tensor, x: Tensor) -> Tensor:
    alpha, sigma = s._sigma_to_alpha_sigma_t(s.sigmas[s._step_index])
    return (x - sigma * s.convert_model_output(out, sample=x)) / alpha


def to_no_noise(s: Any, out: Tensor, t: Tensor, x: Tensor) -> Tensor:
    """PNDM's formula for a step to the time before the first one, where alpha is 1."""
    return s._get_prev_sample(x, t, -1, out)


def along_the_flow(s: Any, out: Tensor, t: Tensor, x: Tensor) -> Tensor:
    """An Euler step is x + (sigma' - sigma) v, and x0 = x - sigma v."""
    now, then = s.sigmas[s._step_index].clone(), s.sigmas[s._step_index + 1].clone()
    v = (s.step(out, t, x).prev_sample - x) / (then - now)
    return x - now * v


def rotated(s: Any, out: Tensor, t: Tensor, x: Tensor) -> Tensor:
    """IPNDM's first step is alpha' x0 + sigma' eps of the same x0 and eps."""
    i = s._step_index
    a, b = (torch.stack([s.alphas[j], s.betas[j]]).double() for j in (i, i + 1))
    prev = s.step(out, t, x).prev_sample
    return (prev * a[1] - x * b[1]) / (b[0] * a[1] - a[0] * b[1])


def by_the_score(s: Any, out: Tensor, t: Tensor, x: Tensor) -> Tensor:
    """A step against a score is x + (sigma^2 - sigma'^2) score, and x0 = x + sigma^2 score."""
    place = (t * (len(s.timesteps) - 1)).long()
    now, then = s.discrete_sigmas[place], s.get_adjacent_sigma(place, t)
    score = (s.step_pred(out, t, x).prev_sample_mean - x) / (now**2 - then**2)
    return x + s.sigmas[s._step_index] ** 2 * score


# --- how noisy the sample of a step is ----------------------------------------------------------


def of_table(s: Any, i: int) -> tuple[Tensor, Tensor]:
    signal = torch.cumprod(1 - s.betas.double(), 0)[int(s.timesteps[i])]
    return signal.sqrt(), (1 - signal).sqrt()


def of_flow(s: Any, i: int) -> tuple[Tensor, Tensor]:
    sigma = s.sigmas[i].double()
    return 1 - sigma, sigma


def of_sigma(s: Any, i: int) -> tuple[Tensor, Tensor]:
    return torch.ones((), dtype=torch.float64), s.sigmas[i].double()


def of_angle(s: Any, i: int) -> tuple[Tensor, Tensor]:
    return s.alphas[i].double(), s.betas[i].double()


@dataclass(frozen=True)
class Case:
    """A scheduler, how its own posterior mean is read, and how noisy its samples are."""

    name: str
    read: Reading
    options: dict[str, Any] = field(default_factory=lambda: dict(TABLE))
    predictions: tuple[str | None, ...] = ALL
    noise: Callable[[Any, int], tuple[Tensor, Tensor]] = of_table
    exploding: bool = False  # whether the sample is z = x / alpha
    steps: int = STEPS
    every: int = 1
    whole: bool = False  # whether it rounds the time of a flow to whole numbers


def exploding(name: str, read: Reading = returned, **more: Any) -> Case:
    return Case(name, read, exploding=True, **more)


def flow(name: str, read: Reading, **more: Any) -> Case:
    options = {"num_train_timesteps": STEPS, **more.pop("options", {})}
    given = {"predictions": (None,), "noise": of_flow, "steps": 4, **more}
    return Case(name, read, options, **given)


def sampled_flow(name: str, read: Reading) -> Case:
    return flow(
        name,
        read,
        options={"use_flow_sigmas": True, "flow_shift": 3.0},
        predictions=("flow_prediction", "epsilon", "sample"),
        steps=7,
        whole=True,
    )


def preconditioned(name: str, read: Reading, **options: Any) -> Case:
    return Case(name, read, options, TWO, of_sigma, steps=12)


CONTINUOUS = {**TABLE, "timestep_type": "continuous", "use_karras_sigmas": True}
CUT = {**TABLE, "clip_sample": False}
OFFSET = {**TABLE, "steps_offset": 1}
CASES = [
    Case("DDPMScheduler", returned, CUT),
    Case("DDPMScheduler", returned, {**CUT, "beta_schedule": "squaredcos_cap_v2"}),
    Case("DDPMScheduler", returned, {**CUT, "trained_betas": [0.0, 0.0, *[0.05] * (STEPS - 2)]}),
    Case("DDPMParallelScheduler", returned, CUT),
    Case("DDIMScheduler", returned, CUT),
    Case("DDIMScheduler", returned, {**CUT, "rescale_betas_zero_snr": True}),
    Case("DDIMParallelScheduler", returned, CUT),
    Case("UnCLIPScheduler", returned, {**CUT, "beta_start": None, "beta_end": None}, ALL[:2]),
    Case("RePaintScheduler", repainted, CUT, (None,)),
    Case("PNDMScheduler", to_no_noise, {**TABLE, "set_alpha_to_one": True}, TWO),
    Case("PNDMScheduler", to_no_noise, {**OFFSET, "set_alpha_to_one": True}, TWO, steps=5),
    exploding("EulerDiscreteScheduler"),
    exploding("EulerDiscreteScheduler", options={**TABLE, "rescale_betas_zero_snr": True}),
    exploding("EulerDiscreteScheduler", options=CONTINUOUS, predictions=ALL[2:], noise=of_sigma),
    exploding(
        "EulerDiscreteScheduler",
        options={**CONTINUOUS, "sigma_min": 0.002, "sigma_max": 700.0},
        predictions=ALL[2:],
        noise=of_sigma,
    ),
    exploding(
        "EulerDiscreteScheduler",
        options={**TABLE, "timestep_type": "continuous"},
        predictions=ALL[:2],
    ),
    exploding("EulerAncestralDiscreteScheduler", predictions=TWO),
    exploding("LMSDiscreteScheduler"),
    exploding("HeunDiscreteScheduler", every=2),
    exploding("KDPM2DiscreteScheduler", every=2, predictions=TWO),
    exploding("KDPM2AncestralDiscreteScheduler", every=2, predictions=TWO),
    exploding("DPMSolverSDEScheduler", without_noise, every=2, predictions=TWO),
    Case("DEISMultistepScheduler", converted_to_noise),
    Case("DPMSolverMultistepScheduler", converted),
    Case("DPMSolverMultistepScheduler", converted, {**TABLE, "rescale_betas_zero_snr": True}),
    Case("DPMSolverMultistepInverseScheduler", converted, steps=STEPS - 1),
    Case("DPMSolverSinglestepScheduler", converted),
    Case("SASolverScheduler", converted),
    Case("UniPCMultistepScheduler", converted),
    sampled_flow("DEISMultistepScheduler", converted_to_noise),
    sampled_flow("DPMSolverMultistepScheduler", converted),
    sampled_flow("DPMSolverMultistepInverseScheduler", converted),
    sampled_flow("DPMSolverSinglestepScheduler", converted),
    sampled_flow("SASolverScheduler", converted),
    sampled_flow("UniPCMultistepScheduler", converted),
    flow("FlowMatchEulerDiscreteScheduler", along_the_flow),
    flow("FlowMatchEulerDiscreteScheduler", along_the_flow, options={"shift": 3.0}),
    flow("FlowMatchEulerDiscreteScheduler", along_the_flow, options={"use_karras_sigmas": True}),
    flow("FlowMatchEulerDiscreteScheduler", along_the_flow, options={"shift_terminal": 0.1}),
    flow("FlowMatchHeunDiscreteScheduler", along_the_flow, options={"shift": 3.0}, every=2),
    flow("LTXEulerAncestralRFScheduler", along_the_flow, options={"eta": 0.0}),
    preconditioned("EDMEulerScheduler", returned),
    preconditioned("EDMEulerScheduler", returned, sigma_data=1.0, sigma_schedule="exponential"),
    preconditioned("EDMDPMSolverMultistepScheduler", converted),
    preconditioned("CosineDPMSolverMultistepScheduler", converted),
    Case("IPNDMScheduler", rotated, {}, (None,), of_angle, steps=12),
    Case("ScoreSdeVeScheduler", by_the_score, {"sigma_max": 50.0}, (None,), of_sigma, steps=12),
]


def made(case: Case, prediction: str | None) -> Any:
    options = {name: value for name, value in case.options.items() if value is not None}
    if prediction is not None:
        options["prediction_type"] = prediction
    scheduler = scheduler_class(case.name)(**options)
    scheduler.set_timesteps(case.steps)
    if case.name == "ScoreSdeVeScheduler":
        scheduler.set_sigmas(case.steps)
    return scheduler


def in_whole_times() -> Any:
    """The network of a sampler that rounds times down: constant between whole ones."""

    class Whole(diffusers.UNet2DModel):  # type: ignore[name-defined]
        def forward(self, sample: Tensor, timestep: Any, **rest: Any) -> Any:
            return super().forward(sample, torch.as_tensor(timestep).floor(), **rest)

    Whole.__name__ = "UNet2DModel"
    return Whole


def steps_of(scheduler: Any, case: Case, low: float, high: float) -> Iterator[tuple[int, Tensor]]:
    """Places of the steps with a finite noise level that the schedule holds, and the level."""
    for i in range(0, len(scheduler.timesteps), case.every):
        signal, noise = case.noise(scheduler, i)
        if signal > 0 and low <= (level := noise / signal) <= high:
            yield i, level


@pytest.mark.filterwarnings("ignore:the network rounds its time to a table:RuntimeWarning")
@pytest.mark.parametrize(
    ("case", "prediction"),
    [(case, prediction) for case in CASES for prediction in case.predictions],
    ids=lambda value: value.name.removesuffix("Scheduler") if isinstance(value, Case) else value,
)
def test_the_posterior_mean_is_that_of_the_schedulers_own_step(case, prediction):
    scheduler = made(case, prediction)
    network = pipelines.unet(kind=in_whole_times() if case.whole else None).eval().double()
    denoiser = from_pipeline(diffusers.DDPMPipeline(network, scheduler)).denoiser
    lowest, highest = denoiser.schedule.log_snr_range
    low, high = (torch.tensor(-r / 2).exp().item() for r in (highest, lowest))
    generator, worst, seen = torch.Generator().manual_seed(0), 0.0, 0
    for i, level in steps_of(scheduler, case, low * (1 - 1e-6), high * (1 + 1e-6)):
        own = copy.deepcopy(scheduler)
        own._step_index = i
        t = own.timesteps[i]
        signal, _ = case.noise(own, i)
        noise = torch.randn(1, 3, 8, 8, generator=generator, dtype=torch.float64)
        z = (0.25 + level**2).sqrt() * noise
        x = z if case.exploding else signal * z
        scale = getattr(own, "scale_model_input", lambda sample, t: sample)
        with torch.no_grad():
            told = own.sigmas[i] if case.name == "ScoreSdeVeScheduler" else t
            out = network(scale(x, t), told).sample
            expected = case.read(own, out, t, x)
            found = denoiser(z.flatten(1), level).reshape(z.shape)
        worst = max(worst, disagreement(found, expected))
        seen += 1
    assert seen >= 3
    assert worst < 1e-5


# --- those that are refused ---------------------------------------------------------------------


def bare(name: str) -> Any:
    """An object of a class, without its numbers."""
    kind = scheduler_class(name)
    return kind.__new__(kind)


@pytest.mark.parametrize("name", pipeline_table.scheduler_names())
def test_every_scheduler_is_compared_or_refused_with_a_cause(name):
    reason = refused_scheduler(name)
    assert (reason is None) == any(case.name == name for case in CASES)
    if reason is not None:
        assert "not known" not in reason  # the cause is its own
        with pytest.raises(ModelError, match=f"scheduler {name} is not supported: "):
            read_convention(bare(name))


class Novel(diffusers.DDPMScheduler):  # type: ignore[name-defined]
    pass


@pytest.mark.parametrize(
    ("scheduler", "words"),
    [
        (lambda: Novel(), "scheduler Novel is not supported: the class is not known; known are "),
        (
            lambda: diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
            "has invert_sigmas = True, which may change the process",
        ),
        (
            lambda: diffusers.DDIMScheduler.from_config({"snr_shift_scale": 3.0}),
            "has snr_shift_scale = 3.0",
        ),
        (
            lambda: diffusers.DDIMScheduler.from_config(
                diffusers.LCMScheduler(original_inference_steps=40).config
            ),
            "has original_inference_steps = 40",
        ),
        (
            lambda: diffusers.EDMEulerScheduler.from_config(
                diffusers.DDPMScheduler(beta_end=0.03).config
            ),
            "has beta_end = 0.03",
        ),
        (
            lambda: diffusers.DDPMScheduler(beta_end=1.5),
            r"betas must lie in \[0, 1\), the last one in \[0, 1\]: number 666 is 1.0",
        ),
        (
            lambda: diffusers.DDPMScheduler(trained_betas=[0.1, -0.2, 0.3]),
            "number 1 is -0.2",
        ),
        (
            lambda: diffusers.DDPMScheduler(trained_betas=[0.1, float("nan"), 0.3]),
            "number 1 is nan",
        ),
        (
            lambda: diffusers.DDPMScheduler(trained_betas=[0.1, 0.0, 0.3]),
            "no usable process: the log SNR of a table must fall strictly",
        ),
        (lambda: diffusers.DDPMScheduler(trained_betas=[0.1]), "no usable process"),
        (
            lambda: diffusers.UniPCMultistepScheduler(
                use_flow_sigmas=True, prediction_type="v_prediction"
            ),
            "with use_flow_sigmas the scheduler's prediction_type is 'v_prediction'",
        ),
        (
            lambda: diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction"),
            "prediction_type is 'flow_prediction'",
        ),
        (
            lambda: diffusers.EDMEulerScheduler(prediction_type="sample"),
            "EDM's preconditioning has epsilon and v_prediction",
        ),
        (lambda: diffusers.EDMEulerScheduler(sigma_min=90.0), "need sigma_min < sigma_max"),
    ],
)
def test_what_would_change_the_process_is_refused_by_name(scheduler, words):
    with pytest.raises(ModelError, match=words):
        read_convention(scheduler())


def test_a_table_that_is_not_its_betas_is_refused():
    scheduler = diffusers.DDPMScheduler()
    scheduler.alphas_cumprod = scheduler.alphas_cumprod**2
    with pytest.raises(ModelError, match="alphas_cumprod is not the product"):
        read_convention(scheduler)


def test_leftovers_of_another_sampler_change_nothing():
    """``from_config`` keeps the fields of the class before; samplers may be swapped."""
    before = diffusers.PNDMScheduler(skip_prk_steps=True, steps_offset=1)
    after = diffusers.UniPCMultistepScheduler.from_config(before.config)
    assert "skip_prk_steps" in after.config
    t = torch.arange(1000)
    tables = [read_convention(s).schedule.log_snr(t) for s in (before, after)]
    assert torch.equal(*tables)
