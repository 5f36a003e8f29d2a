"""Transition paths of the geodesic beside those of two straight lines: which, described, drawn."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from diffodesic.experiments.common.statistics import mean_of
from diffodesic.experiments.experiment import Number
from diffodesic.geometry.path import Geodesic
from diffodesic.transitions.annealing import constant_noise, straight_line
from diffodesic.transitions.paths import TransitionPaths
from diffodesic.transitions.saddles import channels
from diffodesic.transitions.surfaces import PeriodicSurface

__all__ = ["arrived", "describe", "draw_surface", "gap", "max_energy", "ways"]


def ways(path: Geodesic) -> dict[str, Geodesic | Tensor]:
    """The geodesic, the straight line with its noise, and that line at the noise of its ends."""
    # the line has even nodes
    (a, b), log_snr = path.nodes[[0, -1], :-1], path.even[:, -1]
    return {
        "geodesic": path,
        "line + profile": straight_line(a, b, log_snr),
        "line, constant noise": constant_noise(a, b, float(log_snr[0]), nodes=len(log_snr) - 1),
    }


def arrived(paths: TransitionPaths, radius: float | None = None) -> float:
    """Percentage of paths that end in the second state's basin, or within a radius of it."""
    return 100 * float(paths.hits(radius=radius).double().mean())


def max_energy(quantity: str, paths: TransitionPaths) -> Number:
    """Mean over paths of the highest energy of every Langevin state, with its standard error."""
    return Number(quantity, paths.mean_max_energy, error=paths.standard_error)


def gap(quantity: str, paths: TransitionPaths, others: TransitionPaths) -> Number:
    """Mean difference in MaxEnergy of two ways, path by path: one seed draws the same noise."""
    return mean_of(quantity, paths.max_energy - others.max_energy)


def describe(paths: TransitionPaths, radius: float | None = None) -> dict[str, Any]:
    """What belongs to transition paths beside their mean MaxEnergy."""
    return {
        "spread": paths.spread,
        "interval": paths.interval(),
        "hits_percent": arrived(paths, radius),
        "channels": [(c.saddle, c.energy, c.share) for c in channels(paths)],
        "accepted": float(paths.accepted.min()),
        "evaluations": paths.evaluations,
    }


def draw_surface(axes: Any, surface: PeriodicSurface, low: float = -torch.pi) -> None:
    """Shade a surface over two angles from ``low`` to pi, with a scale of its energies."""
    line = torch.linspace(low, torch.pi, 181, dtype=torch.float64)
    energy = surface(torch.stack(torch.meshgrid(line, line, indexing="xy"), -1))
    shade = axes.contourf(line, line, energy, levels=24, cmap="Greys")
    axes.figure.colorbar(shade, ax=axes, label=f"U ({surface.unit})")
    axes.set(xlabel="phi (rad)", ylabel="psi (rad)")
