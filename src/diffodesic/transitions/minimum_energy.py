r"""Lowest pass and minimum-energy path between two states: properties of the energy surface alone.

- The pass, min over paths of max U: on a grid with all 3^D - 1 neighbours it is exact, by
  Dijkstra's algorithm with "max" for "+".  No path over the grid's points stays below it.
- The string (E, Ren & Vanden-Eijnden, J. Chem. Phys. 126, 164103, 2007): images go down the
  gradient's part across the string and are spread again at equal arc length; at rest that part
  is zero and the string a minimum-energy path.

Neither depends on temperature, and nothing here is random.
"""

from __future__ import annotations

import heapq
import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffodesic.numerics import checks
from diffodesic.numerics.cost import counting
from diffodesic.numerics.curves import Polyline, constant_speed
from diffodesic.transitions.potentials import Potential
from diffodesic.transitions.stationary import relax, relax_to_saddle

__all__ = ["MeanPath", "Pass", "lowest_pass", "string"]


@dataclass(frozen=True)
class Pass:
    """The lowest pass between two states on a grid.

    Attributes:
        energy: highest energy of the lowest path, in the potential's unit.
        path: the states and the grid points between them (m, D), unwrapped.
        top: its highest point (D,).
        spacing: distance of grid points per coordinate (D,).
        evaluations: energies computed.
    """

    energy: float
    path: Tensor
    top: Tensor
    spacing: Tensor
    evaluations: int


@dataclass(frozen=True)
class MeanPath:
    """A minimum-energy path.

    Attributes:
        nodes: images (n, D), unwrapped, at equal arc length.
        energies: their energies (n,).
        saddle: saddle reached from the highest image (D,), or None if the search did not converge
            or the highest image is an end: then the images step over every pass.
        residual: largest gradient across the string, relative to the energy range of the string
            over its length.
        converged: whether the residual met the tolerance, and an image between the ends is the
            highest.
        iterations: moves of the string.
        evaluations: energies computed, each with its gradient.
    """

    nodes: Tensor
    energies: Tensor
    saddle: Tensor | None
    residual: float
    converged: bool
    iterations: int
    evaluations: int


def lowest_pass(
    potential: Potential, a: Tensor, b: Tensor, *, nodes: int | tuple[int, ...]
) -> Pass:
    """Lowest over paths of the highest energy, by graph search on a grid.

    Args:
        potential: with at most three coordinates.
        a: first state (D,); the nearest grid point stands for it.
        b: last state (D,).
        nodes: grid points per coordinate, one number or D; they span the potential's box, and
            one period of a periodic coordinate (whose last point is not repeated).

    Returns:
        the pass and its path.

    Raises:
        TypeError: for complex numbers.
        ValueError: for more than three coordinates, fewer than two nodes, or states that are not
            (D,), not finite or off the grid.

    **Cost** one energy per grid point.
    """
    checks.of_kind(potential, "potential", Potential)
    a, b = checks.pair(_state(potential, a, "a"), _state(potential, b, "b"))
    axes = _axes(potential, nodes)
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).to(a)
    energies = potential(grid)
    shape = tuple(energies.shape)
    ends = [_nearest(potential, axes, state, name) for state, name in ((a, "a"), (b, "b"))]
    parents = _search(energies, ends[0], ends[1], potential.period)
    trail = [ends[1]]
    while trail[-1] != ends[0]:
        trail.append(parents[trail[-1]])
    points = torch.stack([grid[i] for i in reversed(trail)])
    along = torch.stack([energies[i] for i in reversed(trail)])
    top = int(along.argmax())
    stops = torch.cat([a[None], points[1:-1], b[None]])
    steps = potential.difference(stops[1:], stops[:-1])
    return Pass(
        float(along[top]),
        torch.cat([a[None], a + steps.cumsum(0)]),
        points[top],
        torch.stack([axis[1] - axis[0] for axis in axes]),
        math.prod(shape),
    )


