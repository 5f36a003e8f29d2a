"""What runs leave to go on from: spoilt, foreign or half gone, the end is that of the whole run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from tempfile import mkdtemp
from typing import Any

import torch
from torch import Tensor

from campaign.mutators import copied, spoil_file
from campaign.oracle import judge
from diffodesic.denoisers.mixture import GaussianMixture
from diffodesic.images.distances import pairwise
from diffodesic.images.interpolation import InterpolateOptions, interpolate
from diffodesic.models.image_training import ImageTraining, TrainSettings
from diffodesic.models.train import train
from diffodesic.transitions.annealing import PathOptions
from diffodesic.transitions.coordinate_training import CoordinateSettings, train_denoiser
from diffodesic.transitions.paths import transition_paths
from diffodesic.transitions.potentials import DoubleWell
from support.tiny import pictures, tiny_model
from support.training import interrupted

Result = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """A run that goes on.

    Attributes:
        go: the run on data number ``seed`` in a folder; its result.
        begin: leaves a folder in the middle of a run, or at its end.
    """

    go: Callable[[Path, int], Result]
    begin: Callable[[Path, int], object]


def case(index: int, rng: Random, folder: Path) -> str:
    """The files of one run, spoilt or of other data, and the run again."""
    name = sorted(RUNS)[index % len(RUNS)]
    place = copied(_left(name, 0), folder / "run")
    files = sorted(file for file in place.rglob("*") if file.is_file())
    data = 0
    if index % 6 == 5:
        what, data = "on other data", 1
    elif index % 6 == 4:  # a file of the same name of another run
        file = rng.choice(files)
        file.write_bytes((_left(name, 1) / file.relative_to(place)).read_bytes())
        what = f"{file.name} of another run"
    else:
        what = spoil_file(rng, rng.choice(files))
    return judge(
        f"{name}: {what}",
        lambda: RUNS[name].go(place, data),
        lambda found: _equal(found, _whole(name, data)),
        names=str(place),
    )


@cache
def _left(name: str, seed: int) -> Path:
    folder = Path(mkdtemp()) / "left"
    RUNS[name].begin(folder, seed)
    return folder


@cache
def _whole(name: str, seed: int) -> Result:
    return RUNS[name].go(Path(mkdtemp()) / "whole", seed)


def _equal(a: Result, b: Result) -> bool:
    """Whether two results are the same to the last bit."""
    return a.keys() == b.keys() and all(
        torch.equal(a[key], b[key]) if isinstance(a[key], Tensor) else a[key] == b[key] for key in a
    )


def _interpolate(folder: Path, seed: int) -> Result:
    a, b, c, _ = pictures(4).float()
    found = interpolate(
        tiny_model(),
        a,
        (b, c)[seed],
        options=InterpolateOptions(nodes=4, frames=3, flow_steps=2),
        metric="euclidean",
        checkpoint=folder,
    )
    return {"frames": found.frames, "length": float(found.geodesic.length)}


def _pairwise(folder: Path, seed: int) -> Result:
    generator = torch.Generator().manual_seed(3)
    law = GaussianMixture(torch.randn(3, 2, generator=generator, dtype=torch.float64), std=0.5)
    points = torch.randn(5, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    folder.mkdir(exist_ok=True)
    found = pairwise(law, points[:4], nodes=4, file=folder / "distances.npz")
    return {"matrix": found.matrix, "apexes": found.apexes, "statuses": found.statuses}


def _paths(folder: Path, seed: int) -> Result:
    s = torch.linspace(-1, 1, 5, dtype=torch.float64)
    nodes = torch.stack([s, torch.zeros_like(s), 3 - s**2], -1)
    options = PathOptions(paths=8, block=4, langevin_steps=2, step=1e-3, seed=seed)
    found = transition_paths(DoubleWell(), nodes, options, store=folder)
    return {"frames": found.frames.clone(), "energies": found.energies, "peak": found.peak}


_IMAGES = TrainSettings(
    steps=4, batch=2, channels=(4, 8), blocks=(1, 1), heads=1, warmup=2, threads=1,
    checkpoint_minutes=0.0,
)  # fmt: skip


def _train(folder: Path, seed: int) -> Result:
    generator = torch.Generator().manual_seed(seed)
    train(
        2 * torch.rand(50, 1, 8, 8, generator=generator) - 1,
        folder,
        settings=_IMAGES,
        progress=False,
    )
    return _weights(folder)


def _begin_training(folder: Path, seed: int) -> None:
    with interrupted(ImageTraining, step=2):
        _train(folder, seed)


def _train_points(folder: Path, seed: int) -> Result:
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(200, 1, generator=generator, dtype=torch.float64)
    train_denoiser(
        points,
        folder,
        period=(None,),
        settings=CoordinateSettings(
            steps=6, batch=8, width=8, layers=1, warmup=2, checkpoint_minutes=0.0
        ),
        progress=False,
    )
    return _weights(folder)


def _weights(folder: Path) -> Result:
    from safetensors.torch import load_file

    return {**load_file(folder / "weights.safetensors")}


RUNS = {
    "interpolate": Run(_interpolate, _interpolate),
    "pairwise": Run(_pairwise, _pairwise),
    "paths": Run(_paths, _paths),
    "train": Run(_train, _begin_training),
    "train on points": Run(_train_points, _train_points),
}
