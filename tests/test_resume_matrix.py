"""Same folder, other data, model, precision, command or settings: refused or right, never mixed.

A run fills a folder; then one thing changes and the run is asked for again, in the same folder. It
must be refused by a sentence that names what differs, or end as in an empty folder. Every change
alters the result, else its cell would show nothing.
"""

from __future__ import annotations

import copy
import random
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import diffodesic
from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.denoisers.mixture import GaussianMixture
from diffodesic.geometry.metric import Metric
from diffodesic.images.distances import pairwise
from diffodesic.images.interpolation import InterpolateOptions, interpolate
from diffodesic.images.pairs import PairwiseOptions
from diffodesic.images.sequence import interpolate_through
from diffodesic.images.spaces import EuclideanSpace, ScoreSpace
from diffodesic.metrics.elementary import Conformal
from diffodesic.models.folder import WEIGHTS
from diffodesic.models.image_training import TrainSettings
from diffodesic.models.loading import load
from diffodesic.models.model import Model
from diffodesic.models.train import train
from diffodesic.transitions.annealing import PathOptions
from diffodesic.transitions.coordinate_training import CoordinateSettings, train_denoiser
from diffodesic.transitions.own_potentials import from_callable
from diffodesic.transitions.paths import transition_paths
from diffodesic.transitions.potentials import Potential
from support.tiny import files, pictures, tiny_model

SMALL = InterpolateOptions(
    space=ScoreSpace(), nodes=3, frames=4, flow_steps=2, baselines=("SLERP",)
)
IMAGES = tuple(pictures(4))
LAW = GaussianMixture(torch.tensor([[-2.0, 0.0], [2.0, 0.5]], dtype=torch.float64), std=0.3)
POINTS = LAW.sample(4, generator=torch.Generator().manual_seed(3))
LINE = torch.tensor([[-1.0, 0.0, 3.0], [0.0, 0.3, 1.0], [1.0, 0.0, 3.0]], dtype=torch.float64)
STEPS = TrainSettings(steps=3, batch=4, channels=(4, 8), blocks=(1, 1), heads=1, threads=1)
COORDINATES = CoordinateSettings(steps=3, batch=8, width=8, samples=100)


@cache
def model() -> Model:
    return tiny_model()


def retrained() -> Model:
    """Another network under the name of the first."""
    return tiny_model(bend=0.05)


def own(scale: float) -> Metric:
    return Conformal(lambda x: scale + x.square().sum(-1), model().denoiser.dim)


def well(height: float = 1.0, kT: float = 0.5) -> Potential:
    return from_callable(
        lambda x: height * (x[..., 0] ** 2 - 1) ** 2 + x[..., 1] ** 2,
        dim=2, kT=kT, box=((-2, 2), (-2, 2)), unit="kT", period=(None, None), name="well",
    )  # fmt: skip


def joined(
    folder: Path | None, *, m: Model, images: Any = IMAGES[:2], asked: Any = SMALL
) -> Tensor:
    return interpolate(m, *images, options=asked, checkpoint=folder).frames


def chained(
    folder: Path | None, *, m: Model, images: Any = IMAGES[:3], asked: Any = SMALL
) -> Tensor:
    return interpolate_through(m, images, options=asked, checkpoint=folder).frames


def measured(
    folder: Path | None, *, source: Model | Denoiser, data: Tensor, **options: Any
) -> Tensor:
    file = None if folder is None else folder / "distances.npz"
    asked = PairwiseOptions(**{"nodes": 3, "flow_steps": 2, **options})
    return pairwise(source, data, file=file, options=asked).lengths


def drawn(
    folder: Path | None, *, potential: Potential | None = None, nodes: Tensor = LINE, **options: Any
) -> Tensor:
    asked = PathOptions(**{"paths": 4, "block": 2, "langevin_steps": 3, "step": 1e-2, **options})
    return transition_paths(potential or well(), nodes, asked, store=folder).frames.clone()


def weights(folder: Path) -> Tensor:
    from safetensors.torch import load_file

    return torch.cat([w.flatten() for _, w in sorted(load_file(folder / WEIGHTS).items())])


def trained(folder: Path | None, *, data: Tensor, settings: Any = STEPS) -> Tensor:
    assert folder is not None
    return weights(train(data * 2 - 1, folder, settings=settings, progress=False))


def learned(
    folder: Path | None, *, source: Any, settings: Any = COORDINATES, **options: Any
) -> Tensor:
    assert folder is not None
    made = train_denoiser(source, folder, settings=settings, progress=False, **options)
    return weights(made)


