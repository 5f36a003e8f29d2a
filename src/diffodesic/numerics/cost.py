"""Counting of work: evaluations and derivatives of a network, gradients of an energy at a node."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

__all__ = ["Cost", "counting", "record"]


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
