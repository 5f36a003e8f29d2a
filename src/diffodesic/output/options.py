"""Options of a function or a command, written once.

A class of options is a frozen dataclass below :class:`Options`, and its docstring says what each
field is.  From these two come the check of a value, its place in ``result.json``
(:meth:`Options.settings`), and a flag of the command line (:mod:`diffodesic.cli.options`).
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from difflib import get_close_matches
from functools import wraps
from numbers import Integral, Real
from types import NoneType
from typing import Any, Literal, ParamSpec, TypeVar, get_args, get_origin, get_type_hints

__all__ = ["Kind", "Options", "explained", "kinds", "option", "suggests", "unknown_option"]

P = ParamSpec("P")
R = TypeVar("R")
Some = TypeVar("Some", bound="Options")

_NOUNS = {int: "a whole number", float: "a number", bool: "True or False"}


def option(
    default: Any,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    flag: bool = True,
) -> Any:
    """A field of a class of options; what it is stands in the docstring of the class.

    Args:
        default: its default.
        least: the smallest value that is taken.
        above: a bound that a value must exceed.
        most: the largest value that is taken.
        flag: whether the command line has it.

    Returns:
        what ``dataclasses.field`` returns.
    """
    words = {"least": least, "above": above, "most": most, "flag": flag}
    return field(default=default, metadata=words)


@dataclass(frozen=True)
class Kind:
    """What values a field of a dataclass takes, read from its annotation.

    Attributes:
        types: types of a single value.
        choices: words that it may be, of a ``Literal``.
        several: whether it is a tuple of such values.
        optional: whether it may be None.
    """

    types: tuple[type, ...]
    choices: tuple[Any, ...]
    several: bool
    optional: bool

    def __str__(self) -> str:
        """In words, such as "a number or auto"."""
        nouns = [_NOUNS.get(kind, "text") for kind in self.types]
        return " or ".join((*nouns, *map(str, self.choices)))

    def takes(self, value: Any) -> bool:
        """Whether a single value is of this kind; any integer passes for a number."""
        if value is None or isinstance(value, str | bool):
            known = type(value) in self.types or value in self.choices
            return known or (value is None and self.optional)
        numbers: dict[type, type] = {int: Integral, float: Real}
        return isinstance(value, tuple(numbers.get(kind, kind) for kind in self.types))


def kinds(owner: type) -> dict[str, Kind]:
    """The kind of every field of a dataclass that is a flag, by name."""
    hints = get_type_hints(owner)
    return {f.name: _kind(hints[f.name]) for f in fields(owner) if f.metadata.get("flag", True)}


def _kind(hint: Any) -> Kind:
    several = get_origin(hint) is tuple
    parts = get_args(hint) if several or not isinstance(hint, type) else (hint,)
    parts = (hint,) if get_origin(hint) is Literal else parts
    types = tuple(p for p in parts if isinstance(p, type) and p is not NoneType)
    choices = tuple(c for p in parts if get_origin(p) is Literal for c in get_args(p))
    return Kind(types, choices, several, NoneType in parts)


def explained(owner: type) -> dict[str, str]:
    """What the docstrings of a dataclass and its bases say of each field, by name."""
    known: dict[str, str] = {}
    for base in reversed(owner.__mro__):
        section = re.split(
            r"^(?:Args|Attributes):\n", inspect.cleandoc(base.__doc__ or ""), flags=re.M
        )
        for name, words in re.findall(r"^    (\w+): (.*(?:\n {5}.*)*)", section[-1], re.M):
            words = re.sub(r":\w+:`([^`]*)`|``", r"\1", " ".join(words.split()))
            known[name] = words.removesuffix(".")
    return known


@dataclass(frozen=True)
class Options:
    """Base of the classes of options, frozen dataclasses all: names and values are checked."""

    def __new__(cls, *_: Any, **given: Any) -> Any:
        """Refuse names that are no field, with the nearest that is one."""
        known = {f.name: repr(f.name) for f in fields(cls)}
        for name in given.keys() - known.keys():
            raise unknown_option(name, known, f"{cls.__name__}()")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ValueError: for the first that is not of its kind, or out of its range.
        """
        for name, kind in kinds(type(self)).items():
            value, words = getattr(self, name), type(self).__dataclass_fields__[name].metadata
            if kind.several:
                if not isinstance(value, tuple | list):
                    raise ValueError(f"{name} must be a tuple, got {value!r}")
                object.__setattr__(self, name, tuple(value))
            for each in value if kind.several else (value,):
                _check(name, each, kind, words)

    def but(self: Some, **given: Any) -> Some:
        """The same options but for those given that are not None."""
        return replace(self, **{k: v for k, v in given.items() if v is not None})

    def settings(self) -> dict[str, Any]:
        """All options that are not None by name, as JSON takes them."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: _plain(value) for name, value in values.items() if value is not None}


def _check(name: str, value: Any, kind: Kind, words: Mapping[str, Any]) -> None:
    if not kind.takes(value):
        if kind.choices and not kind.types:
            raise ValueError(f"unknown {name} {value!r}; choose one of {', '.join(kind.choices)}")
        raise ValueError(f"{name} must be {kind}, got {value!r}")
    if not isinstance(value, Real) or value in kind.choices:
        return
    least, above, most = (words.get(bound) for bound in ("least", "above", "most"))
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")
    if least is not None and value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    if above is not None and value <= above:
        raise ValueError(f"{name} must be above {above}, got {value}")
    if most is not None and value > most:
        raise ValueError(f"{name} must be at most {most}, got {value}")


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if value is None or isinstance(value, str | int | float):
        return value
    # an object without a repr of its own would be written with its address
    return repr(value) if is_dataclass(value) else type(value).__name__


def unknown_option(name: str, known: Mapping[str, str], owner: str) -> TypeError:
    """The error for a name that is no option.

    Args:
        name: what was given.
        known: by name of an option, how to give it.
        owner: the function or class, as a sentence names it.

    Returns:
        an error that suggests the nearest option, or lists all of them.
    """
    near = get_close_matches(name, known, 1)
    hint = f"did you mean {known[near[0]]}?" if near else f"it has {', '.join(known)}"
    return TypeError(f"{owner} has no option {name!r}; {hint}")


def suggests(**also: Iterable[type[Options]]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function that is called with a name it does not have say which one was meant.

    Args:
        **also: by argument, the classes of options that it takes: their fields are suggested too.

    Returns:
        a decorator.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        own = {name: repr(name) for name in inspect.signature(function).parameters}
        theirs: dict[str, str] = {}
        for argument, owners in also.items():
            for owner in owners:
                for f in fields(owner):
                    package = owner.__module__.rpartition(".")[0]
                    hint = f"{argument}={package}.{owner.__name__}({f.name}=...)"
                    theirs.setdefault(f.name, hint)

        @wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            for name in kwargs.keys() - own.keys():
                raise unknown_option(name, theirs | own, f"{function.__name__}()")
            return function(*args, **kwargs)

        return checked

    return decorate
