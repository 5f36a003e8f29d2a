"""Lengths by mismatched estimation against exact ones, with stated confidence."""

from __future__ import annotations

import math

import pytest
import torch

from diffodesic import (
    GaussianMixture,
    NetworkDenoiser,
    Spacetime,
    geodesic,
    mismatch_length,
    mismatch_steps,
)
from tiny import tiny_model


def _short_path(mix: GaussianMixture) -> tuple[Spacetime, torch.Tensor]:
    space = Spacetime(mix)
    a, b = space.point(mix.means[:2], log_snr=torch.tensor([2.0, 1.0], dtype=torch.float64))
    return space, geodesic(space, a, b, nodes=24).nodes


@pytest.mark.parametrize("dim", [1, 4])
def test_gaussian_lengths_at_first_order_in_the_step(dim):
    # one component: the gap of the means depends on Y only as far as the two levels differ
    mix = GaussianMixture(torch.zeros(1, dim, dtype=torch.float64))
    space = Spacetime(mix)
    ends = torch.stack([torch.ones(dim + 1), torch.zeros(dim + 1)]).double()
    exact = space.steps(torch.lerp(ends[0], ends[1], torch.linspace(0, 1, 33).double()[:, None]))
    nodes = torch.lerp(ends[0], ends[1], torch.linspace(0, 1, 33).double()[:, None])
    errors = [
        mismatch_length(mix, nodes, samples=512, levels=n)[0] / float(exact.sqrt().sum()) - 1
        for n in (16, 64)
    ]
    assert abs(errors[0]) < 0.1
    # four times the levels: at most half the error (order 1), beside a scatter of one per cent
    assert abs(errors[1]) < abs(errors[0]) / 2 + 0.02


def test_a_path_across_modes_is_met_within_its_error(draw):
    mix = GaussianMixture(
        torch.tensor([[-2.5], [2.0], [0.5]], dtype=torch.float64),
        torch.tensor([0.3, 0.3, 0.4]),
        std=0.75,
    )
    space, nodes = _short_path(mix)
    exact = float(space.steps(nodes).sqrt().sum())
    length, error = mismatch_length(mix, nodes, samples=400, levels=128)
    # three standard errors (99.7 %) and 2 % for the step in k'
    assert abs(length - exact) < 3 * error + 0.02 * exact


def test_steps_are_positive_and_repeat_with_the_seed(draw):
    mix = GaussianMixture(draw(3, 2), std=0.4)
    _, nodes = _short_path(mix)
    first = mismatch_steps(mix, nodes, samples=3, levels=8, seed=1)
    assert first.shape == (3, len(nodes) - 1)
    assert bool((first > 0).all())
    assert torch.equal(first, mismatch_steps(mix, nodes, samples=3, levels=8, seed=1))
    assert not torch.equal(first, mismatch_steps(mix, nodes, samples=3, levels=8, seed=2))
    assert math.isnan(mismatch_length(mix, nodes, samples=1, levels=4)[1])


def test_errors_say_what_to_change(draw):
    mix = GaussianMixture(draw(3, 2))
    with pytest.raises(ValueError, match="nodes have shape"):
        mismatch_steps(mix, draw(4, 2))
    with pytest.raises(ValueError, match="samples and levels"):
        mismatch_steps(mix, draw(4, 3), levels=0)
    network = tiny_model().denoiser
    assert isinstance(network, NetworkDenoiser)
    close = torch.zeros(3, network.dim + 1, dtype=torch.float64)
    close[:, -1] = network.log_snr_range[1] - 1
    with pytest.raises(ValueError, match="last level"):
        mismatch_steps(network, close)
