"""Pipelines of diffusers, offline: exact laws in disguise, what is read, bad input."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from diffodesic.denoisers.network import Prediction
from diffodesic.denoisers.schedules import EDM, FlowMatching, Schedule, Tabulated
from diffodesic.models.adapters.diffusers import from_pipeline
from diffodesic.models.adapters.diffusers_scheduler import read_convention
from diffodesic.models.loading import load
from diffodesic.models.model import Model, ModelError
from support import pipelines

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder written by ``save_pretrained`` for each family, made when first asked for."""
    root = tmp_path_factory.mktemp("pipelines")

    def folder(name: str) -> Path:
        if not (root / name).is_dir():
            pipelines.MAKERS[name]().save_pretrained(root / name)
        return root / name

    return folder


@pytest.fixture
def unplugged(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a network."""
    pipelines.unplug(monkeypatch)


# --- a Gaussian law in disguise -------------------------------------------------------------------

CENTRE, SPREAD = 0.2, 0.6  # of the data: N(.2, .6^2) in every coordinate
SIGMAS = torch.tensor([0.1, 0.5, 2.0, 8.0], dtype=torch.float64)


def oracle(z: Tensor, sigma: Tensor) -> Tensor:
    """E[x0 | z]."""
    share = SPREAD**2 / (SPREAD**2 + sigma**2)
    return CENTRE + share.unsqueeze(-1) * (z - CENTRE)


def disguised(kind: type, prediction: Prediction, schedule: Schedule, scale: float = 1.0) -> type:
    """A network class of diffusers whose forward pass is the exact law in this prediction."""

    class Exact(kind):
        def forward(self, sample: Any = None, timestep: Any = None, **rest: Any) -> tuple[Tensor]:
            x = rest["hidden_states"] if sample is None else sample
            alpha, scaled = schedule.alpha_sigma(timestep.double() / scale)
            a, s, flat = alpha.unsqueeze(-1), scaled.unsqueeze(-1), x.flatten(1).double()
            m = oracle(flat / a, scaled / alpha)
            eps = (flat - a * m) / s
            out = {"x0": m, "eps": eps, "v": a * eps - s * m, "flow": eps - m}[prediction]
            return (out.reshape(x.shape).to(x),)

    # the classes of the library know themselves by name
    Exact.__name__ = kind.__name__
    return Exact


def table_of(scheduler: Any) -> Tabulated:
    """The scheduler's own betas, by hand."""
    return Tabulated(torch.cumprod(1 - scheduler.betas.double(), 0))


SPELLED = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}


SMALL: dict[str, Any] = {
    "sample_size": 4,
    "block_out_channels": (8, 8),
    "norm_num_groups": 4,
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D",) * 2,
    "up_block_types": ("UpBlock2D",) * 2,
}


def exact_ddpm(prediction: Prediction) -> Model:
    scheduler = diffusers.DDPMScheduler(prediction_type=SPELLED[prediction])
    kind = disguised(diffusers.UNet2DModel, prediction, table_of(scheduler))
    network = kind(**SMALL)
    return from_pipeline(diffusers.DDPMPipeline(network, scheduler))


def exact_stable_diffusion(prediction: Prediction) -> Model:
    scheduler = pipelines.scaled_linear("DDIMScheduler", prediction_type=SPELLED[prediction])
    kind = disguised(diffusers.UNet2DConditionModel, prediction, table_of(scheduler))
    pipe = pipelines.stable_diffusion(scheduler, pipelines.conditional_unet(kind))
    return from_pipeline(pipe, condition={"prompt": "a cat"}, size=8)


def exact_stable_diffusion_xl(prediction: Prediction) -> Model:
    scheduler = pipelines.scaled_linear("DDIMScheduler", prediction_type=SPELLED[prediction])
    kind = disguised(diffusers.UNet2DConditionModel, prediction, table_of(scheduler))
    pipe = pipelines.stable_diffusion_xl(pipelines.conditional_unet(kind, **pipelines.XL))
    pipe.scheduler = scheduler
    return from_pipeline(pipe, condition={"prompt": "a cat"}, size=8)


def exact_stable_diffusion_3(prediction: Prediction) -> Model:
    kind = disguised(diffusers.SD3Transformer2DModel, prediction, FlowMatching(), 1000.0)
    pipe = pipelines.stable_diffusion_3(pipelines.sd3_transformer(kind))
    return from_pipeline(pipe, condition={"prompt": "a cat"}, size=8)


