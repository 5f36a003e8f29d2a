"""Networks of the log-density: moments, covariance and psi are derivatives of one another."""

import math

import pytest
import torch
from torch import Tensor, nn

import diffodesic as dd
from diffodesic.denoisers.denoiser import Denoiser, HasLogPartition
from diffodesic.denoisers.log_partition import LogPartitionDenoiser
from diffodesic.metrics.one_level import NETWORK_SEARCH
from diffodesic.metrics.spacetime import divergences, log_density
from diffodesic.models.log_partition import LogPartitionNet

SIGMAS = torch.tensor([0.05, 0.3, 1.0, 4.0], dtype=torch.float64)


class Smooth(nn.Module):
    """A smooth field of x (N, D) and the level (N,)."""

    def __init__(self, dim: int, seed: int) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.first = nn.Parameter(torch.randn(dim + 1, 16, generator=g) / 2)
        self.last = nn.Parameter(torch.randn(16, dim, generator=g) / 2)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        return torch.tanh(torch.cat([x, noise[:, None]], -1) @ self.first) @ self.last


def data(dim: int = 5, count: int = 400) -> Tensor:
    g = torch.Generator().manual_seed(3)
    turn = torch.randn(dim, dim, generator=g, dtype=torch.float64)
    return 0.5 + torch.randn(count, dim, generator=g, dtype=torch.float64) @ turn / 3


def network(*, offset: bool = False, rank: int = 5, gain: float = 1.0) -> LogPartitionNet:
    field = Smooth(5, 0)
    net = LogPartitionNet(field, (5,), 0.8, (0.01, 40.0), rank, offset=offset).double()
    net.fit(data())
    with torch.no_grad():
        g = torch.Generator().manual_seed(4)
        net.beta.copy_(gain * 0.1 * torch.randn(len(net.beta), generator=g))
        field.last.mul_(gain)
    return net.requires_grad_(False)


def points() -> Tensor:
    g = torch.Generator().manual_seed(5)
    return data()[:4] + SIGMAS[:, None] * torch.randn(4, 5, generator=g, dtype=torch.float64)


