"""What a run had spent when it first came to an energy, from its history on disk."""

from __future__ import annotations

from typing import Any

__all__ = ["spent_at"]


def spent_at(run: dict[str, Any], target: list[float]) -> list[float] | None:
    """What a run had spent when every pair first met its energy; None if that never was.

    Args:
        run: with its history.
        target: energies on the common grid, one per pair.

    Returns:
        Node gradients, evaluations, derivatives and processor seconds.
    """
    for *spent, energies in run["history"]:
        pairs = zip(energies, target, strict=True)
        if all(energy is not None and energy <= goal for energy, goal in pairs):
            return spent
    return None
