"""Derivatives of maps of tensors: products with a Jacobian, and the covector of a bilinear form."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from diffodesic.numerics.cost import current, record

__all__ = ["is_transformed", "jvp", "lower", "piece", "track_vjp", "untransformed"]


def piece(count: int, limit: int | None) -> int:
    """Size of the fewest, nearly equal pieces of ``count`` things, at most ``limit`` in each.

    Equal, for a short last one is rounded otherwise than a full one, and a long search makes much
    of it: torch's convolutions give an input the same bits in any company from 16 inputs on.

    Returns:
        the size, at least 1; without a limit ``count``.
    """
    calls = -(-count // limit) if limit else 1
    return max(1, -(-count // max(1, calls)))


def track_vjp(output: Tensor, count: int) -> Tensor:
    """Count ``count`` derivatives when a backward pass goes through ``output``."""
    scopes = current()
    if not scopes[0] or not output.requires_grad or is_transformed(output):
        return output

    # The scopes are bound now: autograd may run the hook on another thread, outside the context.
    def on_backward(_: Tensor) -> None:
        record(derivatives=count, scopes=scopes)

    output.register_hook(on_backward)
    return output


def is_transformed(tensor: Tensor) -> bool:
    """Tell whether ``tensor`` lives inside a torch.func transform, where hooks do not fire."""
    return torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def untransformed(tensor: Tensor) -> Tensor:
    """The plain values of ``tensor`` inside any ``torch.func`` transform, for checks only."""
    while is_transformed(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor.detach()


def jvp(
    function: Callable[..., Tensor], inputs: tuple[Tensor, ...], tangents: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """``(f(x), f'(x) v)`` in forward mode; both keep the reverse-mode graph of ``inputs``."""
    value, tangent = torch.func.jvp(function, inputs, tangents)  # type: ignore[misc]
    return value, tangent


def lower(inner: Callable[[Tensor, Tensor, Tensor], Tensor], x: Tensor, u: Tensor) -> Tensor:
    """Covector ``v -> inner(x, u, v)``, differentiable in ``x`` and ``u``.

    Args:
        inner: a form that is linear in its last argument, (..., d) each, result (...).
        x: points (..., d).
        u: vectors (..., d).

    Returns:
        covectors (..., d).

    Cost: one call of ``inner`` and one backward pass.
    """
    with torch.enable_grad():
        v = torch.zeros_like(u).requires_grad_()
        (out,) = torch.autograd.grad(inner(x, u, v).sum(), v, create_graph=True)
    return out
