"""Nearest neighbours by pivots are those of the whole matrix, from fewer solved pairs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from diffodesic import GaussianMixture
from diffodesic.images.distances import pairwise
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
    # on a line two pivots tell nearly everything
    assert found.solved < 0.6 * found.pairs == 0.6 * 435
    assert said


def test_a_pair_is_never_skipped_that_the_bound_allows(law: GaussianMixture):
    points = torch.linspace(-4, 4, 9, dtype=torch.float64).unsqueeze(-1)
    # an accuracy so loose that the bounds say nothing: every pair is solved
    found = nearest(law, points, 8, log_snr=1.0, options=NearestOptions(pivots=1, accuracy=10.0))
    assert found.solved == found.pairs == 36
    assert torch.equal(found.index.sort(1).values[0], torch.arange(1, 9))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k must be between 1 and 4"),
        ({"k": 5}, "k must be between 1 and 4"),
        ({"k": 1, "pivots": 0}, "pivots must be at least 1"),
        ({"k": 1, "pivots": 6}, "pivots must be at most 5"),
        ({"k": 1, "accuracy": -0.1}, "accuracy must be at least 0"),
    ],
)
def test_bad_input(law: GaussianMixture, options: dict[str, Any], message: str):
    k, rest = options["k"], {name: options[name] for name in options.keys() - {"k"}}
    with pytest.raises(ValueError, match=message):
        nearest(law, torch.zeros(5, 1, dtype=torch.float64), k, options=NearestOptions(**rest))
