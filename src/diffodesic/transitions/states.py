"""The two states of a transition: where paths begin and end.

A path may start and end at a minimum of U, or near one; a simulation takes balls around minima for
its states.  Periodic states are compared by the nearest image.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from diffodesic.transitions.potentials import Potential
from diffodesic.transitions.stationary import relax

__all__ = ["Basin", "check_apart", "checked_states", "warn_of_slopes"]

_NAMES = ("first", "second")
_FARTHEST = 30.0  # degrees that relaxation may turn a state: farther away it is another state


@dataclass(frozen=True)
class Basin:
    """A state: balls around points, by the nearest image.

    Several balls make one state of minima that exchange much faster than the transition happens.

    Args:
        centres: (D,) or (M, D).
        radius: in the units of the coordinates.
    """

    centres: Tensor
    radius: float

    def distance(self, potential: Potential, x: Tensor) -> Tensor:
        """Distance of points (..., D) from the nearest centre, (...)."""
        centres = self.centres.reshape(-1, self.centres.shape[-1])
        return potential.difference(x.unsqueeze(-2), centres).norm(dim=-1).amin(-1)

    def holds(self, potential: Potential, x: Tensor) -> Tensor:
        """Whether points (..., D) lie in the state, (...)."""
        return self.distance(potential, x) <= self.radius


def check_apart(potential: Potential, a: Basin, b: Basin) -> None:
    """Refuse two states that overlap."""
    apart = float(a.distance(potential, b.centres).min())
    if apart <= a.radius + b.radius:
        raise ValueError(
            f"the states are {apart:.3g} apart and their radii {a.radius:g} and {b.radius:g} "
            "overlap; give smaller radii"
        )


def checked_states(
    potential: Potential, states: Tensor, *, descend: bool
) -> tuple[Tensor, tuple[str, ...]]:
    """States that paths can start and end at: inside the box, at minima, apart.

    Saddles and peaks are no minima: those below them are found by :func:`relax`.

    Args:
        potential: U and kT.
        states: the two states (2, d).
        descend: replace them by the minima below them.

    Returns:
        the states (2, d), and what was changed.

    Raises:
        ValueError: for states of the wrong dimension, outside the box, where U or its slope is not
            finite, more than kT above the minimum below them or, where they are replaced, more than
            30 degrees from it; for angles that look like degrees; if both states are the same.

    **Cost** some hundred energies with gradient.
    """
    _check_inside(potential, states)
    minima, drops, texts = _descents(potential, states)
    notices = []
    for name, drop, text, gap in zip(
        _NAMES, drops, texts, potential.difference(states, minima), strict=True
    ):
        turned = math.degrees(float(gap.norm())) if _of_angles(potential) else 0.0
        if descend and turned > _FARTHEST:
            raise ValueError(
                f"the {name} state was {text}, {turned:.3g} degrees away: that is another state; "
                f"give one within {_FARTHEST:g} degrees of the minimum that is meant"
            )
        if descend and drop > 1e-3:
            notices.append(
                f"the {name} state was {text}, {_length(potential, gap)} away, which is used "
                "instead"
            )
        elif not descend and drop > 1:
            raise ValueError(
                f"the {name} state is no minimum: {text}; give that one, or relax the states "
                "(--relax)"
            )
        elif not descend and drop > 0.1:
            notices.append(f"the {name} state is not quite a minimum: {text}; --relax starts there")
    if float(potential.difference(minima[1], minima[0]).norm()) < 1e-2 * potential.size:
        raise ValueError(
            f"both states belong to the minimum {_text(potential, minima[0])}; "
            "give two different states"
        )
    return (minima if descend else states), tuple(notices)


def warn_of_slopes(potential: Potential, states: Tensor) -> None:
    """Warn of states (2, d) that lie more than kT above the minimum below them.

    Where U or its slope is not finite at one of them, it raises a ValueError.

    **Cost** some hundred energies with gradient.
    """
    _, drops, texts = _descents(potential, states)
    for name, drop, text in zip(_NAMES, drops, texts, strict=True):
        if drop > 1:
            warnings.warn(f"the {name} state is no minimum: {text}", RuntimeWarning, stacklevel=3)


def _check_inside(potential: Potential, states: Tensor) -> None:
    if states.shape[-1] != potential.dim:
        raise ValueError(
            f"the states have {states.shape[-1]} coordinates, {potential.name} has {potential.dim}"
        )
    for name, state in zip(_NAMES, states, strict=True):
        middle = state.new_tensor([sum(side) / 2 for side in potential.box])
        if _of_angles(potential) and float((state - middle).abs().max()) > 4 * math.pi:
            raise ValueError(
                f"the {name} state {_text(potential, state)} lies turns outside the domain; "
                f"{potential.name} takes radians, in which these numbers of degrees are "
                f"{_text(potential, torch.deg2rad(state))}"
            )
        sides = zip(state.tolist(), potential.box, potential.period, strict=True)
        if not all(
            math.isfinite(value) and (period is not None or low <= value <= high)
            for value, (low, high), period in sides
        ):
            box = " x ".join(f"[{low:g}, {high:g}]" for low, high in potential.box)
            raise ValueError(
                f"the {name} state {_text(potential, state)} lies outside the domain {box} "
                f"of {potential.name}"
            )


def _descents(potential: Potential, states: Tensor) -> tuple[Tensor, list[float], list[str]]:
    """The minima below states, how many kT they lie lower, and both in words."""
    before, slopes = potential.gradient(states)
    for name, state, u, slope in zip(_NAMES, states, before.tolist(), slopes, strict=True):
        if not (math.isfinite(u) and bool(slope.isfinite().all())):
            raise ValueError(
                f"at the {name} state {_text(potential, state)} {potential.name} has U = {u:g} and "
                f"the slope {slope.tolist()}; both must be finite: give another state, or mend U"
            )
    minima = relax(potential, states)
    after = potential(minima)
    texts = [
        f"{_text(potential, state)} with U = {_number(u, potential.kT)} {potential.unit}; the "
        f"minimum below it is {_text(potential, potential.wrap(low))} with U = "
        f"{_number(v, potential.kT)}"
        for state, u, low, v in zip(states, before.tolist(), minima, after.tolist(), strict=True)
    ]
    return minima, ((before - after) / potential.kT).tolist(), texts


def _length(potential: Potential, gap: Tensor) -> str:
    """The length of a difference (d,); of angles in degrees."""
    if _of_angles(potential):
        return f"{math.degrees(float(gap.norm())):.3g} degrees"
    return f"{float(gap.norm()):.3g}"


def _of_angles(potential: Potential) -> bool:
    """Whether all coordinates are angles in radians."""
    return set(potential.period) == {2 * math.pi}


def _text(potential: Potential, x: Tensor) -> str:
    return "(" + ", ".join(_number(v, potential.size) for v in x.tolist()) + ")"


def _number(value: float, scale: float) -> str:
    """Four digits; zero where a value is nothing beside the scale."""
    return f"{value:.4g}" if abs(value) > 1e-6 * scale or value != value else "0"