def string(
    potential: Potential,
    start: Tensor,
    *,
    images: int = 33,
    step: float | None = None,
    tolerance: float = 0.01,
    iterations: int = 20_000,
) -> MeanPath:
    """Relax a path between two minima to a minimum-energy path.

    Args:
        potential: the landscape.
        start: first path (m, D), unwrapped; its ends are two minima, or two images of one, and
            stay.
        images: points of the string.
        step: length of a move per unit of gradient; default half the inverse of the largest
            curvature on the first string.
        tolerance: largest gradient across the string at rest, relative to the energy range of
            the string over its length.
        iterations: limit on the number of moves.

    Returns:
        the string and its saddle.

    Raises:
        TypeError: for complex numbers.
        ValueError: for a path of the wrong shape, where it or derivatives are not finite, if an
            end lies above the minimum below it by more than ``tolerance`` of the range of energies,
            or both belong to one.

    **Cost** ``images`` gradients per move, hundreds to thousands of moves.
    """
    checks.of_kind(potential, "potential", Potential)
    start = checks.points(start, "start", potential.dim, f"the dimension of {potential.name}")
    if start.ndim != 2 or len(start) < 2 or images < 3:
        raise ValueError(
            f"start has shape {tuple(start.shape)} for {images} images; it must be "
            f"(m, {potential.dim}) with m >= 2, and images at least 3"
        )
    x = _spread(start, images)
    with counting() as spent:
        _check_ends(potential, x, tolerance)
        step = _stable_step(potential, x) if step is None else step
        x, energies, residual, done = _relax_string(potential, x, step, tolerance, iterations)
        top = int(energies.argmax())
        saddles, index = relax_to_saddle(potential, x[top][None])
    crossed = 0 < top < images - 1
    return MeanPath(
        x,
        energies,
        potential.wrap(saddles[0]) if crossed and int(index) == 1 else None,
        residual,
        crossed and residual <= tolerance,
        done,
        spent.energies,
    )


def _check_ends(potential: Potential, x: Tensor, tolerance: float) -> None:
    """Refuse a string (images, D) that does not join two minima."""
    energies, minima = potential(x), relax(potential, x[[0, -1]])
    above = energies[[0, -1]] - potential(minima)
    for name, height, low in zip(("first", "last"), above, minima.tolist(), strict=True):
        if bool(height > tolerance * (energies.max() - energies.min())):
            raise ValueError(
                f"the {name} end of start is no minimum of {potential.name}: it lies "
                f"{float(height):.4g} above the minimum {low} below it; end the path there"
            )
    if float((minima[1] - minima[0]).norm()) < 1e-2 * potential.size:
        raise ValueError(
            f"both ends of start belong to the minimum {minima[0].tolist()} of {potential.name}; "
            "give a path between two minima"
        )


def _relax_string(
    potential: Potential, x: Tensor, step: float, tolerance: float, iterations: int
) -> tuple[Tensor, Tensor, float, int]:
    """Move the images until they rest: images, energies, residual, number of moves."""
    images = len(x)
    for done in range(iterations + 1):
        energies, gradient = potential.gradient(x)
        length = (x[1:] - x[:-1]).norm(dim=-1).sum()
        scale = (energies.max() - energies.min()) / length
        across = _across(x, energies, gradient)
        residual = float(across.norm(dim=-1).max() / scale)
        if residual <= tolerance or done == iterations:
            break
        _check_finite(potential, x, gradient)
        # an image that moved further than the spacing would make errors of the tangent grow
        slope = gradient[1:-1].norm(dim=-1, keepdim=True).clamp(min=1e-300)
        move = across[1:-1] * (0.25 * length / (images - 1) / slope).clamp(max=step)
        x = _spread(torch.cat([x[:1], x[1:-1] - move, x[-1:]]), images)
    return x, energies, residual, done


def _stable_step(potential: Potential, x: Tensor) -> float:
    """Half the inverse of the largest curvature on a string."""
    curvature = potential.hessian(x)
    _check_finite(potential, x, curvature.flatten(1))
    return 0.5 / float(torch.linalg.eigvalsh(curvature).abs().max())


def _check_finite(potential: Potential, x: Tensor, derivative: Tensor) -> None:
    wrong = ~derivative.isfinite().all(-1)
    if bool(wrong.any()):
        raise ValueError(
            f"the derivatives of {potential.name} are not finite at {x[wrong][0].tolist()}; "
            "start the string elsewhere"
        )


def _spread(x: Tensor, count: int) -> Tensor:
    """Points at equal arc length on a polyline, ends kept."""
    return constant_speed(Polyline(x), (x[1:] - x[:-1]).norm(dim=-1), count - 1)


