"""Geodesics, distances and paths in the geometry that a diffusion model has learned."""

from diffodesic.calculus import Cost, counting
from diffodesic.counterexample import FisherRao, decoder_pullback
from diffodesic.curve import Polyline, Spline
from diffodesic.denoiser import Denoiser
from diffodesic.descent import Status
from diffodesic.dimension import dimension_from_slope, flipd
from diffodesic.divergence import (
    Divergences,
    divergences,
    jeffreys,
    kl,
    kl_along,
    log_density,
    log_partition,
    sandwich,
)
from diffodesic.dual import e_geodesic, m_geodesic
from diffodesic.flow import drop, lift, sample_posterior
from diffodesic.gaussian import AnisotropicGaussian, TwoPointData
from diffodesic.geodesic import Certificate, Geodesic, distance, geodesic
from diffodesic.hyperbolic import Hyperbolic
from diffodesic.image import shipped_digits
from diffodesic.interpolate import Interpolation, interpolate
from diffodesic.metric import Conformal, Euclidean, Metric, Pullback
from diffodesic.mismatch import mismatch_length, mismatch_steps
from diffodesic.mixture import GaussianMixture
from diffodesic.model import Model, load
from diffodesic.parametrization import NetworkDenoiser, from_network
from diffodesic.schedule import (
    EDM,
    VP,
    Cosine,
    FlowMatching,
    LinearLogSNR,
    Schedule,
    Tabulated,
)
from diffodesic.score import ScoreJacobian, ScoreMetric
from diffodesic.shooting import exp, log, mean, transport
from diffodesic.solver import AdamSpline, Relax
from diffodesic.spacetime import Spacetime

__version__ = "0.1.0"

__all__ = [
    "EDM",
    "VP",
    "AdamSpline",
    "AnisotropicGaussian",
    "Certificate",
    "Conformal",
    "Cosine",
    "Cost",
    "Denoiser",
    "Divergences",
    "Euclidean",
    "FisherRao",
    "FlowMatching",
    "GaussianMixture",
    "Geodesic",
    "Hyperbolic",
    "Interpolation",
    "LinearLogSNR",
    "Metric",
    "Model",
    "NetworkDenoiser",
    "Polyline",
    "Pullback",
    "Relax",
    "Schedule",
    "ScoreJacobian",
    "ScoreMetric",
    "Spacetime",
    "Spline",
    "Status",
    "Tabulated",
    "TwoPointData",
    "counting",
    "decoder_pullback",
    "dimension_from_slope",
    "distance",
    "divergences",
    "drop",
    "e_geodesic",
    "exp",
    "flipd",
    "from_network",
    "geodesic",
    "interpolate",
    "jeffreys",
    "kl",
    "kl_along",
    "lift",
    "load",
    "log",
    "log_density",
    "log_partition",
    "m_geodesic",
    "mean",
    "mismatch_length",
    "mismatch_steps",
    "sample_posterior",
    "sandwich",
    "shipped_digits",
    "transport",
]
