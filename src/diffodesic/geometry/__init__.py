"""Metrics, energies of paths, geodesics, and the solvers that find them."""

from diffodesic.geometry.boundary_value import UntilSettled, distance, geodesic, search
from diffodesic.geometry.constraints import (
    ConstrainedGeodesic,
    Verdict,
    constrained_geodesic,
    verify,
)
from diffodesic.geometry.energy import (
    Evaluation,
    Order,
    PathEnergy,
    Problem,
    Progress,
    Solution,
    Solver,
    discrete_energy,
    evaluate,
)
from diffodesic.geometry.exponential import exp, log, transport
from diffodesic.geometry.frechet import mean
from diffodesic.geometry.graph_start import graph_path
from diffodesic.geometry.metric import Metric, MetricEnergy
from diffodesic.geometry.path import Certificate, Geodesic
from diffodesic.geometry.solvers.lagrangian import AugmentedLagrangian
from diffodesic.geometry.solvers.redraw import Redraw
from diffodesic.geometry.solvers.reference.adam_spline import AdamSpline
from diffodesic.geometry.solvers.relax import Relax
from diffodesic.geometry.status import SearchWarning, Status
from diffodesic.geometry.wrappers import EnergyWrapper

__all__ = [
    "AdamSpline",
    "AugmentedLagrangian",
    "Certificate",
    "ConstrainedGeodesic",
    "EnergyWrapper",
    "Evaluation",
    "Geodesic",
    "Metric",
    "MetricEnergy",
    "Order",
    "PathEnergy",
    "Problem",
    "Progress",
    "Redraw",
    "Relax",
    "SearchWarning",
    "Solution",
    "Solver",
    "Status",
    "UntilSettled",
    "Verdict",
    "constrained_geodesic",
    "discrete_energy",
    "distance",
    "evaluate",
    "exp",
    "geodesic",
    "graph_path",
    "log",
    "mean",
    "search",
    "transport",
    "verify",
]
