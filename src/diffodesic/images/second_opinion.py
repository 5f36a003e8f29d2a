"""A second estimate of a path in spacetime, and what it is used for.

A network's metric can be exploited by a solver.  :func:`mismatch_length` shares no formula with it;
two such estimates are not exploited at once.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from diffodesic.geometry.boundary_value import search
from diffodesic.geometry.metric import Metric
from diffodesic.geometry.path import Geodesic
from diffodesic.geometry.solvers.as_given import AsGiven
from diffodesic.geometry.status import Status
from diffodesic.metrics.spacetime.metric import Spacetime
from diffodesic.metrics.spacetime.mismatched_estimation import MARGIN, mismatch_length
from diffodesic.numerics.curves import constant_speed

__all__ = ["no_worse_than_start", "second_opinion"]


def second_opinion(space: Metric, nodes: Tensor, seed: int) -> tuple[float, float] | None:
    """Length of a path by another estimate, where there is one.

    Args:
        space: the metric.
        nodes: packed points of the path, (n + 1, D + 1).
        seed: of the paths of the estimate.

    Returns:
        the length and its standard error; None but for paths in spacetime that move and stay
        within the levels that the estimate needs.

    Cost: ``71 n`` evaluations.
    """
    if not isinstance(space, Spacetime) or bool((nodes[0] == nodes[-1]).all()):
        return None
    if float(nodes[:, -1].max()) > space.denoiser.log_snr_range[1] - MARGIN:
        return None
    return mismatch_length(space.denoiser, nodes, samples=2, levels=8, hubs="alternate", seed=seed)


def no_worse_than_start(path: Geodesic, seed: int, *, refine: int) -> tuple[Geodesic, list[str]]:
    """The path, or its start where an independent estimate finds that one shorter.

    Args:
        path: a solved path.
        seed: of the estimate.
        refine: of its certificate.

    Returns:
        the path that is kept, and a notice if it is the start.

    Cost: two times that of :func:`second_opinion`.
    """
    # a network's metric can be exploited; two estimates that share no formula are not, at once
    space = path.metric
    if not isinstance(space, Spacetime) or path.start[0] == "given":
        return path, []
    a, b, nodes = path.nodes[:1], path.nodes[-1:], len(path.nodes) - 1
    start = path.objective.starts(a, b, nodes)[path.start[0]]
    with torch.no_grad():
        start = constant_speed(
            path.objective.curve(start), space.squared_steps(start).clamp(min=0).sqrt(), nodes
        )
        checks = [second_opinion(space, each, seed) for each in (path.nodes, start[0])]
    if not checks[0] or not checks[1] or checks[0][0] <= checks[1][0] + 2 * checks[1][1]:
        return path, []
    kept = search(
        space,
        a[0],
        b[0],
        nodes=nodes,
        solver=AsGiven(Status.HELD_BACK),
        init=start[0],
        refine=refine,
    )
    notice = (
        f"the solver's path is longer than its start by an independent estimate ({checks[0][0]:.3g}"
        f" against {checks[1][0]:.3g}): the start is kept; the model's Jacobian misleads here"
    )
    return replace(kept, start=path.start), [notice]
