r"""Constraints on curves: paths of least energy that keep out of where they may not go.

A constraint is a function of a curve's points, x (..., m, d) -> values (..., p), kept where all
values are >= 0: :class:`MinLogSNR` (low noise), :class:`AvoidRegion` (stay a relative entropy away
from a posterior), or any callable.  Constraints are enforced
(:mod:`diffodesic.geometry.solvers.lagrangian`) and then verified on a grid finer than the nodes,
along the spline that a geodesic is.

The region of 2505.17517 is meant here by its absolute relative entropy,

    KL(z* || z) = (eta* - eta).mu* - psi(eta*) + psi(eta) >= rho,

which no choice of anchor can switch off; along a curve d KL = d_eta.(mu - mu*).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

import torch
from torch import Tensor

from diffodesic.geometry.boundary_value import search
from diffodesic.geometry.energy import Progress
from diffodesic.geometry.metric import Metric
from diffodesic.geometry.path import Geodesic
from diffodesic.geometry.solvers.lagrangian import AugmentedLagrangian, Constraint
from diffodesic.numerics import checks

__all__ = ["ConstrainedGeodesic", "Verdict", "constrained_geodesic", "verify"]


class Verdict(Enum):
    """What the refined grid says of a path; the value is a sentence with advice, worst last."""

    KEPT = "every constraint holds, and at least one shapes the path"
    INERT = "every constraint holds, and none is near its limit: the path keeps them by itself"
    BROKEN = (
        "a constraint is broken somewhere along the path; raise `nodes` or `rounds`, or give a "
        "first path that keeps it as `init`"
    )
    END_BREAKS = (
        "an end point breaks a constraint, so no path can keep it; move the end or loosen the "
        "constraint"
    )


@dataclass(frozen=True)
class ConstrainedGeodesic:
    """A path and what the refined grid says of its constraints.

    Attributes:
        geodesic: the path, its certificate in the metric alone.
        constraints: those asked for.
        margins: smallest value of every constraint along the path, (..., C); negative is broken.
        verdicts: one per pair, in row-major order.
    """

    geodesic: Geodesic
    constraints: tuple[Constraint, ...]
    margins: Tensor
    verdicts: tuple[Verdict, ...]

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of the batch."""
        return max(self.verdicts, key=list(Verdict).index)

    @property
    def nodes(self) -> Tensor:
        """Nodes of the path, (..., n+1, d)."""
        return self.geodesic.nodes

    @property
    def length(self) -> Tensor:
        """Refined length in the metric, (...)."""
        return self.geodesic.length


def constrained_geodesic(
    metric: Metric,
    a: Tensor,
    b: Tensor,
    constraints: Sequence[Constraint],
    *,
    nodes: int = 64,
    init: Tensor | None = None,
    method: AugmentedLagrangian | None = None,
    progress: Progress | None = None,
) -> ConstrainedGeodesic:
    """Path of least energy between two points among those that keep constraints.

    The constraints hold on a grid finer than the nodes (``method.refine``), where they are enforced
    and then verified.  Which side of a region the path takes is the first path's choice.

    Args:
        metric: the geometry.
        a: starts (..., d).
        b: ends (..., d), broadcast against ``a``.
        constraints: functions of a curve's points, each (..., m, d) -> (..., p), >= 0 where kept.
        nodes: number n of segments.
        init: a first path (..., k+1, d), which may break the constraints and chooses the side of
            what it avoids; default the geodesic without them.
        method: how the constraints are enforced; default ``AugmentedLagrangian()``.
        progress: called with a short line and the paths (B, n+1, d).

    Returns:
        the path, the margins and the verdicts.

    Raises:
        ValueError: for no constraints, or as for ``geodesic``.

    Cost: a warm-started solve per round, and ``method.refine * nodes`` values of every constraint
    with their gradient per solver step.
    """
    checks.of_kind(metric, "metric", Metric)
    if not constraints:
        raise ValueError("constraints is empty; give at least one, or call geodesic")
    solver = replace(method or AugmentedLagrangian(), constraints=tuple(constraints))
    path = search(
        metric,
        a,
        b,
        nodes=nodes,
        solver=solver,
        init=init,
        refine=solver.refine,
        progress=progress,
    )
    return verify(path, constraints, refine=solver.refine)


def verify(
    path: Geodesic, constraints: Sequence[Constraint], *, refine: int = 8
) -> ConstrainedGeodesic:
    """Look at constraints along a path, on a grid finer than its nodes.

    Args:
        path: the path.
        constraints: see :func:`constrained_geodesic`.
        refine: how many times finer.

    Returns:
        the path with margins and verdicts. A constraint counts as near its limit where its
        smallest value is below 5 % of its range along the path.

    Raises:
        ValueError: for no constraints, or ``refine < 1``.
    """
    if not constraints or refine < 1:
        raise ValueError(
            f"verify was given {len(constraints)} constraints and refine {refine}; give at least "
            "one of each"
        )
    count = refine * (path.nodes.shape[-2] - 1) + 1
    s = torch.linspace(0, 1, count, dtype=path.nodes.dtype, device=path.nodes.device)
    fine = path(s).reshape(-1, count, path.nodes.shape[-1])
    with torch.no_grad():
        values = [constraint(fine) for constraint in constraints]
        ends = [constraint(fine[:, [0, -1]]) for constraint in constraints]
    margins = torch.stack([value.amin(-1) for value in values], -1)
    spans = torch.stack([value.amax(-1) - value.amin(-1) for value in values], -1)
    rounding = 1e-9 * (spans + margins.abs())
    # NaN keeps nothing
    at_end = ~(torch.stack([value.amin(-1) for value in ends], -1) >= -rounding)
    verdicts = tuple(
        _judge(*found)
        for found in zip(
            at_end.any(-1).tolist(),
            (~(margins >= -rounding)).any(-1).tolist(),
            (margins < 0.05 * spans).any(-1).tolist(),
            strict=True,
        )
    )
    margins = margins.reshape(*path.nodes.shape[:-2], len(constraints))
    return ConstrainedGeodesic(path, tuple(constraints), margins, verdicts)


def _judge(end_breaks: bool, broken: bool, near: bool) -> Verdict:
    if end_breaks:
        return Verdict.END_BREAKS
    if broken:
        return Verdict.BROKEN
    return Verdict.KEPT if near else Verdict.INERT
