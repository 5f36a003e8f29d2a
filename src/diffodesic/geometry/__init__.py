"""Metrics, energies of paths, geodesics, and the solvers that find them."""

from diffodesic.geometry.boundary_value import distance, geodesic
from diffodesic.geometry.constraints import Verdict, constrained_geodesic, verify
from diffodesic.geometry.exponential import exp, log, mean, transport
from diffodesic.geometry.graph_start import graph_path
from diffodesic.geometry.metric import Metric
from diffodesic.geometry.path import Certificate, Geodesic
from diffodesic.geometry.solvers.reference.adam_spline import AdamSpline
from diffodesic.geometry.solvers.relax import Relax
from diffodesic.geometry.status import Status

__all__ = [
    "AdamSpline",
    "Certificate",
    "Geodesic",
    "Metric",
    "Relax",
    "Status",
    "Verdict",
    "constrained_geodesic",
    "distance",
    "exp",
    "geodesic",
    "graph_path",
    "log",
    "mean",
    "transport",
    "verify",
]
