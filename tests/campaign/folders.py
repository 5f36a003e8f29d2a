"""Folders of models: changed configurations and weights, missing and foreign files."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from random import Random
from tempfile import mkdtemp

import torch
from torch import Tensor

from campaign.mutators import copied, spoil_file, spoil_json
from campaign.oracle import judge, trap
from diffodesic.models.loading import load
from diffodesic.models.model import Model
from support.tiny import tiny_model


def case(index: int, rng: Random, folder: Path) -> str:
    """A folder of a model with one thing wrong about it."""
    place = copied(_saved(), folder / "tiny")
    what = (_config, _weights, _tensors, _config, _files)[index % 5](rng, place)
    return judge(
        what,
        lambda: load(place),
        lambda found: torch.equal(_answers(found), _undisturbed()),
        names=str(place),
    )


@cache
def _saved() -> Path:
    return tiny_model().save(Path(mkdtemp()) / "tiny")


@cache
def _undisturbed() -> Tensor:
    return _answers(load(_saved()))


def _answers(model: Model) -> Tensor:
    """E[x0 | z] at three levels of noise."""
    generator = torch.Generator().manual_seed(0)
    sigma = torch.tensor([0.05, 0.5, 5.0])
    z = sigma[:, None] * torch.randn(3, model.denoiser.dim, generator=generator)
    return model.denoiser(z, sigma)


def _config(rng: Random, place: Path) -> str:
    file = place / "config.json"
    what, text = spoil_json(rng, file.read_text(encoding="utf-8"))
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    return f"config.json: {what}"


def _weights(rng: Random, place: Path) -> str:
    return spoil_file(rng, place / "weights.safetensors")


def _tensors(rng: Random, place: Path) -> str:
    """Weights that are whole, but not those of the model."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    file = place / "weights.safetensors"
    tensors = load_file(file)
    with safe_open(file, "pt") as content:
        checksum = content.metadata()
    name = rng.choice(sorted(tensors))
    tensor = tensors.pop(name)
    what, changed = rng.choice(
        [
            ("is gone", {}),
            ("has another name", {f"{name}.other": tensor}),
            ("holds NaN", {name: torch.full_like(tensor, torch.nan)}),
            ("holds infinity", {name: torch.full_like(tensor, torch.inf)}),
            ("has another shape", {name: tensor[None]}),
            ("is shorter", {name: tensor[:0]}),
            ("is complex", {name: tensor.to(torch.complex64)}),
            ("holds integers", {name: tensor.to(torch.int8)}),
            ("is -1", {name: torch.zeros_like(tensor) - 1}),
            ("comes with another", {name: tensor, "other": tensor.clone()}),
        ]
    )
    save_file({**tensors, **changed}, file, checksum)
    return f"weights.safetensors: {name} {what}"


def _files(rng: Random, place: Path) -> str:
    """Files that are gone, of other kinds, or of another program."""
    weights, config = place / "weights.safetensors", place / "config.json"
    which = rng.randrange(6)
    if which == 0:
        weights.rename(place / "pytorch_model.bin")
        (place / "pytorch_model.bin").write_bytes(trap())
        return "a pickle in place of the weights"
    if which == 1:
        weights.write_bytes(trap())
        return "a pickle by the name of the weights"
    if which == 2:
        (place / "model_index.json").write_text("{}")
        return "a pipeline's index beside the model"
    if which == 3:
        other = tiny_model(3)
        other.save(place.with_name("other"))
        weights.write_bytes((place.with_name("other") / weights.name).read_bytes())
        return "weights of another model"
    if which == 4:
        words = json.loads(config.read_text(encoding="utf-8"))
        config.write_text(json.dumps({**words, "prediction": "coordinates"}))
        return "the configuration of a denoiser of coordinates"
    return spoil_file(rng, config)
