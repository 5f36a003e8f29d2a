"""The grid's posterior against mixtures of its nodes, Gaussians, Monte Carlo and derivatives."""

from __future__ import annotations

import math

import pytest
import torch

from diffodesic import GaussianMixture, Relax, Spacetime, geodesic
from diffodesic.metrics.spacetime.gaussian import Hyperbolic
from diffodesic.transitions.grid_denoiser import GridDenoiser
from diffodesic.transitions.own_potentials import from_callable
from diffodesic.transitions.potentials import DoubleWell, MuellerBrown, Potential, Ring
from diffodesic.transitions.surfaces import alanine
from support.checks import same

TURN = 2 * math.pi


def harmonic(dim: int, variance: float = 0.3) -> Potential:
    return from_callable(
        lambda x: x.square().sum(-1) / (2 * variance),
        dim=dim,
        kT=1.0,
        box=((-6.0, 6.0),) * dim,
        unit="reduced",
    )


def nodes_as_mixture(grid: GridDenoiser, images: int = 0) -> GaussianMixture:
    """The law of the grid as a mixture of points, so many images of a cell to either side."""
    points = torch.stack(torch.meshgrid(*grid.axes, indexing="ij"), -1).reshape(-1, grid.dim)
    turns = torch.arange(-images, images + 1, dtype=torch.float64) * TURN
    shifts = torch.cartesian_prod(*[turns] * grid.dim).reshape(-1, grid.dim)
    every = (points + shifts[:, None]).reshape(-1, grid.dim)
    weights = grid.weights.reshape(-1).repeat(len(shifts))
    return GaussianMixture(every[weights > 0], weights[weights > 0], std=0.0)


CASES = [
    (GridDenoiser(DoubleWell(dim=1), points=60), 0),
    (GridDenoiser(Ring(), points=40), 0),
    (GridDenoiser(DoubleWell(dim=3), points=12), 0),
    (GridDenoiser(alanine(), points=32), 2),
]


