r"""Monotone interpolation by a C1 piecewise cubic (Fritsch and Butland 1984), and its inverse.

On a segment of width h, u = (x - x_i)/h in [0, 1],

    y = c0 + c1 u + c2 u^2 + c3 u^3,

with slopes at the inner knots that are weighted harmonic means of the chords on both sides, which
keeps every segment monotone, and with the chords' own slopes at the two ends.  The inverse is found
by bisection and two Newton steps, the latter so that it can be differentiated to third order.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["MonotoneCubic"]


class MonotoneCubic:
    """C1 piecewise cubic through (x, y), monotone where the data are.

    Args:
        x: knots (n,), n >= 2, rising.
        y: values at them (n,), strictly rising or falling where the inverse is asked for.
    """

    def __init__(self, x: Tensor, y: Tensor) -> None:
        h = x.diff()
        chord = y.diff() / h
        before, after = chord[:-1], chord[1:]
        weighted = (2 * h[1:] + h[:-1]) / before + (h[1:] + 2 * h[:-1]) / after
        inner = torch.where(before * after > 0, 3 * (h[1:] + h[:-1]) / weighted, 0.0)
        slope = torch.cat([chord[:1], inner, chord[-1:]])
        self.x, self.width = x, h
        rise, left, right = y.diff(), h * slope[:-1], h * slope[1:]
        self.coefficients = torch.stack(
            [y[:-1], left, 3 * rise - 2 * left - right, left + right - 2 * rise], -1
        )

    def __call__(self, x: Tensor) -> Tensor:
        """Value at ``x`` (...); the end cubics continue beyond the ends."""
        segment = torch.searchsorted(self.x.to(x), x.detach().contiguous(), right=True) - 1
        start, width, c = self._segment(segment, x)
        u = (x - start) / width
        return ((c[..., 3] * u + c[..., 2]) * u + c[..., 1]) * u + c[..., 0]

    def inverse(self, y: Tensor, segment: Tensor) -> Tensor:
        """The ``x`` whose value is ``y`` (...) within its ``segment`` (...)."""
        start, width, c = self._segment(segment, y)
        c0, c1, c2, c3 = c.unbind(-1)
        low, high = torch.zeros_like(y), torch.ones_like(y)
        target = y.detach()
        for _ in range(30):
            middle = (low + high) / 2
            # c1 is the slope at the left end: its sign says whether values rise or fall
            short = (((c3 * middle + c2) * middle + c1) * middle + c0 - target) * c1 < 0
            low, high = torch.where(short, middle, low), torch.where(short, high, middle)
        u = (low + high) / 2
        for _ in range(2):  # two Newton steps: rounding, and derivatives to third order
            value = ((c3 * u + c2) * u + c1) * u + c0
            u = u - (value - y) / ((3 * c3 * u + 2 * c2) * u + c1)
        return start + u * width

    def _segment(self, index: Tensor, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        index = index.clamp(0, len(self.width) - 1)
        flat = index.reshape(-1)  # vmap has no rule for indexing by one number
        start, width, c = (
            part.to(like)[flat].reshape(index.shape + part.shape[1:])
            for part in (self.x, self.width, self.coefficients)
        )
        return start, width, c
