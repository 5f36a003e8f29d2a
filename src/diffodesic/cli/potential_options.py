"""``--potential`` and what belongs to it, for the commands that take one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from diffodesic.cli.own_code import is_own, load_own
from diffodesic.output.options import Options

if TYPE_CHECKING:
    from diffodesic.transitions.potentials import Potential

__all__ = ["PotentialOptions", "periods", "potential"]


@dataclass(frozen=True, kw_only=True)
class PotentialOptions(Options):
    """Which potential, and what it does not say itself.

    Args:
        potential: a name, a table `phi psi energy`, or FILE.py:NAME.
        kT: thermal energy, in the potential's unit.
        unit: unit of energy of a table or a file's potential.
        box: LOW,HIGH,... of a file's potential, per coordinate.
        period: P,... of a file's potential, a number or none each.
    """

    potential: str | None = None
    kT: float | None = None
    unit: str | None = None
    box: tuple[float, ...] = ()
    period: str | None = None


def potential(options: PotentialOptions, name: str) -> Potential:
    """The potential that ``--potential`` names.

    Args:
        options: the options.
        name: what was given as ``--potential``, or stands for it.

    Returns:
        the potential.

    Raises:
        ValueError: for a name, table or file that is none, or that does not say all it must.
    """
    from diffodesic.transitions.surfaces import SHIPPED, read_grid

    if name in SHIPPED:
        return _as_asked(SHIPPED[name](), options, name)
    if is_own(name):
        return _from_file(options, name)
    if not Path(name).is_file():
        raise ValueError(
            f"no potential {name!r}: choose one of {', '.join(SHIPPED)}, a table of "
            "`phi psi energy`, or FILE.py:NAME"
        )
    kT, unit, _, _ = _demanded(options, name, "kT", "unit")
    _refuse(options, name, "box", "period")
    return read_grid(name, kT=kT, unit=unit, name=Path(name).stem)


def _from_file(options: PotentialOptions, text: str) -> Potential:
    """The object NAME of FILE.py: a Potential, or a torch function of points."""
    from diffodesic.transitions.own_potentials import check_function, from_callable
    from diffodesic.transitions.potentials import Potential

    energy = load_own(text)
    if isinstance(energy, Potential):
        check_function(energy)
        return _as_asked(energy, options, text)
    kT, unit, sides, period = _demanded(options, text, "kT", "unit", "box", "period")
    if len(sides) % 2:
        raise ValueError(f"--box takes LOW,HIGH for every coordinate, got {len(sides)} numbers")
    return from_callable(
        energy,
        dim=len(sides) // 2,
        kT=kT,
        box=tuple(zip(sides[::2], sides[1::2], strict=True)),
        unit=unit,
        period=periods(period, len(sides) // 2),
        name=text.rpartition(":")[2],
    )


def _as_asked(made: Potential, options: PotentialOptions, name: str) -> Potential:
    """A potential that says all itself, at the temperature that was asked for."""
    _refuse(options, name, "unit", "box", "period")
    return made if options.kT is None else made.at(options.kT)


def _refuse(options: PotentialOptions, name: str, *known: str) -> None:
    """What a potential says itself must not be said again: it would not be listened to."""
    given = [f"--{key}" for key in known if getattr(options, key)]
    if given:
        raise ValueError(f"{name} has its own {', '.join(given)}: leave it out")


def _demanded(
    options: PotentialOptions, name: str, *needed: str
) -> tuple[float, str, tuple[float, ...], str]:
    """What a potential does not say itself; what is needed must have been given."""
    missing = [f"--{key}" for key in needed if not getattr(options, key)]
    if missing:
        example = "--kT 1 --unit kT --box -2,2,-1,3 --period none"
        raise ValueError(
            f"{name} does not say its {', '.join(missing)}: give them, as in {example} (the box is "
            "low,high of the first coordinate, then of the next)"
        )
    return options.kT or 0.0, options.unit or "", options.box, options.period or ""


def periods(text: str, dim: int) -> tuple[float | None, ...]:
    """Read ``--period``: a number or none per coordinate; one ``none`` stands for all."""
    words = text.split(",")
    if words == ["none"]:
        return (None,) * dim
    try:
        return tuple(None if word == "none" else float(word) for word in words)
    except ValueError:
        raise ValueError(f"--period takes a number or none per coordinate, got {text!r}") from None
