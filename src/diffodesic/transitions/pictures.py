"""Pictures of transition paths: over the energy surface, and energies along the paths.

Angles are drawn in degrees on one periodic cell (a Ramachandran plot). A line that leaves the cell
is interrupted, and goes on at the opposite side.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffodesic.output.figures import canvas
from diffodesic.transitions.potentials import Potential
from diffodesic.transitions.recipe import Pathways

__all__ = ["draw_landscape", "draw_profiles", "within_cell"]

_SHOWN = 30  # paths drawn; more would hide the surface
_PATHS, _MEAN, _MARK = "#cf5a12", "#0b66a8", "#1c1e22"


def draw_landscape(found: Pathways, path: Path) -> None:
    """Draw sampled paths over a surface of two coordinates."""
    potential = found.paths.potential
    scale, unit, names = _axis(potential)
    with canvas(path, width=6.2) as (ax,):
        _surface(ax, found, scale)
        for frames in found.paths.frames[:_SHOWN]:
            line = within_cell(potential, frames) * scale
            ax.plot(line[:, 0], line[:, 1], color=_PATHS, lw=0.5, alpha=0.45)
        ax.plot([], [], color=_PATHS, lw=1, label=f"{min(_SHOWN, len(found.paths))} paths")
        route = within_cell(potential, found.lowest.path) * scale
        ax.plot(route[:, 0], route[:, 1], color=_MARK, lw=1.1, ls=":", label="over the lowest pass")
        mean = within_cell(potential, found.mean) * scale
        ax.plot(mean[:, 0], mean[:, 1], color=_MEAN, lw=1.8, label="posterior mean")
        for name, state in zip("AB", potential.wrap(found.states) * scale, strict=True):
            ax.plot(*state.tolist(), "o", color=_MARK, ms=5)
            ax.annotate(
                name, state.tolist(), (6, 5), textcoords="offset points", fontsize=11, weight="bold"
            )
        saddles = [c.saddle * scale for c in found.channels if c.share >= 0.05]
        if saddles:
            ax.plot(
                *torch.stack(saddles).T, "x", color=_MARK, ms=7, mew=1.5, label="where peaks lead"
            )
        ax.legend(loc="upper right", frameon=True, framealpha=0.85, fontsize=8)
        ax.set(xlabel=f"{names[0]}{unit}", ylabel=f"{names[1]}{unit}", title=potential.name)
        ax.set(**dict(zip(("xlim", "ylim"), _window(found, scale), strict=True)))
        if scale != 1:
            ax.set(xticks=range(-180, 181, 60), yticks=range(-180, 181, 60))


def draw_profiles(found: Pathways, path: Path) -> None:
    """Draw energy and noise along the way, MaxEnergy, and the energies of structures."""
    atoms, unit = found.atoms, found.paths.potential.unit
    shape = {"columns": 3, "width": 3.6} if atoms is None else {"rows": 2, "columns": 2, "width": 5}
    with canvas(path, **shape) as axes:
        _energies(axes[0], found, unit)
        axes[1].plot(found.geodesic.knots, found.geodesic.nodes[:, -1], color=_MEAN)
        axes[1].set(xlabel="s", ylabel="log SNR", title="Noise along the geodesic")
        height = found.paths.max_energy
        axes[2].hist(height.numpy(), bins=min(40, max(8, len(height) // 15)), color=_PATHS)
        axes[2].axvline(found.lowest.energy, color=_MARK, lw=1.2, ls="--", label="lowest pass")
        axes[2].axvline(found.paths.mean_max_energy, color=_MEAN, lw=1.6, label="mean")
        axes[2].legend(fontsize=8)
        axes[2].set(xlabel=f"highest U of a path ({unit})", ylabel="paths", title="MaxEnergy")
        if atoms is not None:
            s = torch.linspace(0, 1, len(atoms.energies))
            axes[3].plot(s, atoms.energies, "o-", color=_MEAN, ms=3)
            axes[3].set(xlabel="s", ylabel="U (kJ/mol)", title="Relaxed structures, all atoms")


def _energies(ax: Any, found: Pathways, unit: str) -> None:
    paths = found.paths
    s = (paths.kept / (len(paths.nodes) - 1)).numpy()
    mean, spread = paths.profile()
    ax.fill_between(s, mean - spread, mean + spread, color=_MEAN, alpha=0.2, lw=0)
    ax.plot(s, mean, color=_MEAN, lw=1.8, label="mean and spread of paths")
    ax.plot(s, paths.energies[found.typical], color=_PATHS, lw=0.9, label="a typical path")
    top = float(paths.peak_node[found.typical]) / (len(paths.nodes) - 1)
    ax.plot(top, float(paths.max_energy[found.typical]), "^", color=_PATHS, ms=5, label="its peak")
    ax.axhline(found.lowest.energy, color=_MARK, lw=1.2, ls="--", label="lowest pass")
    ax.legend(fontsize=8, frameon=True, framealpha=0.9)
    ax.set(xlabel="s", ylabel=f"U ({unit})", title="Energy along the paths")


def _surface(ax: Any, found: Pathways, scale: float) -> None:
    potential = found.paths.potential
    sides = [
        torch.linspace(low / scale, high / scale, 181, dtype=torch.float64)
        for low, high in _window(found, scale)
    ]
    grid = torch.stack(torch.meshgrid(*sides, indexing="xy"), -1)
    energy = potential(grid)
    low = float(energy.min())
    # colours end a little above the energies of the paths
    top = low + 1.35 * (float(found.paths.max_energy.quantile(0.95)) - low)
    shown = (*(side * scale for side in sides), energy.clamp(max=top))
    colours = ax.contourf(*shown, levels=18, cmap="Greys_r")
    ax.contour(*shown, levels=18, colors="w", linewidths=0.3)
    bar = ax.figure.colorbar(colours, ax=ax, fraction=0.05, pad=0.02)
    bar.set_label(f"U ({potential.unit})")


def _axis(potential: Potential) -> tuple[float, str, tuple[str, str]]:
    """Factor from coordinates to the units drawn, name of these units, names of the axes."""
    if potential.period == (2 * math.pi,) * 2:
        return 180 / math.pi, " (degrees)", ("phi", "psi")
    return 1.0, "", ("x", "y")


def _window(found: Pathways, scale: float) -> list[tuple[float, float]]:
    """Limits of the axes: one periodic cell, or the box enlarged to hold the paths."""
    potential = found.paths.potential
    seen = torch.cat([found.paths.frames[:_SHOWN].reshape(-1, 2), found.mean])
    sides = []
    for d, ((low, high), period) in enumerate(zip(potential.box, potential.period, strict=True)):
        if period is None:
            low, high = min(low, float(seen[:, d].min())), max(high, float(seen[:, d].max()))
        sides.append((low * scale, high * scale))
    return sides


def within_cell(potential: Potential, x: Tensor) -> Tensor:
    """Points (n, 2) wrapped into the cell, with NaN between two on opposite sides of it."""
    wrapped = potential.wrap(x)
    jumps = ((wrapped[1:] - wrapped[:-1]) - (x[1:] - x[:-1])).abs().amax(-1) > 1e-6
    cuts = (jumps.nonzero()[:, 0] + 1).tolist()
    gap = wrapped.new_full((1, 2), math.nan)
    pieces = [torch.cat([piece, gap]) for piece in wrapped.tensor_split(cuts)]
    return torch.cat(pieces)[:-1]
