"""``--potential`` and what belongs to it, for the verbs that take one; no verb of its own."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffodesic.transitions.potentials import Potential

__all__ = ["add_potential", "numbers", "periods", "potential"]


def add_potential(parser: argparse.ArgumentParser) -> None:
    """Add ``--potential``, ``--kT``, ``--unit``, ``--box`` and ``--period``."""
    parser.add_argument("--potential", help="a name, a table `phi psi energy`, or FILE.py:NAME")
    parser.add_argument("--kT", type=float, help="thermal energy, in the potential's unit")
    parser.add_argument("--unit", help="unit of energy of a table or a file's potential")
    parser.add_argument("--box", type=numbers, metavar="LOW,HIGH,...", help="a file's potential")
    parser.add_argument("--period", metavar="P,...", help="a file's potential: periods, or none")


def potential(options: argparse.Namespace, name: str) -> Potential:
    """The potential that ``--potential`` names.

    Args:
        options: the parsed options of :func:`add_potential`.
        name: what was given as ``--potential``, or stands for it.

    Returns:
        the potential.

    Raises:
        ValueError: for a name, table or file that is none, or that does not say all it must.
    """
    from diffodesic.transitions.potentials import DoubleWell, DualChannel, MuellerBrown, Ring
    from diffodesic.transitions.surfaces import alanine, read_grid

    kinds = (DoubleWell, MuellerBrown, DualChannel, Ring)
    built_in = {**{kind.name: kind for kind in kinds}, "alanine": alanine}
    if name in built_in:
        _refuse(options, name, "unit", "box", "period")
        made: Potential = built_in[name]()
        return made.at(options.kT) if options.kT is not None else made
    if ".py:" in name:
        return _from_file(options, name)
    if not Path(name).is_file():
        raise ValueError(
            f"no potential {name!r}: choose one of {', '.join(built_in)}, a table of "
            "`phi psi energy`, or FILE.py:NAME"
        )
    _demand(options, name, "kT", "unit")
    _refuse(options, name, "box", "period")
    return read_grid(name, kT=options.kT, unit=options.unit, name=Path(name).stem)


def _from_file(options: argparse.Namespace, text: str) -> Potential:
    """The object NAME of FILE.py: a Potential, or a torch function of points."""
    from importlib.util import module_from_spec, spec_from_file_location

    from diffodesic.transitions.potentials import Potential, from_callable

    file, _, name = text.rpartition(":")
    if not Path(file).is_file():
        raise ValueError(f"{file} is not a file; give FILE.py:NAME")
    spec = spec_from_file_location("diffodesic_user_potential", file)
    if spec is None or spec.loader is None:
        raise ValueError(f"{file} cannot be run as a Python file")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, name):
        raise ValueError(f"{file} has no {name}")
    found = getattr(module, name)
    if isinstance(found, Potential):
        return found
    _demand(options, text, "kT", "unit", "box", "period")
    sides = options.box
    if len(sides) % 2:
        raise ValueError(f"--box takes LOW,HIGH for every coordinate, got {len(sides)} numbers")
    return from_callable(
        found,
        dim=len(sides) // 2,
        kT=options.kT,
        box=tuple(zip(sides[::2], sides[1::2], strict=True)),
        unit=options.unit,
        period=periods(options.period, len(sides) // 2),
        name=name,
    )


def _refuse(options: argparse.Namespace, name: str, *known: str) -> None:
    """What a potential says itself must not be said again: it would not be listened to."""
    given = [f"--{key}" for key in known if getattr(options, key, None) is not None]
    if given:
        raise ValueError(f"{name} has its own {', '.join(given)}: leave it out")


def _demand(options: argparse.Namespace, name: str, *needed: str) -> None:
    missing = [f"--{key}" for key in needed if getattr(options, key) is None]
    if missing:
        raise ValueError(f"{name} does not say its {', '.join(missing)}: give them")


def periods(text: str, dim: int) -> tuple[float | None, ...]:
    """Read ``--period``: a number or none per coordinate; one ``none`` stands for all."""
    words = text.split(",")
    if words == ["none"]:
        return (None,) * dim
    try:
        return tuple(None if word == "none" else float(word) for word in words)
    except ValueError:
        raise ValueError(f"--period takes a number or none per coordinate, got {text!r}") from None


def numbers(text: str) -> list[float]:
    """Parse numbers with commas between."""
    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not numbers with commas between") from None
