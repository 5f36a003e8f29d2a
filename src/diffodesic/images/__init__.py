"""Verbs on images: interpolation, extrapolation, editing, distances, likelihood, diagnosis."""

from diffodesic.images.baselines.likely import LikelyPath, likely_path
from diffodesic.images.conventions import Conventions, self_check
from diffodesic.images.diagnosis import DiagnoseOptions, Diagnosis, diagnose
from diffodesic.images.distances import PairwiseDistances, pairwise
from diffodesic.images.door import Picture
from diffodesic.images.edit_result import Edit
from diffodesic.images.editing import EditOptions, edit, edit_distance
from diffodesic.images.evaluation import Evaluation, evaluate
from diffodesic.images.extrapolation import ExtrapolateOptions, Extrapolation, extrapolate
from diffodesic.images.information import IemOptions, MeanOptions, NoisyDistance, iem
from diffodesic.images.interpolation import InterpolateOptions, interpolate
from diffodesic.images.likelihoods import LikelihoodOptions, PictureLikelihood, likelihood
from diffodesic.images.neighbours import NearestOptions, Neighbours, nearest
from diffodesic.images.pairs import PairwiseOptions
from diffodesic.images.result import Interpolation
from diffodesic.images.sequence import InterpolationSequence, interpolate_through
from diffodesic.images.spaces import (
    SPACES,
    ConformalSpace,
    EuclideanSpace,
    Fixed,
    JacobianSpace,
    PublishedScoreSpace,
    ScoreSpace,
    Space,
    SpacetimeSpace,
)

__all__ = [
    "SPACES",
    "ConformalSpace",
    "Conventions",
    "DiagnoseOptions",
    "Diagnosis",
    "Edit",
    "EditOptions",
    "EuclideanSpace",
    "Evaluation",
    "ExtrapolateOptions",
    "Extrapolation",
    "Fixed",
    "IemOptions",
    "InterpolateOptions",
    "Interpolation",
    "InterpolationSequence",
    "JacobianSpace",
    "LikelihoodOptions",
    "LikelyPath",
    "MeanOptions",
    "NearestOptions",
    "Neighbours",
    "NoisyDistance",
    "PairwiseDistances",
    "PairwiseOptions",
    "Picture",
    "PictureLikelihood",
    "PublishedScoreSpace",
    "ScoreSpace",
    "Space",
    "SpacetimeSpace",
    "diagnose",
    "edit",
    "edit_distance",
    "evaluate",
    "extrapolate",
    "iem",
    "interpolate",
    "interpolate_through",
    "likelihood",
    "likely_path",
    "nearest",
    "pairwise",
    "self_check",
]
