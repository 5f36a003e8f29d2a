"""Derivatives of maps, against closed forms."""

from __future__ import annotations

import torch
from torch import Tensor

from diffodesic.numerics.derivatives import jvp, lower, untransformed
from support.checks import Draw


def test_jvp_is_the_derivative_along_the_tangent(draw: Draw):
    x, v = draw(2, 4)
    value, slope = jvp(lambda p: torch.sin(p).prod(-1), (x,), (v,))
    exact = torch.sin(x).prod() * (v / torch.tan(x)).sum()
    torch.testing.assert_close(value, torch.sin(x).prod())
    torch.testing.assert_close(slope, exact)


def test_untransformed_gives_the_values_inside() -> None:
    x = torch.arange(3.0)
    seen: list[Tensor] = []

    def look(y: Tensor) -> Tensor:
        seen.append(untransformed(y))
        return y.sum()

    torch.func.vmap(torch.func.grad(look))(x.unsqueeze(-1))
    torch.testing.assert_close(seen[0], x.unsqueeze(-1))


def test_lower_is_the_gradient_of_the_form(draw: Draw):
    matrix, x, u = draw(3, 3), draw(4, 3), draw(4, 3)

    def form(p: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return p.square().sum(-1) * ((a @ matrix) * b).sum(-1)

    torch.testing.assert_close(lower(form, x, u), x.square().sum(-1, keepdim=True) * (u @ matrix))
