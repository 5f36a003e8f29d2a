"""Geodesics, distances and paths in the geometry that a diffusion model has learned."""

from diffodesic.calculus import Cost, counting
from diffodesic.chain import Chain, interpolate_through
from diffodesic.channel import Channel, channels, committor, effective_paths
from diffodesic.conformal import DensityMetric, InverseDensity, ScoreSize
from diffodesic.consistency import PathDiagnostics, path_diagnostics
from diffodesic.constraint import AvoidRegion, MinLogSNR, Verdict, constrained_geodesic, verify
from diffodesic.continuation import Alarm, Continuation, Stop, continue_path
from diffodesic.counterexample import FisherRao, decoder_pullback
from diffodesic.curve import Polyline, Spline
from diffodesic.denoiser import Denoiser
from diffodesic.descent import Status
from diffodesic.diagnose import Diagnosis, diagnose
from diffodesic.dimension import dimension_from_slope, flipd, normal_bundle
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
from diffodesic.edit import Edit, edit, edit_distance
from diffodesic.evaluate import Evaluation, evaluate
from diffodesic.extrapolate import Extrapolation, extrapolate
from diffodesic.flow import drop, lift, sample_posterior
from diffodesic.gauss import ricci_scalar, sectional_curvature
from diffodesic.gaussian import AnisotropicGaussian, TwoPointData
from diffodesic.geodesic import Certificate, Geodesic, distance, geodesic
from diffodesic.graph import graph_path
from diffodesic.hyperbolic import Hyperbolic
from diffodesic.image import shipped_digits
from diffodesic.interpolate import Interpolation, interpolate
from diffodesic.landscape import lowest_pass, string
from diffodesic.learned import LearnedDenoiser, load_denoiser
from diffodesic.level import NoiseLevel, choose_noise_level
from diffodesic.likely import LikelyPath, likely_path
from diffodesic.metric import Conformal, Euclidean, Metric, Pullback
from diffodesic.mismatch import mismatch_length, mismatch_steps, relative_entropy
from diffodesic.mixture import GaussianMixture
from diffodesic.model import Model, load
from diffodesic.neighbours import Neighbours, nearest
from diffodesic.pairwise import PairwiseDistances, pairwise
from diffodesic.parametrization import NetworkDenoiser, from_network
from diffodesic.pathsampling import plain_dynamics, two_way_shooting
from diffodesic.pathways import pathways
from diffodesic.potential import (
    DoubleWell,
    DualChannel,
    MuellerBrown,
    Potential,
    Ring,
    counting_energies,
    from_callable,
    relax,
)
from diffodesic.quadrature import GridDenoiser
from diffodesic.reference import AdamSpline
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
from diffodesic.selfcheck import SelfCheck, self_check
from diffodesic.shooting import exp, log, mean, transport
from diffodesic.solver import Relax
from diffodesic.spacetime import Spacetime
from diffodesic.sphere import SphereDenoiser
from diffodesic.surface import PeriodicSurface, alanine, read_grid
from diffodesic.train_law import LawSettings, train_denoiser
from diffodesic.transition import TransitionPaths, constant_noise, straight_line, transition_paths

__version__ = "0.1.0"

__all__ = [
    "EDM",
    "VP",
    "AdamSpline",
    "Alarm",
    "AnisotropicGaussian",
    "AvoidRegion",
    "Certificate",
    "Chain",
    "Channel",
    "Conformal",
    "Continuation",
    "Cosine",
    "Cost",
    "Denoiser",
    "DensityMetric",
    "Diagnosis",
    "Divergences",
    "DoubleWell",
    "DualChannel",
    "Edit",
    "Euclidean",
    "Evaluation",
    "Extrapolation",
    "FisherRao",
    "FlowMatching",
    "GaussianMixture",
    "Geodesic",
    "GridDenoiser",
    "Hyperbolic",
    "Interpolation",
    "InverseDensity",
    "LawSettings",
    "LearnedDenoiser",
    "LikelyPath",
    "LinearLogSNR",
    "Metric",
    "MinLogSNR",
    "Model",
    "MuellerBrown",
    "Neighbours",
    "NetworkDenoiser",
    "NoiseLevel",
    "PairwiseDistances",
    "PathDiagnostics",
    "PeriodicSurface",
    "Polyline",
    "Potential",
    "Pullback",
    "Relax",
    "Ring",
    "Schedule",
    "ScoreJacobian",
    "ScoreMetric",
    "ScoreSize",
    "SelfCheck",
    "Spacetime",
    "SphereDenoiser",
    "Spline",
    "Status",
    "Stop",
    "Tabulated",
    "TransitionPaths",
    "TwoPointData",
    "Verdict",
    "alanine",
    "channels",
    "choose_noise_level",
    "committor",
    "constant_noise",
    "constrained_geodesic",
    "continue_path",
    "counting",
    "counting_energies",
    "decoder_pullback",
    "diagnose",
    "dimension_from_slope",
    "distance",
    "divergences",
    "drop",
    "e_geodesic",
    "edit",
    "edit_distance",
    "effective_paths",
    "evaluate",
    "exp",
    "extrapolate",
    "flipd",
    "from_callable",
    "from_network",
    "geodesic",
    "graph_path",
    "interpolate",
    "interpolate_through",
    "jeffreys",
    "kl",
    "kl_along",
    "lift",
    "likely_path",
    "load",
    "load_denoiser",
    "log",
    "log_density",
    "log_partition",
    "lowest_pass",
    "m_geodesic",
    "mean",
    "mismatch_length",
    "mismatch_steps",
    "nearest",
    "normal_bundle",
    "pairwise",
    "path_diagnostics",
    "pathways",
    "plain_dynamics",
    "read_grid",
    "relative_entropy",
    "relax",
    "ricci_scalar",
    "sample_posterior",
    "sandwich",
    "sectional_curvature",
    "self_check",
    "shipped_digits",
    "straight_line",
    "string",
    "train_denoiser",
    "transition_paths",
    "transport",
    "two_way_shooting",
    "verify",
]