def test_without_a_correction_it_is_the_gaussian_of_the_data():
    denoiser, examples, z = network(gain=0.0).denoiser(), data(), points()
    values, vectors = torch.linalg.eigh(torch.cov(examples.T, correction=0))
    law = dd.GaussianMixture(torch.zeros(1, 5).double(), std=values.sqrt()[None])
    turned = (z - examples.mean(0)) @ vectors
    m, second = denoiser.moments(z, SIGMAS)
    mean, square = law.moments(turned, SIGMAS)
    torch.testing.assert_close(m, examples.mean(0) + mean @ vectors.T, atol=1e-9, rtol=1e-9)
    spread = second - m.square().sum(-1)
    torch.testing.assert_close(spread, square - mean.square().sum(-1), atol=1e-9, rtol=1e-9)
    space = dd.Spacetime(denoiser)
    found = log_density(space, space.point(z, -2 * SIGMAS.log()))
    torch.testing.assert_close(found, law.log_density(turned, SIGMAS), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("offset", [False, True])
@pytest.mark.parametrize("rank", [0, 2, 5])
def test_moments_are_the_gradient_of_psi(offset, rank):
    denoiser, z = network(offset=offset, rank=rank).denoiser(), points()
    k = (SIGMAS**-2).requires_grad_()
    h = (k.detach()[:, None] * z).requires_grad_()
    first, second = torch.autograd.grad(denoiser.log_partition(h, k).sum(), (h, k))
    m, square = denoiser.moments(z, SIGMAS)
    torch.testing.assert_close(first, m, atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(-2 * second, square, atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(denoiser(z, SIGMAS), m)


def test_the_covariance_is_the_derivative_of_the_moments_and_symmetric():
    denoiser, z = network().denoiser(), points()
    g = torch.Generator().manual_seed(6)
    a, b = torch.randn(2, 4, 5, generator=g, dtype=torch.float64), torch.tensor([[0.3], [-1.2]])
    b = b.double().expand(2, 4)
    found = denoiser.statistic_covariance(z, SIGMAS, a, b)
    slow = Denoiser.statistic_covariance(denoiser, z.expand(2, 4, 5), SIGMAS, a, b)
    for one, other in zip(found, slow, strict=True):
        torch.testing.assert_close(one, other, atol=1e-8, rtol=1e-8)
    forth, back = ((a[i] * found[0][1 - i]).sum(-1) + b[i] * found[1][1 - i] for i in (0, 1))
    torch.testing.assert_close(forth, back, atol=1e-9, rtol=1e-9)
    m, moved = denoiser.jvp(z, SIGMAS, a)
    torch.testing.assert_close(m[0], denoiser(z, SIGMAS))
    torch.testing.assert_close(moved, denoiser.difference(z, SIGMAS, a)[1], atol=1e-6, rtol=1e-6)


def test_relative_entropies_by_psi_and_by_quadrature_agree():
    denoiser = network(gain=0.3).denoiser()
    assert isinstance(denoiser, HasLogPartition)
    space = dd.Spacetime(denoiser)
    assert space.estimator == "exact"
    a, b = space.point(points()[1:3], torch.tensor([2.0, 1.0]).double())
    found = divergences(space, a, b)
    (h_a, h_b), (mu, _) = space.eta(torch.stack([a, b])), space.mu(torch.stack([a, b]))
    psi = [denoiser.log_partition(h[:-1], -2 * h[-1]) for h in (h_a, h_b)]
    exact = ((h_a - h_b) * mu).sum() - psi[0] + psi[1]
    torch.testing.assert_close(found.forward, exact, atol=1e-7, rtol=1e-7)


def test_geodesics_take_exact_steps_and_count_those_where_psi_is_not_convex():
    calm, wild = (dd.Spacetime(network(gain=gain).denoiser()) for gain in (0.0, 30.0))
    a, b = calm.point(points()[1:3], torch.tensor([1.0, 1.0]).double())
    line = torch.lerp(a, b, torch.linspace(0, 1, 33, dtype=torch.float64)[:, None])
    steps, doubtful = calm.energy().steps(line)
    assert not bool(doubtful.any())
    _, slope, _ = calm.energy().steps_and_slope(line)
    leaf = line.clone().requires_grad_()
    (expected,) = torch.autograd.grad(calm.energy().steps(leaf)[0].sum(), leaf)
    torch.testing.assert_close(slope, expected, atol=1e-8, rtol=1e-7)
    steps, doubtful = wild.energy().steps(line)
    assert bool(doubtful.any())
    assert torch.equal(doubtful, steps < 0)


def test_no_bound_of_a_distance_from_below_is_taken_from_a_network():
    """Its psi is that of no law: a short sharp bend of it is long for the bound alone."""
    space = dd.Spacetime(network().denoiser())
    x = space.point(points(), 1.0)
    assert isinstance(space.denoiser, HasLogPartition)
    assert float(divergences(space, x[:1], x[1:2]).bhattacharyya) > 0
    assert torch.equal(space.energy().lower_bound(x[:1], x[1:2]), torch.zeros(1).double())


def test_the_default_search_is_by_splines_in_any_dimension():
    wide = LogPartitionNet(Smooth(100, 0), (100,), 0.8, (0.01, 40.0), 0).denoiser()
    for denoiser in (network().denoiser(), wide):
        energy = dd.Spacetime(denoiser).energy()
        assert energy.default_solver is NETWORK_SEARCH
        assert energy.fitted == (denoiser.dim >= 64)


def test_an_evaluation_counts_its_backward_pass():
    denoiser, z = network().denoiser(), points()
    for call, evaluations, derivatives in (
        (lambda: denoiser(z, SIGMAS), 4, 4),
        (lambda: denoiser.moments(z, SIGMAS), 4, 4),
        (lambda: denoiser.statistic_covariance(z, SIGMAS, z, SIGMAS), 4, 12),
        (lambda: denoiser.log_partition(z, SIGMAS**-2), 4, 0),
    ):
        with dd.counting() as cost:
            call()
        assert (cost.evaluations, cost.derivatives) == (evaluations, derivatives)


def test_pieces_change_nothing_and_levels_out_of_range_are_refused():
    net, z = network(), points()
    whole, pieces = (net.denoiser(chunk).moments(z, SIGMAS) for chunk in (None, 3))
    for one, other in zip(whole, pieces, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-12)
    with pytest.raises(ValueError, match="log SNR"):
        net.denoiser().log_partition(z, torch.full((4,), 1e-9).double())
    with pytest.raises(ValueError, match="rank = 6"):
        LogPartitionNet(Smooth(5, 0), (5,), 0.8, (0.01, 40.0), 6)


def test_it_passes_the_trial_of_networks():
    net = network()
    denoiser = LogPartitionDenoiser(
        net,
        shape=(5,),
        schedule=net.levels,
        prediction="edm",
        sigma_data=0.8,
        log_snr_range=(-2 * math.log(40.0) + 1e-6, -2 * math.log(0.01)),
        jvp_mode="double-vjp",
    )
    denoiser.trial()
