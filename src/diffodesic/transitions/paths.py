"""Sampled transition paths: drawn block by block along a path through spacetime.

MaxEnergy is the largest U over *every* Langevin state of a path, not over the frames that are kept.
Blocks that were finished are kept in a folder, so that an interrupted run goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffodesic.geometry.path import Geodesic
from diffodesic.models.identity import identity
from diffodesic.numerics import checks
from diffodesic.numerics.cost import expect, stage
from diffodesic.numerics.words import brief
from diffodesic.output.options import suggests
from diffodesic.output.stages import Store, fingerprint
from diffodesic.transitions.annealing import Block, PathOptions
from diffodesic.transitions.langevin import suggested_step
from diffodesic.transitions.learned import LearnedDenoiser
from diffodesic.transitions.potentials import Potential
from diffodesic.transitions.states import warn_of_slopes
from diffodesic.transitions.stationary import relax

__all__ = ["TransitionPaths", "transition_paths"]


@dataclass(frozen=True, repr=False)
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
        evaluations: energies computed for all paths, each with its gradient.
        options: what the paths were drawn with.
        geodesic: how the search for the nodes ended, or that they were given.
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
    options: PathOptions
    geodesic: str = "given nodes"

    def __repr__(self) -> str:
        """One line: of what, how many, and how high they go."""
        known = {"MaxEnergy": self.max_energy, "mean": self.mean_max_energy}
        return f"TransitionPaths({self.potential.name}, {brief(known)}, geodesic {self.geodesic})"

    def __len__(self) -> int:
        """Number of paths."""
        return len(self.max_energy)

    @property
    def settings(self) -> dict[str, Any]:
        """What the paths were drawn with, as plain values for a report."""
        return {
            "potential": self.potential.name,
            "kT": self.potential.kT,
            "unit": self.potential.unit,
            **replace(self.options, frames=None).settings(),
            "nodes": len(self.nodes),
            "geodesic": self.geodesic,
        }

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
        quantile = torch.special.ndtri(torch.tensor((1 + level) / 2, dtype=torch.float64))
        half = float(quantile) * self.standard_error
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

        **Cost** ``K (n + 1)`` energies for every path of its block.
        """
        if not 0 <= index < len(self):
            raise ValueError(f"there is no path {index} among {len(self)}")
        size = self.options.block
        first = index - index % size
        states: list[Tensor] = []
        block = Block(self.potential, self.nodes, self.options, index // size)
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

        **Cost** no energies with a radius; else a descent for every path.
        """
        target = self.nodes[-1, :-1] if target is None else target
        last = self.frames[:, -1]
        if radius is None:
            ends = relax(self.potential, torch.cat([target[None], last]))
            target, last, radius = ends[0], ends[1:], 1e-2 * self.potential.size
        return self.potential.difference(last, target).norm(dim=-1) <= radius


@suggests(options=(PathOptions,))
def transition_paths(
    potential: Potential,
    path: Geodesic | Tensor,
    options: PathOptions | None = None,
    *,
    store: Path | str | None = None,
    progress: Callable[[str], None] | None = None,
) -> TransitionPaths:
    """Sample transition paths along a path through spacetime.

    Args:
        potential: U, its unit and its kT.
        path: a geodesic of ``Spacetime(denoiser of exp(-U/kT))``, or any nodes (n+1, d+1).
        options: how many paths, steps of the dynamics and frames; default ``PathOptions()``.
        store: a folder; finished blocks are saved there and not drawn again.  Frames are then
            read from disk as they are needed.
        progress: called with a short line after every node.

    Returns:
        the paths.

    Raises:
        ValueError: if the nodes do not fit the potential, U or its slope is not finite at their
            ends, fewer than a tenth of the steps are accepted, uncorrected steps explode, or
            ``store`` holds paths of other settings.

    **Cost** ``P (K (n + 1) + 1)`` energies with gradient.
    """
    checks.of_kind(potential, "potential", Potential)
    options, nodes = options or PathOptions(), _nodes(potential, path)
    states = nodes[[0, -1], :-1]
    warn_of_slopes(potential, states)
    if options.step is None:
        step = suggested_step(potential, states, float(nodes[:, -1].max()))
        options = replace(options, step=step)
    frames = len(nodes) if options.frames is None else options.frames
    kept = torch.linspace(0, len(nodes) - 1, frames).round().long().unique()
    kind = _kind(potential, nodes, kept, options)
    denoiser = getattr(getattr(path, "metric", None), "denoiser", None)
    # the nodes tell one denoiser from another too, but not a reader which of the two it was
    kind |= {"denoiser": None if denoiser is None else identity(denoiser)}
    with Store(store, kind).held() as stages:
        room, blocks = _blocks(potential, nodes, options, kept, stages, progress)
    shares = torch.stack([part["accepted"] for part in blocks])
    sizes = torch.tensor([float(len(part["max_energy"])) for part in blocks], dtype=torch.float64)
    names = ("energies", "max_energy", "peak", "peak_node")
    drawn = TransitionPaths(
        potential,
        nodes,
        room,
        kept=kept,
        accepted=(sizes / sizes.sum()) @ shares,
        evaluations=options.paths * (1 + options.langevin_steps * len(nodes)),
        options=options,
        geodesic=path.status.name if isinstance(path, Geodesic) else "given nodes",
        **{name: torch.cat([part[name] for part in blocks]) for name in names},
    )
    _check_moves(drawn)
    return drawn


def _blocks(
    potential: Potential,
    nodes: Tensor,
    options: PathOptions,
    kept: Tensor,
    stages: Store,
    progress: Callable[[str], None] | None,
) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """All frames (P, F, d), and the rest block by block."""
    room = stages.array("frames", (options.paths, len(kept), potential.dim))
    blocks = []
    stages.tell(progress or (lambda _: None))
    drawn = options.block * len(stages.finished())
    each = 1 + options.langevin_steps * len(nodes)
    expect({"drawing": each * max(0, options.paths - drawn)})
    for first in range(0, options.paths, options.block):
        part = room[first : first + options.block]
        title = f"paths {first + 1} to {first + len(part)} of {options.paths}"

        def tell(node: int, title: str = title) -> None:
            if progress:
                progress(f"{title}, node {node + 1} of {len(nodes)}")

        block = Block(potential, nodes, options, first // options.block)
        blocks.append(_drawn(block, kept, part, stages, tell))
    return room, blocks


@stage("drawing")
def _drawn(
    block: Block, kept: Tensor, frames: Tensor, stages: Store, tell: Callable[[int], None]
) -> dict[str, Tensor]:
    """A block: as an earlier run left it, or drawn into ``frames`` (P, F, d)."""
    name = f"block-{block.index:05d}"
    found = stages.read(name)
    if found is not None and found[1]["paths"] == len(frames):
        if found[1]["frames"] == fingerprint(frames):
            return found[0]
        stages.warn(name, "its frames are not those that were drawn")
    tensors = block.draw(kept, frames, tell)
    return stages.write(name, tensors, {"paths": len(frames), "frames": fingerprint(frames)})[0]


def _nodes(potential: Potential, path: Geodesic | Tensor) -> Tensor:
    nodes = path.even if isinstance(path, Geodesic) else path
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
    solved = getattr(denoiser, "potential", potential)
    if solved.kT != potential.kT:
        raise ValueError(
            f"the geodesic belongs to kT = {solved.kT:g}, the paths to {potential.kT:g} "
            f"{potential.unit}; solve it again, or give potential.at({solved.kT:g})"
        )
    return nodes.detach().double()


def _kind(
    potential: Potential, nodes: Tensor, kept: Tensor, options: PathOptions
) -> dict[str, object]:
    """What sampled paths depend on; more paths of one kind may be added, their number is not."""
    # a potential is known by its energies in its box and on the path, whatever its name
    energies = potential(torch.cat([potential.probes(), nodes[:, :-1]]))
    own = replace(options, frames=None).settings()
    del own["paths"]
    return {
        **own,
        "potential": potential.name,
        "kT": potential.kT,
        "unit": potential.unit,
        "energies": fingerprint(*(f"{u:.9g}" for u in energies.tolist())),
        "path": fingerprint(nodes, kept),
    }


def _check_moves(paths: TransitionPaths) -> None:
    share = float(paths.accepted.mean())
    if share < 0.1:
        raise ValueError(
            f"only {100 * share:.2g} % of the Langevin steps of length {paths.options.step:g} "
            "are accepted, the paths do not follow their nodes; give a smaller step"
        )
