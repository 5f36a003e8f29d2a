"""Potentials of one's own: any torch function of points, tried before it is believed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from diffodesic.numerics.words import in_short
from diffodesic.transitions.potentials import Box, Potential, positive

__all__ = ["check_function", "from_callable"]

_SAME = 1e-9  # relative difference of two energies of one point, which float64 rounds to 1e-15


class _Callable(Potential):
    """What :func:`from_callable` returns."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function

    def energy(self, x: Tensor) -> Tensor:
        out = self._answer(x)
        if not isinstance(out, Tensor) or out.shape != x.shape[:-1]:
            found = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise ValueError(
                f"the potential returned {found} for points of shape {tuple(x.shape)}; "
                f"it must return a tensor of shape {tuple(x.shape[:-1])}"
            )
        if not out.is_floating_point():
            raise ValueError(
                f"the potential returned {_kind(out)}; it must return real floating-point numbers"
            )
        if torch.finfo(out.dtype).eps > torch.finfo(x.dtype).eps:
            raise ValueError(
                f"the potential returned {_kind(out)} for points in {_kind(x)}, which ruins "
                "derivatives; let it compute in the dtype of its points"
            )
        if bool(torch.isnan(out).any()):
            where = x[torch.isnan(out)][0].tolist()
            raise ValueError(f"the potential returned NaN at {where}; check it there")
        return out.to(x.dtype)

    def _answer(self, x: Tensor) -> object:
        """What the function returns; what it raises, in a sentence."""
        try:
            return self.function(x)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except (Exception, SystemExit) as error:  # whatever the code of others leads to
            raise ValueError(
                f"the potential raised {in_short(error)}, for points of shape {tuple(x.shape)} in "
                f"{_kind(x)}; correct it"
            ) from error


def _kind(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def from_callable(
    function: Callable[[Tensor], Tensor],
    *,
    dim: int,
    kT: float,
    box: Box,
    unit: str,
    period: tuple[float | None, ...] | None = None,
    name: str = "potential",
) -> Potential:
    """Potential from any torch function.

    Args:
        function: maps (..., d) to energies (...), differentiable.
        dim: number d of coordinates.
        kT: temperature times Boltzmann's constant, in ``unit``.
        box: lowest and highest value of each coordinate; one period of a periodic one.
        unit: unit of energy, for tables and plots.
        period: period of each coordinate, None where it has none; default none is periodic.
        name: a short name.

    Returns:
        the potential.

    Raises:
        ValueError: if ``box`` or ``period`` do not fit ``dim``, or for what :func:`check_function`
            refuses.

    **Cost** three energies at 16 points, and one more per periodic coordinate.
    """
    out = _Callable(function)
    out.dim, out.kT, out.unit, out.name = dim, positive(kT, "kT"), unit, name
    out.period = (None,) * dim if period is None else tuple(period)
    out.box = tuple((float(low), float(high)) for low, high in box)
    if len(out.period) != dim or len(out.box) != dim:
        raise ValueError(
            f"period and box need one entry for each of the {dim} coordinates, "
            f"got {len(out.period)} and {len(out.box)}"
        )
    for (low, high), length in zip(out.box, out.period, strict=True):
        if not low < high or (length is not None and abs(high - low - length) > 1e-9 * length):
            raise ValueError(
                f"the box side {low:g} to {high:g} must increase, and span one period "
                f"where there is one (period {length})"
            )
    check_function(out)
    return out


def check_function(potential: Potential) -> None:
    """Refuse an energy that is no function of one point, by a trial at 16 points of the box.

    Args:
        potential: whose energies are code of others.

    Raises:
        ValueError: if the code raises, returns NaN, another shape or dtype, changes its points,
            gives another energy for the same point or in other company, or is not periodic where
            it is said to be.
    """
    points = potential.probes()
    x = points.clone()
    energy = potential.energy(x)
    if not torch.equal(x, points):
        raise ValueError(
            "the potential changes its points in place; work on x.clone(), or take the operation "
            "without the underscore"
        )

    def gap(found: Tensor, expected: Tensor) -> float:
        return float((found - expected).abs().max()) / (float(energy.abs().max()) + potential.kT)

    if gap(potential.energy(points), energy) > _SAME:
        raise ValueError(
            "the potential gives another energy for the same point; take random numbers and what "
            "it keeps from call to call out of it"
        )
    rows = potential.energy(points[-4:].unflatten(0, (2, 2))).flatten()
    if gap(rows, energy[-4:]) > _SAME:
        raise ValueError(
            "the potential's energy of one point depends on the other points of the call; write it "
            "with the coordinates on the last axis, x[..., 0] and on"
        )
    for length, axis in zip(potential.period, torch.eye(potential.dim).to(points), strict=True):
        if length is None:
            continue
        moved = gap(potential.energy(points + length * axis), energy)
        if moved > 1e-6:
            raise ValueError(
                f"coordinate {int(axis.argmax())} is said to have period {length:g}, but the "
                f"energy changes by a share of {moved:.3g} over it; correct `period`"
            )