@dataclass(frozen=True)
class Cell:
    """A run, and what changes."""

    run: Callable[..., Tensor]
    before: dict[str, Any]
    change: dict[str, Any]
    needs_folder: bool = False


def under(
    name: str,
    run: Callable[..., Tensor],
    before: dict[str, Any],
    changes: dict[str, dict[str, Any]],
    *,
    needs_folder: bool = False,
) -> dict[str, Cell]:
    """The cells of a run, by its name and what changes."""
    return {
        f"{name}, {what}": Cell(run, before, change, needs_folder)
        for what, change in changes.items()
    }


def cells() -> dict[str, Cell]:
    m, low = model(), model().running(precision="bfloat16")
    softer = replace(m, denoiser=replace(m.denoiser, sigma_data=0.45))
    found: dict[str, Cell] = {}
    for name, run, images in (("interpolate", joined, 2), ("chain", chained, 3)):
        base: dict[str, Any] = {"m": m, "images": IMAGES[:images], "asked": SMALL}
        found |= under(
            name,
            run,
            base,
            {
                "data": {"images": IMAGES[1 : images + 1]},
                "order": {"images": IMAGES[:images][::-1]},
                "retrained": {"m": retrained()},
                "preconditioning": {"m": softer},
                "precision": {"m": low},
                "nodes": {"asked": SMALL.but(nodes=4)},
                "seed": {"asked": SMALL.but(seed=1)},
                "level": {"asked": SMALL.but(space=ScoreSpace(log_snr=2.0))},
                "metric": {"asked": SMALL.but(space=EuclideanSpace())},
                "flow": {"asked": SMALL.but(flow_steps=3)},
            },
        )
    base = {"source": LAW, "data": POINTS}
    moved = GaussianMixture(LAW.means + 0.1, std=0.3)
    found |= under(
        "pairwise",
        measured,
        base,
        {
            "data": {"data": POINTS + 0.1},
            "order": {"data": POINTS.flip(0)},
            "fewer": {"data": POINTS[:3]},
            "denoiser": {"source": moved},
            "width": {"source": GaussianMixture(LAW.means, std=0.31)},
            "nodes": {"nodes": 5},
            "anchor": {"log_snr": 1.0},
        },
    )
    base = {"source": m, "data": torch.stack(IMAGES[:3])}
    found |= under(
        "distances of a model",
        measured,
        base,
        {
            "data": {"data": torch.stack(IMAGES[1:])},
            "retrained": {"source": retrained()},
            "precision": {"source": low},
            "seed": {"seed": 1},
            "flow": {"flow_steps": 3},
        },
    )
    found |= under(
        "paths",
        drawn,
        {},
        {
            "potential": {"potential": well(2.0)},
            "temperature": {"potential": well(kT=0.6)},
            "path": {"nodes": LINE + torch.tensor([0.0, 0.1, 0.0])},
            "steps": {"langevin_steps": 4},
            "step": {"step": 2e-2},
            "seed": {"seed": 1},
            "fewer": {"paths": 2},
            "more": {"paths": 6},
        },
    )
    data = pictures(51).float()
    found |= under(
        "train",
        trained,
        {"data": data},
        {
            "data": {"data": data.flip(-1)},
            "size": {"data": torch.nn.functional.interpolate(data, scale_factor=2)},
            "one picture less": {"data": data[:50]},
            "rate": {"settings": replace(STEPS, lr=1e-2)},
            "seed": {"settings": replace(STEPS, seed=1)},
            "network": {"settings": replace(STEPS, channels=(4, 4))},
            "steps": {"settings": replace(STEPS, steps=5)},
        },
        needs_folder=True,
    )
    found |= under(
        "train coordinates",
        learned,
        {"source": well()},
        {
            "potential": {"source": well(2.0)},
            "temperature": {"source": well(kT=0.6)},
            "samples": {"source": POINTS.repeat(25, 1), "period": (None, None)},
            "seed": {"settings": replace(COORDINATES, seed=1)},
        },
        needs_folder=True,
    )
    return found


CELLS = cells()


def outcome(cell: Cell, folder: Path, given: dict[str, Any]) -> Tensor | str:
    """What a run gives, or the sentence that refuses it."""
    try:
        return cell.run(folder, **given)
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize("name", CELLS)
def test_refused_or_right(tmp_path, name):
    cell = CELLS[name]
    folder, empty, changed = tmp_path / "same", tmp_path / "empty", {**cell.before, **cell.change}
    folder.mkdir()
    empty.mkdir()
    first = cell.run(folder, **cell.before)
    before = files(folder)
    wanted = cell.run(empty if cell.needs_folder else None, **changed)
    assert not torch.equal(first, wanted)
    got = outcome(cell, folder, changed)
    if isinstance(got, str):
        assert re.search(r"\(.* was .* and is .* now.*\); .*(afresh|another)", got), got
        assert files(folder) == before
        assert torch.equal(cell.run(folder, **cell.before), first)
    else:
        assert torch.equal(got, wanted)


