"""Verbs on images: interpolation, extrapolation, editing, distances, evaluation, diagnosis."""

from diffodesic.images.baselines.likely import LikelyPath, likely_path
from diffodesic.images.diagnosis import Diagnosis, diagnose
from diffodesic.images.distances import PairwiseDistances, pairwise
from diffodesic.images.editing import Edit, edit, edit_distance
from diffodesic.images.evaluation import Evaluation, evaluate
from diffodesic.images.extrapolation import Extrapolation, extrapolate
from diffodesic.images.interpolation import interpolate
from diffodesic.images.neighbours import Neighbours, nearest
from diffodesic.images.result import Interpolation
from diffodesic.images.sequence import Chain, interpolate_through

__all__ = [
    "Chain",
    "Diagnosis",
    "Edit",
    "Evaluation",
    "Extrapolation",
    "Interpolation",
    "LikelyPath",
    "Neighbours",
    "PairwiseDistances",
    "diagnose",
    "edit",
    "edit_distance",
    "evaluate",
    "extrapolate",
    "interpolate",
    "interpolate_through",
    "likely_path",
    "nearest",
    "pairwise",
]
