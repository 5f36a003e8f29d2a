"""A path is kept only if a second estimate does not find it longer than its start.

A network's metric can be exploited by a solver; two estimates that share no formula are not, at
once.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from diffodesic.geometry.path import Geodesic
from diffodesic.geometry.solvers.as_given import AsGiven
from diffodesic.geometry.status import Status
from diffodesic.images.placement import Placement
from diffodesic.numerics.curves import constant_speed

__all__ = ["no_worse_than_start"]


def no_worse_than_start(there: Placement, path: Geodesic) -> tuple[Geodesic, list[str]]:
    """The path, or its start where the second estimate of the space finds that one shorter.

    Args:
        there: the space.
        path: a solved path.

    Returns:
        the path that is kept, and a notice if it is the start.

    Cost: two times that of :meth:`Space.second_length`.
    """
    metric, seed, second = path.metric, there.lifting.seed, there.space.second_length
    solved = None if path.start[0] == "given" else second(metric, path.nodes, seed)
    if solved is None:
        return path, []
    a, b, nodes = path.nodes[:1], path.nodes[-1:], len(path.nodes) - 1
    start = path.objective.starts(a, b, nodes)[path.start[0]]
    with torch.no_grad():
        speeds = metric.squared_steps(start).clamp(min=0).sqrt()
        start = constant_speed(path.objective.curve(start), speeds, nodes)
        first = second(metric, start[0], seed)
    if first is None or solved[0] <= first[0] + 2 * first[1]:
        return path, []
    solver = AsGiven(Status.HELD_BACK)
    kept = there.geodesic(a[0], b[0], nodes=nodes, solver=solver, init=start[0])
    notice = (
        f"the solver's path is longer than its start by an independent estimate ({solved[0]:.3g} "
        f"against {first[0]:.3g}): the start is kept; the model's Jacobian misleads here"
    )
    return replace(kept, start=path.start), [notice]
