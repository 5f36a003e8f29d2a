"""First paths: measured, chosen, and moved to another number of nodes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from diffodesic.geometry.energy import Order, PathEnergy, chord, evaluate
from diffodesic.geometry.solvers.second_order import lowest_curvature
from diffodesic.numerics.cost import record
from diffodesic.numerics.curves import Polyline, constant_speed

__all__ = ["Measure", "candidates", "first_paths", "measure", "pick", "respace"]

Paths = Callable[[Tensor, Tensor, int], dict[str, Tensor]]
"""``starts``, ``detours`` or ``hops`` of an energy."""

FEW = 8  # segments on which a chord is asked where it falls


class Measure(NamedTuple):
    """What is known of candidate paths (B, C, n+1, d): each (B, C), the squared steps (B, C, n)."""

    length: Tensor
    energy: Tensor
    sound: Tensor
    squared_steps: Tensor


def measure(energy: PathEnergy, paths: Tensor) -> Measure:
    """Lengths, energies and soundness of candidate paths (B, C, n+1, d); no gradient."""
    record(node_gradients=paths[..., 0].numel() / 3)
    with torch.no_grad():
        found = evaluate(energy, paths, order=0)
    sound = energy.resolves(paths) & ~found.doubtful.any(-1)
    # NaN sorts last
    length = found.squared_steps.clamp(min=0).sqrt().sum(-1).nan_to_num(nan=torch.inf)
    energies = found.energy.nan_to_num(nan=torch.inf)
    return Measure(length, energies, sound, found.squared_steps)


def pick(energy: Tensor, sound: Tensor) -> Tensor:
    """Index of the candidate of least energy, of sound ones if there are any, (B,)."""
    among = sound | ~sound.any(1, keepdim=True)
    return torch.where(among, energy, torch.inf).argmin(1)


def respace(
    energy: PathEnergy,
    x: Tensor,
    nodes: int,
    other: Tensor | None = None,
    *,
    steps: Tensor | None = None,
) -> Tensor:
    """Move to ``nodes`` segments of equal length along the path through ``x``.

    Between the old nodes the path is a spline or, where the metric has segments of its own, runs
    along these, whichever has less energy: the spline is smoother, but where nodes are few it may
    leave the region that the segments found.  Where equal lengths would leave the nodes too far
    apart for the metric (long and nearly free stretches get few of them), they are spread halfway,
    or wholly, by their old parameter instead.

    Args:
        energy: what is minimised.
        x: paths (B, k+1, d).
        nodes: number n of segments.
        other: a rival (B, n+1, d), taken where it has still less energy, or None.
        steps: squared steps of ``x`` that are known, (B, k), or of every m-th node, (B, k/m).

    Returns:
        paths (B, n+1, d).

    Cost: an energy of ``x`` where its steps are not known, and of the rivals if there are any.
    """
    if steps is None:
        record(node_gradients=x[..., 0].numel() / 3)
        with torch.no_grad():
            steps = evaluate(energy, x, order=0).squared_steps
    # negative steps are counted and reported where they are judged, not here
    lengths = steps.abs().nan_to_num().sqrt()
    lengths = lengths.repeat_interleave((x.shape[1] - 1) // lengths.shape[1], -1)
    even = lengths.mean(-1, keepdim=True).expand_as(lengths)

    def held(path: Tensor) -> Tensor:
        return torch.cat([x[:, :1], energy.confine(path[:, 1:-1]), x[:, -1:]], 1)

    def spread(along: Callable[[Tensor], Tensor]) -> Tensor:
        out = held(along(lengths))
        for share in (0.5, 1.0):
            good = energy.resolves(out)[..., None, None]
            if not bool(good.all()):
                out = torch.where(good, out, held(along(torch.lerp(lengths, even, share))))
        return out

    curve = energy.curve(x)
    rivals = [spread(lambda arc: constant_speed(curve, arc, nodes, estimated=energy.fitted))]
    if energy.exact_segments:
        rivals.append(spread(lambda arc: _along_segments(energy, x, arc, nodes)))
    if other is not None:
        rivals.append(other)
    if len(rivals) == 1:
        return rivals[0]
    paths = torch.stack(rivals, 1)
    found = measure(energy, paths)
    return paths[torch.arange(len(x), device=x.device), pick(found.energy, found.sound)]


def _along_segments(
    energy: PathEnergy, x: Tensor, lengths: Tensor, nodes: int, pieces: int = 8
) -> Tensor:
    """Points at equal arc length along the metric's own segments between nodes (B, k+1, d)."""
    # within a segment the arc is shared out by ``energy.weights``, which costs nothing
    count = pieces * (x.shape[1] - 1)
    s = torch.linspace(0, 1, count + 1, dtype=x.dtype, device=x.device)
    fine = energy.segments(x)(s)
    size = energy.weights((fine[:, 1:] + fine[:, :-1]) / 2)
    parts = fine.diff(dim=1).square().split(energy.blocks, -1)
    arc = (size * torch.stack([part.sum(-1) for part in parts], -1)).sum(-1).sqrt()
    arc = arc.unflatten(1, (-1, pieces))
    total = arc.sum(-1, keepdim=True)
    share = torch.where(total > 0, arc / torch.where(total > 0, total, 1.0), 1 / pieces)
    return constant_speed(Polyline(fine), (share * lengths.unsqueeze(-1)).flatten(1), nodes)


