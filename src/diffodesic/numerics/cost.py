"""Counting of work, where it happens; a call on a batch of n points counts n.

- ``evaluations``: forward passes of a denoiser,
- ``derivatives``: Jacobian products of a denoiser, forward (JVP) or backward (VJP), each beside the
  forward pass that it shares,
- ``node_gradients``: one node, one gradient of a discrete energy; an energy without its gradient
  counts a third.  This is the unit in which solvers are compared,
- ``energies``: energies of a potential, with or without forces.

Counting is scoped: ``with counting() as cost: ...`` sees everything inside it, nested scopes too.
A stage of a run has a name, ``with stage("searching"): ...``; the innermost name counts.  Whoever
knows beforehand what a stage takes says it by :func:`expect`, and whoever does many things of like
size one after another says it by :func:`part`, so that a reader who waits can be told how much is
done.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

__all__ = ["Cost", "counting", "current", "expect", "part", "record", "scaled", "stage", "total"]


@dataclass
class Cost:
    """Work done inside a ``counting()`` scope; a call on a batch of n points counts n.

    Attributes:
        evaluations: forward passes of a denoiser.
        derivatives: Jacobian products of a denoiser.
        node_gradients: gradients of the energy of a path by one node; an energy alone is a third.
        energies: energies of a potential, with or without their gradient.
        stages: evaluations, derivatives and energies together, by the name of their stage.
        expected: what the stages are expected to take, by name; see :func:`expect`.
        pairs: number of pairs that the expected work is for; 0 where it is for no pairs.
    """

    evaluations: int = 0
    derivatives: int = 0
    node_gradients: float = 0.0
    energies: int = 0
    stages: dict[str, int] = field(default_factory=dict, compare=False)
    expected: dict[str, int] = field(default_factory=dict, compare=False, repr=False)
    pairs: int = field(default=0, compare=False, repr=False)
    _done: int = field(default=0, compare=False, repr=False)  # parts before this one
    _parts: int = field(default=0, compare=False, repr=False)
    _before: dict[str, int] = field(default_factory=dict, compare=False, repr=False)

    @property
    def share(self) -> float | None:
        """How much of the expected work is done, from 0 to 1; None where nothing is expected.

        A stage that takes more than was expected makes the whole larger, not the share.
        """
        spent = {name: calls - self._before.get(name, 0) for name, calls in self.stages.items()}
        names = {*self.expected, *spent}
        whole = sum(max(self.expected.get(n, 0), spent.get(n, 0)) for n in names)
        inner = sum(spent.values()) / whole if self.expected and whole else None
        return (self._done + (inner or 0.0)) / self._parts if self._parts else inner

    def begin(self, parts: int) -> None:
        """Begin the next part of a run; see :func:`part`."""
        worked = self.stages != self._before
        if not self._parts:
            self._parts = parts
        elif worked:
            self._done += 1
        else:  # nothing was left to do in the last one
            self._parts -= 1
        self._parts = max(self._parts, self._done + 1)
        self._before, self.expected = dict(self.stages), {}


Scopes = tuple[tuple[Cost, ...], str]
"""The open scopes, and the name of the stage."""

_open: ContextVar[Scopes] = ContextVar("diffodesic_cost", default=((), ""))


@contextmanager
def counting() -> Iterator[Cost]:
    """Count the work done inside the ``with`` block."""
    cost, (scopes, name) = Cost(), _open.get()
    token = _open.set(((*scopes, cost), name))
    try:
        yield cost
    finally:
        _open.reset(token)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Name the work done inside the ``with`` block, or inside the function decorated with it."""
    token = _open.set((_open.get()[0], name))
    try:
        yield
    finally:
        _open.reset(token)


def expect(stages: Mapping[str, int], *, pairs: int = 0) -> None:
    """Tell every open scope what stages are expected to take in all.

    Args:
        stages: evaluations, derivatives and energies together, by the name of the stage.
        pairs: number of pairs that share this work equally, if any do.
    """
    for cost in _open.get()[0]:
        cost.expected |= stages
        cost.pairs = pairs or cost.pairs


def part(of: int) -> None:
    """Tell every open scope that the next of ``of`` parts of like size begins.

    A part in which no work was done counts for nothing: an earlier run may have done it.
    """
    for cost in _open.get()[0]:
        cost.begin(of)


def current() -> Scopes:
    """The open scopes, and the name of the stage, for work that is recorded later."""
    return _open.get()


def record(
    *,
    evaluations: int = 0,
    derivatives: int = 0,
    node_gradients: float = 0.0,
    energies: int = 0,
    scopes: Scopes | None = None,
) -> None:
    """Add work to every open scope, or to those that were open earlier."""
    open_, name = scopes or _open.get()
    calls = evaluations + derivatives + energies
    for cost in open_:
        cost.evaluations += evaluations
        cost.derivatives += derivatives
        cost.node_gradients += node_gradients
        cost.energies += energies
        if calls:
            cost.stages[name] = cost.stages.get(name, 0) + calls


def scaled(stages: Mapping[str, int], factor: float) -> dict[str, int]:
    """A multiple of the work of every stage."""
    return {name: round(factor * calls) for name, calls in stages.items()}


def total(*works: Mapping[str, int]) -> dict[str, int]:
    """Works by stage, added up."""
    summed: Counter[str] = Counter()
    for work in works:
        summed.update(work)
    return dict(summed)
