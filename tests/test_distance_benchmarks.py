"""The benchmarks of distances: triangles of pairs, and nearest neighbours of many."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from benchmarks import neighbours, triangles
from diffodesic import GaussianMixture
from diffodesic.images.editing import anchored
from diffodesic.images.neighbours import nearest
from diffodesic.images.pairs import PairwiseOptions
from diffodesic.metrics.spacetime.posterior_divergences import divergences
from support.tiny import pictures, tiny_model


def test_all_pairs_of_a_kind_are_kept_with_their_triangles(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(triangles.KINDS, "digits", lambda count: (tiny_model(), pictures(count)))
    assert triangles.main(["digits", "--count", "3", "--out", str(tmp_path)]) == 0
    kept = json.loads((tmp_path / "distances-digits.json").read_text())
    assert (len(kept["lengths"]), len(kept["errors"]), kept["count"]) == (3, 3, 3)
    assert not list(tmp_path.glob("*.npz"))
    assert "3 sides of triangles: the largest excess" in capsys.readouterr().out


def test_photographs_are_of_different_objects(data_folder: Path):
    _, images = triangles.KINDS["fruits"](2)
    assert images.shape == (2, 3, 128, 128)
    assert float((images[0] - images[1]).square().mean().sqrt()) > 0.1


def test_true_neighbours_are_known_by_a_lower_bound_of_the_distance():
    digits = neighbours.law_and_digits()[1][:60, 20:28]
    law = GaussianMixture.from_data(digits[:20], neighbours.BANDWIDTH)
    space, packed = anchored(law, digits[20:], PairwiseOptions())
    bounds = neighbours.lower_bounds(law, packed)
    i, j = torch.triu_indices(40, 40, 1)
    expected = divergences(space, packed[i], packed[j]).lower
    torch.testing.assert_close(bounds[i, j], expected, atol=1e-6, rtol=1e-6)
    found = neighbours.of_digits(law, digits[20:], 40)
    known = nearest(law, digits[20:], neighbours.K, check=40)
    assert found["recall"] == known.recall
    assert found["solved_for_queries"] == known.solved < found["candidate_pairs"]
