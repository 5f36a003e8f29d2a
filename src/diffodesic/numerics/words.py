"""Results and errors in one line: numbers as they are, tensors by least and largest value."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

__all__ = ["brief", "in_short"]


def brief(values: Mapping[str, object]) -> str:
    """Name what is known: ``name value, ...``.

    Args:
        values: names, and numbers, words or tensors; None and tensors of NaN are left out.

    Returns:
        the line; a tensor of more than one value is ``least to largest (shape)``.
    """
    shown = {name: _one(value) for name, value in values.items()}
    return ", ".join(f"{name} {text}" for name, text in shown.items() if text)


def _one(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, Tensor):
        known = value[~value.isnan()].double()
        if not len(known):
            return ""
        least, most = float(known.min()), float(known.max())
        shape = "x".join(map(str, value.shape))
        return f"{least:.4g}" if value.numel() == 1 else f"{least:.4g} to {most:.4g} ({shape})"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def in_short(error: BaseException) -> str:
    """An exception that code of others raised, in one line: its kind and its message."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")
