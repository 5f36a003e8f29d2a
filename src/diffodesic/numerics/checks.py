"""Points that a public function is given: real, floating point, finite, of the right dimension.

A function checks once, where it is entered.  What a solver calls thousands of times (a denoiser, a
metric) reads no values: there a point that is not finite makes its own row NaN, and no other.
"""

from __future__ import annotations

import inspect
import math
import reprlib
from typing import SupportsFloat, SupportsIndex

import torch
from torch import Tensor

__all__ = [
    "WIDEST",
    "broadcast",
    "expanded",
    "finite",
    "floating",
    "generator",
    "number",
    "of_kind",
    "pair",
    "points",
    "seed",
    "whole",
]

WIDEST = 300.0
"""Largest size of a log SNR: beyond it sigma^4 or its inverse is no number of float64."""


# where an object of a kind comes from, for the message of who gave another
_CURES = {
    "Denoiser": "make one of a network by from_network, of a function by Denoiser.from_callable",
    "Model": "give a model, as `load` gives it",
    "Schedule": "give one of dd.schedules, such as dd.schedules.VP()",
    "Potential": "make one of a function by dd.transitions.from_callable",
    "Metric": "a denoiser has one by ScoreMetric(denoiser, log_snr=...) or Spacetime(denoiser)",
    "Spacetime": "make one by Spacetime(denoiser)",
    "ScoreMetric": "make one by ScoreMetric(denoiser, log_snr=...)",
}


def of_kind(value: object, name: str, *kinds: type) -> None:
    """Nothing for a complete value of one of the kinds, else a TypeError that says what to do.

    Args:
        value: what was given.
        name: of the argument, for the message.
        *kinds: classes; the first one's origin is in the message.

    Raises:
        TypeError: for a value of another kind, or of a subclass that leaves out an attribute that
            the kind announces and has no value for.
    """
    if isinstance(value, kinds):
        for kind in kinds:
            if isinstance(value, kind):
                _complete(value, name, kind)
        return
    wanted = " or a ".join(kind.__name__ for kind in kinds)
    given, cure = f"a {type(value).__name__}", _CURES[kinds[0].__name__]
    if isinstance(value, type):
        given = f"the class {value.__name__}"
        cure = f"give {value.__name__}(...)" if issubclass(value, kinds) else cure
    elif isinstance(getattr(value, "denoiser", None), kinds):
        cure = f"give {type(value).__name__.lower()}.denoiser"
    raise TypeError(f"{name} must be a {wanted}, got {given}: {cure}")


def _complete(value: object, name: str, kind: type) -> None:
    """Refuse a value that lacks an attribute which its ``kind`` annotates."""
    absent = [each for each in inspect.get_annotations(kind) if not hasattr(value, each)]
    if absent:
        raise TypeError(
            f"{name} is a {type(value).__name__} without {', '.join(absent)}; set what every "
            f"{kind.__name__} has, as its documentation lists it"
        )


def floating(x: Tensor, name: str) -> Tensor:
    """``x`` in floating point (integers: torch's default), or TypeError; reads no values."""
    try:
        x = torch.as_tensor(x)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} is no tensor of numbers: {reprlib.repr(x)}") from error
    if x.is_floating_point():
        return x
    if x.is_complex():
        raise TypeError(f"{name} is complex ({x.dtype}); give real numbers")
    return x.to(torch.get_default_dtype())


def whole(value: object, name: str, least: int) -> int:
    """A whole number of at least ``least``.

    Args:
        value: the number.
        name: of the argument, for the message.
        least: the smallest that is taken.

    Returns:
        the number.

    Raises:
        ValueError: for a smaller number, or what is no whole number.
    """
    if not isinstance(value, SupportsIndex) or value.__index__() < least:
        raise ValueError(f"{name} must be at least {least}, got {value!r}; give a whole number")
    return value.__index__()


