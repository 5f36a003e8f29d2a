"""Derivatives, linear solves and ODE steps on plain tensors, and the count of what they cost.

Cost is counted where it happens and split in three (a call on a batch
of n points counts n):

- ``evaluations``: forward passes of the denoiser,
- ``derivatives``: Jacobian products of the denoiser, forward (JVP) or backward (VJP), each beside
  the forward pass that it shares,
- ``node_gradients``: one node, one gradient of a discrete curve energy; an energy without its
  gradient counts a third. This is the unit in which solvers are compared.

Counting is scoped: ``with counting() as cost: ...`` sees everything inside it, nested scopes too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = [
    "Cost",
    "IntegrationError",
    "conjugate_gradient",
    "counting",
    "jvp",
    "record",
    "rk45",
    "track_vjp",
]


class IntegrationError(RuntimeError):
    """An ODE could not be followed to its end: it stops being finite, or is too stiff."""


@dataclass
class Cost:
    """Work done inside a ``counting()`` scope."""

    evaluations: int = 0
    derivatives: int = 0
    node_gradients: float = 0.0


_open_scopes: ContextVar[tuple[Cost, ...]] = ContextVar("diffodesic_cost", default=())


@contextmanager
def counting() -> Iterator[Cost]:
    """Count the work done inside the ``with`` block."""
    cost = Cost()
    token = _open_scopes.set((*_open_scopes.get(), cost))
    try:
        yield cost
    finally:
        _open_scopes.reset(token)


def record(*, evaluations: int = 0, derivatives: int = 0, node_gradients: float = 0.0) -> None:
    """Add work to every open scope."""
    for cost in _open_scopes.get():
        cost.evaluations += evaluations
        cost.derivatives += derivatives
        cost.node_gradients += node_gradients


def piece(count: int, limit: int | None) -> int:
    """Size of the fewest, nearly equal pieces of ``count`` things, at most ``limit`` in each.

    Equal, for a short last one is rounded otherwise than a full one, and a long search makes much
    of it: torch's convolutions give an input the same bits in any company from 16 inputs on.

    Args:
        count: number of things.
        limit: largest piece, >= 1; None for no limit.

    Returns:
        the size, at least 1.
    """
    calls = -(-count // limit) if limit else 1
    return max(1, -(-count // max(1, calls)))


def track_vjp(output: Tensor, count: int) -> Tensor:
    """Count ``count`` derivatives when a backward pass goes through ``output``."""
    scopes = _open_scopes.get()
    if not scopes or not output.requires_grad or _is_transformed(output):
        return output

    # The scopes are bound now: autograd may run the hook on another thread, outside the context.
    def on_backward(_: Tensor) -> None:
        for cost in scopes:
            cost.derivatives += count

    output.register_hook(on_backward)
    return output


def _is_transformed(tensor: Tensor) -> bool:
    """Tell whether ``tensor`` lives inside a torch.func transform, where hooks do not fire."""
    return torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def jvp(
    function: Callable[..., Tensor], inputs: tuple[Tensor, ...], tangents: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """Value and directional derivative by forward-mode differentiation.

    Args:
        function: maps tensors to one tensor.
        inputs: where to differentiate.
        tangents: directions, shaped as ``inputs``.

    Returns:
        ``(f(x), f'(x) v)``; both keep the reverse-mode graph of ``inputs``.
    """
    value, tangent = torch.func.jvp(function, inputs, tangents)  # type: ignore[misc]
    return value, tangent


def conjugate_gradient(
    operator: Callable[[Tensor], Tensor],
    b: Tensor,
    *,
    rtol: float = 1e-12,
    iterations: int | None = None,
) -> Tensor:
    """Solve ``A x = b`` for symmetric positive definite ``A``, each batch entry for itself.

    Args:
        operator: ``A`` as a map of ``(..., d)`` tensors.
        b: right-hand sides ``(..., d)``.
        rtol: stop when every residual is below ``rtol |b|``.
        iterations: limit; default ``2 d + 10`` (exact arithmetic needs d).

    Returns:
        ``x`` of shape ``(..., d)``.

    Raises:
        LinAlgError: if a residual is above ``sqrt(rtol)`` when the limit is reached.
    """
    x, r = torch.zeros_like(b), b.clone()
    p, rr = r.clone(), (r * r).sum(-1, keepdim=True)
    target = (rtol**2) * rr
    for _ in range(iterations or 2 * b.shape[-1] + 10):
        active = rr > target
        if not bool(active.any()):
            return x
        ap = operator(p)
        # A finished entry has r = p = 0 / 0: it is held still instead of divided by zero.
        pap = (p * ap).sum(-1, keepdim=True)
        alpha = torch.where(active & (pap > 0), rr / torch.where(pap > 0, pap, 1.0), 0.0)
        x, r = x + alpha * p, r - alpha * ap
        rr, before = (r * r).sum(-1, keepdim=True), rr
        p = r + torch.where(active, rr / torch.where(before > 0, before, 1.0), 0.0) * p
    if bool((rr > (rtol * (b * b).sum(-1, keepdim=True))).any()):
        raise torch.linalg.LinAlgError(  # type: ignore[attr-defined]
            "the metric tensor could not be inverted by conjugate gradients: it is singular or "
            "not positive definite at this point"
        )
    return x


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
