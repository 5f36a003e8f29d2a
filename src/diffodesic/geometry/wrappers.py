"""Energies made of other energies: each answers like what it wraps, but for what it changes.

A solver's trick (a search among splines, a penalty) is a wrapper.  Every public name of
:class:`PathEnergy` that the base below does not define is forwarded by construction, so that no
wrapper can lose one.
"""

from __future__ import annotations

from copy import copy
from operator import attrgetter

from torch import Tensor

from diffodesic.geometry.energy import Evaluation, Order, PathEnergy

__all__ = ["EnergyWrapper"]


class EnergyWrapper(PathEnergy):
    """An energy that answers like ``wrapped``; subclasses override what they change.

    Args:
        wrapped: the energy.
    """

    def __init__(self, wrapped: PathEnergy) -> None:
        self.wrapped = wrapped

    def evaluate(self, x: Tensor, *, order: Order = 1) -> Evaluation:
        """That of the wrapped energy."""
        return self.wrapped.evaluate(x, order=order)

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """That of the wrapped energy."""
        return self.wrapped.inner(x, u, v)

    def around(self, energy: PathEnergy) -> EnergyWrapper:
        """This wrapper around another energy."""
        other = copy(self)
        other.wrapped = energy
        return other

    def stages(self) -> tuple[PathEnergy, ...]:
        """The stages of the wrapped energy, each wrapped."""
        return (*(self.around(stage) for stage in self.wrapped.stages()[:-1]), self)

    def redrawn(self, seed: int) -> PathEnergy:
        """The wrapper around the redrawn energy."""
        return self.around(self.wrapped.redrawn(seed))

    def settled(self, a: Tensor, b: Tensor) -> PathEnergy:
        """The wrapper around the settled energy."""
        settled = self.wrapped.settled(a, b)
        return self if settled is self.wrapped else self.around(settled)


FORWARDED = [
    name
    for name in {**PathEnergy.__annotations__, **vars(PathEnergy)}
    if not name.startswith("_") and name not in vars(EnergyWrapper)
]
for _name in FORWARDED:
    setattr(EnergyWrapper, _name, property(attrgetter(f"wrapped.{_name}")))