def test_no_points_have_no_moments():
    z, sigma = torch.empty(0, 2, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    found = GridDenoiser(DoubleWell()).moments(z, sigma)
    assert [value.numel() for value in found] == [0, 0]


@pytest.mark.parametrize(("grid", "images"), CASES, ids=lambda c: getattr(c, "dim", None))
def test_moments_are_those_of_the_nodes(grid, images, draw, uniform):
    mixture = nodes_as_mixture(grid, images)
    z, sigma = draw(6, grid.dim), uniform(0.2, 0.9, 6)
    same(grid.moments(z, sigma), mixture.moments(z, sigma))
    same(grid(z, sigma), mixture(z, sigma))
    a, b = draw(6, grid.dim), draw(6)
    same(grid.statistic_covariance(z, sigma, a, b), mixture.statistic_covariance(z, sigma, a, b))
    k = sigma**-2
    gap = math.log(2 * images + 1) * grid.dim
    same(grid.log_partition(k[:, None] * z, k), mixture.log_partition(k[:, None] * z, k) + gap)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_a_harmonic_law_in_closed_form(dim, draw, uniform):
    grid = GridDenoiser(harmonic(dim), points=64)
    z, sigma = draw(5, dim), uniform(0.5, 2.0, 5)
    gain = 0.3 / (0.3 + sigma**2)
    m, second = grid.moments(z, sigma)
    # posterior sd is .37 or more, spacing 12/64: e^{-2 (pi .37/.19)^2} is 1e-33
    same(m, gain[:, None] * z)
    same(second, m.square().sum(-1) + dim * gain * sigma**2)
    assert abs(grid.variance - 0.3) < 1e-10


def test_lengths_of_a_harmonic_law_are_hyperbolic():
    space, exact = Spacetime(GridDenoiser(harmonic(2), points=96)), Hyperbolic(2, 0.3)
    a, b = torch.tensor([[-0.6, 0.1, 2.0], [0.5, -0.3, 3.0]], dtype=torch.float64)
    assert not bool(exact.escapes(a, b))
    errors = [
        float(space.squared_steps(exact.path(a, b, n)).sqrt().sum() - exact.distance(a, b))
        for n in (32, 64)
    ]
    # an upper bound that falls at order two
    assert 3.9 < errors[0] / errors[1] < 4.1
    assert 0 < errors[1] < 2e-3


@pytest.mark.parametrize("grid", [case[0] for case in CASES], ids=lambda g: g.potential.name)
def test_mu_is_the_gradient_of_psi_and_the_covariance_its_hessian(grid, draw):
    space = Spacetime(grid)
    x = torch.cat([draw(3, grid.dim), 1 + 0.3 * draw(3, 1)], -1)
    eta = space.eta(x).requires_grad_()
    psi = grid.log_partition(eta[:, :-1], -2 * eta[:, -1])
    (mu,) = torch.autograd.grad(psi.sum(), eta)
    same(mu, space.mu(x))
    v = draw(3, grid.dim + 1)
    sigma = (-x[:, -1] / 2).exp()
    pushed = torch.cat(
        [
            part.reshape(3, -1)
            for part in grid.statistic_covariance(x[:, :-1], sigma, v[:, :-1], v[:, -1])
        ],
        -1,
    )
    h = 1e-5

    def mu_at(eta: torch.Tensor) -> torch.Tensor:
        k = -2 * eta[:, -1:]
        return space.mu(torch.cat([eta[:, :-1] / k, k.log()], -1))

    numeric = (mu_at(eta.detach() + h * v) - mu_at(eta.detach() - h * v)) / (2 * h)
    # central differences at h = 1e-5, of a function with values and derivatives up to 100
    torch.testing.assert_close(pushed, numeric, rtol=1e-5, atol=1e-6)


def test_shifting_by_a_period_shifts_the_posterior(draw, uniform):
    grid = GridDenoiser(alanine(), points=48)
    z, sigma = 3 * draw(8, 2), uniform(0.2, 4.0, 8)
    turn = torch.tensor([TURN, -2 * TURN], dtype=torch.float64)
    same(grid(z + turn, sigma), grid(z, sigma) + turn)
    # and so lengths do not know the cell
    space = Spacetime(grid)
    x = torch.cat([z, -2 * sigma.log().unsqueeze(-1)], -1)
    moved = torch.cat([z + turn, x[:, -1:]], -1)
    torch.testing.assert_close(
        space.squared_steps(moved), space.squared_steps(x), rtol=1e-8, atol=1e-8
    )


def test_monte_carlo_agrees_to_three_standard_errors(rng):
    grid = GridDenoiser(alanine())
    z, sigma = torch.tensor([-1.4, 1.8], dtype=torch.float64), 0.6
    x = z + sigma * torch.randn(400_000, 2, generator=rng, dtype=torch.float64)
    weight = torch.softmax(-alanine()(x) / alanine().kT, 0)
    statistic = torch.cat([x, x.square().sum(-1, keepdim=True)], -1)
    mean = weight @ statistic
    error = (weight.square() @ (statistic - mean) ** 2).sqrt()
    m, second = grid.moments(z, torch.tensor(sigma, dtype=torch.float64))
    off = (torch.cat([m, second[None]]) - mean).abs() / error
    assert float(off.max()) < 3


def test_doubling_the_grid_changes_nothing(draw, uniform):
    z, sigma = 2 * draw(6, 2), uniform(0.12, 1.0, 6)
    coarse, fine = (GridDenoiser(alanine(), points=n).moments(z, sigma) for n in (128, 256))
    # the spline's third derivative jumps at its own lines: order 4 in the spacing
    same_to = 2 * (TURN / 128) ** 4
    torch.testing.assert_close(coarse, fine, rtol=same_to, atol=same_to)


def test_gradients_flow_through_the_moments(draw):
    grid = GridDenoiser(Ring(), points=48)
    z = draw(2, 2).requires_grad_()
    sigma = torch.tensor([0.4, 0.7], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda z, s: torch.cat([p.flatten() for p in grid.moments(z, s)]), (z, sigma)
    )
    v = draw(2, 2)
    numeric = (grid(z + 1e-6 * v, sigma) - grid(z - 1e-6 * v, sigma)) / 2e-6
    torch.testing.assert_close(grid.jvp(z, sigma, v)[1], numeric, rtol=1e-7, atol=1e-8)


def test_energies_beyond_float64_carry_no_weight():
    grid = GridDenoiser(MuellerBrown().at(0.5), points=96)
    assert float(grid.weights.min()) == 0
    z = torch.tensor([[0.62, 0.03], [50.0, 50.0]], dtype=torch.float64)
    out = grid(z, torch.tensor([0.1, 0.05], dtype=torch.float64))
    assert bool(out[0].isfinite().all())


def test_errors_say_what_to_change():
    with pytest.raises(ValueError, match="up to 3 coordinates"):
        GridDenoiser(DoubleWell(dim=4))
    with pytest.raises(ValueError, match="points must be at least 8"):
        GridDenoiser(Ring(), points=4)
    wall = from_callable(
        lambda x: x[..., 0] * math.inf, dim=1, kT=1.0, box=((1.0, 2.0),), unit="reduced"
    )
    with pytest.raises(ValueError, match="must be finite"):
        GridDenoiser(wall)


def test_points_of_single_precision():
    space = Spacetime(GridDenoiser(harmonic(2)))
    a, b = space.point(torch.tensor([[0.3, 0.1], [-0.4, 0.2]]), 2.0)
    path = geodesic(space, a, b, nodes=12, solver=Relax(rtol=1e-3))
    assert path.nodes.dtype == torch.float32
    exact = geodesic(space, a.double(), b.double(), nodes=12)
    assert float(path.length) == pytest.approx(float(exact.length), rel=1e-3)
