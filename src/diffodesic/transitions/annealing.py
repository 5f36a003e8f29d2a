r"""Annealed Langevin dynamics: a path through spacetime carries walkers (2505.17517, Alg. 1).

Nodes gamma_i = (z_i, lam_i), i = 0..n, between two states say where a path is held and how
tightly.  Every sampled path is one Langevin walker, started at z_0.  It takes K steps on

    V_i(x) = U(x)/kT + (e^{lam_i}/2) |x - z_i|^2

at each node in turn, from the first state to the second.  V_i is the denoising posterior at
gamma_i, so for large K the path is a sample of those posteriors in order.

The nodes need not be a geodesic: :func:`straight_line` and :func:`constant_noise` give others, and
show what the shape of a geodesic and what its noise is worth.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from diffodesic.output.options import Options, option
from diffodesic.transitions.langevin import Langevin, Walkers
from diffodesic.transitions.potentials import Potential

__all__ = ["Block", "PathOptions", "constant_noise", "straight_line"]


@dataclass(frozen=True)
class PathOptions(Options):
    """How transition paths are drawn.

    Args:
        paths: number P of paths.
        langevin_steps: number K of Langevin steps at each node.
        step: step tau of the dynamics, in squared units of x; default a tenth of the fastest
            relaxation time at the two states.
        correct: use the Metropolis correction.
        seed: of the noise.  Paths depend on ``seed`` and ``block`` alone.
        frames: number F of states kept per path, spread over the nodes, ends included; default
            one per node.
        block: paths drawn at once: the unit of memory, of the seed and of resuming.
    """

    paths: int = option(1000, least=1)
    langevin_steps: int = option(128, least=1)
    step: float | None = option(None, above=0)
    correct: bool = True
    seed: int = option(0, least=0, most=2**63 - 1)
    frames: int | None = option(None, least=2, most=10_000)
    block: int = option(1000, least=1)


@dataclass(frozen=True)
class Block:
    """One block of paths: the unit of memory and of the seed."""

    potential: Potential
    nodes: Tensor
    options: PathOptions
    index: int

    def draw(self, kept: Tensor, frames: Tensor, tell: Callable[[int], None]) -> dict[str, Tensor]:
        """Draw the paths: their frames into ``frames`` (P, F, d), the rest returned."""
        count = len(frames)
        highest = frames.new_full((count,), -math.inf)
        peak = frames.new_full((count, frames.shape[-1]), math.nan)
        at = torch.zeros(count, dtype=torch.long)
        energies, shares, slot = [], [], dict(zip(kept.tolist(), range(len(kept)), strict=True))

        def watch(node: int, now: Walkers) -> None:
            nonlocal highest, peak, at
            above = now.energy > highest
            highest = torch.maximum(highest, now.energy)  # NaN stays
            peak = torch.where(above.unsqueeze(-1), now.x, peak)
            at = torch.where(above, node, at)

        for node, walkers in enumerate(self.walk(count, watch)):
            shares.append(walkers.accepted)
            if node in slot:
                frames[:, slot[node]] = walkers.x
                energies.append(walkers.energy)
            tell(node)
        return {
            "energies": torch.stack(energies, 1),
            "max_energy": highest,
            "peak": peak,
            "peak_node": at,
            "accepted": torch.tensor(shares, dtype=torch.float64),
        }

    def walk(self, count: int, watch: Callable[[int, Walkers], None]) -> Iterator[Walkers]:
        """The walkers after each node; ``watch`` sees the first state and every step."""
        options = self.options
        assert options.step is not None
        generator = torch.Generator().manual_seed(_mixed(options.seed, self.index))
        walkers = Walkers.at(self.potential, self.nodes[0, :-1].expand(count, -1).clone())
        watch(0, walkers)
        for node, point in enumerate(self.nodes):
            held = Langevin(
                self.potential, options.step, point[:-1], float(point[-1]), options.correct
            )
            walkers = held.run(walkers, options.langevin_steps, generator, partial(watch, node))
            yield walkers


def _mixed(seed: int, block: int) -> int:
    """A seed for a block: far from those of its neighbours, and of neighbouring seeds."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{block}".encode()).digest()[:7], "big")


def straight_line(a: Tensor, b: Tensor, log_snr: Tensor) -> Tensor:
    """Nodes on the straight line from ``a`` to ``b`` (d,) with a given noise profile.

    Args:
        a: first state.
        b: second state; for periodic coordinates the image that is meant.
        log_snr: profile (n+1,), such as that of a geodesic, ``geo.even[:, -1]``.

    Returns:
        nodes (n+1, d+1), equally spaced in z.
    """
    s = torch.linspace(0, 1, len(log_snr), dtype=a.dtype, device=a.device).unsqueeze(-1)
    return torch.cat([torch.lerp(a, b, s), log_snr.to(a).unsqueeze(-1)], -1)


def constant_noise(a: Tensor, b: Tensor, log_snr: float, *, nodes: int = 128) -> Tensor:
    """Nodes (nodes + 1, d+1) on the straight line from ``a`` to ``b`` (d,) at one noise level."""
    return straight_line(a, b, a.new_full((nodes + 1,), log_snr))
