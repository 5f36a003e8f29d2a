r"""What sampled transition paths say: which saddles they cross, and how many of them differ.

- Channels.  The highest state of a path lies near the pass it took; eigenvector following
  (:mod:`diffodesic.transitions.stationary`) moves it to the saddle.  Each saddle is a channel, and
  the share of paths that lead to it is its occupation.
- Effective number of distinct paths.  exp of the entropy of the eigenvalues of K/P, where
  K_pq = exp(-|x_p - x_q|^2 / 2 l^2) with the mean square distance over frames (Friedman & Dieng,
  2210.02410): 1 if all paths coincide at the scale l, P if no two do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffodesic.transitions.paths import TransitionPaths
from diffodesic.transitions.stationary import relax_to_saddle

__all__ = ["Channel", "channels", "effective_paths"]


@dataclass(frozen=True)
class Channel:
    """A saddle and the paths whose highest state leads to it.

    A search from high up a slope ends at *some* saddle: where the highest states lie far from it
    or far above it, the paths crossed elsewhere.

    Attributes:
        saddle: where, (d,), wrapped into the box.
        energy: U there.
        share: of all paths.
        above: median over these paths of how far the highest state lies above U there.
        away: median of its distance.
    """

    saddle: Tensor
    energy: float
    share: float
    above: float
    away: float


def channels(paths: TransitionPaths, *, within: float | None = None) -> list[Channel]:
    """The saddles that the highest states of paths lead to, the most used first.

    Args:
        paths: sampled paths.
        within: two saddles nearer than this are one; default 2 % of the box.

    Returns:
        the channels; their shares sum to less than one if some searches ended at no saddle.

    **Cost** a saddle search per path.
    """
    potential = paths.potential
    within = 0.02 * potential.size if within is None else within
    places, index = relax_to_saddle(potential, paths.peak)
    ended = index == 1
    places, peaks = potential.wrap(places[ended]), paths.peak[ended]
    heights, seen = paths.max_energy[ended], list[Channel]()
    while len(places):
        saddle, energy = places[0], float(potential(places[0]))
        near = potential.difference(places, saddle).norm(dim=-1) <= within
        away = potential.difference(peaks[near], saddle).norm(dim=-1)
        above = float(heights[near].median()) - energy
        share = float(near.sum()) / len(paths)
        seen.append(Channel(saddle, energy, share, above, float(away.median())))
        places, peaks, heights = places[~near], peaks[~near], heights[~near]
    return sorted(seen, key=lambda channel: -channel.share)


def effective_paths(paths: TransitionPaths, *, scale: float) -> float:
    """Effective number of distinct paths at a length scale.

    Args:
        paths: P sampled paths.
        scale: distance l, root mean square over frames, at which two paths count as different.

    Returns:
        a number from 1 to P.

    Raises:
        ValueError: if ``scale`` is not positive.

    **Cost** P^2 F d in time, and an eigenvalue problem of size P; no energies.
    """
    if not scale > 0:
        raise ValueError(f"scale must be positive, got {scale}")
    count, frames = paths.frames.shape[:2]
    square = paths.frames.new_zeros(count, count)
    for i in range(frames):
        x = paths.frames[:, i]
        square += paths.potential.difference(x[:, None], x[None]).square().sum(-1)
    kernel = torch.exp(-square / (2 * frames * scale**2))
    share = torch.linalg.eigvalsh(kernel / count)
    share = share[share > 0]
    return math.exp(-float((share * share.log()).sum()))
