"""The percentile of a distance: against pairs drawn anew, kept, and its standard error."""

from __future__ import annotations

import pytest
import torch

import diffodesic as dd
from diffodesic.cli.ranking import edits_of_pairs
from diffodesic.geometry.solvers.relax import Relax
from diffodesic.images.calibration import EDITS, Scale, kept_scale, random_pairs, samples
from diffodesic.images.editing import EditOptions
from diffodesic.images.information import IemOptions, MeanOptions
from diffodesic.images.pairs import PairwiseOptions
from support.tiny import exact_model, pictures, tiny_model

KIND = torch.float64


def test_samples_are_of_the_law_of_the_model():
    law = dd.GaussianMixture(torch.full((1, 64), 0.2, dtype=KIND), std=0.15)
    drawn = 2 * samples(exact_model(law, (1, 8, 8)), 40) - 1
    # 2,560 numbers: standard errors .003 and .002
    assert float(drawn.mean()) == pytest.approx(0.2, abs=0.015)
    assert float(drawn.std()) == pytest.approx(0.15, abs=0.01)


def test_percentiles_are_uniform_on_pairs_drawn_anew():
    law = dd.GaussianMixture(torch.zeros(1, 64, dtype=KIND), std=0.3)
    model, options = exact_model(law, (1, 8, 8)), MeanOptions(log_snr=1.0)
    scale = kept_scale(model, options, 300, None)
    assert scale is not None
    fresh = samples(model, 60, seed=7)
    ranks = [
        scale.percentile(float(d))[0] for d in options.between(model, *fresh.split(30)).distance
    ]
    assert 35 < sum(ranks) / len(ranks) < 65
    assert min(ranks) < 20
    assert max(ranks) > 80


def test_standard_error_of_a_percentile_is_that_over_sets_of_pictures():
    def drawn(seed: int, disjoint: bool) -> tuple[float, float]:
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(24, 3, generator=generator, dtype=KIND)
        options = PairwiseOptions() if disjoint else IemOptions()
        i, j = random_pairs(options, 24).T
        far = (x[i] - x[j]).norm(dim=-1)
        return Scale(torch.stack([i, j], 1), far, "points").percentile(2.0)

    for disjoint in (False, True):
        values = torch.tensor([drawn(seed, disjoint) for seed in range(200)])
        ratio = float(values[:, 1].square().mean().sqrt() / values[:, 0].std())
        assert 0.8 < ratio < 1.3


def test_a_scale_is_measured_once_for_a_model(tmp_path):
    model, options = tiny_model(), IemOptions(levels=9)
    assert kept_scale(model, options, 6, tmp_path, make=False) is None
    assert not list(tmp_path.iterdir())
    first = kept_scale(model, options, 6, tmp_path)
    with dd.counting() as cost:
        again = kept_scale(model, options, 6, tmp_path)
    assert first is not None
    assert again is not None
    assert cost.evaluations == 0
    assert torch.equal(again.distances, first.distances)
    # another model, other options or other pictures are others' scales
    for other in (
        kept_scale(tiny_model(bend=0.05), options, 6, tmp_path, make=False),
        kept_scale(model, options.but(seed=1), 6, tmp_path, make=False),
        kept_scale(model, options, 6, tmp_path, pictures=pictures(4), make=False),
    ):
        assert other is None


@pytest.mark.parametrize("name", ["fruits", "mnist"])
def test_edits_by_shipped_models_have_a_scale_at_once(tmp_path, name):
    options = edits_of_pairs(EditOptions())
    with dd.counting() as cost:
        scale = kept_scale(dd.load(name), options, EDITS, tmp_path, make=False)
    # None: the model or the options have changed, and tools/ship_scales.py is to be run again
    assert scale is not None
    assert cost.evaluations == 0
    assert len(scale.distances) == EDITS
    assert scale.percentile(0.0)[0] == 0
    assert not list(tmp_path.iterdir())
    assert kept_scale(dd.load(name), options, 2 * EDITS, tmp_path, make=False) is None


def test_edits_of_random_pairs_go_on_after_an_interruption(tmp_path):
    model, said = tiny_model(), []
    options = PairwiseOptions(nodes=2, flow_steps=2, solver=Relax(rtol=0.5, iterations=1))

    def stop(text: str) -> None:
        said.append(text)
        if text.startswith("4 of 6"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept_scale(model, options, 6, tmp_path, progress=stop)
    with dd.counting() as cost:
        whole = kept_scale(model, options, 6, tmp_path)
    with dd.counting() as afresh:
        kept_scale(model, options, 6, None)
    assert whole is not None
    assert len(whole.distances) == 6
    assert len(whole.pairs.unique()) == 12
    assert 0 < cost.evaluations < 0.6 * afresh.evaluations


def test_few_pictures_are_refused():
    with pytest.raises(ValueError, match="needs 3 pictures or more, got 2"):
        kept_scale(tiny_model(), IemOptions(), 3, None, pictures=pictures(2))
