"""Metrics of a diffusion model, and elementary ones."""

from diffodesic.metrics.continuation import Alarm, Continuation, Stop, continue_path
from diffodesic.metrics.counterexamples import FisherRao, decoder_pullback
from diffodesic.metrics.density import DensityMetric, InverseDensity, ScoreSize
from diffodesic.metrics.elementary import Conformal, Euclidean, Pullback
from diffodesic.metrics.score import ScoreMetric
from diffodesic.metrics.score_curvature import ricci_scalar, sectional_curvature
from diffodesic.metrics.score_jacobian import ScoreJacobian

__all__ = [
    "Alarm",
    "Conformal",
    "Continuation",
    "DensityMetric",
    "Euclidean",
    "FisherRao",
    "InverseDensity",
    "Pullback",
    "ScoreJacobian",
    "ScoreMetric",
    "ScoreSize",
    "Stop",
    "continue_path",
    "decoder_pullback",
    "ricci_scalar",
    "sectional_curvature",
]
