"""Laws of every metric: what `inner`, `steps`, and the maps built on them must satisfy."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from support.cases import CASES, Case, random_rotation
from support.checks import same

ALL = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
POSITIVE = [case for case in CASES if case.family.positive]
INVERTIBLE = pytest.mark.parametrize("case", POSITIVE, ids=[case.name for case in POSITIVE])


@ALL
def test_inner_is_symmetric(case: Case, rng: torch.Generator):
    x = case.points(6, rng=rng)
    u, v = case.points(2, 6, rng=rng)
    metric = case.metric
    same(metric.inner(x, u, v), metric.inner(x, v, u))


@ALL
def test_inner_is_bilinear(case: Case, rng: torch.Generator):
    x = case.points(6, rng=rng)
    u, v, w = case.points(3, 6, rng=rng)
    inner = case.metric.inner
    left = inner(x, 2 * u - 3 * w, v)
    same(left, 2 * inner(x, u, v) - 3 * inner(x, w, v))
    right = inner(x, v, 2 * u - 3 * w)
    same(right, 2 * inner(x, v, u) - 3 * inner(x, v, w))


@ALL
def test_inner_of_one_tensor_is_inner_of_two_equal_ones(case: Case, rng: torch.Generator):
    # metrics save a derivative where u is v
    x, u = case.points(2, 6, rng=rng)
    metric = case.metric
    same(metric.inner(x, u, u), metric.inner(x, u, u.clone()))


@INVERTIBLE
def test_inner_is_positive(case: Case, rng: torch.Generator):
    x, u = case.points(2, 200, rng=rng)
    assert bool((case.metric.inner(x, u, u) > 0).all())
    if case.dim <= 2:
        assert bool((torch.linalg.eigvalsh(case.metric.matrix(x[:20])) > 0).all())


@ALL
def test_matrix_agrees_with_inner(case: Case, rng: torch.Generator):
    x, u, v = case.points(3, 4, rng=rng)
    metric = case.metric
    matrix = metric.matrix(x)
    assert matrix.shape == (4, metric.dim, metric.dim)
    product = torch.einsum("nd,nde,ne->n", u, matrix, v)
    same(product, metric.inner(x, u, v))


@ALL
def test_batches_of_any_shape(case: Case, rng: torch.Generator):
    x, u, v = case.points(3, 2, 3, rng=rng)
    metric = case.metric
    flat = metric.inner(*(t.reshape(6, -1) for t in (x, u, v)))
    same(metric.inner(x, u, v), flat.reshape(2, 3))
    same(metric.inner(x[0, 0], u[0, 0], v[0, 0]), flat[0])
    same(metric.squared_steps(x)[1], metric.squared_steps(x[1]))


@ALL
def test_metric_is_invariant_under_rotation(case: Case, rng: torch.Generator):
    rotation = random_rotation(case.dim, rng)
    turned = case.family.build(rotation)
    x, u, v = case.points(3, 6, rng=rng)
    y, ru, rv = (case.turned(t, rotation) for t in (x, u, v))
    metric = case.metric
    same(turned.inner(y, ru, rv), metric.inner(x, u, v))
    same(turned.squared_steps(y), metric.squared_steps(x))


def _curve(ends: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """A smooth curved path through space and its derivative, (S, d)."""
    a, b, c = ends
    s = s[:, None]
    return a + (b - a) * s + c * torch.sin(2 * s) / 2, b - a + c * torch.cos(2 * s)


@ALL
def test_steps_converge_to_inner_at_order_two(case: Case, rng: torch.Generator):
    ends = case.points(3, rng=rng)
    metric = case.metric
    # the energy of the curve itself, by Gauss-Legendre: analytic integrand, exact to rounding
    nodes, weights = _gauss_legendre(60)
    x, v = _curve(ends, nodes)
    exact = (weights * metric.inner(x, v, v)).sum() / 2
    sizes = torch.tensor([64.0, 128.0, 256.0], dtype=torch.float64)
    errors = []
    for n in sizes.int().tolist():
        x, _ = _curve(ends, torch.linspace(0, 1, n + 1, dtype=torch.float64))
        errors.append(n / 2 * metric.squared_steps(x).sum() - exact)
    slope = torch.linalg.lstsq(
        torch.stack([sizes.log(), torch.ones(3, dtype=torch.float64)], -1),
        torch.stack(errors).abs().log().unsqueeze(-1),
    ).solution[0]
    # the next term of an even expansion is (1/64)^2 relative, some hundred times that for
    # curves whose fourth derivative dominates
    assert float(slope) == pytest.approx(-2, abs=0.05)


def _gauss_legendre(count: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights on [0, 1] (Golub & Welsch)."""
    k = torch.arange(1, count, dtype=torch.float64)
    off = k / (4 * k**2 - 1).sqrt()
    values, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return (values + 1) / 2, vectors[0] ** 2


@ALL
def test_gradient_of_steps_in_every_coordinate(case: Case, rng: torch.Generator):
    x = case.points(4, rng=rng)
    metric = case.metric
    found = metric.energy().evaluate(x)
    grad = found.slope * (2 / found.squared_steps.shape[-1])  # of the sum of the steps
    same(found.squared_steps, metric.squared_steps(x))

    def central(h: float) -> Tensor:
        shift = h * torch.eye(x.numel(), dtype=torch.float64).reshape(-1, *x.shape)
        ahead, behind = (metric.squared_steps(x + sign * shift).sum(-1) for sign in (1, -1))
        return ((ahead - behind) / (2 * h)).reshape(x.shape)

    # Richardson: error h^4 = 1e-12 times a fifth derivative, and 1e-16 / h of rounding
    numeric = (4 * central(5e-4) - central(1e-3)) / 3
    torch.testing.assert_close(grad, numeric, rtol=1e-8, atol=1e-8 * float(grad.abs().max()))


@INVERTIBLE
def test_flat_and_sharp_are_inverse(case: Case, rng: torch.Generator):
    x, u = case.points(2, 6, rng=rng)
    metric = case.metric
    # conjugate gradients stop at a residual of 1e-12: the error is that times the condition
    # number of the (scaled) metric, some hundreds at most here
    torch.testing.assert_close(metric.sharp(x, metric.flat(x, u)), u, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(metric.flat(x, metric.sharp(x, u)), u, rtol=1e-9, atol=1e-9)


@ALL
def test_flat_is_the_metric_applied(case: Case, rng: torch.Generator):
    x, u = case.points(2, 4, rng=rng)
    metric = case.metric
    product = (metric.matrix(x) @ u.unsqueeze(-1)).squeeze(-1)
    same(metric.flat(x, u), product)
