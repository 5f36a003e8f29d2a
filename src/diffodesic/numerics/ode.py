"""Initial-value problems: Dormand and Prince's adaptive method of order 5(4)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["IntegrationError", "rk45"]


class IntegrationError(RuntimeError):
    """An ODE could not be followed to its end: it stops being finite, or is too stiff."""


# Dormand & Prince (1980), order 5 with an embedded order 4.
_DP_A = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)

_DP_ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


def rk45(
    field: Callable[[float, Tensor], Tensor],
    y: Tensor,
    *,
    rtol: float = 1e-9,
    atol: float = 1e-12,
    max_steps: int = 10_000,
) -> Tensor:
    """Integrate ``y' = field(t, y)`` from t = 0 to 1 with adaptive Dormand-Prince steps.

    One step size serves the whole batch (the error norm is the largest over entries), so a
    result may move with its batch by the order of ``rtol``.

    Args:
        field: right-hand side on ``(..., d)`` tensors.
        y: state at t = 0, ``(..., d)``.
        rtol: relative tolerance per step.
        atol: absolute tolerance per step.
        max_steps: limit on attempted steps.

    Returns:
        the state at t = 1.

    Raises:
        IntegrationError: if the limit is reached or the state stops being finite.
    """
    t, h = 0.0, 0.05
    first = field(t, y)
    for _ in range(max_steps):
        h = min(h, 1.0 - t)
        slopes = [first]
        for row in _DP_A[1:]:
            slopes.append(field(t + h * sum(row), y + h * _combine(row, slopes)))
        after = y + h * _combine(_DP_A[6], slopes)
        scale = atol + rtol * torch.maximum(y.abs(), after.abs())
        error = float(((h * _combine(_DP_ERROR, slopes)) / scale).square().mean(-1).sqrt().max())
        if not error < float("inf"):
            h *= 0.1
            if h < 1e-10:
                raise IntegrationError(
                    "the integrated curve stops being finite; shorten the velocity"
                )
            continue
        if error <= 1.0:
            t, y, first = t + h, after, slopes[-1]
            if t >= 1.0 - 1e-14:
                return y
        h *= min(5.0, max(0.2, 0.9 * (error + 1e-30) ** -0.2))
    raise IntegrationError(f"the integration did not reach its end in {max_steps} steps")


def _combine(weights: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    total = torch.zeros_like(slopes[0])
    for weight, slope in zip(weights, slopes, strict=False):
        if weight != 0.0:
            total = total + weight * slope
    return total
