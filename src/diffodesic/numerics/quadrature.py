r"""Integrals of smooth functions on tensors: adaptive Gauss-Kronrod, and two fixed rules.

:func:`adaptive` integrates a batch of functions at once.  Every piece of every function takes the
rule of 15 nodes (Kronrod 1965) and is halved until the embedded rule of 7 nodes agrees,

    |K15 - G7| <= rtol |goal| width,

which bounds the error of G7 and is pessimistic for that of K15.  Pieces of all functions are
evaluated together, so the number of calls is the depth of the deepest piece.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Integral", "adaptive", "clenshaw_curtis", "legendre"]

# Kronrod's 15 nodes (the non-negative half) and weights; every second node is one of Gauss's 7
_NODES = (
    0.9914553711208126,
    0.9491079123427585,
    0.8648644233597691,
    0.7415311855993944,
    0.5860872354676911,
    0.4058451513773972,
    0.2077849550078985,
    0.0,
)
_KRONROD = (
    0.0229353220105292,
    0.0630920926299786,
    0.1047900103222502,
    0.1406532597159259,
    0.1690047266392679,
    0.1903505780647854,
    0.2044329400752989,
    0.2094821410847278,
)
_GAUSS = (
    0.0,
    0.1294849661688697,
    0.0,
    0.2797053914892767,
    0.0,
    0.3818300505051189,
    0.0,
    0.4179591836734694,
)


@dataclass(frozen=True)
class Integral:
    """Integrals of B functions over P panels."""

    panels: Tensor  # one value per function and panel, (B, P)
    error: Tensor  # estimate of the error of their sum, (B,); pessimistic
    reached: Tensor  # whether the tolerance was met, (B,)


def adaptive(
    function: Callable[[Tensor, Tensor], Tensor],
    like: Tensor,
    edges: Sequence[float],
    *,
    goal: Callable[[Tensor], Tensor],
    rtol: float,
    pieces: int = 1000,
) -> Integral:
    """Integrate B functions of one variable by adaptive Gauss-Kronrod quadrature.

    Args:
        function: ``(index (M,), s (M, 15)) -> (M, 15)``, the functions ``index`` at ``s``.
        like: a tensor (B,) whose length, dtype and device are those of the result.
        edges: ends of the P panels, increasing.
        goal: the size that ``rtol`` refers to, from the panels: (B, P) -> (B,).
        rtol: error allowed, relative to ``goal``.
        pieces: number of pieces per function at most; a function that is not smooth to ``rtol``
            (a network in float32) would otherwise be halved for ever.

    Returns:
        the integrals; differentiable where the function is.

    Cost: 15 values per piece.
    """
    half = like.new_tensor(_NODES)
    nodes = torch.cat([-half, half[:-1].flip(0)])
    kronrod, gauss = (like.new_tensor([*w, *w[-2::-1]]) for w in (_KRONROD, _GAUSS))
    count, panels = len(like), len(edges) - 1
    cuts = like.new_tensor(edges)
    index = torch.arange(count, device=like.device).repeat_interleave(panels)
    panel = torch.arange(panels, device=like.device).repeat(count)
    left, right = cuts[panel], cuts[panel + 1]
    total, error = like.new_zeros(count, panels), like.new_zeros(count)
    reached = torch.ones(count, dtype=torch.bool, device=like.device)
    used = torch.zeros(count, dtype=torch.long, device=like.device)
    while len(index):
        used += torch.bincount(index, minlength=count)
        reach = ((right - left) / 2).unsqueeze(-1)
        values = function(index, (left + right).unsqueeze(-1) / 2 + reach * nodes)
        found, width = reach[:, 0] * (values @ kronrod), right - left
        gap = (reach[:, 0] * (values @ (kronrod - gauss))).detach().abs()
        estimate = total.index_put((index, panel), found, accumulate=True).detach()
        allowed = rtol * goal(estimate).abs()[index] * width / (edges[-1] - edges[0])
        # what rounding leaves of the values cannot be halved away
        floor = 8 * torch.finfo(like.dtype).eps * values.detach().abs().amax(-1) * width
        fine = gap <= torch.maximum(allowed, floor)
        done = fine | (used[index] > pieces)
        total = total.index_put((index[done], panel[done]), found[done], accumulate=True)
        error = error.index_put((index[done],), gap[done], accumulate=True)
        reached[index[done & ~fine]] = False
        index, panel = (t[~done].repeat(2) for t in (index, panel))
        left, right = left[~done], right[~done]
        left, right = (
            torch.cat([left, (left + right) / 2]),
            torch.cat([(left + right) / 2, right]),
        )
    return Integral(total, error, reached)


def legendre(count: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes and weights of Gauss-Legendre quadrature on [0, 1] (Golub & Welsch 1969).

    Args:
        count: number n of nodes.
        like: a tensor whose dtype and device are those of the result.

    Returns:
        nodes (n,), increasing, and weights (n,), which sum to 1.
    """
    i = torch.arange(1, count, dtype=torch.float64)
    beside = i / (4 * i**2 - 1).sqrt()
    values, vectors = torch.linalg.eigh(torch.diag(beside, 1) + torch.diag(beside, -1))
    return ((values + 1) / 2).to(like), (vectors[0] ** 2).to(like)


def clenshaw_curtis(count: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes and weights of the rule of Clenshaw & Curtis (1960) on [0, 1], ends included.

    Every second node of ``2 count`` intervals is one of ``count``.

    Args:
        count: number n of intervals, even.
        like: a tensor whose dtype and device are those of the result.

    Returns:
        nodes (n + 1,), increasing, and weights (n + 1,), positive, which sum to 1.

    Raises:
        ValueError: for an odd number, or one below 2.
    """
    if count < 2 or count % 2:
        raise ValueError(f"count must be even and at least 2, got {count}")
    angle = math.pi * torch.arange(count + 1, dtype=torch.float64) / count
    order = 2 * torch.arange(count // 2 + 1, dtype=torch.float64)
    # integrals of the even Chebyshev polynomials; the first and the last have half a weight
    part = 2 / (1 - order**2)
    part[[0, -1]] /= 2
    weights = torch.cos(torch.outer(angle, order)) @ part / count
    weights[[0, -1]] /= 2
    return ((1 - angle.cos()) / 2).to(like), weights.to(like)
