"""Flags of commands: made from the fields of dataclasses, and read back into them.

The name, the type and the default of a flag are those of its field, its help is what the docstring
says of it; see :mod:`diffodesic.output.options`.  A flag that is not given is not in the namespace.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import Any, TypeVar

from diffodesic.output.options import Kind, explained, kinds

__all__ = ["add_flags", "belongs", "chosen", "command", "flag", "in_flags"]

T = TypeVar("T")


def command(
    commands: Any,
    name: str,
    run: Callable[[argparse.Namespace], None],
    text: str,
    examples: str = "",
    *,
    resumes: bool = False,
) -> argparse.ArgumentParser:
    """Add a command.

    Args:
        commands: what ``add_subparsers`` returned.
        name: the command.
        run: called with the namespace.
        text: one line of help.
        examples: lines below the options of its help.
        resumes: whether the same command goes on after an interruption.

    Returns:
        its parser, for the arguments.
    """
    parser = commands.add_parser(
        name,
        help=text,
        description=text,
        epilog=f"examples:\n{examples}" if examples else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run, parser=parser, resumes=resumes)
    return parser


def flag(name: str) -> str:
    """The flag of a field."""
    return "--" + name.replace("_", "-")


def in_flags(sentence: str, parser: argparse.ArgumentParser) -> str:
    """A sentence on options as a command has them.

    Args:
        sentence: with options of Python in backticks, and advice after semicolons.
        parser: of the command.

    Returns:
        the sentence with ``--name`` for an option that is a flag, and without the advice that is of
        other options.
    """
    flags = {word for action in parser._actions for word in action.option_strings}
    # of a solver that a command cannot choose
    parts = re.sub(r" \(`\w+` of `\w+`\)", "", sentence).split("; ")
    kept = [
        part
        for i, part in enumerate(parts)
        if not i or all(flag(name) in flags for name in re.findall(r"`(\w+)(?:=[^`]*)?`", part))
    ]

    def named(found: re.Match[str]) -> str:
        return flag(found[1]) if flag(found[1]) in flags else found[0]

    return re.sub(r"`(\w+)`", named, "; ".join(kept))


def add_flags(
    parser: argparse.ArgumentParser,
    *owners: type,
    labels: Sequence[str] = (),
    skip: Sequence[str] = (),
) -> None:
    """Add a flag for every field of dataclasses; a field that several have is one flag.

    Args:
        parser: the parser of a command.
        owners: the dataclasses.
        labels: names of the owners in the help, where a flag has several defaults.
        skip: names of fields that get no flag.
    """
    names = dict.fromkeys(name for owner in owners for name in kinds(owner))
    for name in (name for name in names if name not in skip):
        having = [owner for owner in owners if name in kinds(owner)]
        fields = [owner.__dataclass_fields__[name] for owner in having]  # type: ignore[attr-defined]
        defaults = [_default(field.default) for field in fields]
        if len(set(defaults)) > 1:
            of = [labels[owners.index(owner)] for owner in having]
            defaults = [f"{d} ({who})" for d, who in zip(defaults, of, strict=True) if d]
        text = ", ".join(dict.fromkeys(filter(None, defaults)))
        help = explained(having[0]).get(name, "")
        if text or "default" not in help:
            help += f" (default: {text or 'none'})"
        words = _words(name, kinds(having[0])[name], fields[0].default)
        parser.add_argument(flag(name), default=argparse.SUPPRESS, help=help, **words)


def _words(name: str, kind: Kind, default: Any) -> dict[str, Any]:
    """Arguments of ``add_argument``."""
    if kind.types == (bool,):
        return {"action": argparse.BooleanOptionalAction if default else "store_true"}
    if kind.several:
        several = {"nargs": "*", "metavar": name.upper()}
        return {"type": lambda text: [_value(word, kind) for word in text.split(",")], **several}
    if kind.choices and not kind.types:
        return {"choices": kind.choices}
    return {"type": lambda text: _value(text, kind)}


def _value(word: str, kind: Kind) -> Any:
    """What a word of the command line stands for."""
    if word in kind.choices:
        return word
    for read in (int, float, Path, str):
        if read in kind.types:
            try:
                return read(word)
            except ValueError:
                continue
    raise argparse.ArgumentTypeError(f"{word!r} is not {kind}")


def _default(value: Any) -> str:
    if value is None or value is MISSING or value == ():
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def belongs(given: argparse.Namespace, names: Sequence[str], to: str) -> None:
    """Refuse flags that say nothing without another one.

    Args:
        given: the namespace.
        names: of the fields whose flags these are.
        to: the flag that is not given.

    Raises:
        ValueError: if one of them is given.
    """
    strays = [flag(name) for name in names if name in vars(given)]
    if strays:
        raise ValueError(f"{', '.join(strays)} belongs to {to}, which is not given: leave it out")


def chosen(
    owner: type[T],
    given: argparse.Namespace,
    *,
    among: Sequence[type] = (),
    what: str = "",
    **also: Any,
) -> T:
    """A dataclass with the values that were given on the command line.

    Args:
        owner: the dataclass.
        given: the namespace.
        among: dataclasses that one was chosen from: what was given for another is refused.
        what: what the dataclass is for, for the message.
        **also: values that are not from the command line.

    Returns:
        an instance.

    Raises:
        ValueError: for flags of another dataclass, or values that the dataclass refuses.
    """
    own, values = kinds(owner), vars(given)
    strays = dict.fromkeys(
        flag(name) for other in among for name in kinds(other) if name in values and name not in own
    )
    if strays:
        raise ValueError(f"{', '.join(strays)}: no option of {what}")
    values = {name: values[name] for name in own if name in values}
    for name in values:
        if own[name].several:
            values[name] = tuple(value for part in values[name] for value in part)
    return owner(**{**values, **also})
