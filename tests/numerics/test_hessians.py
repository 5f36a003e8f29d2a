"""Curvatures of path energies against dense matrices."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from diffodesic.numerics.hessians import (
    BlockDiagonal,
    BlockTridiagonal,
    MatrixFree,
    PathHessian,
    RankOneSum,
    bend,
    inverse_laplacian,
    laplacian,
)
from support.checks import Draw

B, N, D = 3, 7, 4


def _spd(draw: Draw, *shape: int) -> Tensor:
    root = draw(*shape, D, D)
    return root @ root.mT + 0.1 * torch.eye(D).double()


def _dense(metric: Tensor) -> Tensor:
    """``n D^T g D`` on the inner nodes as a matrix, for tensors (B, n, d, d)."""
    eye = torch.eye((N - 1) * D).double().reshape(-1, 1, N - 1, D)
    path = torch.nn.functional.pad(eye, (0, 0, 1, 1))
    pushed = torch.einsum("bnij,cxnj->cbni", metric, path.diff(dim=2))
    return N * bend(pushed)[:, :, 1:-1].flatten(2).movedim(0, 2)


def _solved(curvature: PathHessian, metric: Tensor, g: Tensor) -> None:
    found = curvature.solve(g)
    expected = torch.linalg.solve(_dense(metric), g[:, 1:-1].flatten(1).unsqueeze(-1))
    assert not bool(found[:, [0, -1]].any())
    torch.testing.assert_close(
        found[:, 1:-1].flatten(1), expected.squeeze(-1), rtol=1e-7, atol=1e-9
    )


def _parts(curvature: PathHessian, g: Tensor) -> None:
    """A curvature is its paths one by one."""
    keep, mask = torch.tensor([2, 0]), torch.tensor([True, False, True])
    torch.testing.assert_close(curvature[keep].solve(g[keep]), curvature.solve(g)[keep])
    flipped = curvature[torch.tensor([2, 1, 0])]
    mixed = curvature.where(mask, flipped).solve(g)
    torch.testing.assert_close(mixed[mask], curvature.solve(g)[mask])
    torch.testing.assert_close(mixed[~mask], flipped.solve(g)[~mask])


def test_tridiagonal(draw: Draw):
    metric, g = _spd(draw, B, N), draw(B, N + 1, D)
    _solved(BlockTridiagonal.of(metric), metric, g)
    _parts(BlockTridiagonal.of(metric), g)


def test_scalar(draw: Draw):
    weights, g = draw(B, N, 2).exp(), draw(B, N + 1, D)
    metric = torch.diag_embed(weights.repeat_interleave(torch.tensor([3, 1]), -1))
    _solved(BlockDiagonal.of(weights, (3, 1)), metric, g)
    _parts(BlockDiagonal.of(weights, (3, 1)), g)


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("weight", [0.3, 1e4])
def test_graph_is_the_normal_matrix_of_its_residuals(rank: int, weight: float, draw: Draw):
    scores, g = draw(B, N + 1, rank, D), draw(B, N + 1, D)
    curvature = RankOneSum.of(scores, weight)
    eye = torch.eye((N - 1) * D).double().reshape(-1, N - 1, D)
    path = torch.nn.functional.pad(eye, (0, 0, 1, 1))
    change = torch.einsum("bnki,cni->bcnk", scores, path).diff(dim=2).flatten(2)
    flat = path.diff(dim=1).flatten(1)
    dense = N * (flat @ flat.T + weight * change @ change.mT)
    expected = torch.linalg.solve(dense, g[:, 1:-1].flatten(1).unsqueeze(-1)).squeeze(-1)
    found = curvature.solve(g)
    torch.testing.assert_close(found[:, 1:-1].flatten(1), expected, rtol=1e-7, atol=1e-9)
    assert not bool(found[:, [0, -1]].any())
    _parts(curvature, g)


def test_operator_solves_when_it_may_iterate(draw: Draw):
    metric, g = _spd(draw, B, N), draw(B, N + 1, D)
    middle = torch.arange(B).double()[:, None, None].expand(B, N, D)  # who is who

    def flat(where: Tensor, u: Tensor) -> Tensor:
        return (metric[where[:, 0, 0].long()] @ u.unsqueeze(-1)).squeeze(-1)

    scale = BlockDiagonal.of(torch.ones(B, N, 1).double(), (D,))
    _solved(MatrixFree(middle, flat, scale, iterations=500, rtol=1e-12), metric, g)
    _parts(MatrixFree(middle, flat, scale, iterations=500, rtol=1e-12), g)


def test_any_truncation_descends(draw: Draw):
    metric, g = _spd(draw, B, N), draw(B, N + 1, D)
    scale = BlockDiagonal.of(torch.ones(B, N, 1).double(), (D,))
    before = torch.zeros(B).double()
    for iterations in (1, 3, 10):
        curvature = MatrixFree(
            torch.zeros(B, N, D).double(),
            lambda _, u: (metric @ u.unsqueeze(-1)).squeeze(-1),
            scale,
            iterations=iterations,
            rtol=0.0,
        )
        along = (curvature.solve(g) * g).flatten(1).sum(-1)
        assert bool((along > before).all())  # conjugate gradients come closer with every step
        before = along


@pytest.mark.parametrize("kind", ["indefinite", "tridiagonal", "graph"])
def test_a_path_that_is_not_finite_or_not_positive_harms_no_other(kind: str, draw: Draw):
    g = draw(B, N + 1, D)
    if kind == "graph":
        scores = draw(B, N + 1, 1, D)
        spoiled = scores.clone()
        spoiled[1, 2] = torch.nan
        whole: PathHessian = RankOneSum.of(scores, 2.0)
        partly: PathHessian = RankOneSum.of(spoiled, 2.0)
    else:
        metric = _spd(draw, B, N)
        spoiled = metric.clone()
        spoiled[1, 2] = torch.nan if kind == "tridiagonal" else -spoiled[1, 2]
        whole, partly = BlockTridiagonal.of(metric), BlockTridiagonal.of(spoiled)
    keep = torch.tensor([0, 2])
    torch.testing.assert_close(partly.solve(g)[keep], whole.solve(g)[keep])
    if kind == "indefinite":
        assert float((partly.solve(g) * g)[1].sum()) > 0


@pytest.mark.parametrize("n", [2, 6, 16, 23])
def test_the_inverse_of_a_path_laplacian_is_right_in_every_entry(n: int, draw: Draw):
    weights = (8 * draw(B, n)).exp()
    found = inverse_laplacian(weights)
    one = torch.eye(n - 1).double().expand(B, -1, -1)
    # every row against the largest terms that cancel in it
    terms = laplacian(weights).abs() @ found
    assert float(((laplacian(weights) @ found - one).abs() / terms).max()) < 1e-14
    assert bool((found > 0).all())


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_the_inverse_of_a_path_laplacian_scales(scale: float, draw: Draw):
    weights = draw(B, 6).exp()
    found = inverse_laplacian(scale * weights)
    torch.testing.assert_close(scale * found, inverse_laplacian(weights), rtol=1e-12, atol=0)


@pytest.mark.parametrize("n", [6, 9, 16])
@pytest.mark.parametrize("dim", [1, 3, 12])
def test_a_path_is_solved_to_the_last_digit_as_alone(n: int, dim: int, draw: Draw):
    root = draw(6, n, dim, dim)
    kinds = [
        (lambda w: BlockDiagonal.of(w, (dim,)), draw(6, n, 1).exp()),
        (BlockTridiagonal.of, root @ root.mT + 0.1 * torch.eye(dim).double()),
        (lambda scores: RankOneSum.of(scores, 3.0), draw(6, n + 1, 1, dim)),
        (lambda scores: RankOneSum.of(scores, 3.0), draw(6, n + 1, 2, dim)),
    ]
    # the same first direction for all, as a view
    for g in (draw(6, n + 1, dim), draw(n + 1, dim).expand(6, -1, -1)):
        for of, data in kinds:
            together = of(data).solve(g)
            for i in range(6):
                assert torch.equal(of(data[i : i + 1]).solve(g[i : i + 1])[0], together[i])
