"""Uneven nodes: the energy that holds them, where they lie, and what they save."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks.problems import eight_gaussians, mixture
from diffodesic import GaussianMixture, Geodesic, Relax, Spacetime, geodesic
from diffodesic.geometry.boundary_value import search
from diffodesic.geometry.energy import even_knots
from diffodesic.geometry.solvers.graded import Graded, by_turning, knots_of, saved
from support.checks import Draw

DIM = 128  # its two corners take .13 % of the length on 64 even nodes


@pytest.fixture(scope="module")
def corners() -> tuple[Spacetime, Tensor, Tensor]:
    """Two samples of different ones of eight Gaussians in many dimensions."""
    generator = torch.Generator().manual_seed(1)
    space = Spacetime(eight_gaussians(DIM, generator))
    return space, *space.point(space.denoiser.sample(2, generator=generator), 2.0)  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def uneven(corners: tuple[Spacetime, Tensor, Tensor]) -> Geodesic:
    """The path between them."""
    return geodesic(*corners)


def _crooked(draw: Draw, segments: int) -> tuple[Spacetime, Tensor]:
    space = Spacetime(GaussianMixture(draw(3, 2), std=0.4))
    return space, torch.cat([draw(1, segments + 1, 2), 1 + 0.3 * draw(1, segments + 1, 1)], -1)


def test_equal_shares_are_the_energy_itself(draw: Draw):
    space, x = _crooked(draw, 8)
    energy = space.energy()
    graded = Graded(energy, x.new_full((8,), 1 / 8))
    for order in (0, 1, 2):
        own, other = energy.evaluate(x, order=order), graded.evaluate(x, order=order)
        torch.testing.assert_close(other.squared_steps, own.squared_steps)
        if order:
            torch.testing.assert_close(other.slope, own.slope)
    force = energy.evaluate(x).slope
    inverse = energy.preconditioner(x, own.squared_steps).solve(force)
    other_inverse = graded.preconditioner(x, own.squared_steps).solve(force)
    torch.testing.assert_close(other_inverse, inverse)


def test_the_energy_of_shares_is_the_sum_of_squares_over_them(draw: Draw):
    space, x = _crooked(draw, 6)
    shares = torch.arange(1.0, 7.0, dtype=x.dtype)
    shares = shares / shares.sum()
    energy = Graded(space.energy(), shares)
    squares = space.squared_steps(x)
    torch.testing.assert_close(energy.evaluate(x).energy, (squares / shares).sum(-1) / 2)
    # central differences of second order
    move = torch.zeros_like(x)
    move[:, 1:-1] = draw(*x[:, 1:-1].shape)
    ahead, behind = (energy.evaluate(x + h * move, order=0).energy for h in (1e-5, -1e-5))
    along = (energy.evaluate(x).slope * move).sum((-1, -2))
    torch.testing.assert_close((ahead - behind) / 2e-5, along, rtol=1e-6, atol=1e-6)


def test_knots_run_from_zero_to_one():
    shares = torch.tensor([[0.1, 0.2, 0.7], [1 / 3, 1 / 3, 1 / 3]], dtype=torch.float64)
    found = knots_of(shares)
    torch.testing.assert_close(found[0], torch.tensor([0, 0.1, 0.3, 1]).double())
    assert found[:, -1].tolist() == [1, 1]


def test_a_path_that_turns_evenly_keeps_even_nodes(draw: Draw):
    space = Spacetime(GaussianMixture(torch.zeros(1, 4).double(), std=torch.ones(1, 4).double()))
    a, b = space.point(0.5 * draw(2, 4), 2.0)
    path = geodesic(space, a, b, nodes=16)
    assert torch.equal(path.knots, even_knots(path.nodes))
    assert path.even is path.nodes
    assert float(saved(space.energy(), path.nodes[None], 16)) == 0


def test_a_path_with_corners_has_its_nodes_there(uneven: Geodesic):
    shares = uneven.knots.diff(dim=-1)
    assert uneven.ok
    assert float(shares.max() / shares.min()) > 5
    # the stretches between the corners lie in one Gaussian each
    assert bool((shares[[0, -1]] > 1 / 64).all())


def test_its_length_is_that_of_the_curve_that_is_returned(uneven: Geodesic):
    s = torch.linspace(0, 1, 4097, dtype=torch.float64)
    steps = uneven.metric.squared_steps(uneven(s)).sqrt()
    assert float(steps.sum()) == pytest.approx(float(uneven.length), rel=1e-4)
    # even nodes leave a spread of .05 on the nodes alone, and of more between them
    assert float(steps.std() / steps.mean()) < 0.1
    assert float(uneven.certificate.speed_spread) < 0.1


def test_it_is_shorter_than_on_even_nodes(
    corners: tuple[Spacetime, Tensor, Tensor], uneven: Geodesic
):
    even = search(*corners, solver=Relax(uneven=False))
    assert torch.equal(even.knots, even_knots(even.nodes))
    assert float(uneven.length) < (1 - 1e-3) * float(even.length)
    # not for more work
    assert uneven.node_gradients < even.node_gradients


def test_energy_and_length_keep_their_order(uneven: Geodesic):
    rated = uneven.certificate
    assert float(rated.discrete_length) ** 2 <= 2 * float(rated.discrete_energy)
    assert float(rated.length) ** 2 <= 2 * float(rated.energy)
    assert float(rated.length) <= float(rated.upper)


def test_even_points_are_even(uneven: Geodesic):
    points = uneven.even
    assert points.shape == uneven.nodes.shape
    assert torch.equal(points[[0, -1]], uneven.nodes[[0, -1]])
    # a step of the two-point form across a corner is longer than the curve
    lengths = uneven.metric.squared_steps(points).sqrt()
    assert float(lengths.max() / lengths.min()) < 1.5


def test_a_batch_is_its_pairs(corners: tuple[Spacetime, Tensor, Tensor], uneven: Geodesic):
    space, a, b = corners
    near = torch.lerp(a, b, 0.01)
    both = geodesic(space, torch.stack([a, a]), torch.stack([near, b]))
    assert torch.equal(both.knots[0], even_knots(both.nodes[0]))
    assert float(both.length[1]) == pytest.approx(float(uneven.length), rel=1e-6)
    torch.testing.assert_close(both(0.3)[1], uneven(0.3), rtol=1e-4, atol=1e-4)


def test_knots_are_kept_with_a_path(uneven: Geodesic):
    tensors, rest = uneven.split()
    again = Geodesic.joined(uneven.metric, tensors, rest)
    assert torch.equal(again(0.4), uneven(0.4))
    del tensors["knots"]  # a stage of an earlier version
    assert torch.equal(
        Geodesic.joined(uneven.metric, tensors, rest).knots, even_knots(uneven.nodes)
    )


def test_nodes_move_to_where_a_path_turns(uneven: Geodesic):
    energy = uneven.objective
    before = uneven.even[None]
    points, shares = by_turning(energy, before, 64)
    assert torch.equal(points[:, [0, -1]], before[:, [0, -1]])
    torch.testing.assert_close(shares.sum(-1), torch.ones(1).double())
    assert float(shares.max() / shares.min()) > 5


def test_the_benchmark_of_corners_is_within_a_thousandth():
    problem = mixture(512)
    path = geodesic(problem.space, problem.a, problem.b)
    assert path.ok
    # on 256 even nodes, searched to 1e-9 (benchmarks/results/reference.json)
    assert float(path.length) <= 1.001 * 23.2675