def seed(value: object) -> int:
    """A seed of random numbers: a whole number from 0 to 2^63 - 1, or ValueError."""
    try:
        found = value.__index__() if isinstance(value, SupportsIndex) else -1
    except TypeError:  # a tensor that is no whole number
        found = -1
    if not 0 <= found < 2**63:
        raise ValueError(
            f"seed must be a whole number from 0 to 2^63 - 1, got {reprlib.repr(value)}"
        )
    return found


def generator(value: object) -> torch.Generator:
    """Random numbers on the CPU, of a :func:`seed`."""
    return torch.Generator().manual_seed(seed(value))


def number(value: object, name: str) -> float:
    """One real number as a float, or TypeError; it need not be finite."""
    if isinstance(value, SupportsFloat):
        try:
            return float(value)
        except (TypeError, ValueError, RuntimeError):  # a tensor of several, or complex
            pass
    raise TypeError(f"{name} must be a real number, got {value!r}")


def finite(x: Tensor, name: str) -> Tensor:
    """``x`` itself, in floating point, or ValueError for values that are not finite."""
    try:
        total = x.sum().item()
    except RuntimeError:  # inside a transform such as vmap no value can be read
        return x
    # a finite sum has finite terms, and costs a third of the full test
    if not math.isfinite(total) and not bool(torch.isfinite(x).all()):
        first = torch.nonzero(~torch.isfinite(x))[0].tolist()
        raise ValueError(
            f"{name} holds values that are not finite, the first at index {first}; "
            "replace NaN and infinities, or leave these points out"
        )
    return x


def points(
    x: Tensor, name: str, dim: int, what: str, *, empty: bool = False, detach: bool = True
) -> Tensor:
    """Points (..., dim), finite and in floating point.

    Args:
        x: the points.
        name: of the argument, for the message.
        dim: number of coordinates.
        what: what ``dim`` is, for the message: "the dimension of the data".
        empty: accept no points at all, where the answer is one number per point.
        detach: cut the graph, where the function does not differentiate.

    Returns:
        the points; integers in torch's default dtype.

    Raises:
        TypeError: for complex numbers.
        ValueError: for another dimension, no points, or values that are not finite.
    """
    x = floating(x, name)
    if x.ndim == 0 or x.shape[-1] != dim:
        raise ValueError(f"{name} has shape {tuple(x.shape)}; its last axis must be {dim}, {what}")
    if not (empty or x.numel()):
        raise ValueError(
            f"{name} holds no points: its shape is {tuple(x.shape)}; give at least one"
        )
    return finite(x.detach() if detach else x, name)


def pair(a: Tensor, b: Tensor, names: tuple[str, str] = ("a", "b")) -> tuple[Tensor, Tensor]:
    """Points (..., d) in their common dtype, broadcast against each other, or ValueError."""
    kind = torch.promote_types(a.dtype, b.dtype)
    return broadcast(a.to(kind), b.to(kind), names)


def broadcast(a: Tensor, b: Tensor, names: tuple[str, str] = ("a", "b")) -> tuple[Tensor, Tensor]:
    """Two tensors broadcast against each other, or ValueError."""
    try:
        a, b = torch.broadcast_tensors(a, b)
    except RuntimeError as error:
        raise ValueError(
            f"{names[0]} and {names[1]} have shapes {tuple(a.shape)} and {tuple(b.shape)}; "
            "give as many points in both, or one"
        ) from error
    return a, b


def expanded(x: Tensor | float, z: Tensor, name: str) -> Tensor:
    """One number per point ``z`` (..., D), (...), float64 if ``x`` is a number, or ValueError."""
    if not isinstance(x, Tensor):
        x = torch.as_tensor(x, dtype=torch.float64)
    x = floating(x, name).to(z.device)
    try:
        return x.expand(z.shape[:-1])
    except RuntimeError as error:
        raise ValueError(
            f"{name} has shape {tuple(x.shape)}; it must be a number, or {tuple(z.shape[:-1])} "
            "for one number per point"
        ) from error
