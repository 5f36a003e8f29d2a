r"""Baselines of spacetime paths: what other methods make of the same surface.

Same U(phi, psi), same kT, overdamped dynamics, every evaluation counted.  Fixed before a path was
drawn:

- the first state is the whole basin: minima that paths from ``a`` reach over passes of less than
  half the barrier count as one state, balls of radius .3 around each.  Paths that must end at one
  of them alone would spend most of their length hopping between them;
- the step is 1e-3 squared radians, at which 99 % of the moves are accepted;
- two-way shooting picks frames within 3 kT of the pass, chains begin at its saddle and make 20
  moves before paths are collected;
- hot dynamics runs at a quarter of the barrier, where transitions are seen at all: at a sixth
  of it 4 million steps saw none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from diffodesic.numerics.cost import counting
from diffodesic.transitions.minimum_energy import lowest_pass, string
from diffodesic.transitions.paths import TransitionPaths
from diffodesic.transitions.potentials import Potential
from diffodesic.transitions.shooting import ShootingOptions, two_way_shooting
from diffodesic.transitions.simulation import PathEnsemble, plain_dynamics
from diffodesic.transitions.states import Basin
from diffodesic.transitions.stationary import relax

__all__ = ["MethodResult", "baselines"]

RADIUS, STEP = 0.3, 1e-3


@dataclass(frozen=True)
class MethodResult:
    """What a method makes of a surface."""

    method: str  # its name
    max_energy: float  # mean over paths of the highest U, or the pass of a single path
    error: float | None  # standard error over independent chains; None for a single path
    spread: float | None  # standard deviation over paths; None for a single path
    paths: int  # paths behind the numbers
    evaluations: int  # energies computed
    note: str  # what a reader must know

    @classmethod
    def of(cls, method: str, paths: TransitionPaths) -> MethodResult:
        """The result of paths along a way through spacetime."""
        energy, error, spread = paths.mean_max_energy, paths.standard_error, paths.spread
        return cls(method, energy, error, spread, len(paths), paths.evaluations, "")


def baselines(
    potential: Potential,
    a: Tensor,
    b: Tensor,
    *,
    seed: int = 0,
    quick: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Iterator[MethodResult]:
    """Results of the other methods, one after the other as they are done.

    Args:
        potential: a surface over two angles, with its kT.
        a: first state (2,).
        b: second state (2,).
        seed: of all random numbers.
        quick: few paths: to see that everything works.
        progress: called with a short line now and then.

    Yields:
        the results: lowest pass, string, shooting of variable and fixed length, plain dynamics.

    Raises:
        ValueError: if the string's highest image leads to no saddle.

    **Cost** some 30 million evaluations, minutes on one core.
    """
    paths, moves, steps = (20, 2, 200) if quick else (1000, 20, 20_000)
    bottom = relax(potential, torch.stack([a, b]))
    lowest = lowest_pass(potential, *bottom, nodes=178)
    text = f"graph search, spacing {float(lowest.spacing[0]):.3g}"
    yield MethodResult("lowest pass", lowest.energy, None, None, 1, lowest.evaluations, text)
    mean = string(potential, lowest.path, images=65)
    if mean.saddle is None:
        raise ValueError(f"no saddle was found on the string between {a.tolist()} and {b.tolist()}")
    height = float(potential(mean.saddle))
    text = "minimum-energy path from the pass; energy of its saddle"
    yield MethodResult("string", height, None, None, 1, mean.evaluations, text)
    with counting() as spent:
        states = _states(potential, bottom, mean.nodes, height)
    searched = spent.energies + mean.evaluations
    for name, length in (("variable", None), ("fixed", 600)):
        above = height - 3 * potential.kT
        options = ShootingOptions(STEP, length, above, paths, paths, moves, seed=seed)
        shot = two_way_shooting(potential, *states, mean.saddle, options, progress=progress)
        yield _result(f"two-way shooting, {name} length", shot, searched, length)
    hot = potential.at((height - float(potential(bottom[0]))) / 4)
    ways = {f"plain dynamics, kT = {hot.kT:.3g}": hot, "plain dynamics": potential}
    for name, surface in ways.items():
        run = plain_dynamics(
            surface, *states, step=STEP, steps=steps, walkers=200, seed=seed, progress=progress
        )
        yield _result(name, run, 0, None)


def _states(
    potential: Potential, bottom: Tensor, path: Tensor, height: float
) -> tuple[Basin, Basin]:
    """Both states as the minima that their half of the path runs through."""
    top = int(potential(path).argmax())
    halves = path[:top], path[top + 1 :]
    first, last = (
        _basin(potential, end, half, height) for end, half in zip(bottom, halves, strict=True)
    )
    return first, last


def _basin(potential: Potential, end: Tensor, half: Tensor, height: float) -> Basin:
    """A minimum, and those of its half of the path over passes of less than half the barrier."""
    level = (height + float(potential(end))) / 2
    kept = [end]
    for x in relax(potential, half):
        far = potential.difference(x, torch.stack(kept)).norm(dim=-1).min()
        if float(far) > 0.1 and lowest_pass(potential, end, x, nodes=89).energy < level:
            kept.append(x)
    return Basin(torch.stack(kept), RADIUS)


def _result(name: str, paths: PathEnsemble, before: int, length: int | None) -> MethodResult:
    count = len(paths.max_energy)
    note = f"{count} paths"
    if count and length is None:
        note += f" of {float(paths.lengths.double().mean()):.0f} frames on average"
    if paths.acceptance < 1:
        note += f"; {100 * paths.acceptance:.0f} % of the moves accepted"
    spread = float(paths.max_energy.std()) if count > 1 else None
    error = paths.standard_error if count > 1 else None
    return MethodResult(name, paths.mean, error, spread, count, paths.evaluations + before, note)