def _across(x: Tensor, energies: Tensor, gradient: Tensor) -> Tensor:
    """The part of the gradient across the string (images, D); zero at its ends."""
    # The tangent points to the neighbour that lies higher: a central difference would let the
    # string kink where it is steep (Henkelman & Jonsson, J. Chem. Phys. 113, 9978, 2000).
    ahead, behind = x[2:] - x[1:-1], x[1:-1] - x[:-2]
    rise, fall = energies[2:] - energies[1:-1], energies[:-2] - energies[1:-1]
    up = (rise > fall).unsqueeze(-1)
    # at an extremum of the string both neighbours count, that of the larger change of energy more
    most, least = torch.maximum(rise.abs(), fall.abs()), torch.minimum(rise.abs(), fall.abs())
    most, least = most.unsqueeze(-1), least.unsqueeze(-1)
    mixed = torch.where(up, most, least) * ahead + torch.where(up, least, most) * behind
    extremum = (rise * fall > 0).unsqueeze(-1)
    tangent = torch.where(extremum, mixed, torch.where(up, ahead, behind))
    tangent = torch.nn.functional.normalize(tangent, dim=-1)
    across = torch.zeros_like(x)
    inner = gradient[1:-1]
    across[1:-1] = inner - (inner * tangent).sum(-1, keepdim=True) * tangent
    return across


def _state(potential: Potential, x: Tensor, name: str) -> Tensor:
    x = checks.points(x, name, potential.dim, f"the dimension of {potential.name}")
    if x.ndim != 1:
        raise ValueError(f"{name} has shape {tuple(x.shape)}; give one state ({potential.dim},)")
    return x


def _axes(potential: Potential, nodes: int | tuple[int, ...]) -> list[Tensor]:
    """Grid coordinates per dimension."""
    counts = (nodes,) * potential.dim if isinstance(nodes, int) else nodes
    if potential.dim > 3 or len(counts) != potential.dim or min(counts) < 2:
        raise ValueError(
            f"nodes = {nodes} for {potential.dim} coordinates; a grid needs at least 2 nodes for "
            "each of at most 3 coordinates"
        )
    axes = []
    for (low, high), period, n in zip(potential.box, potential.period, counts, strict=True):
        if period is None:
            axes.append(torch.linspace(low, high, n, dtype=torch.float64))
        else:
            axes.append(low + period * torch.arange(n, dtype=torch.float64) / n)
    return axes


Index = tuple[int, ...]


def _nearest(potential: Potential, axes: list[Tensor], state: Tensor, name: str) -> Index:
    index = []
    for d, axis in enumerate(axes):
        here = state.repeat(len(axis), 1)
        here[:, d] = axis
        off = potential.difference(here, state)[:, d].abs()
        if float(off.min()) > float(axis[1] - axis[0]):
            raise ValueError(
                f"{name} = {state.tolist()} lies outside the box {potential.box} of "
                f"{potential.name}; give a state inside"
            )
        index.append(int(off.argmin()))
    return tuple(index)


def _search(
    energies: Tensor, start: Index, goal: Index, period: tuple[float | None, ...]
) -> dict[Index, Index]:
    """Parents of the grid points reached in order of the highest energy on the way."""
    shape, values = energies.shape, energies.flatten().tolist()
    moves = [m for m in itertools.product((-1, 0, 1), repeat=len(shape)) if any(m)]
    strides = energies.contiguous().stride()

    def at(index: Index) -> float:
        return values[sum(i * stride for i, stride in zip(index, strides, strict=True))]

    parents: dict[Index, Index] = {}
    queue = [(at(start), start, start)]
    while queue:
        height, here, before = heapq.heappop(queue)
        if here in parents:
            continue
        parents[here] = before
        if here == goal:
            break
        for move in moves:
            there = [i + m for i, m in zip(here, move, strict=True)]
            inside = [
                True if p is not None else 0 <= i < n
                for i, n, p in zip(there, shape, period, strict=True)
            ]
            if all(inside):
                to = tuple(i % n for i, n in zip(there, shape, strict=True))
                if to not in parents:
                    heapq.heappush(queue, (max(height, at(to)), to, here))
    return parents
