"""``spacetime/distances``: its sets, its shares against counting by hand, stages, a quick run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from diffodesic.experiments.distances import run as distances
from diffodesic.experiments.distances.measures import NAMES, Measured, cheap
from diffodesic.experiments.distances.sets import PictureSet, digits, turntable
from diffodesic.experiments.experiment import Context, table
from diffodesic.images.features import Features
from diffodesic.models.loading import load
from diffodesic.output.stages import Store
from support.tiny import pictures, tiny_model


def ring(count: int = 12) -> PictureSet:
    """Pictures in a row, of which the neighbours in the row are right."""
    place = torch.arange(count)
    apart = (place[:, None] - place).abs()
    images = pictures(count)
    return PictureSet("ring", tiny_model(), images, apart > 0, apart == 1, "beside it")


def result(set: PictureSet, noise: float, triples: int = 5) -> distances._Result:
    """Distances that are those in the row, but for noise."""
    settings = distances.Settings(triples=(triples, triples), resamples=200, pairs=30)
    chosen = set.triples(triples, 0)
    generator = torch.Generator().manual_seed(0)

    def measured(pairs: torch.Tensor) -> Measured:
        far = (pairs[:, 0] - pairs[:, 1]).abs().double()
        far = far + noise * torch.rand(len(far), generator=generator, dtype=torch.float64)
        return Measured(far, 0.1, 2.0, 0.01)

    both = torch.cat([chosen[:, [0, 1]], chosen[:, [0, 2]]])
    known = {name: measured(both if name == "diffed" else set.pairs) for name in NAMES}
    return distances._Result(set, known, chosen, settings)


def test_triples_are_right_and_wrong_and_fewer_are_the_first_of_more():
    set = ring()
    triples = set.triples(9, 3)
    first, right, wrong = triples.T
    assert bool(set.right[first, right].all())
    assert not bool(set.right[first, wrong].any())
    assert bool((first != wrong).all())
    assert torch.equal(set.triples(4, 3), triples[:4])
    assert set.pairs.shape == (66, 2)


def test_shares_of_a_distance_that_is_right_and_of_one_that_is_noise():
    sound, wild = result(ring(), 0.1), result(ring(), 1000.0)
    assert sound.retrieval("iem").value == sound.told_apart("diffed").value == 1
    # by hand, from the values themselves
    hits = []
    for i in range(12):
        far = {j: float(wild.matrix("iem")[i, j]) for j in range(12) if j != i}
        hits.append(abs(min(far, key=far.__getitem__) - i) == 1)
    found = wild.retrieval("iem")
    assert found.value == pytest.approx(sum(hits) / 12)
    assert found.low <= found.value <= found.high
    assert sound.chance() == pytest.approx(22 / 132)
    right, wrong = sound.on_triples("diffed")
    assert bool((right < wrong).all())


def test_distances_on_a_line_have_no_detour_and_correlate():
    sound = result(ring(), 0.0)
    assert sound.triangles() == pytest.approx(1.0)
    rows = {(first, other, kind): r.value for first, other, kind, r in sound.correlations()}
    assert rows["diffed", "iem", "Pearson"] == pytest.approx(1.0)
    assert rows["iem", "euclid", "Spearman"] == pytest.approx(1.0)


class Pixels(Features):
    """Euclid's distance under the name of an extractor."""

    name, size, distance_name = "pixels", 64, "pixels"

    def pooled(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)

    def distance(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a - b).flatten(1).norm(dim=-1)


def test_cheap_distances_are_stages_that_are_read_again(tmp_path: Path):
    set = ring(4)
    side = torch.nn.functional.interpolate(set.images, 16)
    set = PictureSet("ring", tiny_model(side=16), side, set.asked, set.right, "beside it")
    found = cheap(set, Pixels(), 2.0, Store(tmp_path, {}))
    assert found["iem"].evaluations >= 136
    assert torch.equal(found["feature"].values, found["euclid"].values)
    assert found["iem"].values.shape == (6,)
    again = cheap(set, Pixels(), 2.0, Store(tmp_path, {}))
    assert again["iem"].seconds == found["iem"].seconds


def test_sets_are_read_where_the_data_are(data_folder: Path):
    numbers = digits(load("mnist"), data_folder, 2)
    assert numbers.images.shape == (20, 1, 28, 28)
    assert int(numbers.right.sum()) == 20
    things = turntable(load("fruits"), data_folder, 2, 30)
    assert things.images.shape[:2] == (8, 3)
    # four poses a quarter of a turn apart: two beside each, one behind
    assert (things.asked.sum(1).tolist(), things.right.sum(1).tolist()) == ([3] * 8, [2] * 8)
    assert 0 <= float(things.images.min()) < float(things.images.max()) <= 1


@pytest.mark.slow
def test_a_quick_run_goes_on_where_it_stopped(data_folder: Path, tmp_path: Path):
    context = Context(tmp_path, quick=True, data=data_folder)
    outcome = distances.run(context)
    assert "| digits: nearest is right, IEM" in table(outcome)
    again = distances.run(context)
    assert [n.measured for n in again.numbers] == [n.measured for n in outcome.numbers]
    assert outcome.figure is not None
    outcome.figure(tmp_path / "figure.png")


def test_without_data_it_says_what_to_give(tmp_path: Path):
    with pytest.raises(ValueError, match="takes --data DIR, the folder of mnist, fruit_turntable"):
        distances.run(Context(tmp_path))
