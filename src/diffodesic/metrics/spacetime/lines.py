"""Curves through points of spacetime: splines in a chart of bounded size, lines in eta."""

from __future__ import annotations

from torch import Tensor

from diffodesic.metrics.spacetime.gaussian import Hyperbolic
from diffodesic.metrics.spacetime.points import from_natural, natural
from diffodesic.numerics.curves import Charted, Polyline

__all__ = ["natural_curve", "natural_segments"]


def natural_curve(gaussian: Hyperbolic, nodes: Tensor) -> Polyline:
    """The C2 spline through nodes (..., n+1, D+1) in the chart of a Gaussian posterior."""
    return Charted(nodes, gaussian.chart, gaussian.unchart)


def natural_segments(nodes: Tensor) -> Polyline:
    """The polyline through nodes (..., n+1, D+1) that is straight in the natural parameters."""
    return Charted(nodes, natural, from_natural, Polyline)
