"""Transition paths of potentials and molecules."""

from diffodesic.transitions.annealing import (
    TransitionPaths,
    constant_noise,
    straight_line,
    transition_paths,
)
from diffodesic.transitions.grid_denoiser import GridDenoiser
from diffodesic.transitions.law_training import LawSettings, train_denoiser
from diffodesic.transitions.learned import LearnedDenoiser, load_denoiser
from diffodesic.transitions.minimise import relax
from diffodesic.transitions.minimum_energy import lowest_pass, string
from diffodesic.transitions.potentials import (
    DoubleWell,
    DualChannel,
    MuellerBrown,
    Potential,
    Ring,
    from_callable,
)
from diffodesic.transitions.recipe import pathways
from diffodesic.transitions.saddles import Channel, channels, committor, effective_paths
from diffodesic.transitions.simulation import plain_dynamics, two_way_shooting
from diffodesic.transitions.surfaces import PeriodicSurface, alanine, read_grid

__all__ = [
    "Channel",
    "DoubleWell",
    "DualChannel",
    "GridDenoiser",
    "LawSettings",
    "LearnedDenoiser",
    "MuellerBrown",
    "PeriodicSurface",
    "Potential",
    "Ring",
    "TransitionPaths",
    "alanine",
    "channels",
    "committor",
    "constant_noise",
    "effective_paths",
    "from_callable",
    "load_denoiser",
    "lowest_pass",
    "pathways",
    "plain_dynamics",
    "read_grid",
    "relax",
    "straight_line",
    "string",
    "train_denoiser",
    "transition_paths",
    "two_way_shooting",
]
