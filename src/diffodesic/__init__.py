"""Geodesics, distances and paths in the geometry that a diffusion model has learned."""

from diffodesic.calculus import Cost, counting
from diffodesic.curve import Polyline, Spline
from diffodesic.denoiser import Denoiser
from diffodesic.descent import Status
from diffodesic.geodesic import Certificate, Geodesic, distance, geodesic
from diffodesic.metric import Conformal, Euclidean, Metric, Pullback, ScoreJacobian, ScoreMetric
from diffodesic.mixture import GaussianMixture
from diffodesic.shooting import exp, log, mean, transport
from diffodesic.solver import AdamSpline, Relax
from diffodesic.spacetime import Hyperbolic, Spacetime

__version__ = "0.1.0"

__all__ = [
    "AdamSpline",
    "Certificate",
    "Conformal",
    "Cost",
    "Denoiser",
    "Euclidean",
    "GaussianMixture",
    "Geodesic",
    "Hyperbolic",
    "Metric",
    "Polyline",
    "Pullback",
    "Relax",
    "ScoreJacobian",
    "ScoreMetric",
    "Spacetime",
    "Spline",
    "Status",
    "counting",
    "distance",
    "exp",
    "geodesic",
    "log",
    "mean",
    "transport",
]
