"""Distances by several processes are those of one; a process that is killed costs its batch."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import torch

from diffodesic.denoisers.mixture import GaussianMixture
from diffodesic.images.distances import PairwiseDistances, PairwiseOptions, pairwise
from diffodesic.images.neighbours import NearestOptions, nearest
from support.tiny import exact_model, pictures, tiny_model

FAST = PairwiseOptions(nodes=4, flow_steps=2, batch=1, iterations=3)
pytestmark = pytest.mark.slow  # a process takes seconds to begin


def law() -> GaussianMixture:
    return GaussianMixture(torch.tensor([[-3.0], [0.0], [3.0]], dtype=torch.float64), std=0.7)


def test_two_processes_give_the_matrix_of_one():
    model, images = tiny_model(), pictures(3)
    alone = pairwise(model, images, options=FAST)
    both = pairwise(model, images, options=FAST.but(workers=2))
    for name in ("lengths", "errors", "apexes", "statuses"):
        assert torch.equal(getattr(both, name), getattr(alone, name)), name
    assert both.notices == alone.notices


def test_neighbours_by_two_processes_are_those_of_one():
    points = law().sample(9, generator=torch.Generator().manual_seed(0))
    options = NearestOptions(nodes=4, batch=8)
    alone = nearest(law(), points, 2, options=options)
    both = nearest(law(), points, 2, options=options.but(workers=2))
    assert torch.equal(both.index, alone.index)
    assert torch.equal(both.distance, alone.distance)
    assert both.solved == alone.solved


def test_a_killed_process_costs_its_batch_alone(tmp_path: Path):
    points = law().sample(9, generator=torch.Generator().manual_seed(0))
    options = PairwiseOptions(nodes=8, batch=3)
    alone = pairwise(law(), points, options=options)
    said: list[str] = []
    kept: list[int] = []

    def kill(text: str) -> None:
        said.append(text)
        if len(said) == 3:  # two batches are solved
            os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)
            kept.append(PairwiseDistances.load(tmp_path / "d.npz").solved)

    with pytest.warns(RuntimeWarning, match="a worker process died"):
        found = pairwise(
            law(), points, file=tmp_path / "d.npz", options=options.but(workers=2), progress=kill
        )
    assert kept == [6]
    assert said == [f"{3 * done} of 36 pairs" for done in range(13)]  # none is solved twice
    assert torch.equal(found.lengths, alone.lengths)


def test_a_model_that_cannot_travel_is_named():
    model = exact_model(GaussianMixture(torch.zeros(1, 64).double(), std=0.5), (1, 8, 8))
    with pytest.raises(ValueError, match="cannot be given to another process"):
        pairwise(model, pictures(3), options=FAST.but(workers=2))