def test_the_matrix_is_large_enough():
    assert len(CELLS) >= 30


def test_a_metric_of_ones_own_is_known_by_what_it_says(tmp_path):
    joined(tmp_path, m=model(), asked=SMALL.but(space=_fixed(4.0)))
    joined(tmp_path, m=model(), asked=SMALL.but(space=_fixed(4.0)))
    with pytest.raises(ValueError, match=r"holds results of other settings \(metric was"):
        joined(tmp_path, m=model(), asked=SMALL.but(space=_fixed(5.0)))


def _fixed(scale: float) -> Any:
    from diffodesic.images.spaces import choose_space

    return choose_space(None, own(scale))


def test_a_model_that_was_saved_over_another_is_another(tmp_path):
    """By name, folder and configuration it is the same."""
    for bend, name in ((0.02, "a"), (0.05, "b")):
        tiny_model(bend=bend).save(tmp_path / name)
    shutil.copytree(tmp_path / "a", tmp_path / "m")
    first = joined(tmp_path / "c", m=load(tmp_path / "m"))
    assert torch.equal(first, joined(tmp_path / "c", m=load(tmp_path / "m")))
    for path in (tmp_path / "b").iterdir():  # weights alone are refused as damaged
        shutil.copy(path, tmp_path / "m" / path.name)
    with pytest.raises(ValueError, match=r"\(model\.weights was .*model\.answers was .* now\)"):
        joined(tmp_path / "c", m=load(tmp_path / "m"))


@pytest.mark.parametrize("library", ["diffodesic", "torch"])
def test_another_version_is_another_run(tmp_path, monkeypatch, library):
    joined(tmp_path, m=model())
    monkeypatch.setattr(torch if library == "torch" else diffodesic, "__version__", "9.9.0+cu1")
    with pytest.raises(ValueError, match=rf'model.versions.{library} was .* is "9.9.0" now'):
        joined(tmp_path, m=model())


def test_a_chain_of_two_takes_nothing_from_a_pair(tmp_path):
    joined(tmp_path, m=model())
    assert torch.equal(chained(tmp_path, m=model(), images=IMAGES[:2]), joined(None, m=model()))


def test_another_denoiser_of_the_same_nodes_is_refused(tmp_path):
    from diffodesic.geometry.boundary_value import geodesic
    from diffodesic.metrics.spacetime.metric import Spacetime

    ends = torch.tensor([[-1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    space = Spacetime(GaussianMixture(ends, std=0.4))
    path = geodesic(space, *space.point(ends, 1.0), nodes=4)
    options = PathOptions(paths=2, block=2, langevin_steps=2, step=1e-2)
    transition_paths(well(), path, options, store=tmp_path)
    transition_paths(well(), path, options, store=tmp_path)
    other = copy.copy(path)
    object.__setattr__(other, "metric", Spacetime(GaussianMixture(ends, std=0.5)))
    with pytest.raises(ValueError, match=r"\(denoiser\.answers was .* now\)"):
        transition_paths(well(), other, options, store=tmp_path)


@pytest.mark.filterwarnings("ignore:.*cannot be used:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:.*it is kept as:RuntimeWarning")
@pytest.mark.parametrize("name", ["interpolate, data", "pairwise, data", "paths, seed"])
@pytest.mark.parametrize("damage", ["flip", "zero", "truncate"])
def test_what_is_damaged_is_made_again_and_never_believed(tmp_path, name, damage):
    """Every file that a resumed run reads, at places spread over it."""
    cell = CELLS[name]
    first = cell.run(tmp_path, **cell.before)
    dice = random.Random(7)
    for file in sorted(path for path in tmp_path.rglob("*") if path.is_file()):
        for _ in range(3):
            content = bytearray(file.read_bytes())
            at = dice.randrange(len(content))
            if damage == "flip":
                content[at] ^= 1 << dice.randrange(8)
            elif damage == "zero":
                content[at:] = bytes(len(content) - at)
            else:
                del content[at:]
            file.write_bytes(content)
            assert torch.equal(cell.run(tmp_path, **cell.before), first)
