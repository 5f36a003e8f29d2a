"""What can be seen of a function without calling it: its networks, and the words that it takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from torch import nn

__all__ = ["networks_of", "unknown_words"]


def networks_of(fn: object) -> list[nn.Module]:
    """The networks that a function calls, as far as can be seen.

    Args:
        fn: a network, a method of one, an object that holds one, or a function or ``partial`` that
            refers to one.

    Returns:
        the networks, in the order in which they are found; none where nothing is seen.
    """
    if isinstance(fn, nn.Module):
        return [fn]
    if isinstance(fn, partial):
        parts: Sequence[object] = (fn.func, *fn.args, *fn.keywords.values())
    elif inspect.ismethod(fn):
        parts = (fn.__self__,)
    elif inspect.isfunction(fn):
        cells = (cell.cell_contents for cell in fn.__closure__ or () if _filled(cell))
        named = (fn.__globals__.get(name) for name in fn.__code__.co_names)
        defaults = fn.__defaults__ or ()
        parts = (*cells, *defaults, *(one for one in named if isinstance(one, nn.Module)))
    else:
        held = getattr(fn, "__dict__", {}).values()
        return [one for one in held if isinstance(one, nn.Module)]
    return [network for part in parts if callable(part) for network in networks_of(part)]


def _filled(cell: object) -> bool:
    """Whether a variable of a closure has a value already."""
    try:
        cell.cell_contents  # type: ignore[attr-defined]  # noqa: B018
    except ValueError:
        return False
    return True


def unknown_words(fn: Callable[..., object], words: Iterable[str]) -> list[str]:
    """Keyword arguments that a network does not take.

    Args:
        fn: the network, called as ``fn(x, t, **words)``.
        words: names of arguments.

    Returns:
        those that its signature refuses; none where it has no signature that can be read.
    """
    try:
        signature = inspect.signature(fn.forward if isinstance(fn, nn.Module) else fn)
    except (TypeError, ValueError):  # a builtin, or made by C
        return []

    def taken(word: str) -> bool:
        try:
            signature.bind_partial(None, None, **{word: None})
        except TypeError:
            return False
        return True

    return [word for word in words if not taken(word)]
