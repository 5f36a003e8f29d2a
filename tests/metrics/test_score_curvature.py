"""Closed forms of the score metric against derivatives of the metric tensor itself.

The oracle knows no closed form: g is built from gradients of log-density, and everything else from
derivatives of g, by automatic differentiation.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from diffodesic import Denoiser, GaussianMixture, ScoreMetric, counting, exp, geodesic
from diffodesic.metrics.score_curvature import ricci_scalar, sectional_curvature
from diffodesic.numerics.ode import rk45
from support.checks import Draw, same

RANKS = (1, 2, 3)


def _law(draw: Draw, dim: int = 3) -> GaussianMixture:
    return GaussianMixture(draw(4, dim), std=0.6)


def _metric(law: GaussianMixture, rank: int, weight: float = 1.7) -> ScoreMetric:
    return ScoreMetric(law, log_snr=0.5, weight=weight, rank=rank)


def _tensor(metric: ScoreMetric, x: Tensor) -> Tensor:
    """The metric tensor (D, D) from gradients of log-density."""
    law, moved = metric.denoiser, metric.sigma * metric.displacements

    def score(y: Tensor) -> Tensor:
        height = law.log_density  # type: ignore[attr-defined]
        return torch.func.grad(lambda z: height(z, z.new_tensor(metric.sigma)))(y)

    rows = torch.stack([score(x + shift) for shift in moved])
    return torch.eye(len(x)).double() + metric.weight / metric.rank * rows.T @ rows


def _symbols(metric: ScoreMetric, x: Tensor) -> Tensor:
    """Gamma^k_ij (k, i, j) from derivatives of the tensor."""
    slope = torch.func.jacrev(lambda y: _tensor(metric, y))(x)  # d_k g_ij: (i, j, k)
    lower = (
        torch.einsum("jki->kij", slope)
        + torch.einsum("ikj->kij", slope)
        - torch.einsum("ijk->kij", slope)
    ) / 2
    return torch.einsum("kl,lij->kij", torch.linalg.inv(_tensor(metric, x)), lower)


def _riemann(metric: ScoreMetric, x: Tensor) -> Tensor:
    """R^l_kij = d_i Gamma^l_jk - d_j Gamma^l_ik + Gamma Gamma, (l, k, i, j)."""
    gamma = _symbols(metric, x)
    slope = torch.func.jacrev(lambda y: _symbols(metric, y))(x)  # (l, i, j; derivative)
    first = torch.einsum("ljki->lkij", slope)
    square = torch.einsum("lim,mjk->lkij", gamma, gamma)
    return first - first.mT + square - square.mT


@pytest.mark.parametrize("rank", RANKS)
def test_inverse_and_volume(rank: int, draw: Draw):
    metric = _metric(_law(draw), rank)
    x, p = draw(5, 3), draw(5, 3)
    tensor = torch.stack([_tensor(metric, y) for y in x])
    same(metric.matrix(x), tensor)
    same(metric.sharp(x, p), torch.linalg.solve(tensor, p))
    same(metric.log_volume(x), torch.logdet(tensor) / 2)


@pytest.mark.parametrize("rank", RANKS)
def test_christoffel_action(rank: int, draw: Draw):
    metric, x, u, v = _metric(_law(draw), rank), draw(3), draw(3), draw(3)
    gamma = _symbols(metric, x)
    same(metric.christoffel(x, u, v), torch.einsum("kij,i,j->k", gamma, u, v))
    same(metric.christoffel(x, u, u), torch.einsum("kij,i,j->k", gamma, u, u))


@pytest.mark.parametrize("rank", RANKS)
def test_sectional_curvature_and_ricci_scalar(rank: int, draw: Draw):
    metric, x, u, v = _metric(_law(draw), rank), draw(3), draw(3), draw(3)
    tensor, riemann = _tensor(metric, x), _riemann(metric, x)
    lowered = torch.einsum("ml,lkij->mkij", tensor, riemann)
    raised = torch.einsum("mkij,m,k,i,j->", lowered, u, v, u, v)
    area = (u @ tensor @ u) * (v @ tensor @ v) - (u @ tensor @ v) ** 2
    same(sectional_curvature(metric, x, u, v), raised / area)
    inverse = torch.linalg.inv(tensor)
    same(ricci_scalar(metric, x), torch.einsum("kj,ikij->", inverse, riemann))


def test_the_published_forms_are_those_of_rank_one(draw: Draw):
    """Gamma = w s (u.Hv)/W and the scalar (w/W)(tr(A)^2 - tr A^2), as maths has them."""
    law = _law(draw)
    metric, x, u, v = _metric(law, 1), draw(3), draw(3), draw(3)
    s = metric.score(x)
    hessian = torch.stack([metric.score_jvp(x, e) for e in torch.eye(3).double()])
    big = 1 + metric.weight * s @ s
    same(metric.christoffel(x, u, v), metric.weight * s * (u @ hessian @ v) / big)
    a = torch.linalg.solve(_tensor(metric, x), hessian)
    expected = metric.weight / big * (a.trace() ** 2 - (a @ a).trace())
    same(ricci_scalar(metric, x), expected)


def test_in_two_dimensions_the_scalar_is_twice_the_curvature(draw: Draw):
    metric = _metric(_law(draw, 2), 2)
    x, u, v = draw(4, 2), draw(4, 2), draw(4, 2)
    same(ricci_scalar(metric, x), 2 * sectional_curvature(metric, x, u, v))


def test_the_estimate_by_probes_is_unbiased(draw: Draw):
    """The mean over all pairs of the 2^D sign vectors is the scalar itself."""
    metric, x = _metric(_law(draw), 2), draw(3)
    bits = torch.arange(8).unsqueeze(1) >> torch.arange(3) & 1
    signs = (2 * bits - 1).double()
    pairs = [signs[[i, j]] for i in range(8) for j in range(8)]
    found = torch.stack([ricci_scalar(metric, x, probes=pair) for pair in pairs])
    assert float(found.std()) > 1e-3  # no probe knows it alone
    same(found.mean(), ricci_scalar(metric, x))


def test_batches_are_what_their_points_are(draw: Draw):
    metric, x, u, v = _metric(_law(draw), 2), draw(2, 4, 3), draw(2, 4, 3), draw(2, 4, 3)
    for verb in (metric.christoffel, lambda *at: sectional_curvature(metric, *at)):
        same(verb(x, u, v)[1, 2], verb(x[1, 2], u[1, 2], v[1, 2]))
    same(ricci_scalar(metric, x)[1, 2], ricci_scalar(metric, x[1, 2]))


def test_parallel_vectors_span_no_plane(draw: Draw):
    metric, x, u = _metric(_law(draw), 1), draw(3), draw(3)
    with pytest.raises(ValueError, match="u and v are parallel"):
        sectional_curvature(metric, x, u, -2 * u)
    with pytest.raises(ValueError, match=r"probes must be \(P, 3\) with P >= 2"):
        ricci_scalar(metric, x, probes=torch.ones(1, 3))


class _Twisted(Denoiser):
    """A denoiser whose Jacobian is not symmetric."""

    def __init__(self, law: GaussianMixture, twist: Tensor) -> None:
        self.law, self.twist, self.dim = law, twist, law.dim

    def posterior_mean(self, z: Tensor, sigma: Tensor) -> Tensor:
        return self.law.posterior_mean(z, sigma) + torch.sin(z @ self.twist)


@pytest.mark.parametrize("rank", [1, 2])
def test_a_score_that_is_no_gradient_has_its_own_symbols(rank: int, draw: Draw):
    metric = ScoreMetric(_Twisted(_law(draw), draw(3, 3)), log_snr=0.5, weight=1.7, rank=rank)
    x, u, v = draw(3), draw(3), draw(3)
    tensor = metric.matrix(x)
    slope = torch.autograd.functional.jacobian(metric.matrix, x)
    lower = (
        torch.einsum("jki->kij", slope)
        + torch.einsum("ikj->kij", slope)
        - torch.einsum("ijk->kij", slope)
    ) / 2
    expected = torch.linalg.solve(tensor, torch.einsum("kij,i,j->k", lower, u, v))
    same(metric.christoffel(x, u, v), expected)


def test_cost_of_the_closed_forms(draw: Draw):
    metric, x, u, v = _metric(_law(draw), 2), draw(7, 3), draw(7, 3), draw(7, 3)
    with counting() as cost:
        metric.christoffel(x, u, v)
    assert cost.derivatives == 7 * 2 * 3  # two JVPs and a VJP for each of two scores
    with counting() as cost:
        metric.christoffel(x, u, u)
    assert cost.derivatives == 7 * 2 * 2


def test_the_geodesic_equation_meets_the_boundary_solver(draw: Draw):
    """x'' = -Gamma(x', x') from the solver's first velocity arrives where its path does."""
    angle = torch.linspace(0.25 * math.pi, 1.75 * math.pi, 30, dtype=torch.float64)
    law = GaussianMixture(torch.stack([angle.cos(), angle.sin()], -1), std=0.3)
    metric = ScoreMetric(law, log_snr=2.0, weight=0.5)
    a, b = law.means[4], law.means[12]
    path = geodesic(metric, a, b, nodes=256)
    assert path.status.name == "CONVERGED"
    v = path.velocity(0.0)

    def field(_: float, state: Tensor) -> Tensor:
        x, u = state.chunk(2, -1)
        return torch.cat([u, -metric.christoffel(x, u, u)], -1)

    end = rk45(field, torch.cat([a, v]), rtol=1e-9)[:2]
    assert float((end - b).norm()) < 1e-4 * float((b - a).norm())
    torch.testing.assert_close(end, exp(metric, a, v), rtol=1e-7, atol=1e-7)
