r"""First paths through spacetime along the probability flow of their ends.

A network is trained on points z with |z - m|^2 close to sigma^2 D.  A straight line between two
noisy images loses that norm: half-way between independent noises half of it is left.  The
probability flow carries each end to any level and keeps it typical there.  Along an arch whose log
SNR falls from the ends to the middle,

    lam(s) = lam_chord(s) - 4 depth s (1 - s),      z(s) = slerp(A(lam(s)), B(lam(s)); t(s)),

with A and B the flow lines of the ends and slerp the arc of a circle about the mean of the data.
``t(s) = s`` crosses all the way along; a *late* arch goes up one flow line, crosses in the middle
third, and comes down the other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.denoisers.flow import integrate
from diffodesic.numerics.curves import Spline, arc, constant_speed

__all__ = ["even_means", "flow_arches"]

DEPTHS = (2.0, 3.0, 4.0)  # e-folds of SNR that an arch falls
CROSSINGS = {"": 0.0, "late ": 1 / 3}  # share of the arch on each side without a crossing
STEP = 0.25  # of log SNR along a flow line, one step of Heun's rule each


def flow_arches(
    denoiser: Denoiser,
    a: Tensor,
    b: Tensor,
    nodes: int,
    lowest: float,
    depths: Sequence[float] = DEPTHS,
    crossings: Mapping[str, float] = CROSSINGS,
) -> dict[str, Tensor]:
    """Arches of slerps between the flow lines of two points.

    Args:
        denoiser: posterior mean.
        a: starts (..., D + 1), packed from (z, log SNR).
        b: ends (..., D + 1).
        nodes: number n of segments.
        lowest: log SNR below which no arch goes.
        depths: how many e-folds of SNR each arch falls.
        crossings: share of an arch on each side without a crossing, below 1/2, by the word that
            begins its name.

    Returns:
        paths (..., n + 1, D + 1) by name, with exact ends; an arch that would go below ``lowest``
        keeps to it, or to the level of its noisier end where that lies below it.

    Cost: 8 evaluations per end and e-fold between the cleaner end and the deepest level of the
    arches: 32 where both ends are at one level and the deepest arch falls by 4.
    """
    tops = torch.stack([a[..., -1], b[..., -1]])
    s = torch.linspace(0, 1, nodes + 1, dtype=a.dtype, device=a.device)
    chord = torch.lerp(a[..., -1:], b[..., -1:], s)
    noisier = tops.amin(0)
    deepest = torch.minimum((noisier - max(depths)).clamp(min=lowest), noisier)
    # both lines reach every level of the arch: the noisier end is first carried down to the other
    lines = [_flow_line(denoiser, end, tops.amax(0), deepest) for end in (a, b)]
    centre = torch.as_tensor(denoiser.mean).to(a)
    found = {}
    for depth in depths:
        level = torch.maximum(chord - 4 * depth * s * (1 - s), deepest.unsqueeze(-1))
        first, last = (_at(*line, level) for line in lines)
        for name, still in crossings.items():
            t = ((s - still) / (1 - 2 * still)).clamp(0, 1)
            z = centre + arc(first - centre, last - centre, t)
            path = torch.cat([z, level.unsqueeze(-1)], -1)
            path[..., 0, :], path[..., -1, :] = a, b
            found[f"{name}flow arch {depth:g}"] = path
    return found


def even_means(denoiser: Denoiser, path: Tensor) -> Tensor:
    """The same curve, with nodes between which the posterior means move equally far.

    An arch changes most where it is clean; equal steps of its parameter leave large steps there.

    Args:
        denoiser: posterior mean.
        path: nodes (..., n + 1, D + 1), packed from (z, log SNR).

    Returns:
        nodes (..., n + 1, D + 1), with exact ends.

    Cost: one evaluation per node.
    """
    with torch.no_grad():
        means = denoiser(path[..., :-1], (-path[..., -1] / 2).exp())
    steps = means.diff(dim=-2).norm(dim=-1)
    return constant_speed(Spline(path), steps, path.shape[-2] - 1)


def _flow_line(
    denoiser: Denoiser, end: Tensor, top: Tensor, deepest: Tensor
) -> tuple[Tensor, Tensor]:
    """Levels (..., k + 1) from ``top`` (...) to ``deepest``, and points (..., k + 1, D) there."""
    z, own = end[..., :-1], end[..., -1]
    with torch.no_grad():
        if bool((top > own).any()):
            count = math.ceil(float((top - own).max()) / STEP)
            z = integrate(denoiser, z, own, top, steps=count)
        count = max(1, math.ceil(float((top - deepest).max()) / STEP))
        share = torch.linspace(0, 1, count + 1, dtype=z.dtype, device=z.device)
        levels = torch.lerp(top.unsqueeze(-1), deepest.unsqueeze(-1), share)
        points = [z]
        for i in range(count):
            z = integrate(denoiser, z, levels[..., i], levels[..., i + 1], steps=1)
            points.append(z)
    return levels, torch.stack(points, -2)


def _at(levels: Tensor, points: Tensor, wanted: Tensor) -> Tensor:
    """Points (..., n + 1, D) of a flow line at levels (..., n + 1), between its own by lines."""
    top, deepest, count = levels[..., :1], levels[..., -1:], levels.shape[-1] - 1
    fall = torch.where(top > deepest, top - deepest, 1.0)
    place = ((top - wanted) / fall * count).clamp(0, count)
    i = place.long().clamp(max=count - 1).unsqueeze(-1).expand(*wanted.shape, points.shape[-1])
    return torch.lerp(points.gather(-2, i), points.gather(-2, i + 1), place.unsqueeze(-1) - i)
