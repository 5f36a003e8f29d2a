"""How much work a run takes: counted with its finished stages, and expected before it begins.

What brings images to a level and back is known exactly.  What a search takes is not: it is expected
to take what searches took on the shipped digits, and may take half of that or twice.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffodesic.images.own_kind import EVALUATIONS
from diffodesic.images.placement import JoinOptions
from diffodesic.images.spaces import Space
from diffodesic.numerics.cost import counting
from diffodesic.output.stages import Stage, Store

__all__ = ["frames_work", "join_work", "kept_stage"]


@dataclass(frozen=True)
class _Typical:
    """Evaluations and derivatives on a network: fixed, and per segment of the path."""

    starts: int = 0
    searching: int = 0
    searching_per_node: int = 0
    judging: int = 0
    judging_per_node: int = 0  # of every path whose length is measured


_TYPICAL = {
    "spacetime": _Typical(starts=700, searching=4000, judging=3000, judging_per_node=44),
    "score": _Typical(searching_per_node=3, judging_per_node=10),
    "score-published": _Typical(searching_per_node=200, judging_per_node=10),
    "jacobian": _Typical(searching=700, judging_per_node=11),
    "conformal": _Typical(searching=300, judging_per_node=6),
}


def join_work(
    space: Space, options: JoinOptions, nodes: int, finished: Collection[str] = ()
) -> dict[str, int]:
    """What it takes to place two images in a space and to join them there.

    Args:
        space: the space.
        options: steps of the flow.
        nodes: segments of the path.
        finished: names of stages that are made: ``ends``, ``path``.

    Returns:
        evaluations and derivatives by stage; none for a metric of one's own.
    """
    work: dict[str, int] = {}
    if "ends" not in finished:
        work["lifting"] = 2 * EVALUATIONS
        work["lifting"] += 0 if space.shared_noise else 4 * options.flow_steps
    if "path" not in finished:
        typical = _TYPICAL.get(space.name, _Typical())
        work["starts"] = typical.starts
        work["searching"] = typical.searching + nodes * typical.searching_per_node
        work["judging"] = typical.judging + nodes * typical.judging_per_node
    return work


def frames_work(
    space: Space, options: JoinOptions, frames: int, nodes: int, paths: int
) -> dict[str, int]:
    """What it takes to bring paths back to images, and to measure them.

    Args:
        space: the space.
        options: steps of the flow.
        frames: images of each path.
        nodes: segments of each path; 0 where they are not measured.
        paths: number of paths.

    Returns:
        evaluations and derivatives by stage.
    """
    typical = _TYPICAL.get(space.name, _Typical())
    return {
        "frames": paths * frames * (2 * options.flow_steps + 1),
        "judging": paths * nodes * typical.judging_per_node,
    }


def kept_stage(
    store: Store, name: str, make: Callable[[], Stage], device: torch.device | str
) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, int]]:
    """A stage of a run, and the work that it took in the run that made it.

    Args:
        store: the finished stages.
        name: of the stage.
        make: makes it.
        device: where its tensors come to.

    Returns:
        its tensors, its plain values, and evaluations and derivatives by name (``Cost.stages``).
    """

    def counted() -> Stage:
        with counting() as cost:
            tensors, words = make()
        return tensors, {**words, "work": cost.stages}

    tensors, words = store.stage(name, counted, device)
    return tensors, words, words.pop("work")
