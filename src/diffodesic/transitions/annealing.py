r"""Transition paths: Langevin dynamics carried along a path through spacetime (2505.17517, Alg. 1).

A path gamma_i = (z_i, lam_i), i = 0..n, between two states says where to look and how loosely to
hold on.  Every sampled path is one chain: started at z_0, it takes K Langevin steps on

    V_i(x) = U(x)/kT + (e^{lam_i}/2) |x - z_i|^2

at each node in turn, from the first state to the second.  V_i is the denoising posterior at
gamma_i, so for large K the chain is a sample of those posteriors in order.  MaxEnergy is the
largest U over *every* state of a chain, not over the states that are kept.

The path may come from anywhere: :func:`straight_line` and :func:`constant_noise` feed the same
sampler, and tell what the shape of a geodesic and what its noise is worth.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffodesic.geometry.path import Geodesic
from diffodesic.output.stages import Store, fingerprint
from diffodesic.transitions.langevin import Walkers, suggested_step, walk
from diffodesic.transitions.learned import LearnedDenoiser
from diffodesic.transitions.minimise import relax
from diffodesic.transitions.potentials import Potential

__all__ = ["TransitionPaths", "constant_noise", "straight_line", "transition_paths"]


@dataclass(frozen=True)
class TransitionPaths:
    """P sampled paths and what was seen along them.

    Attributes:
        potential: U and kT.
        nodes: the path through spacetime they follow, (n+1, d+1).
        frames: states at the end of the kept nodes, (P, F, d), on the line (see
            ``potential.wrap``).
        energies: U of the frames, (P, F).
        kept: nodes that the frames belong to, (F,).
        max_energy: largest U over every state of each path, (P,).
        peak: the state where it was, (P, d).
        peak_node: the node it was at, (P,).
        accepted: share of accepted moves at each node, (n+1,); ones if not corrected.
        evaluations: energy evaluations, each with its gradient, for all paths.
        settings: what the paths were drawn with, for a report.
    """

    potential: Potential
    nodes: Tensor
    frames: Tensor
    energies: Tensor
    kept: Tensor
    max_energy: Tensor
    peak: Tensor
    peak_node: Tensor
    accepted: Tensor
    evaluations: int
    settings: dict[str, Any]

    def __len__(self) -> int:
        """Number of paths."""
        return len(self.max_energy)

    @property
    def mean_max_energy(self) -> float:
        """MaxEnergy: the mean over paths of the largest energy along them."""
        return float(self.max_energy.mean())

    @property
    def spread(self) -> float:
        """Standard deviation of the largest energy over paths (what papers print after +-)."""
        return float(self.max_energy.std()) if len(self) > 1 else math.nan

    @property
    def standard_error(self) -> float:
        """Standard error of :attr:`mean_max_energy`."""
        return self.spread / math.sqrt(len(self))

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Normal confidence interval of MaxEnergy.

        Args:
            level: confidence, between 0 and 1.

        Returns:
            lower and upper end.

        Raises:
            ValueError: for fewer than 30 paths, where it would not hold, or a wrong level.
        """
        if len(self) < 30:
            raise ValueError(f"an interval needs at least 30 paths, got {len(self)}; draw more")
        if not 0 < level < 1:
            raise ValueError(f"level must be between 0 and 1, got {level}")
        half = math.sqrt(2) * float(torch.erfinv(torch.tensor(level, dtype=torch.float64)))
        half *= self.standard_error
        return self.mean_max_energy - half, self.mean_max_energy + half

    def profile(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation over paths of U at every kept node, (F,) each."""
        return self.energies.mean(0), self.energies.std(0, correction=0)

    def trace(self, index: int) -> Tensor:
        """Every Langevin state of one path, (K (n+1) + 1, d), on the line.

        Its block is drawn again: the frames kept are few, and a barrier is crossed between two.

        Args:
            index: number of the path.

        Returns:
            its states, the first one included.

        Raises:
            ValueError: if there is no such path.

        Cost: ``K (n + 1)`` energies for every path of its block.
        """
        if not 0 <= index < len(self):
            raise ValueError(f"there is no path {index} among {len(self)}")
        size = self.settings["block"]
        first = index - index % size
        states: list[Tensor] = []
        block = _Block(self.potential, self.nodes, self.settings, index // size)
        for _ in block.walk(
            min(size, len(self) - first), lambda _, now: states.append(now.x[index - first])
        ):
            pass
        return torch.stack(states)

    def hits(self, target: Tensor | None = None, *, radius: float | None = None) -> Tensor:
        """Which paths ended at the target.

        Args:
            target: the state (d,); default the end of the path through spacetime.
            radius: ended within this distance of it, by the nearest image; default: in its basin
                (steepest descent from both leads to one minimum).

        Returns:
            (P,) boolean; 100 times its mean is the target-hit percentage.

        Cost: none with a radius; else a descent for every path.
        """
        target = self.nodes[-1, :-1] if target is None else target
        last, close = self.frames[:, -1], radius
        if radius is None:
            ends = relax(self.potential, torch.cat([target[None], last]))
            target, last = ends[0], ends[1:]
            close = 1e-2 * min(high - low for low, high in self.potential.box)
        return self.potential.difference(last, target).norm(dim=-1) <= close


def straight_line(a: Tensor, b: Tensor, log_snr: Tensor) -> Tensor:
    """Nodes on the straight line from ``a`` to ``b`` (d,) with a given noise profile.

    Args:
        a: first state.
        b: second state; for periodic coordinates the image that is meant.
        log_snr: profile (n+1,), such as that of a geodesic, ``geo.nodes[:, -1]``.

    Returns:
        nodes (n+1, d+1), equally spaced in z.
    """
    s = torch.linspace(0, 1, len(log_snr), dtype=a.dtype, device=a.device).unsqueeze(-1)
    return torch.cat([torch.lerp(a, b, s), log_snr.to(a).unsqueeze(-1)], -1)


def constant_noise(a: Tensor, b: Tensor, log_snr: float, *, nodes: int = 128) -> Tensor:
    """Nodes (nodes + 1, d+1) on the straight line from ``a`` to ``b`` (d,) at one noise level."""
    return straight_line(a, b, a.new_full((nodes + 1,), log_snr))


def transition_paths(
    potential: Potential,
    path: Geodesic | Tensor,
    *,
    paths: int = 1000,
    langevin_steps: int = 128,
    step: float | None = None,
    temperature: float | None = None,
    seed: int = 0,
    correct: bool = True,
    frames: int | None = None,
    block: int = 1000,
    store: Path | str | None = None,
    progress: Callable[[str], None] | None = None,
) -> TransitionPaths:
    """Sample transition paths along a path through spacetime.

    Args:
        potential: U, its unit and its kT.
        path: a geodesic of ``Spacetime(denoiser of exp(-U/kT))``, or any nodes (n+1, d+1).
        paths: number P of paths.
        langevin_steps: number K of steps at each node.
        step: step tau in squared units of x; default a tenth of the fastest relaxation time at
            the two states (:func:`diffodesic.transitions.langevin.suggested_step`).
        temperature: kT in the potential's unit; default the potential's own.
        seed: seed of the noise.  Paths depend on ``seed`` and ``block`` alone.
        correct: use the Metropolis correction.
        frames: states kept per path, spread over the nodes, ends included; default one per node.
        block: paths drawn at once: the unit of memory, of the seed and of resuming.
        store: a folder; finished blocks are saved there and not drawn again.  Frames are then
            read from disk as they are needed.
        progress: called with a short line after every node.

    Returns:
        the paths.

    Raises:
        ValueError: if the nodes do not fit the potential, a count is below 1, the step size
            explodes, or ``store`` holds paths of other settings.

    Cost: ``P K (n + 1)`` energy evaluations with gradient.
    """
    potential = potential if temperature is None else potential.at(temperature)
    nodes = _nodes(potential, path)
    if min(paths, langevin_steps, block) < 1:
        raise ValueError(
            f"paths, langevin_steps and block must be at least 1, got {paths}, {langevin_steps} "
            f"and {block}"
        )
    states = nodes[[0, -1], :-1]
    _warn_of_slopes(potential, states)
    if step is None:
        step = suggested_step(potential, states, float(nodes[:, -1].max()))
    frames = len(nodes) if frames is None else frames
    if frames < 2:
        raise ValueError(f"frames must be at least 2, the two ends; got {frames}")
    kept = torch.linspace(0, len(nodes) - 1, frames).round().long().unique()
    settings: dict[str, Any] = {
        "potential": potential.name,
        "kT": potential.kT,
        "unit": potential.unit,
        "paths": paths,
        "langevin_steps": langevin_steps,
        "step": step,
        "seed": seed,
        "correct": correct,
        "nodes": len(nodes),
        "geodesic": path.status.name if isinstance(path, Geodesic) else "given nodes",
        "block": block,
    }
    stages = Store(store, _kind(potential, nodes, kept, settings))
    room = stages.array("frames", (paths, len(kept), potential.dim))
    drawn = []
    for first in range(0, paths, block):
        title = f"paths {first + 1} to {min(first + block, paths)} of {paths}"

        def tell(node: int, title: str = title) -> None:
            if progress:
                progress(f"{title}, node {node + 1} of {len(nodes)}")

        part = room[first : first + block]
        name = f"block-{first // block:05d}"
        stage = stages.read(name)
        if stage is not None and stage[1]["paths"] == len(part):
            if stage[1]["frames"] == fingerprint(part):
                drawn.append(stage[0])
                continue
            stages.warn(name, "its frames are not those that were drawn")
        tensors = _Block(potential, nodes, settings, first // block).draw(kept, part, tell)
        stages.write(name, tensors, {"paths": len(part), "frames": fingerprint(part)})
        drawn.append(tensors)
    shares = torch.stack([part["accepted"] for part in drawn])
    sizes = torch.tensor([float(len(part["max_energy"])) for part in drawn], dtype=torch.float64)
    names = ("energies", "max_energy", "peak", "peak_node")
    return TransitionPaths(
        potential,
        nodes,
        room,
        kept=kept,
        accepted=(sizes / sizes.sum()) @ shares,
        evaluations=paths * (1 + langevin_steps * len(nodes)),
        settings=settings,
        **{name: torch.cat([part[name] for part in drawn]) for name in names},
    )


def _nodes(potential: Potential, path: Geodesic | Tensor) -> Tensor:
    nodes = path.nodes if isinstance(path, Geodesic) else path
    if nodes.ndim != 2 or nodes.shape[-1] != potential.dim + 1 or len(nodes) < 2:
        raise ValueError(
            f"the path has nodes of shape {tuple(nodes.shape)}; {potential.name} needs one path "
            f"(n+1, {potential.dim + 1}) of points (z, log SNR)"
        )
    if not bool(nodes.isfinite().all()):
        raise ValueError("the path holds values that are not finite")
    denoiser = getattr(getattr(path, "metric", None), "denoiser", None)
    if isinstance(denoiser, LearnedDenoiser):
        denoiser.check(potential)
    law = getattr(denoiser, "potential", potential)
    if law.kT != potential.kT:
        raise ValueError(
            f"the geodesic belongs to kT = {law.kT:g}, the paths to {potential.kT:g} "
            f"{potential.unit}; solve it again, or give its temperature"
        )
    return nodes.detach().double()


def _warn_of_slopes(potential: Potential, states: Tensor) -> None:
    """States are allowed to lie on a slope, but not silently."""
    bottom = relax(potential, states)
    before, after = potential(states), potential(bottom)
    for name, high, low, where in zip(("first", "second"), before, after, bottom, strict=True):
        if float(high - low) > potential.kT:
            place = ", ".join(f"{round(value, 4):g}" for value in potential.wrap(where).tolist())
            warnings.warn(
                f"the {name} state is no minimum: its energy is {float(high):.4g} "
                f"{potential.unit}, and relax() leads to {round(float(low), 4):g} at ({place})",
                RuntimeWarning,
                stacklevel=3,
            )


@dataclass(frozen=True)
class _Block:
    """One block of paths: the unit of memory and of the seed."""

    potential: Potential
    nodes: Tensor
    settings: Mapping[str, Any]
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
            highest = torch.where(above, now.energy, highest)
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
        given = self.settings
        generator = torch.Generator().manual_seed(_mixed(given["seed"], self.index))
        walkers = Walkers.at(self.potential, self.nodes[0, :-1].expand(count, -1).clone())
        watch(0, walkers)
        for node, point in enumerate(self.nodes):
            walkers = walk(
                self.potential,
                walkers,
                steps=given["langevin_steps"],
                step=given["step"],
                generator=generator,
                z=point[:-1],
                log_snr=float(point[-1]),
                correct=given["correct"],
                watch=partial(watch, node),
            )
            yield walkers


def _kind(
    potential: Potential, nodes: Tensor, kept: Tensor, settings: Mapping[str, object]
) -> dict[str, object]:
    """What sampled paths depend on; more paths of one kind may be added, their number is not."""
    return {
        **{name: value for name, value in settings.items() if name != "paths"},
        "law": _fingerprint(potential, nodes),
        "path": fingerprint(nodes, kept),
    }


def _mixed(seed: int, block: int) -> int:
    """A seed for a block: far from those of its neighbours, and of neighbouring seeds."""
    digest = hashlib.sha256(f"{seed}/{block}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


def _fingerprint(potential: Potential, nodes: Tensor) -> str:
    """What a potential is, whatever its name: its energies at points of its box and on the path."""
    generator = torch.Generator().manual_seed(0)
    low, high = torch.tensor(potential.box, dtype=torch.float64).T
    spread = torch.rand(16, potential.dim, generator=generator, dtype=torch.float64)
    energies = potential(
        torch.cat([low + (high - low) * spread, nodes[:: max(1, len(nodes) // 8), :-1]])
    )
    return fingerprint(*(f"{u:.9g}" for u in energies.tolist()))
