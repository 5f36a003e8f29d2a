"""Counting of work, where it happens; a call on a batch of n points counts n.

- ``evaluations``: forward passes of a denoiser,
- ``derivatives``: Jacobian products of a denoiser, forward (JVP) or backward (VJP), each beside the
  forward pass that it shares,
- ``node_gradients``: one node, one gradient of a discrete energy; an energy without its gradient
  counts a third.  This is the unit in which solvers are compared,
- ``energies``: energies of a potential, with or without forces.

Counting is scoped: ``with counting() as cost: ...`` sees everything inside it, nested scopes too.
"""

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


open_scopes: ContextVar[tuple[Cost, ...]] = ContextVar("diffodesic_cost", default=())


@contextmanager
def counting() -> Iterator[Cost]:
    """Count the work done inside the ``with`` block."""
    cost = Cost()
    token = open_scopes.set((*open_scopes.get(), cost))
    try:
        yield cost
    finally:
        open_scopes.reset(token)


def record(
    *, evaluations: int = 0, derivatives: int = 0, node_gradients: float = 0.0, energies: int = 0
) -> None:
    """Add work to every open scope."""
    for cost in open_scopes.get():
        cost.evaluations += evaluations
        cost.derivatives += derivatives
        cost.node_gradients += node_gradients
        cost.energies += energies
