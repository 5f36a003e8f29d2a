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
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.geometry.path import Geodesic, geodesic
from diffodesic.geometry.solvers.relax import Relax
from diffodesic.metrics.spacetime.metric import Spacetime
from diffodesic.transitions.annealing import TransitionPaths, transition_paths
from diffodesic.transitions.grid_denoiser import GridDenoiser
from diffodesic.transitions.langevin import hessian
from diffodesic.transitions.minimise import relax
from diffodesic.transitions.minimum_energy import Pass, lowest_pass
from diffodesic.transitions.molecules import Molecule
from diffodesic.transitions.potentials import Potential
from diffodesic.transitions.saddles import Channel, channels
from diffodesic.transitions.structures import AllAtomPath, follow, thin

__all__ = ["Pathways", "checked_states", "pathways", "structures"]

Progress = Callable[[str], None]

_GRID = {1: 1001, 2: 193, 3: 49}  # points per coordinate of the search for the pass


@dataclass(frozen=True)
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

    @property
    def typical(self) -> int:
        """Number of the path whose MaxEnergy is the median, among those that hit the target."""
        pool = self.hits if bool(self.hits.any()) else torch.ones_like(self.hits)
        height = self.paths.max_energy.masked_fill(~pool, math.inf)
        return int(height.argsort()[(int(pool.sum()) - 1) // 2])


def pathways(
    potential: Potential,
    a: Tensor,
    b: Tensor,
    *,
    paths: int = 1000,
    nodes: int = 128,
    langevin_steps: int = 128,
    step: float | None = None,
    log_snr: float | None = None,
    denoiser: Denoiser | None = None,
    descend: bool = False,
    correct: bool = True,
    seed: int = 0,
    store: Path | str | None = None,
    progress: Progress | None = None,
) -> Pathways:
    """Sample transition paths between two states.

    Args:
        potential: U with its kT; up to three coordinates.
        a: first state (D,).
        b: second state (D,); of a periodic state any image.
        paths: number of paths, at least 30 for a confidence interval.
        nodes: segments of the geodesic.
        langevin_steps: Langevin steps at each node.
        step: of the Langevin dynamics, in squared units of x; default a tenth of the fastest
            relaxation time at the states.
        log_snr: log SNR of both ends; default that of the basins (see above).
        denoiser: posterior mean of exp(-U/kT), such as a learned one; default exact, by quadrature
            on a grid.
        descend: replace the states by the minima below them, instead of refusing them.
        correct: use the Metropolis correction.
        seed: of all random numbers.
        store: folder of finished blocks of paths, to resume an interrupted run.
        progress: called with a short line now and then.

    Returns:
        the paths.

    Raises:
        ValueError: for states outside the box, not at minima or equal, too few paths, or a step so
            long that hardly a move is accepted.

    **Cost** a geodesic by quadrature (seconds), ``paths * langevin_steps * (nodes + 1)`` energies.
    """
    if paths < 30:
        raise ValueError(f"paths = {paths}: a confidence interval needs at least 30; draw more")
    say, began = progress or (lambda _: None), [time.perf_counter()]
    say("states and the lowest pass")
    states, notices = checked_states(potential, torch.stack([a, b]), descend=descend)
    lowest = lowest_pass(potential, *states, nodes=_GRID.get(potential.dim, 0))
    states = lowest.path[[0, -1]]
    began.append(time.perf_counter())
    level = _basin_level(potential, states) if log_snr is None else log_snr
    denoiser = denoiser or GridDenoiser(potential)
    # in few coordinates the divergence of a network is cheap, too
    space = Spacetime(denoiser, estimator="exact")
    ends = space.point(states, level)
    path = geodesic(
        space,
        *ends,
        nodes=nodes,
        # narrow basins far apart need many cheap iterations, and more than one start
        solver=Relax(iterations=3000, starts=4),
        progress=lambda line, _: say(line),
    )
    began.append(time.perf_counter())
    drawn = transition_paths(
        potential,
        path,
        paths=paths,
        langevin_steps=langevin_steps,
        step=step,
        correct=correct,
        seed=seed,
        store=store,
        progress=progress,
    )
    _check_moves(drawn)
    began.append(time.perf_counter())
    say("statistics")
    z, lam = space.split(path.nodes)
    found = Pathways(
        states,
        lowest,
        path,
        drawn,
        denoiser(z, torch.exp(-lam / 2)),
        drawn.hits(),
        channels(drawn),
        notices=(*notices, *_far_above(drawn, lowest)),
    )
    began.append(time.perf_counter())
    names = ("pass", "geodesic", "paths", "statistics")
    found.seconds.update(
        {name: q - p for name, p, q in zip(names, began[:-1], began[1:], strict=True)}
    )
    return found


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
    found: Pathways, molecule: Molecule, start: Tensor, end: Tensor, *, frames: int = 33
) -> AllAtomPath:
    """All-atom structures along the typical path.

    The path is drawn again to have every state of it: a barrier is crossed in a few dozen steps,
    which the frames that were kept jump over.

    Args:
        found: paths over (phi, psi).
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
    if found.paths.potential.dim != 2 or frames < 2:
        raise ValueError(
            f"structures need a path over (phi, psi) and at least 2 frames, not "
            f"{found.paths.potential.dim} coordinates and {frames} frames"
        )
    states = found.paths.trace(found.typical)
    return follow(molecule, states[thin(states, frames)], start, end)


def checked_states(
    potential: Potential, states: Tensor, *, descend: bool
) -> tuple[Tensor, tuple[str, ...]]:
    """States that paths can start and end at: inside the box, at minima, apart.

    Args:
        potential: U and kT.
        states: the two states (2, D).
        descend: replace them by the minima below them.

    Returns:
        the states (2, D), and what was changed.

    Raises:
        ValueError: for states of the wrong dimension, outside the box or more than kT above the
            minimum below them, or if both are the same.

    **Cost** some hundred gradients.
    """
    if states.shape[-1] != potential.dim:
        raise ValueError(
            f"the states have {states.shape[-1]} coordinates, {potential.name} has {potential.dim}"
        )
    names = ("first", "second")
    for name, state in zip(names, states, strict=True):
        for value, (low, high), period in zip(
            state.tolist(), potential.box, potential.period, strict=True
        ):
            if not math.isfinite(value) or (period is None and not low <= value <= high):
                raise ValueError(
                    f"the {name} state {_text(state)} lies outside the domain {_box(potential)} "
                    f"of {potential.name}"
                )
    minima = relax(potential, states)
    before, after = potential(states).tolist(), potential(minima).tolist()
    notices = []
    for name, state, low, u, v in zip(names, states, minima, before, after, strict=True):
        change = (
            f"{_text(state)} with U = {u:.4g} {potential.unit}; the minimum below it is "
            f"{_text(potential.wrap(low))} with U = {v:.4g}"
        )
        if descend and u - v > 1e-3 * potential.kT:
            notices.append(
                f"the {name} state was {change}, {_distance(potential, state, low)} away, which "
                "is used instead"
            )
        elif not descend and 0.1 * potential.kT < u - v <= potential.kT:
            notices.append(
                f"the {name} state is not quite a minimum: {change}; --relax starts there"
            )
        elif not descend and u - v > potential.kT:
            raise ValueError(
                f"the {name} state is no minimum: {change}; give that one, or relax the states "
                "(--relax)"
            )
    near = 1e-2 * min(high - low for low, high in potential.box)
    if float(potential.difference(minima[1], minima[0]).norm()) < near:
        raise ValueError(
            f"both states belong to the minimum {_text(potential.wrap(minima[0]))}; "
            "give two different states"
        )
    return (minima if descend else states), tuple(notices)


def _distance(potential: Potential, a: Tensor, b: Tensor) -> str:
    """How far two states are apart; for angles in degrees."""
    length = float(potential.difference(a, b).norm())
    if set(potential.period) == {2 * math.pi}:
        return f"{math.degrees(length):.3g} degrees"
    return f"{length:.3g}"


def _check_moves(paths: TransitionPaths) -> None:
    share = float(paths.accepted.mean())
    if share < 0.1:
        raise ValueError(
            f"only {100 * share:.2g} % of the Langevin steps of length {paths.settings['step']:g} "
            "are accepted, the paths do not follow the geodesic; give a smaller step"
        )


def _basin_level(potential: Potential, states: Tensor) -> float:
    """Log of the largest curvature of U/kT at the states."""
    curvature = torch.linalg.eigvalsh(hessian(potential, states)).abs().max()
    return math.log(float(curvature) / potential.kT)


def _text(x: Tensor) -> str:
    return "(" + ", ".join(f"{v:.4g}" for v in x.tolist()) + ")"


def _box(potential: Potential) -> str:
    return " x ".join(f"[{low:g}, {high:g}]" for low, high in potential.box)
