"""A wrong metric of one's own is named before a search: shape, type, company, derivative."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import diffodesic as dd

Inner = Callable[[Tensor, Tensor, Tensor], object]
A, B = torch.zeros(2, 3).double(), torch.tensor([[1.0, 0, 0], [0, 1, 1]]).double()


def own(product: Inner, dim: object = 3) -> dd.Metric:
    class Own(dd.Metric):
        def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
            return product(x, u, v)  # type: ignore[return-value]

    Own.dim = dim  # type: ignore[assignment]
    return Own()


def outside_torch(x: Tensor, u: Tensor, v: Tensor) -> Tensor:
    return torch.as_tensor((u.detach().numpy() * v.detach().numpy()).sum(-1))


WRONG: dict[str, tuple[Inner, type[Exception], str]] = {
    "no sum": (lambda x, u, v: u * v, ValueError, r"shape \(2, 3\) .* must be \(2,\), one"),
    "a scalar": (lambda x, u, v: (u * v).sum(), ValueError, r"shape \(\) .* must be \(2,\)"),
    "axis kept": (lambda x, u, v: (u * v).sum(-1, keepdim=True), ValueError, r"shape \(2, 1\)"),
    "float32": (
        lambda x, u, v: (u * v).sum(-1).float(),
        TypeError,
        "float32 for points in .*float64",
    ),
    "a number": (lambda x, u, v: 1.0, TypeError, "returned a float; it must return a tensor"),
    "batch summed": (
        lambda x, u, v: (u * v).sum() + 0 * x[..., 0],
        ValueError,
        "depends on the other points of the batch",
    ),
    "random": (
        lambda x, u, v: (u * v * torch.rand(3).double()).sum(-1),
        ValueError,
        "or changes from call to call",
    ),
    "numpy of a copy": (outside_torch, TypeError, "has no derivative; write it in torch alone"),
    "numpy": (
        lambda x, u, v: torch.as_tensor((u.numpy() * v.numpy()).sum(-1)),
        TypeError,
        r"has no derivative: Can't call numpy\(\)",
    ),
    "one point only": (
        lambda x, u, v: u @ torch.eye(3).double() @ v,
        ValueError,
        r"fails for points of shape \(2, 3\): .*; write it in torch for points \(\.\.\., d\)",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_product_is_named_with_its_cure(name: str):
    product, kind, text = WRONG[name]
    for verb in (dd.geodesic, dd.distance, dd.exp, dd.log):
        with pytest.raises(kind, match=rf"Own\.inner.*{text}"):
            verb(own(product), A, B)
    with pytest.raises(kind, match=rf"Own\.inner.*{text}"):
        dd.mean(own(product), torch.cat([A, B]))


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize(
    "factor", [lambda z: 1 + z.square().sum(), lambda z: z.square().mean() + z.exp().sum(-1)]
)
def test_a_factor_that_mixes_the_batch_is_refused_alone_too(
    factor: Callable[[Tensor], Tensor], single: bool
):
    a, b = (A[0], B[0]) if single else (A, B)
    with pytest.raises(ValueError, match="the function that it was given, depends on the other"):
        dd.geodesic(dd.Conformal(factor, 3), a, b)


def test_a_map_that_mixes_the_batch_is_refused():
    with pytest.raises(ValueError, match=r"Pullback\.inner, .* depends on the other points"):
        dd.geodesic(dd.Pullback(lambda z: z * z.square().sum(), 3), A, B)


@pytest.mark.parametrize("dim", [None, 0, 2.5])
def test_a_metric_without_a_dimension(dim: object):
    for verb in (dd.geodesic, dd.exp, dd.log):
        with pytest.raises(TypeError, match=r"metric Own has dim = .*; set dim, the number of"):
            verb(own(lambda x, u, v: (u * v).sum(-1), dim), A, B)


def test_a_metric_that_never_set_its_dimension():
    class Bare(dd.Metric):
        def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
            return (u * v).sum(-1)

    with pytest.raises(TypeError, match="metric is a Bare without dim"):
        dd.geodesic(Bare(), A, B)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_right_metric_is_taken_after_four_products(dtype: torch.dtype):
    calls = []

    def product(x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        calls.append(x.shape[:-1].numel())
        return (u * v).sum(-1)

    metric = own(product)
    found = dd.distance(metric, A[1].to(dtype), B[1].to(dtype))
    torch.testing.assert_close(found, torch.tensor(2.0, dtype=dtype).sqrt())
    # two together, each alone, two with a graph
    assert calls[:4] == [2, 1, 1, 2]
    # rounding in lower precision inside is not the company
    low = own(lambda x, u, v: (u.float() * v.float()).sum(-1).to(u))
    assert dd.distance(low, A[1].to(dtype), B[1].to(dtype)).dtype == dtype


def test_a_metric_with_its_own_energy_needs_no_derivative():
    class Given(dd.Metric):
        dim = 3

        def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
            return (u * v).sum(-1).detach()

        def energy(self) -> dd.geometry.PathEnergy:
            return dd.Euclidean(3).energy()

    torch.testing.assert_close(dd.distance(Given(), A[0], B[0]), torch.ones(()).double())
