"""Spacetime: the Fisher-Rao geometry of denoising posteriors (2505.17517)."""

from diffodesic.metrics.spacetime.closed_forms import AnisotropicGaussian, TwoPointData
from diffodesic.metrics.spacetime.consistency import PathDiagnostics, path_diagnostics
from diffodesic.metrics.spacetime.constraints import AvoidRegion, MinLogSNR
from diffodesic.metrics.spacetime.dimension import (
    denoising_dimension,
    dimension_from_slope,
    flipd,
    normal_bundle,
    spectral_dimension,
)
from diffodesic.metrics.spacetime.estimators.base import SpacetimeEnergy
from diffodesic.metrics.spacetime.estimators.closure import Closure
from diffodesic.metrics.spacetime.estimators.entropy import Mismatch
from diffodesic.metrics.spacetime.estimators.secant import Secant
from diffodesic.metrics.spacetime.estimators.two_point import TwoPoint
from diffodesic.metrics.spacetime.gaussian import Hyperbolic
from diffodesic.metrics.spacetime.metric import Spacetime
from diffodesic.metrics.spacetime.mismatched_estimation import (
    mismatch_length,
    mismatch_steps,
    relative_entropy,
)
from diffodesic.metrics.spacetime.posterior_divergences import (
    Divergences,
    divergences,
    jeffreys,
    kl,
    kl_along,
    log_density,
    log_partition,
    sandwich,
)
from diffodesic.metrics.spacetime.straight_lines import e_geodesic, m_geodesic

__all__ = [
    "AnisotropicGaussian",
    "AvoidRegion",
    "Closure",
    "Divergences",
    "Hyperbolic",
    "MinLogSNR",
    "Mismatch",
    "PathDiagnostics",
    "Secant",
    "Spacetime",
    "SpacetimeEnergy",
    "TwoPoint",
    "TwoPointData",
    "denoising_dimension",
    "dimension_from_slope",
    "divergences",
    "e_geodesic",
    "flipd",
    "jeffreys",
    "kl",
    "kl_along",
    "log_density",
    "log_partition",
    "m_geodesic",
    "mismatch_length",
    "mismatch_steps",
    "normal_bundle",
    "path_diagnostics",
    "relative_entropy",
    "sandwich",
    "spectral_dimension",
]