def exact_edm(prediction: Prediction) -> Model:
    """EDM's raw network F, which is told log(sigma)/4; with v-prediction its sign is turned."""
    scheduler = diffusers.EDMEulerScheduler(prediction_type=SPELLED[prediction])
    s = scheduler.config.sigma_data

    class Exact(diffusers.UNet2DModel):  # type: ignore[name-defined]
        def forward(self, sample: Tensor, timestep: Tensor, **_: Any) -> tuple[Tensor]:
            sigma = torch.exp(4 * timestep.double())
            level = sigma.unsqueeze(-1)
            total = (level**2 + s**2).sqrt()
            z = sample.flatten(1).double() * total
            out = (oracle(z, sigma) - (s / total) ** 2 * z) * total / (level * s)
            out = -out if prediction == "v" else out
            return (out.reshape(sample.shape).to(sample),)

    Exact.__name__ = "UNet2DModel"
    network = Exact(**SMALL)
    return from_pipeline(diffusers.DDPMPipeline(network, scheduler))


DISGUISES = [
    *((exact_ddpm, p) for p in ("eps", "v", "x0")),
    *((exact_stable_diffusion, p) for p in ("eps", "v", "x0")),
    (exact_stable_diffusion_xl, "eps"),
    (exact_stable_diffusion_3, "flow"),
    *((exact_edm, p) for p in ("eps", "v")),
]


