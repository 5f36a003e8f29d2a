"""Folders of pipelines: how their weights may be stored, and what is refused, in one sentence."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from diffodesic.models.adapters.diffusers import from_pipeline
from diffodesic.models.loading import load
from diffodesic.models.model import Model, ModelError
from support import every_pipeline, pipelines

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")

SIGMA = torch.tensor([0.5], dtype=torch.float64)


@pytest.fixture(autouse=True)
def unplugged(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a network."""
    pipelines.unplug(monkeypatch)


def answer(model: Model) -> torch.Tensor:
    z = torch.linspace(-1, 1, model.denoiser.dim, dtype=torch.float64)
    return model.denoiser(z[None], SIGMA)


def agree(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal up to float32's rounding, which depends on where weights lie in memory."""
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


# --- how weights are stored -----------------------------------------------------------------------


def stored(name: str, folder: Path, **how: Any) -> Any:
    pipe = pipelines.MAKERS[name]()
    pipe.save_pretrained(folder, **how)
    return pipe


def one_variant(folder: Path) -> None:
    """The fp16 weights of the network alone; the rest is plain."""
    for path in folder.glob("*/*.fp16.*"):
        if path.parent.name != "unet":
            path.rename(path.with_name(path.name.replace(".fp16", "")))


@pytest.mark.parametrize("name", ["ddpm", "sd1"])
@pytest.mark.parametrize(
    "how",
    [
        {"variant": "fp16"},
        {"max_shard_size": "20KB"},
        {"variant": "fp16", "max_shard_size": "20KB"},
    ],
    ids=str,
)
def test_variants_and_shards_are_read(tmp_path, name, how):
    expected = answer(from_pipeline(stored(name, tmp_path / name, **how)))
    assert not list(tmp_path.glob("*/unet/diffusion_pytorch_model.safetensors"))
    agree(answer(load(f"diffusers:{tmp_path / name}")), expected)


def test_a_variant_of_one_component_is_read(tmp_path):
    expected = answer(from_pipeline(stored("sd1", tmp_path / "sd1", variant="fp16")))
    one_variant(tmp_path / "sd1")
    agree(answer(load(f"diffusers:{tmp_path / 'sd1'}")), expected)


@pytest.mark.parametrize("name", ["ddpm", "sd1"])
def test_pickles_are_read_only_where_they_are_allowed(tmp_path, name):
    pipe = stored(name, tmp_path / name, safe_serialization=False)
    torch.save(pipe.unet.state_dict(), tmp_path / name / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(ModelError, match=r"as a pickle only .*allow_pickle=True \(--allow-pickle"):
        load(f"diffusers:{tmp_path / name}")
    found = answer(load(f"diffusers:{tmp_path / name}", allow_pickle=True))
    agree(found, answer(from_pipeline(pipe)))


# --- spoiled folders ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder of a pipeline, made when first asked for."""
    root = tmp_path_factory.mktemp("saved")

    def folder(name: str) -> Path:
        if not (root / name).is_dir():
            stored(name, root / name)
        return root / name

    return folder


def edited(path: str, **changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = json.loads((folder / path).read_text())
        (folder / path).write_text(json.dumps({**content, **changes}))

    return change


def damaged(path: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / path).write_bytes((folder / path).read_bytes()[:100])

    return change


def replaced(path: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / path).unlink(missing_ok=True)
        make(folder / path)

    return change


WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
INDEX = "model_index.json"
SPOILED = {
    "unknown component": (
        "ddpm",
        edited(INDEX, unet_2=["diffusers", "UNet2DModel"]),
        "the DDPMPipeline has a component unet_2, which is not known",
    ),
    "component under another name": (
        "ddpm",
        edited(INDEX, vqvae=["diffusers", "VQModel"]),
        "the DDPMPipeline has a component vqvae",
    ),
    "unknown class": (
        "ddpm",
        edited(INDEX, _class_name="NovelPipeline"),
        "pipelines of class NovelPipeline are not supported: its step",
    ),
    "known class": (
        "ddpm",
        edited(INDEX, _class_name="LatentConsistencyModelPipeline"),
        "LatentConsistencyModelPipeline are not supported: its network maps noise to the end",
    ),
    "code of its own": (
        "ddpm",
        edited(INDEX, _class_name=["pipeline", "Mine"]),
        "names a pipeline of its own code",
    ),
    "unknown field of the network": (
        "ddpm",
        edited("unet/config.json", gated_attention=4),
        "the config of the UNet2DModel has gated_attention = 4",
    ),
    "unknown field of the autoencoder": (
        "sd1",
        edited("vae/config.json", whitening="zca"),
        "the config of the AutoencoderKL has whitening = 'zca'",
    ),
    "unknown field of the scheduler": (
        "ddpm",
        edited("scheduler/scheduler_config.json", offset_noise=0.1),
        "the config of scheduler DDPMScheduler has offset_noise = 0.1",
    ),
    "autoencoder's shift": (
        "sd1",
        edited("vae/config.json", shift_factor=0.1),
        "the autoencoder's shift_factor is 0.1, which the decoding of this pipeline does not read",
    ),
    "damaged weights": ("ddpm", damaged(WEIGHTS), f"{WEIGHTS} cannot be read"),
    "damaged encoder": (
        "sd1",
        damaged("text_encoder/model.safetensors"),
        r"text_encoder/model\.safetensors cannot be read",
    ),
    "a pipe": ("ddpm", replaced("unet/config.json", os.mkfifo), "unet/config.json is a pipe"),
    "a device": (
        "ddpm",
        replaced("scheduler/scheduler_config.json", lambda path: path.symlink_to("/dev/zero")),
        "scheduler/scheduler_config.json is a device",
    ),
    "a device as index": (
        "ddpm",
        replaced(f"{WEIGHTS}.index.json", lambda path: path.symlink_to("/dev/zero")),
        "index.json is a device",
    ),
    "a link to nothing": (
        "ddpm",
        replaced(WEIGHTS, lambda path: path.symlink_to("blob")),
        f"{WEIGHTS} cannot be read",
    ),
    "size": (
        "ddpm",
        edited("unet/config.json", sample_size=-1e308),
        "ddpm: the network's sample_size is -1e[+]308, no size of pictures",
    ),
    "size of three": ("ddpm", edited("unet/config.json", sample_size=[8, 8, 8]), "no size of"),
    "padding": (
        "ddpm",
        edited("unet/config.json", downsample_padding={}),
        "ddpm: its components do not work .* a config of one of them is damaged",
    ),
    "betas that are no table": (
        "ddpm",
        edited("scheduler/scheduler_config.json", trained_betas=1e308),
        "ddpm: the scheduler's betas are no table",
    ),
    "betas of one time": (
        "ddpm",
        edited("scheduler/scheduler_config.json", trained_betas=[0.01]),
        "ddpm: scheduler DDPMScheduler has no usable process",
    ),
    "levels of noise": (
        "edm",
        edited("scheduler/scheduler_config.json", sigma_max=1e308),
        "edm: scheduler EDMEulerScheduler has no usable process",
    ),
    "tokens that the encoder does not know": (
        "sd1",
        edited("tokenizer/tokenizer_config.json", bos_token="1"),
        "sd1: the pipeline's tokenizer and text encoder do not encode a prompt",
    ),
    "no weights": ("ddpm", lambda f: (f / WEIGHTS).unlink(), "cannot be loaded by diffusers"),
    "no shard": (
        "ddpm",
        lambda f: (f / f"{WEIGHTS}.index.json").write_text('{"weight_map": {"a": "gone"}}'),
        "lacks gone, which diffusion_pytorch_model.safetensors.index.json names",
    ),
    "no index of shards": (
        "ddpm",
        lambda f: (f / f"{WEIGHTS}.index.json").write_text("[]"),
        "is no index of weights",
    ),
    "two variants": (
        "sd1",
        lambda f: (
            (f / WEIGHTS).rename(f / "unet/diffusion_pytorch_model.fp16.safetensors"),
            (f / "vae/diffusion_pytorch_model.safetensors").rename(
                f / "vae/diffusion_pytorch_model.ema.safetensors"
            ),
        ),
        "holds weights of the variants ema and fp16; keep one",
    ),
}


@pytest.mark.parametrize("what", SPOILED)
def test_a_spoiled_folder_is_one_sentence(saved, tmp_path, what):
    name, spoil, words = SPOILED[what]
    folder = shutil.copytree(saved(name), tmp_path / name)
    spoil(folder)
    with pytest.raises(ModelError, match=words) as caught:
        load(f"diffusers:{folder}")
    assert "\n" not in str(caught.value)


def test_a_repository_is_checked_as_a_folder_is(saved, tmp_path, monkeypatch):
    folder = shutil.copytree(saved("ddpm"), tmp_path / "ddpm")
    monkeypatch.setattr(diffusers.DiffusionPipeline, "download", lambda *_, **__: str(folder))
    assert load("diffusers:owner/name").name == "name"
    edited(INDEX, unet_2=["diffusers", "UNet2DModel"])(folder)
    with pytest.raises(ModelError, match="a component unet_2, which is not known"):
        load("diffusers:owner/name")


def test_an_index_of_another_variant_may_stand_alone(saved, tmp_path):
    folder = shutil.copytree(saved("ddpm"), tmp_path / "ddpm")
    (folder / f"{WEIGHTS}.index.fp16.json").write_text('{"weight_map": {"a": "left out"}}')
    (folder / "unet/diffusion_pytorch_model.bin.index.json").write_text("{}")
    load(f"diffusers:{folder}")


def test_what_is_no_pipeline_says_what_to_give(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "v1-5.ckpt").touch()
    folder = saved("ddpm")
    for source, words in {
        "model.safetensors": "is a single file, .*from_single_file",
        "gone.ckpt": "is a single file",
        "files": "v1-5.ckpt is a single file, open it with from_single_file",
        str(folder / "unet"): f"it is one component, give the folder above it, diffusers:{folder}",
        str(folder.parent): f"give diffusers:{folder.parent}",
        "/no/such/folder": "there is no folder /no/such/folder",
        "./gone": "there is no folder ./gone",
        "gone": "there is no folder gone",
        "owner/name": "nothing is downloaded without allow_download=True",
    }.items():
        with pytest.raises(ModelError, match=words):
            load(f"diffusers:{source}")
    with pytest.raises(ModelError, match=f"give the folder above it, diffusers:{folder}"):
        load(folder / "unet")


# --- networks and pictures that do not fit --------------------------------------------------------


def ddpm(**options: Any) -> Any:
    return diffusers.DDPMPipeline(pipelines.unet(**options), diffusers.DDPMScheduler())


def conditional(**options: Any) -> Any:
    network = pipelines.conditional_unet(**options)
    return pipelines.stable_diffusion(pipelines.scaled_linear(), network)


def with_vae(**options: Any) -> Any:
    return pipelines.stable_diffusion(
        pipelines.scaled_linear(), autoencoder=pipelines.vae(**options)
    )


def consistency_decoder() -> Any:
    pipe = pipelines.MAKERS["sd1"]()

    class ConsistencyDecoderVAE(diffusers.AutoencoderKL):  # type: ignore[name-defined]
        pass

    pipe.vae = ConsistencyDecoderVAE()
    return pipe


MISFITS = {
    "odd size": (
        lambda: ddpm(sample_size=9),
        "sample_size is 9 x 9, whose sides are no multiples of 2; say a size in multiples of 2",
    ),
    "two channels": (lambda: ddpm(channels=2), "pictures have 2 channels; grey"),
    "four channels": (lambda: ddpm(channels=4), "pictures have 4 channels; grey"),
    "a picture beside": (
        lambda: ddpm(in_channels=6),
        "takes 6 channels and returns 3: it is conditioned on further pictures",
    ),
    "class of a number": (
        lambda: ddpm(class_embed_type="timestep"),
        "the config of the UNet2DModel has class_embed_type = 'timestep', an input",
    ),
    "classes beside a prompt": (
        lambda: conditional(num_class_embeds=10),
        "UNet2DConditionModel has num_class_embeds = 10",
    ),
    "guidance of a distilled network": (
        lambda: conditional(time_cond_proj_dim=8),
        "UNet2DConditionModel has time_cond_proj_dim = 8",
    ),
    "autoencoder to four channels": (
        lambda: with_vae(out_channels=4),
        "the autoencoder takes 3 channels and makes 4",
    ),
    "autoencoder of four channels": (
        lambda: with_vae(out_channels=4, in_channels=4),
        "pictures have 4 channels",
    ),
    "mean of latents": (
        lambda: with_vae(latents_mean=[0.1] * 4),
        r"the autoencoder's latents_mean is \[0.1, 0.1, 0.1, 0.1\], which the decoding",
    ),
    "random decoder": (consistency_decoder, "the autoencoder is a ConsistencyDecoderVAE; known"),
    "score of beauty": (
        lambda: every_pipeline.EXAMPLES["StableDiffusionXLImg2ImgPipeline"].make(),
        "requires_aesthetics_score is set",
    ),
    "no encoder of prompts": (
        lambda: _without(pipelines.MAKERS["sd1"](), "text_encoder"),
        "StableDiffusionPipeline has no text_encoder",
    ),
    "no network": (lambda: _without(ddpm(), "unet"), "DDPMPipeline has no unet"),
    "no autoencoder": (
        lambda: _without(pipelines.MAKERS["sd1"](), "vae"),
        "StableDiffusionPipeline has no autoencoder",
    ),
}


def _without(pipe: Any, name: str) -> Any:
    setattr(pipe, name, None)
    return pipe


@pytest.mark.parametrize("what", MISFITS)
def test_what_does_not_fit_is_refused(what):
    make, words = MISFITS[what]
    pipe = make()
    if what == "score of beauty":
        pipe.register_to_config(requires_aesthetics_score=True)
    with pytest.raises(ModelError, match=words):
        from_pipeline(pipe)


def test_another_size_is_a_way_out():
    assert from_pipeline(ddpm(sample_size=9), size=8).codec.shape == (3, 8, 8)
    with pytest.raises(ModelError, match="table of places ends at 32 pixels a side"):
        from_pipeline(pipelines.MAKERS["sd3"](), size=64)


def test_words_that_a_pipeline_lacks_are_refused():
    flux = every_pipeline.flux(embeds=False)
    with pytest.raises(ModelError, match="this network takes no guidance"):
        from_pipeline(flux, size=16, condition={"guidance": 2.0})
    with pytest.raises(ModelError, match="guidance_rescale must be between 0 and 1, got 2"):
        from_pipeline(pipelines.MAKERS["sd1"](), condition={"guidance_rescale": 2})
    with pytest.raises(ModelError, match="takes no guidance_rescale"):
        from_pipeline(pipelines.MAKERS["sd3"](), condition={"guidance_rescale": 0.5})
