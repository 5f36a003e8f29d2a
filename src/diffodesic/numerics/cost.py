"""Counting of work: calls of a denoiser, gradients of a path's energy, energies of a potential."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

__all__ = ["Cost", "counting", "record"]


@dataclass
class Cost:
    """Work done inside a ``counting()`` scope; a call on a batch of n points counts n.

    Attributes:
        evaluations: forward passes of a denoiser.
        derivatives: Jacobian products of a denoiser.
        node_gradients: gradients of the energy of a path by one node; an energy alone is a third.
        energies: energies of a potential, with or without their gradient.
    """

    evaluations: int = 0
    derivatives: int = 0
    node_gradients: float = 0.0
    energies: int = 0


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


def record(
    *, evaluations: int = 0, derivatives: int = 0, node_gradients: float = 0.0, energies: int = 0
) -> None:
    """Add work to every open scope."""
    for cost in _open_scopes.get():
        cost.evaluations += evaluations
        cost.derivatives += derivatives
        cost.node_gradients += node_gradients
        cost.energies += energies
