r"""From a potential and two states to sampled transition paths: the whole recipe in one call.

    states     minima of U, by steepest descent where asked for
    pass       min over paths of max U on a grid; its path says which image of a periodic state
               is meant, and no path stays below it
    anchor     k = the largest curvature of U/kT at the two states: the noise at both ends is as
               narrow as the basins
    geodesic   between (a, log k) and (b, log k) in the spacetime of exp(-U/kT)  (2505.17517)
    paths      annealed Langevin along it (:mod:`diffodesic.transitions.annealing`)
    mean       the posterior mean E[x | z, sigma] along it: where the paths are on average

For two torsions of a molecule one sampled path becomes all-atom structures
(:mod:`diffodesic.transitions.structures`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path

import torch
from torch import Tensor

from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.geometry.boundary_value import search
from diffodesic.geometry.path import Geodesic
from diffodesic.geometry.solvers.relax import Relax
from diffodesic.metrics.spacetime.metric import Spacetime
from diffodesic.numerics import checks
from diffodesic.output.options import option, suggests
from diffodesic.transitions.annealing import PathOptions
from diffodesic.transitions.grid_denoiser import GridDenoiser
from diffodesic.transitions.minimum_energy import Pass, lowest_pass
from diffodesic.transitions.molecules import Molecule
from diffodesic.transitions.paths import TransitionPaths, transition_paths
from diffodesic.transitions.potentials import Potential
from diffodesic.transitions.saddles import Channel, channels
from diffodesic.transitions.states import checked_states
from diffodesic.transitions.structures import AllAtomPath, follow, thin

__all__ = ["PathwayOptions", "Pathways", "pathways", "structures"]

Progress = Callable[[str], None]

_GRID = {1: 1001, 2: 193, 3: 49}  # points per coordinate of the search for the pass


@dataclass(frozen=True)
class PathwayOptions(PathOptions):
    """How paths between two states are drawn, besides :class:`PathOptions`.

    Args:
        nodes: segments of the geodesic.
        iterations: limit on the rounds of its search.
        rtol: tolerance of its search.
        log_snr: log SNR of both ends; default log k, k the largest curvature there.
        descend: replace the states by the minima below them, instead of refusing them.

    Raises:
        ValueError: for fewer than 30 paths, too few for a confidence interval.
    """

    nodes: int = option(128, least=2, most=10_000)
    iterations: int = option(3000, least=1)
    rtol: float = option(1e-6, above=0)
    log_snr: float | None = None
    descend: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.paths < 30:
            raise ValueError(
                f"paths = {self.paths}: a confidence interval needs at least 30; draw more"
            )

    @property
    def drawing(self) -> PathOptions:
        """The options of the paths alone."""
        return PathOptions(**{f.name: getattr(self, f.name) for f in fields(PathOptions)})


@dataclass(frozen=True, repr=False)
class Pathways:
    """Sampled transition paths and what they rest on.

    Attributes:
        states: the two states (2, D), the images that the lowest pass joins.
        lowest: the lowest pass between them on a grid.
        geodesic: the path through spacetime.
        paths: what was sampled along it.
        mean: posterior mean at the geodesic's nodes (n+1, D).
        hits: which paths ended in the second state's basin (P,).
        channels: saddles that the paths cross, the most used first.
        atoms: structures along one of the paths, for a molecule.
        seconds: wall-clock time of each part.
        notices: what a reader should know.
    """

    states: Tensor
    lowest: Pass
    geodesic: Geodesic
    paths: TransitionPaths
    mean: Tensor
    hits: Tensor
    channels: list[Channel]
    atoms: AllAtomPath | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    notices: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """One line: the pass, the geodesic, and what was sampled along it."""
        hits = f"{int(self.hits.sum())} of {len(self.hits)} paths arrive"
        return f"Pathways(lowest pass {self.lowest.energy:.4g}, {self.geodesic!r}, {hits})"

    @property
    def typical(self) -> int:
        """Number of the path whose MaxEnergy is the median, among those that hit the target."""
        pool = self.hits if bool(self.hits.any()) else torch.ones_like(self.hits)
        height = self.paths.max_energy.masked_fill(~pool, math.inf)
        return int(height.argsort()[(int(pool.sum()) - 1) // 2])


@suggests(options=(PathwayOptions,))
def pathways(
    potential: Potential,
    a: Tensor,
    b: Tensor,
    options: PathwayOptions | None = None,
    *,
    denoiser: Denoiser | None = None,
    store: Path | str | None = None,
    progress: Progress | None = None,
) -> Pathways:
    """Sample transition paths between two states.

    Args:
        potential: U with its kT; up to three coordinates.
        a: first state (D,).
        b: second state (D,); of a periodic state any image.
        options: how many paths, over how many nodes; default ``PathwayOptions()``.
        denoiser: posterior mean of exp(-U/kT), such as a learned one; default exact, by quadrature
            on a grid.
        store: folder of finished blocks of paths, to resume an interrupted run.
        progress: called with a short line now and then.

    Returns:
        the paths.

    Raises:
        ValueError: for states outside the box, not at minima or equal, or a step so long that
            hardly a move is accepted.

    **Cost** a geodesic by quadrature (seconds), ``paths * langevin_steps * (nodes + 1)`` energies.
    """
    checks.of_kind(potential, "potential", Potential)
    if denoiser is not None:
        checks.of_kind(denoiser, "denoiser", Denoiser)
    options = options or PathwayOptions()
    say, times = progress or (lambda _: None), [time.perf_counter()]
    say("states and the lowest pass")
    states, notices = checked_states(potential, torch.stack([a, b]), descend=options.descend)
    lowest = lowest_pass(potential, *states, nodes=_GRID.get(potential.dim, 0))
    states = lowest.path[[0, -1]]
    times.append(time.perf_counter())
    denoiser = denoiser or GridDenoiser(potential)
    path = _solve(potential, states, denoiser, options, say)
    times.append(time.perf_counter())
    drawn = transition_paths(potential, path, options.drawing, store=store, progress=progress)
    times.append(time.perf_counter())
    say("statistics")
    z, log_snr = path.nodes[:, :-1], path.nodes[:, -1]
    mean, hits, saddles = denoiser(z, torch.exp(-log_snr / 2)), drawn.hits(), channels(drawn)
    times.append(time.perf_counter())
    parts = ("pass", "geodesic", "paths", "statistics")
    seconds = {name: q - p for name, p, q in zip(parts, times[:-1], times[1:], strict=True)}
    return Pathways(
        states,
        lowest,
        path,
        drawn,
        mean,
        hits,
        saddles,
        seconds=seconds,
        notices=(*notices, *path.doubts, *_far_above(drawn, lowest)),
    )


def _solve(
    potential: Potential,
    states: Tensor,
    denoiser: Denoiser,
    options: PathwayOptions,
    say: Progress,
) -> Geodesic:
    """The geodesic between the two states (2, D), at the noise of their basins."""
    level = _level(potential, states, denoiser) if options.log_snr is None else options.log_snr
    # in few coordinates the divergence of a network is cheap, too
    space = Spacetime(denoiser, estimator="exact")
    return search(
        space,
        *space.point(states, level),
        nodes=options.nodes,
        # narrow basins far apart need many cheap iterations, and more than one start
        solver=Relax(iterations=options.iterations, rtol=options.rtol, starts=4),
        progress=lambda line, _: say(line),
    )


def _level(potential: Potential, states: Tensor, denoiser: Denoiser) -> float:
    """The log SNR of the basins of two states (2, D): that of their largest curvature."""
    curvature = float(torch.linalg.eigvalsh(potential.hessian(states)).abs().max())
    if not 0 < curvature < math.inf:
        raise ValueError(
            f"{potential.name} has the curvature {curvature:g} at its states, which gives no level "
            "of noise; give log_snr"
        )
    level, (low, high) = math.log(curvature / potential.kT), denoiser.log_snr_range
    if not low <= level <= high:
        raise ValueError(
            f"the basins of {potential.name} have the log SNR {level:.3g} of their curvature, and "
            f"the denoiser is known from {low:.3g} to {high:.3g}; give log_snr, a box that fits "
            "the basins, or another kT"
        )
    return level


def _far_above(drawn: TransitionPaths, lowest: Pass) -> tuple[str, ...]:
    """A notice where the paths do not use the pass."""
    gap = (drawn.mean_max_energy - lowest.energy) / drawn.potential.kT
    if not gap > 2:
        return ()
    return (
        f"the paths cross {gap:.1f} kT above the lowest pass on average: they are annealed along "
        "the geodesic, which need not lead over it; saddles below a peak are where it descends "
        "to, not where it crossed",
    )


def structures(
    result: Pathways, molecule: Molecule, start: Tensor, end: Tensor, *, frames: int = 33
) -> AllAtomPath:
    """All-atom structures along the typical path.

    The path is drawn again to have every state of it: a barrier is crossed in a few dozen steps,
    which the frames that were kept jump over.

    Args:
        result: paths over (phi, psi).
        molecule: whose torsions they are.
        start: structure of the first state (3N,), nm.
        end: structure of the second state (3N,), nm.
        frames: number of structures; they are the states without loops, and with the smallest
            largest turn between neighbours (:mod:`diffodesic.transitions.structures`).

    Returns:
        the structures.

    Raises:
        ValueError: if the paths are not over two torsions, or ``frames`` is below 2.

    **Cost** one block of paths; two sweeps of restrained minimisations: seconds to minutes.
    """
    if result.paths.potential.dim != 2 or frames < 2:
        raise ValueError(
            f"structures need a path over (phi, psi) and at least 2 frames, not "
            f"{result.paths.potential.dim} coordinates and {frames} frames"
        )
    states = result.paths.trace(result.typical)
    return follow(molecule, states[thin(states, frames)], start, end)