@pytest.mark.parametrize(("make", "prediction"), DISGUISES)
def test_an_exact_network_gives_back_the_oracle(make, prediction, draw):
    """Value, divergence and d/dsigma, to what float32 leaves: 6e-8 times sigma, times sums of D."""
    denoiser = make(prediction).denoiser
    z = CENTRE + (SPREAD**2 + SIGMAS[:, None] ** 2).sqrt() * draw(len(SIGMAS), denoiser.dim)
    assert denoiser.prediction == ("edm" if make is exact_edm else prediction)
    torch.testing.assert_close(denoiser(z, SIGMAS), oracle(z, SIGMAS), rtol=1e-5, atol=1e-5)

    basis = torch.eye(denoiser.dim, dtype=torch.float64)
    columns = denoiser.jvp(z[:, None], SIGMAS[:, None], basis)[1]
    divergence = columns.diagonal(dim1=-2, dim2=-1).sum(-1) / denoiser.dim
    share = SPREAD**2 / (SPREAD**2 + SIGMAS**2)
    torch.testing.assert_close(divergence, share, rtol=1e-5, atol=1e-5)

    def slope(function: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        level = SIGMAS.clone().requires_grad_()
        weight = torch.linspace(-1, 1, denoiser.dim, dtype=torch.float64)
        weight /= weight.norm()
        return torch.autograd.grad((function(z, level) @ weight).sum(), level)[0]

    torch.testing.assert_close(slope(denoiser), slope(oracle), rtol=1e-5, atol=1e-5)


def test_guidance_is_that_of_the_denoisers(saved):
    model = load(f"diffusers:{saved('sd1')}").given({"prompt": "a cat"})
    against = model.given({"prompt": "a dog"}).denoiser
    guided = model.given({"guidance": 3.0, "negative_prompt": "a dog"})
    assert dict(guided.words) == {"prompt": "a cat", "guidance": 3.0, "negative_prompt": "a dog"}
    z = torch.randn(4, guided.denoiser.dim, dtype=torch.float64)
    plain, other = model.denoiser(z, SIGMAS), against(z, SIGMAS)
    assert float((plain - other).abs().max()) > 1e-3  # the prompt matters
    expected = other + 3 * (plain - other)
    torch.testing.assert_close(guided.denoiser(z, SIGMAS), expected, rtol=1e-4, atol=1e-4)
    back = guided.given({"guidance": 1.0}).denoiser(z, SIGMAS)
    assert torch.equal(back, plain)


# --- what is read from the files ------------------------------------------------------------------


@pytest.mark.parametrize(
    "scheduler",
    [
        lambda: diffusers.DDPMScheduler(),
        lambda: diffusers.DDIMScheduler(beta_schedule="squaredcos_cap_v2"),
        lambda: pipelines.scaled_linear("EulerDiscreteScheduler"),
        lambda: pipelines.scaled_linear("DPMSolverMultistepScheduler"),
        lambda: diffusers.DDPMScheduler(num_train_timesteps=50, trained_betas=[0.01] * 50),
    ],
)
def test_tables_are_the_schedulers_own(scheduler):
    made = scheduler()
    found = read_convention(made)
    table = made.alphas_cumprod.double()
    alpha, noise = found.schedule.alpha_sigma(torch.arange(len(table)))
    # the table is in float32, where 1 - alpha^2 is off by 6e-8
    torch.testing.assert_close(alpha**2, table, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(noise**2, 1 - table, rtol=1e-5, atol=1e-6)
    assert found.prediction == "eps"


def test_zero_snr_leaves_out_the_last_time():
    scheduler = diffusers.DDIMScheduler(
        rescale_betas_zero_snr=True, prediction_type="v_prediction", clip_sample=False
    )
    found = read_convention(scheduler)
    assert found.schedule.time_range == (0.0, 998.0)
    assert (found.prediction, found.thresholding) == ("v", False)


@pytest.mark.parametrize(
    ("name", "prediction", "schedule", "images", "dim"),
    [
        ("ddpm", "eps", Tabulated, (3, 8, 8), 192),
        ("edm", "edm", EDM, (3, 8, 8), 192),
        ("sd1", "eps", Tabulated, (3, 16, 16), 256),
        ("sd2", "v", Tabulated, (3, 16, 16), 256),
        ("sd3", "flow", FlowMatching, (3, 16, 16), 256),
        ("dit", "eps", Tabulated, (3, 16, 16), 256),
    ],
)
def test_families_are_read_from_their_folders(
    saved, unplugged, name, prediction, schedule, images, dim
):
    model = load(f"diffusers:{saved(name)}")
    assert (model.name, model.denoiser.prediction) == (name, prediction)
    assert isinstance(model.denoiser.schedule, schedule)
    assert (model.codec.shape, model.denoiser.dim) == (images, dim)
    assert model.config["thresholding"] == (name in ("ddpm", "dit"))
    network: Any = model.denoiser.fn
    assert not any(weight.requires_grad for weight in network.parameters())
    made = from_pipeline(pipelines.MAKERS[name](), condition=pipelines.WORDS.get(name, {}))
    model = model.given(pipelines.WORDS.get(name, {})) if name in pipelines.WORDS else model
    z = torch.ones(1, dim, dtype=torch.float64)
    torch.testing.assert_close(made.denoiser(z, SIGMAS[:1]), model.denoiser(z, SIGMAS[:1]))


def test_latents_are_scaled_as_the_autoencoder_says(saved, rng):
    codec = load(f"diffusers:{saved('sd3')}").codec
    image = torch.rand(3, 16, 16, generator=rng, dtype=torch.float64)
    vae = pipelines.MAKERS["sd3"]().vae.eval()
    with torch.no_grad():
        mean = vae.encode(image[None].float() * 2 - 1).latent_dist.mean
        decoded = vae.decode(mean).sample[0].double()
    z = codec.encode(image)
    torch.testing.assert_close(z, ((mean - 0.06) * 1.5).flatten().double(), rtol=1e-5, atol=1e-6)
    expected = ((decoded + 1) / 2).clamp(0, 1)
    torch.testing.assert_close(codec.decode(z), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(codec.encode(image), z)  # deterministic
    assert torch.equal(codec.encode(torch.stack([image, image]))[1], z)  # whatever the batch
    assert not codec.lossless


def test_half_precision_weights_are_copied_in_float32():
    pipe = pipelines.MAKERS["ddpm"]()
    exact = from_pipeline(pipe).denoiser
    half = from_pipeline(diffusers.DDPMPipeline(pipe.unet, pipe.scheduler).to(torch.float16))
    assert next(pipe.unet.parameters()).dtype == torch.float16  # the caller's own is left alone
    z = torch.ones(1, 192, dtype=torch.float64)
    found = half.denoiser.jvp(z, SIGMAS[:1], z)[1]
    pipe.unet.float()
    torch.testing.assert_close(found, exact.jvp(z, SIGMAS[:1], z)[1], rtol=5e-3, atol=5e-3)


# --- bad input ------------------------------------------------------------------------------------


def _without(part: str) -> Callable[[Path], None]:
    return lambda folder: shutil.rmtree(folder / part)


def _edited(path: str, **changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = json.loads((folder / path).read_text())
        (folder / path).write_text(json.dumps({**content, **changes}))

    return change


SCHEDULER = "scheduler/scheduler_config.json"


@pytest.mark.parametrize(
    ("name", "spoil", "words"),
    [
        ("ddpm", _without("unet"), "lacks unet, which model_index.json names"),
        ("sd1", _without("vae"), "lacks vae"),
        ("sd1", lambda f: (f / "model_index.json").unlink(), "no model_index.json"),
        ("ddpm", lambda f: (f / "model_index.json").write_text("{"), "not written by diffusers"),
        ("ddpm", lambda f: (f / "unet/config.json").write_text("{"), "cannot be loaded"),
        ("ddpm", _edited(SCHEDULER, prediction_type="noise"), "prediction_type is 'noise'"),
        (
            "ddpm",
            _edited("model_index.json", scheduler=["diffusers", "ScoreSdeVeScheduler"]),
            "the config of scheduler ScoreSdeVeScheduler has beta_end = 0.02",
        ),
    ],
)
def test_spoiled_folders_say_what_is_wrong(saved, unplugged, tmp_path, name, spoil, words):
    folder = shutil.copytree(saved(name), tmp_path / name)
    spoil(folder)
    with pytest.raises(ModelError, match=words):
        load(f"diffusers:{folder}")


def test_parts_that_do_not_fit_are_refused(saved):
    pipe = pipelines.MAKERS["sd1"]()
    pipe.vae = diffusers.AutoencoderKL(latent_channels=3, norm_num_groups=32)
    with pytest.raises(ModelError, match="3 channels, the network takes 4"):
        from_pipeline(pipe)
    with pytest.raises(ModelError, match="multiples of 2"):
        from_pipeline(pipelines.MAKERS["sd1"](), size=15)
    with pytest.raises(ModelError, match="takes no prompt; it takes no condition"):
        load(f"diffusers:{saved('ddpm')}").given({"prompt": "a cat"})
    dit = load(f"diffusers:{saved('dit')}")
    with pytest.raises(ModelError, match="classes 0 to 9"):
        dit.given({"label": 10})
    with pytest.raises(ModelError, match="bind one by given"):
        dit.denoiser(torch.ones(1, 256), torch.tensor(1.0))
    pipe = pipelines.MAKERS["ddpm"]()
    pipe.unet = torch.nn.Linear(2, 2)
    with pytest.raises(ModelError, match="the network is a Linear"):
        from_pipeline(pipe)


def test_nothing_is_downloaded_unasked(unplugged, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="nothing is downloaded without allow_download=True"):
        load("diffusers:nobody/nothing")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "model_index.json").write_text("{}")
    with pytest.raises(ModelError, match=r"give diffusers:.*empty"):
        load(tmp_path / "empty")


@pytest.mark.parametrize("name", ["sd1", "sdxl", "sd3"])
def test_two_prompts_are_joined_between_their_embeddings(name):
    pipe = pipelines.MAKERS[name]()
    cat, dog, middle, end = (
        from_pipeline(pipe, condition=words).denoiser.condition["encoder_hidden_states"]
        for words in (
            {"prompt": "a cat"},
            {"prompt": "a dog"},
            {"prompt": "a cat", "prompt_b": "a dog"},
            {"prompt": "a cat", "prompt_b": "a dog", "blend": 1.0},
        )
    )
    assert float((cat - dog).abs().max()) > 0.01
    torch.testing.assert_close(middle, (cat + dog) / 2)
    torch.testing.assert_close(end, dog)
    with pytest.raises(ModelError, match=r"blend must be between 0 \(prompt\) and 1 \(prompt_b\)"):
        from_pipeline(pipe, condition={"prompt": "a cat", "prompt_b": "a dog", "blend": 2.0})
    with pytest.raises(ModelError, match=r"between two prompts: give prompt_b"):
        from_pipeline(pipe, condition={"prompt": "a cat", "blend": 0.5})


def test_sdxl_is_told_its_size():
    model = from_pipeline(pipelines.MAKERS["sdxl"](), size=24, condition={"guidance": 2.0})
    assert model.denoiser.condition["time_ids"].tolist() == [24, 24, 0, 0, 24, 24]


def test_a_large_autoencoder_is_told_to_work_in_tiles():
    pipe = pipelines.MAKERS["sd1"]()
    assert not pipe.vae.use_tiling
    from_pipeline(pipe, size=1040, trial=False)  # attention over 16,900 places
    assert pipe.vae.use_tiling
