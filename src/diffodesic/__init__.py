"""Geodesics, distances and paths in the geometry that a diffusion model has learned.

The names that most programs need are here; all else is one package further
(``diffodesic.metrics.DensityMetric``).  Packages are imported when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffodesic import (
        denoisers,
        experiments,
        geometry,
        images,
        metrics,
        models,
        numerics,
        transitions,
    )
    from diffodesic.denoisers import schedules
    from diffodesic.denoisers.denoiser import Denoiser
    from diffodesic.denoisers.flow import drop, lift
    from diffodesic.denoisers.mixture import GaussianMixture
    from diffodesic.denoisers.network import from_network
    from diffodesic.geometry.boundary_value import distance, geodesic
    from diffodesic.geometry.constraints import constrained_geodesic
    from diffodesic.geometry.exponential import exp, log, transport
    from diffodesic.geometry.frechet import mean
    from diffodesic.geometry.metric import Metric
    from diffodesic.geometry.path import Certificate, Geodesic
    from diffodesic.geometry.solvers.relax import Relax
    from diffodesic.geometry.status import Status
    from diffodesic.images.conventions import self_check
    from diffodesic.images.diagnosis import diagnose
    from diffodesic.images.distances import pairwise
    from diffodesic.images.editing import edit, edit_distance
    from diffodesic.images.evaluation import evaluate
    from diffodesic.images.extrapolation import extrapolate
    from diffodesic.images.information import iem
    from diffodesic.images.interpolation import interpolate
    from diffodesic.images.likelihoods import likelihood
    from diffodesic.images.neighbours import nearest
    from diffodesic.images.sequence import interpolate_through
    from diffodesic.metrics.elementary import Conformal, Euclidean, Pullback
    from diffodesic.metrics.score import ScoreMetric
    from diffodesic.metrics.score_jacobian import ScoreJacobian
    from diffodesic.metrics.spacetime.metric import Spacetime
    from diffodesic.models.datasets import shipped_digits, shipped_photographs
    from diffodesic.models.loading import load
    from diffodesic.models.model import Model
    from diffodesic.numerics.cost import counting
    from diffodesic.transitions.paths import transition_paths
    from diffodesic.transitions.potentials import Potential
    from diffodesic.transitions.recipe import pathways

__version__ = "0.1.0"

_PACKAGES = (
    "denoisers",
    "experiments",
    "geometry",
    "images",
    "metrics",
    "models",
    "numerics",
    "transitions",
)
# package -> names of it that are names of the library
_NAMES = {
    "denoisers": "Denoiser GaussianMixture drop from_network lift schedules",
    "geometry": "Certificate Geodesic Metric Relax Status constrained_geodesic distance exp "
    "geodesic log mean transport",
    "images": "diagnose edit edit_distance evaluate extrapolate iem interpolate "
    "interpolate_through likelihood nearest pairwise self_check",
    "metrics": "Conformal Euclidean Pullback ScoreJacobian ScoreMetric",
    "metrics.spacetime": "Spacetime",
    "models": "Model load shipped_digits shipped_photographs",
    "numerics": "counting",
    "transitions": "Potential pathways transition_paths",
}
_HOME = {name: package for package, names in _NAMES.items() for name in names.split()}

__all__ = [
    "Certificate",
    "Conformal",
    "Denoiser",
    "Euclidean",
    "GaussianMixture",
    "Geodesic",
    "Metric",
    "Model",
    "Potential",
    "Pullback",
    "Relax",
    "ScoreJacobian",
    "ScoreMetric",
    "Spacetime",
    "Status",
    "__version__",
    "constrained_geodesic",
    "counting",
    "denoisers",
    "diagnose",
    "distance",
    "drop",
    "edit",
    "edit_distance",
    "evaluate",
    "exp",
    "experiments",
    "extrapolate",
    "from_network",
    "geodesic",
    "geometry",
    "iem",
    "images",
    "interpolate",
    "interpolate_through",
    "lift",
    "likelihood",
    "load",
    "log",
    "mean",
    "metrics",
    "models",
    "nearest",
    "numerics",
    "pairwise",
    "pathways",
    "schedules",
    "self_check",
    "shipped_digits",
    "shipped_photographs",
    "transition_paths",
    "transitions",
    "transport",
]


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return import_module(f"{__name__}.{name}")
    if name in _HOME:
        value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
