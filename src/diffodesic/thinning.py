r"""A few states of a long chain that still tell where it went.

A chain x_0 .. x_T rattles and comes back.  For a reach r, go from each state to the *last* one
within r of it.  The states left have no loop of size r and no step between them longer than r.  A
small r that leaves as few states as asked for is found by bisection (the number of states need not
fall steadily with r, so there may be a smaller one).
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["thin"]


def thin(states: Tensor, count: int) -> Tensor:
    """Choose states of a chain with the smallest largest step between them.

    Args:
        states: the chain (T + 1, d), unwrapped where coordinates are periodic.
        count: largest number of states, the two ends among them.

    Returns:
        their numbers, increasing, at most ``count``.

    Raises:
        ValueError: for a chain or a count below 2.

    Cost: some forty passes over the chain per chosen state.
    """
    if len(states) < 2 or count < 2:
        raise ValueError(f"{count} states of a chain of {len(states)}: give at least 2 of each")
    low, high = 0.0, float((states[-1] - states[0]).norm())
    best = [0, len(states) - 1]
    for _ in range(40):
        reach = (low + high) / 2
        found = _walk(states, reach, count)
        if found is None:
            low = reach
        else:
            best, high = found, reach
    return torch.tensor(best)


def _walk(states: Tensor, reach: float, count: int) -> list[int] | None:
    """From end to end by last states within reach; None if that takes too many or is stuck."""
    chosen, last = [0], len(states) - 1
    while chosen[-1] != last:
        here = chosen[-1]
        near = ((states[here + 1 :] - states[here]).norm(dim=-1) <= reach).nonzero()
        if not len(near) or len(chosen) == count:
            return None
        chosen.append(here + 1 + int(near[-1]))
    return chosen