def first_paths(of: Paths, a: Tensor, b: Tensor, nodes: int) -> dict[str, Tensor]:
    """Paths of points (B, d) by name, pair by pair, so that a pair does not see its company."""
    # what a pair lacks is its own first one again, or its chord, which changes no choice among
    # them; many numbers at once are rounded otherwise than one, and a search of hundreds of steps
    # makes 1e-4 of a last digit
    single = [of(*pair, nodes) for pair in zip(a.split(1), b.split(1), strict=True)]
    names = dict.fromkeys(name for one in single for name in one)
    lines = chord(a, b, nodes).split(1)
    own = [next(iter(one.values()), line) for one, line in zip(single, lines, strict=True)]
    pairs = list(zip(single, own, strict=True))
    return {name: torch.cat([one.get(name, first) for one, first in pairs]) for name in names}


def candidates(
    energy: PathEnergy, a: Tensor, b: Tensor, nodes: int, order: Order
) -> dict[str, Tensor]:
    """First paths between points (B, d) by name, each (B, nodes+1, d).

    They are the energy's own and, where that is the chord alone, two half circles over it: the
    chord may lie on an axis of symmetry, where a descent sees no way down.  The circles lie in the
    plane of the chord's lowest curvature.

    Args:
        energy: what is minimised.
        a: starts (B, d).
        b: ends (B, d).
        nodes: number n of segments.
        order: 2 where the energy has a Hessian of its own, else 1.

    Returns:
        the paths.

    Cost: for the half circles, nine energy gradients on eight segments, or three with ``order`` 2.
    """
    named = first_paths(energy.starts, a, b, nodes)
    # a circle needs coordinates of one kind
    if len(named) > 1 or len(energy.blocks) > 1 or a.shape[-1] < 2:
        return named
    across = b - a
    size = across.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(a.dtype).tiny)
    side = _sideways(energy, a, b, order)
    angle = torch.linspace(0, math.pi, nodes + 1, dtype=a.dtype, device=a.device)[:, None]
    for name, sign in (("arc", 1.0), ("arc back", -1.0)):
        turned = sign * angle.sin() * side[:, None] - angle.cos() * (across / size)[:, None]
        path = ((a + b) / 2)[:, None] + size[:, None] / 2 * turned
        named[name] = torch.cat([a[:, None], energy.confine(path[:, 1:-1]), b[:, None]], 1)
    return named


def _sideways(energy: PathEnergy, a: Tensor, b: Tensor, order: Order) -> Tensor:
    """Unit vectors (B, d) across the chords: their direction of lowest curvature."""
    across = b - a
    along = across / across.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(a.dtype).tiny)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(a.shape[-1], generator=generator, dtype=torch.float64).to(a)
    steps = 2 if order == 2 else 8
    _, direction = lowest_curvature(energy, chord(a, b, FEW), steps, order=order)
    side = _across(direction.sum(1), along)
    lost = ~(side.norm(dim=-1, keepdim=True) > 0.5)
    return torch.where(lost, _across(drawn.expand_as(a), along), side)


def _across(v: Tensor, along: Tensor) -> Tensor:
    """The part of vectors (B, d) across unit vectors, of length one; zero where there is none."""
    part = v - (v * along).sum(-1, keepdim=True) * along
    size = part.norm(dim=-1, keepdim=True)
    enough = size > 1e-9 * v.norm(dim=-1, keepdim=True)
    return torch.where(enough, part / torch.where(enough, size, 1.0), 0.0)
