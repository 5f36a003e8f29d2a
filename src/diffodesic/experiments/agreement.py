"""How two measures agree: correlations with bootstrap intervals."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["correlation"]


def correlation(
    x: list[float], y: list[float], kind: str, resamples: int, seed: int
) -> tuple[float, float, float, float]:
    """A correlation, its bootstrap standard error, and a 95 % bootstrap interval.

    Args:
        x: N values.
        y: N values.
        kind: ``Pearson`` or ``Spearman``.
        resamples: of the pairs, with replacement.
        seed: of the resamples.

    Returns:
        value, standard error, lower and upper end of the interval.
    """
    values = torch.tensor([x, y], dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(0, len(x), (resamples, len(x)), generator=generator)
    drawn = torch.cat([values[:, None], values[:, index]], 1)  # (2, 1 + resamples, N)
    if kind == "Spearman":
        drawn = _ranks(drawn)
    centred = drawn - drawn.mean(-1, keepdim=True)
    found = (centred[0] * centred[1]).sum(-1) / centred.square().sum(-1).prod(0).sqrt()
    spread = found[1:][found[1:].isfinite()]
    low, high = torch.quantile(spread, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return float(found[0]), float(spread.std()), low, high


def _ranks(x: Tensor) -> Tensor:
    """Ranks along the last axis, ties at their mean."""
    ordered = x.sort(-1).values.contiguous()
    first = torch.searchsorted(ordered, x.contiguous())
    last = torch.searchsorted(ordered, x.contiguous(), right=True)
    return (first + last).to(x.dtype) / 2
