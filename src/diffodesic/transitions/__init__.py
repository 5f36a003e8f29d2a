"""Transition paths of potentials and molecules."""

from diffodesic.transitions.annealing import PathOptions, constant_noise, straight_line
from diffodesic.transitions.coordinate_training import CoordinateSettings, train_denoiser
from diffodesic.transitions.grid_denoiser import GridDenoiser
from diffodesic.transitions.learned import LearnedDenoiser, load_denoiser
from diffodesic.transitions.minimum_energy import lowest_pass, string
from diffodesic.transitions.own_potentials import from_callable
from diffodesic.transitions.paths import TransitionPaths, transition_paths
from diffodesic.transitions.potentials import (
    DoubleWell,
    DualChannel,
    MuellerBrown,
    Potential,
    Ring,
)
from diffodesic.transitions.recipe import PathwayOptions, pathways
from diffodesic.transitions.saddles import Channel, channels, effective_paths
from diffodesic.transitions.shooting import ShootingOptions, two_way_shooting
from diffodesic.transitions.simulation import committor, plain_dynamics
from diffodesic.transitions.states import Basin
from diffodesic.transitions.stationary import relax
from diffodesic.transitions.surfaces import PeriodicSurface, alanine, read_grid

__all__ = [
    "Basin",
    "Channel",
    "CoordinateSettings",
    "DoubleWell",
    "DualChannel",
    "GridDenoiser",
    "LearnedDenoiser",
    "MuellerBrown",
    "PathOptions",
    "PathwayOptions",
    "PeriodicSurface",
    "Potential",
    "Ring",
    "ShootingOptions",
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
