"""Three identities of a posterior mean: held by exact denoisers, broken by what is none."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from diffodesic import Denoiser, GaussianMixture, Spacetime
from diffodesic.metrics.spacetime.consistency import path_diagnostics
from support.tiny import tiny_model


class Twisted(Denoiser):
    """A posterior mean with a share of a rotation added: a field that is no gradient."""

    def __init__(self, law: Denoiser, share: float) -> None:
        self.law, self.share, self.dim = law, share, law.dim
        self.mean, self.variance = law.mean, law.variance

    def posterior_mean(self, z: Tensor, sigma: Tensor) -> Tensor:
        """The exact mean plus ``share`` times z with its coordinates shifted and half negated."""
        turn = torch.ones(self.dim, dtype=z.dtype)
        turn[: self.dim // 2] = -1
        return self.law.posterior_mean(z, sigma) + self.share * turn * z.roll(self.dim // 2, -1)


class Guided(Twisted):
    """Extrapolation from one posterior mean beyond another, as guidance does."""

    def __init__(self, law: Denoiser, other: Denoiser, share: float) -> None:
        super().__init__(law, share)
        self.other = other

    def posterior_mean(self, z: Tensor, sigma: Tensor) -> Tensor:
        """``law + share (law - other)``."""
        m = self.law.posterior_mean(z, sigma)
        return m + self.share * (m - self.other.posterior_mean(z, sigma))


def _law(draw) -> tuple[GaussianMixture, Tensor]:
    law = GaussianMixture(draw(3, 4), std=0.4)
    ends = torch.cat([law.means[:2], torch.tensor([[1.0], [0.5]], dtype=torch.float64)], -1)
    s = torch.linspace(0, 1, 9, dtype=torch.float64)[:, None]
    path = torch.lerp(ends[:1], ends[1:], s)
    path[:, -1] -= 4 * (s * (1 - s))[:, 0]
    return law, path


def test_an_exact_denoiser_holds_all_three(draw):
    law, path = _law(draw)
    basis = math.sqrt(law.dim) * torch.eye(law.dim, dtype=torch.float64)
    found = path_diagnostics(law, path, probes=basis)
    assert float(found.asymmetry.max()) < 1e-10
    # central differences: of order 1e-6 in the shift of log SNR
    assert float(found.maxwell.max()) < 1e-4
    assert found.negative_fraction == 0
    assert torch.equal(found.log_snr, path[:, -1])
    torch.testing.assert_close(found.raw_steps, Spacetime(law).squared_steps(path))


def test_maxwell_by_random_probes_is_met_within_its_error(draw):
    law, path = _law(draw)
    found = path_diagnostics(Spacetime(law), path, probes=64)
    assert bool((found.maxwell < 4 * found.maxwell_error + 1e-4).all())
    assert math.isnan(float(path_diagnostics(law, path, probes=1).maxwell_error[0]))


def test_a_rotation_is_seen_as_asymmetry(draw):
    law, path = _law(draw)
    small, large = (path_diagnostics(Twisted(law, s), path).asymmetry for s in (0.01, 0.1))
    # odd part s R, even part about J: linear in s
    assert bool((small > 1e-3).all())
    torch.testing.assert_close(large / small, torch.full_like(small, 10.0), rtol=0.05, atol=0)


def test_guidance_breaks_maxwell_and_the_steps(draw):
    law, path = _law(draw)
    other = GaussianMixture(draw(5, 4), std=0.4)
    basis = math.sqrt(law.dim) * torch.eye(law.dim, dtype=torch.float64)
    found = path_diagnostics(Guided(law, other, 8.0), path, probes=basis)
    assert float(found.maxwell.max()) > 0.05
    assert found.negative_fraction > 0
    # each of the two is symmetric, and so is what lies beyond
    assert float(found.asymmetry.max()) < 1e-6


def test_a_mean_that_falls_is_seen_by_the_closure(draw):
    law, path = _law(draw)
    # m - 2 (m - mean of one component): its Jacobian is that of the law with the sign turned
    one = GaussianMixture(law.means[:1], std=1e-3)
    found = path_diagnostics(Guided(law, one, -2.0), path)
    assert found.closure_fraction == 1


def test_a_network_in_single_precision_is_measured(draw):
    denoiser = tiny_model().denoiser
    path = 0.1 * draw(2, denoiser.dim + 1)
    basis = math.sqrt(denoiser.dim) * torch.eye(denoiser.dim, dtype=torch.float64)
    found = path_diagnostics(denoiser, path, probes=basis)
    sigma = (-path[0, -1] / 2).exp()
    jacobian = torch.func.jacrev(lambda z: denoiser(z, sigma))(path[0, :-1])
    odd, even = jacobian - jacobian.mT, jacobian + jacobian.mT
    # central differences in single precision: 1e-3 to 1e-2
    torch.testing.assert_close(found.asymmetry[0], odd.norm() / even.norm(), rtol=0.02, atol=0)
    assert found.raw_steps.shape == found.closure_wrong.shape == (1,)


def test_errors_say_what_to_change(draw):
    law, path = _law(draw)
    with pytest.raises(ValueError, match="nodes have shape"):
        path_diagnostics(law, path[0])
    with pytest.raises(ValueError, match="probes"):
        path_diagnostics(law, path, probes=torch.zeros(0, 4))
