"""Other limits for a solver, by the two names that every verb and every command has."""

from __future__ import annotations

import math
from dataclasses import replace

from diffodesic.geometry.energy import Solver
from diffodesic.geometry.solvers.redraw import Redraw
from diffodesic.geometry.solvers.relax import Relax

__all__ = ["limited"]


def limited(solver: Solver, iterations: int | None = None, rtol: float | None = None) -> Solver:
    """The same search with other limits.

    Args:
        solver: the search.
        iterations: limit on its rounds of descent: of the search among splines where it is one, in
            whole judgements where it has these.
        rtol: its tolerance.

    Returns:
        a solver.

    Raises:
        ValueError: for a solver that has no such limits.
    """
    if iterations is None and rtol is None:
        return solver
    if not isinstance(solver, Redraw | Relax):
        raise ValueError(
            f"iterations and rtol are no options of {type(solver).__name__}, which runs a fixed "
            "number of steps: leave them out"
        )
    if rtol is not None:
        solver = replace(solver, rtol=rtol)
    if iterations is None:
        return solver
    if isinstance(solver, Redraw):
        return replace(solver, judgements=math.ceil(iterations / (solver.rounds * solver.draws)))
    if solver.splines:
        return replace(solver, splines=(*solver.splines[:2], iterations))
    return replace(solver, iterations=iterations)
