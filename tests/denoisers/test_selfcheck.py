"""Derivatives of a denoiser, looked at before a path is asked for."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import Tensor

from diffodesic import Denoiser, GaussianMixture, Spacetime, Status, geodesic
from diffodesic.denoisers.selfcheck import self_check
from support.checks import status_is_looked_at
from support.tiny import tiny_model


class Opaque(Denoiser):
    """A law known by its evaluations: a network, to everybody else."""

    closed_form = False

    def __init__(self, law: Denoiser) -> None:
        self.law, self.dim = law, law.dim
        self.mean, self.variance = law.mean, law.variance

    def posterior_mean(self, z: Tensor, sigma: Tensor) -> Tensor:
        return self.law.posterior_mean(z, sigma)


class Remote(Opaque):
    """One that runs elsewhere: values come back without a graph."""

    def posterior_mean(self, z: Tensor, sigma: Tensor) -> Tensor:
        with torch.no_grad():
            return self.law.posterior_mean(z, sigma)


class Quantised(Opaque):
    """Its backward pass goes through something else than its forward pass."""

    def posterior_mean(self, z: Tensor, sigma: Tensor) -> Tensor:
        m = self.law.posterior_mean(z, sigma)
        return m.detach() + 0.3 * (z - z.detach())


class Rounding(Opaque):
    """Its noise levels are those of a table, a quarter of an e-fold apart."""

    def posterior_mean(self, z: Tensor, sigma: Tensor) -> Tensor:
        level = (-2 * sigma.log() * 4).round() / 4
        return self.law.posterior_mean(z, (-level / 2).exp())


class Turned(Opaque):
    """A law with a share of a rotation added."""

    def __init__(self, law: Denoiser, share: float) -> None:
        super().__init__(law)
        self.share = share

    def posterior_mean(self, z: Tensor, sigma: Tensor) -> Tensor:
        half = self.dim // 2
        turned = torch.cat([z[..., half:], -z[..., :half]], -1)
        return self.law.posterior_mean(z, sigma) + self.share * turned


@pytest.fixture
def law(draw) -> GaussianMixture:
    return GaussianMixture(draw(3, 4), std=0.4)


@pytest.fixture
def points(law: GaussianMixture, draw) -> Tensor:
    level = torch.tensor([[2.0], [0.1], [-1.0]], dtype=torch.float64)
    return torch.cat([law.means + 0.3 * draw(3, 4), level], -1)


def test_a_true_posterior_mean_passes(law, points):
    found = self_check(Opaque(law), points)
    # central differences at 1e-5 of the noise, and a slope over a tenth of an e-fold
    assert found.reverse < 1e-6
    assert found.asymmetry < 1e-6
    assert found.jumps < 1e-2
    assert found.gradient == "reverse"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found.warn()


@pytest.mark.parametrize("kind", [Remote, Quantised])
def test_no_gradient_and_a_false_one_are_found(kind, law, points):
    found = self_check(kind(law), points)
    assert found.reverse > 0.1
    assert found.gradient == "forward"
    assert found.asymmetry < 1e-6


def test_asymmetry_is_that_of_the_jacobian(law, points):
    share = 0.2
    found = self_check(Turned(law, share), points, probes=256)
    jacobian = torch.stack(
        [law.jvp(points[:, :-1], (-points[:, -1] / 2).exp(), v)[1] for v in torch.eye(4).double()],
        -1,
    )
    # u and v are independent: E (u.Kv)^2 = |K|^2, for K = 2 S and, with a rotation in A, for 2 A
    even = (4 * jacobian.square().sum((-2, -1))).sum()
    odd = 3 * 4 * share**2 * 4
    assert found.asymmetry == pytest.approx(math.sqrt(odd / float(even)), rel=0.15)


def test_a_table_of_noise_levels_is_named(law, points):
    found = self_check(Rounding(law), points)
    assert found.jumps > 0.5
    with pytest.warns(RuntimeWarning, match="rounded its time"):
        found.warn()


def test_an_asymmetric_network_without_gradients_is_named(law, points):
    class Both(Turned, Remote):
        def posterior_mean(self, z: Tensor, sigma: Tensor) -> Tensor:
            with torch.no_grad():
                return Turned.posterior_mean(self, z, sigma)

    with pytest.warns(RuntimeWarning, match="not symmetric"):
        self_check(Both(law, 0.8), points).warn()


def test_geodesics_take_the_gradient_that_there_is(law, draw):
    a, b = Spacetime(law).point(law.means[:2], 1.0)
    found = {}
    for kind in (Opaque, Remote):
        space = Spacetime(kind(law), probes=4)
        assert space.energy().check is None
        found[kind] = geodesic(space, a, b, nodes=32)
        assert found[kind].status is Status.CONVERGED
    energies = [path.objective for path in found.values()]
    assert [getattr(energy, "gradient", None) for energy in energies] == ["reverse", "forward"]
    assert getattr(energies[1], "check").reverse == math.inf  # noqa: B009
    # the same metric by two kinds of differences
    torch.testing.assert_close(found[Opaque].length, found[Remote].length, rtol=1e-5, atol=0)


def test_what_was_asked_for_is_kept(law):
    for space in (Spacetime(law), Spacetime(Opaque(law), gradient="reverse")):
        a, b = space.point(law.means[:2], 1.0)
        assert space.energy().settled(a[None], b[None]) is space.energy()


def test_the_shipped_kind_of_network_passes():
    denoiser = tiny_model().denoiser
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(3, denoiser.dim, generator=generator, dtype=torch.float64)
    found = self_check(denoiser, torch.cat([z, torch.tensor([[2.0], [1.0], [0.0]])], -1))
    assert found.gradient == "reverse"
    assert found.jumps < 0.1


class Refusing(Opaque):
    """One that is not finite far from the data, and says so."""

    def posterior_mean(self, z: Tensor, sigma: Tensor) -> Tensor:
        if bool((z.norm(dim=-1) > 50).any()):
            raise FloatingPointError("too far")
        return self.law.posterior_mean(z, sigma)


@status_is_looked_at
def test_a_pair_that_the_network_refuses_costs_no_other(law, draw):
    space = Spacetime(Refusing(law), probes=4)
    a, b = space.point(torch.stack([law.means[:2], 100 * law.means[:2]]).transpose(0, 1), 1.0)
    path = geodesic(space, a.flip(0), b.flip(0), nodes=8)
    assert path.statuses[0] is Status.NON_FINITE
    assert path.statuses[1] is not Status.NON_FINITE


def test_the_check_sees_several_pairs(law):
    class Torn(Opaque):
        """No gradient on one side of space."""

        def posterior_mean(self, z: Tensor, sigma: Tensor) -> Tensor:
            m = self.law.posterior_mean(z, sigma)
            return torch.where(z[..., :1] > 5, m.detach(), m)

    space = Spacetime(Torn(law), probes=4)
    near, far = law.means[:2], law.means[:2] + torch.tensor([20.0, 0, 0, 0]).double()
    a, b = (space.point(torch.stack([near[i], far[i]]), 1.0) for i in (0, 1))
    assert space.energy().settled(a, b).gradient == "forward"
    assert space.energy().settled(a[:1], b[:1]).gradient == "reverse"
