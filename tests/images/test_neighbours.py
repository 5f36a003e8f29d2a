"""Nearest neighbours by pivots are those of the whole matrix, from fewer solved pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from diffodesic import GaussianMixture
from diffodesic.images.distances import pairwise
from diffodesic.images.information import IemOptions, MeanOptions
from diffodesic.images.neighbours import NearestOptions, nearest


@pytest.fixture(scope="module")
def law() -> GaussianMixture:
    return GaussianMixture(torch.tensor([[-3.0], [0.0], [3.0]], dtype=torch.float64), std=0.7)


def test_neighbours_are_those_of_the_whole_matrix(law: GaussianMixture):
    rng = torch.Generator().manual_seed(0)
    points = law.sample(30, generator=rng)
    whole = pairwise(law, points, log_snr=1.0)
    matrix = whole.matrix.clone().fill_diagonal_(torch.inf)
    said: list[str] = []
    found = nearest(
        law, points, 3, log_snr=1.0, options=NearestOptions(pivots=2), progress=said.append
    )
    expected = matrix.topk(3, largest=False)
    assert torch.equal(found.index, expected.indices)
    torch.testing.assert_close(found.distance, expected.values, rtol=1e-6, atol=1e-9)
    # on a line two pivots and the order by posterior means tell nearly everything
    assert found.solved < 0.6 * found.pairs == 0.6 * 435
    assert said


def test_a_pair_is_never_skipped_that_the_bound_allows(law: GaussianMixture):
    points = torch.linspace(-4, 4, 9, dtype=torch.float64).unsqueeze(-1)
    # an accuracy so loose that the bounds say nothing: every pair is solved
    found = nearest(law, points, 8, log_snr=1.0, options=NearestOptions(pivots=1, accuracy=10.0))
    assert found.solved == found.pairs == 36
    assert torch.equal(found.index.sort(1).values[0], torch.arange(1, 9))


def test_candidates_alone_are_solved_and_the_check_says_what_they_miss(law):
    points = law.sample(14, generator=torch.Generator().manual_seed(2))
    options = NearestOptions(candidates=3, nodes=4)
    found = nearest(law, points, 2, log_snr=1.0, check=2, options=options)
    # on a line the order of the relative entropies is that of the edits
    assert found.recall == 1
    assert found.solved <= 14 * 3 < found.pairs
    whole = pairwise(law, points, log_snr=1.0, nodes=4)
    assert torch.equal(found.index, whole.neighbours(2))


def test_the_recall_counts_neighbours_that_no_candidate_was(law, monkeypatch):
    points = torch.linspace(-4, 4, 12, dtype=torch.float64).unsqueeze(-1)
    far = -(points - points.T).abs()
    monkeypatch.setattr(
        "diffodesic.images.neighbours.entropies", lambda *_: far.fill_diagonal_(9e9)
    )
    found = nearest(
        law, points, 2, log_snr=1.0, check=12, options=NearestOptions(candidates=2, nodes=4)
    )
    assert found.recall is not None
    assert found.recall < 0.3


def test_neighbours_under_noise_need_no_geodesic(law):
    points = torch.linspace(-4, 4, 9, dtype=torch.float64).unsqueeze(-1)
    options = IemOptions(levels=9)
    found = nearest(law, points, 3, metric="iem", options=options.but(recall=0))
    whole = pairwise(law, points, metric="iem", options=options)
    assert torch.equal(found.index, whole.neighbours(3))
    assert (found.solved, found.pairs, found.recall) == (0, 36, None)
    with pytest.raises(ValueError, match="no arguments of the metric iem"):
        nearest(law, points, 3, metric="iem", check=1)
    with pytest.raises(ValueError, match="the metric diffed takes NearestOptions"):
        nearest(law, points, 3, options=options)


def test_the_noise_says_what_recall_to_expect():
    rng = torch.Generator().manual_seed(0)
    law = GaussianMixture(torch.randn(6, 8, generator=rng, dtype=torch.float64), std=0.3)
    points, options = law.sample(60, generator=rng), IemOptions(snr=100.0, levels=9)
    exact = options.but(noises=1000, seed=999, recall=0)
    truth = nearest(law, points, 5, metric="iem", options=exact).index
    expected, seen = [], []
    for seed in range(0, 120, 10):
        found = nearest(law, points, 5, metric="iem", options=options.but(seed=seed, recall=0.01))
        expected.append(found.recall)
        seen.append((found.index.unsqueeze(2) == truth.unsqueeze(1)).double().sum() / 300)
    gap = torch.tensor(expected) - torch.tensor(seen)
    # the noise of 12 seeds leaves .02 of the mean gap
    assert abs(float(gap.mean())) < 0.06
    assert 0.7 < float(torch.stack(seen).mean()) < 0.95


def test_noises_are_doubled_until_the_expected_recall_suffices(law):
    points = law.sample(20, generator=torch.Generator().manual_seed(0))
    said: list[str] = []
    for goal in (0.01, 1.0):
        asked = MeanOptions(recall=goal)
        nearest(law, points, 3, metric="mean", options=asked, progress=said.append)
    rounds = [line.split()[0] for line in said if "expected" in line]
    assert rounds in (["4", *more] for more in (["4"], ["4", "8"], ["4", "8", "16"]))


def test_an_interrupted_search_goes_on_to_the_same_end(law, tmp_path: Path):
    points = law.sample(12, generator=torch.Generator().manual_seed(1))
    options = NearestOptions(candidates=4, nodes=4, batch=5)
    alone = nearest(law, points, 2, options=options)
    said: list[str] = []

    def stop(text: str) -> None:
        said.append(text)
        if len(said) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        nearest(law, points, 2, folder=tmp_path, options=options, progress=stop)
    kept = {file: file.stat().st_mtime_ns for file in tmp_path.glob("batch-*")}
    assert len(kept) == 3
    whole = nearest(law, points, 2, folder=tmp_path, options=options, progress=said.append)
    assert said[3] == "note: goes on from an earlier run, which has solved 3 batches of pairs"
    assert torch.equal(whole.index, alone.index)
    assert torch.equal(whole.distance, alone.distance)
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    with pytest.raises(ValueError, match="results of other settings"):
        nearest(law, points, 3, folder=tmp_path, options=options)


def test_another_check_in_the_same_folder_finds_the_recall_of_a_fresh_one(tmp_path: Path):
    rng = torch.Generator().manual_seed(1)
    law = GaussianMixture(2 * torch.randn(13, 6, generator=rng, dtype=torch.float64), std=0.5)
    options = NearestOptions(candidates=2, nodes=2, iterations=2)
    recalls = []
    for check in (2, 3, 2):
        fresh = nearest(law, law.means, 2, log_snr=0.0, check=check, options=options)
        found = nearest(
            law, law.means, 2, log_snr=0.0, check=check, folder=tmp_path, options=options
        )
        assert found.recall == fresh.recall
        assert torch.equal(found.index, fresh.index)
        assert found.solved == fresh.solved
        recalls.append(found.recall)
    assert recalls[0] != recalls[1]  # so that a recall of another check would be seen
    kept = {file: file.stat().st_mtime_ns for file in tmp_path.glob("batch-*")}
    nearest(law, law.means, 2, log_snr=0.0, check=3, folder=tmp_path, options=options)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.glob("batch-*")} == kept


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k must be at least 1"),
        ({"k": 5}, "k must be between 1 and 4"),
        ({"k": 1, "pivots": -1}, "pivots must be at least 0"),
        ({"k": 2, "candidates": 1}, "candidates must be at least k, which is 2"),
        ({"k": 1, "pivots": 6}, "pivots must be at most 5"),
        ({"k": 1, "accuracy": -0.1}, "accuracy must be at least 0"),
    ],
)
def test_numbers_that_do_not_fit(law: GaussianMixture, options: dict[str, Any], message: str):
    k, rest = options["k"], {name: options[name] for name in options.keys() - {"k"}}
    with pytest.raises(ValueError, match=message):
        nearest(law, torch.zeros(5, 1, dtype=torch.float64), k, options=NearestOptions(**rest))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"k": "five"}, "k must be at least 1, got 'five'"),
        ({"k": 2.5}, "k must be at least 1, got 2.5"),
        ({"k": None}, "k must be at least 1, got None"),
        ({"check": -1}, "check must be at least 0"),
        ({"check": 1.5}, "check must be at least 0"),
        ({"metric": "cosine"}, "unknown metric 'cosine'"),
        ({"metric": ["iem"]}, r"unknown metric \['iem'\]"),
        ({"log_snr": "auto-ish"}, "log_snr must be"),
        ({"log_snr": float("nan")}, "log_snr must be finite"),
        ({"options": {"pivots": 1}}, "options are dict; the metric diffed takes NearestOptions"),
        ({"options": NearestOptions}, "options are type"),
    ],
)
def test_kinds_that_do_not_fit(law: GaussianMixture, given: dict[str, Any], message: str):
    points = torch.zeros(5, 1, dtype=torch.float64)
    with pytest.raises(ValueError, match=message):
        nearest(law, points, **{"k": 1, "log_snr": 1.0} | given)


@pytest.mark.parametrize("name", ["candidates", "pivots", "accuracy", "seed", "nodes"])
@pytest.mark.parametrize("bad", ["a word", [1], -1, float("nan"), 1j])
def test_options_of_other_kinds(name: str, bad: Any):
    with pytest.raises(ValueError, match=rf"^{name} must be "):
        NearestOptions(**{name: bad})


def test_data_that_are_none(law: GaussianMixture):
    nothing: Any = None
    with pytest.raises(TypeError, match="points are tensors or arrays"):
        nearest(law, nothing, 1)
