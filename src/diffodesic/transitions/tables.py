"""Tables of numbers in text, and the energies on a periodic grid that one holds.

A table has a point per line, ``phi psi energy``; what follows ``#`` is a comment.  PLUMED's files
of free energies name their columns (``#! FIELDS phi psi file.free der_phi der_psi``), say which
coordinates are periodic (``#! SET periodic_phi true``) and may repeat the first line of a period
at its end.  Whatever does not say one energy for every point of a uniform grid is refused with the
number of its line.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["Table", "energies_on_torus", "read_table"]

_OFF_GRID = 0.05  # share of a step that an angle may be off its place: it is rounded in print
_SAME_ENERGY = 0.01  # of kT, between two lines of one point


@dataclass(frozen=True)
class Table:
    """Numbers of a text file.

    Attributes:
        path: the file, for messages.
        numbers: its rows (n, c), float64.
        lines: where each row stands, counted from 1.
        names: of the columns; empty where the file does not name them.
        settings: what the file sets (``#! SET name value``).
    """

    path: str
    numbers: Tensor
    lines: tuple[int, ...]
    names: tuple[str, ...]
    settings: dict[str, str]

    def fault(self, row: int, why: str) -> ValueError:
        """The error that names the line of a row."""
        return ValueError(f"{self.path}, line {self.lines[row]}: {why}")


def read_table(path: str | PathLike[str]) -> Table:
    """Read rows of numbers with blanks between.

    Args:
        path: text in UTF-8 or Latin-1.

    Returns:
        the table.

    Raises:
        OSError: if the file cannot be read.
        ValueError: for a file that is no text or holds no numbers, a word that is no number, rows
            of several lengths.
    """
    content = Path(path).read_bytes()
    if b"\0" in content:
        raise ValueError(f"{path} is no text; give a table `phi psi energy`")
    rows: list[list[float]] = []
    lines: list[int] = []
    names: tuple[str, ...] = ()
    settings: dict[str, str] = {}
    for number, line in enumerate(_decoded(content).splitlines(), 1):
        values, _, comment = line.partition("#")
        words = comment.removeprefix("!").split()
        if words[:1] == ["SET"]:
            settings[" ".join(words[1:2])] = " ".join(words[2:])
        elif words[:1] == ["FIELDS"] or [w.lower() for w in words[:2]] in _PAIRS:
            names = tuple(word for word in words if word != "FIELDS")
        if not values.strip():
            continue
        rows.append(_numbers(values.split(), f"{path}, line {number}"))
        lines.append(number)
        if len(rows[-1]) != len(rows[0]):
            raise ValueError(
                f"{path}, line {number}: {len(rows[-1])} numbers, line {lines[0]} has "
                f"{len(rows[0])}; give every line as many"
            )
    if not rows:
        raise ValueError(f"{path} holds no numbers; give a table `phi psi energy`")
    table = torch.tensor(rows, dtype=torch.float64)
    return Table(fspath(path), table, tuple(lines), names, settings)


_PAIRS = (["phi", "psi"], ["psi", "phi"])


def _decoded(content: bytes) -> str:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    # the line breaks of other systems; the rarer ones of str.splitlines stand in comments
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return "\n".join(" ".join(line.splitlines()) for line in text.split("\n"))


def _numbers(words: list[str], where: str) -> list[float]:
    values = []
    for word in words:
        try:
            if "_" in word:  # a number in Python only
                raise ValueError
            values.append(float(word.lower().replace("d", "e")))  # Fortran's 1.5D+00
        except ValueError:
            raise ValueError(
                f"{where}: {word!r} is no number; give numbers with blanks between"
            ) from None
    return values


def energies_on_torus(table: Table, kT: float) -> tuple[Tensor, tuple[float, float]]:
    """Energies of a table ``phi psi energy`` over a turn of both angles.

    Args:
        table: the points in any order, in radians or in degrees.
        kT: thermal energy; two energies of one point may differ by a hundredth of it.

    Returns:
        energies (n_psi, n_phi), and phi and psi of the first of them in radians.

    Raises:
        ValueError: naming the line, if the table is not one finite energy for every point of a
            uniform grid.
    """
    columns = _angles(table)
    _check_columns(table)
    _check_finite(table)
    phi, psi = (_Axis.of(table, column, name) for column, name in columns)
    energy = table.numbers[:, 2]
    cells = (psi.place * phi.count + phi.place).tolist()
    seen: dict[int, int] = {}
    for row, cell in enumerate(cells):
        before = seen.setdefault(cell, row)
        if abs(float(energy[row] - energy[before])) > _SAME_ENERGY * kT:
            raise table.fault(
                row,
                f"the energy is {float(energy[row]):g}, and line {table.lines[before]} gives "
                f"{float(energy[before]):g} for the same point; give one",
            )
    for cell in range(phi.count * psi.count):
        if cell not in seen:
            i, j = cell % phi.count, cell // phi.count
            raise ValueError(
                f"{table.path} has no energy at {phi.name} = {phi.at(i):.4g}, {psi.name} = "
                f"{psi.at(j):.4g}; give all {phi.count} x {psi.count} points of the grid"
            )
    order = torch.tensor([seen[cell] for cell in range(len(seen))])
    return energy[order].reshape(psi.count, phi.count), (phi.low, psi.low)


def _angles(table: Table) -> tuple[tuple[int, str], tuple[int, str]]:
    """The columns of phi and psi, with their names."""
    named = [name.lower() for name in table.names[:2]]
    if named[:1] == ["time"]:
        raise ValueError(
            f"{table.path} is a trajectory, {' '.join(table.names)}; give energies on a grid, "
            "`phi psi energy`"
        )
    for name in table.names[:2]:
        if table.settings.get(f"periodic_{name}") == "false":
            raise ValueError(
                f"{table.path} says that {name} is not periodic; give a table over two angles"
            )
    if table.numbers.shape[1] < 3:
        raise table.fault(
            0, f"{table.numbers.shape[1]} numbers; a table has three, `phi psi energy`"
        )
    if named == ["psi", "phi"]:
        return (1, table.names[1]), (0, table.names[0])
    ahead = table.numbers[:2, 0]
    if named != ["phi", "psi"] and len(ahead) == 2 and float(ahead[0]) == float(ahead[1]):
        raise table.fault(
            1,
            "the second column runs fastest, where tables `phi psi energy` have phi; say which "
            "column is which in a comment, `# phi psi energy` or `# psi phi energy`",
        )
    first, second = (*table.names[:2], "phi", "psi")[:2]
    return (0, first), (1, second)


def _check_columns(table: Table) -> None:
    """Refuse columns that are neither the energy nor its derivatives."""
    width = table.numbers.shape[1]
    if width == 3:
        return
    if len(table.names) != width:
        raise table.fault(
            0,
            f"{width} numbers, where a table `phi psi energy` has three; leave out the others, or "
            "name all as PLUMED does, `#! FIELDS phi psi energy der_phi der_psi`",
        )
    for name in table.names[3:]:
        if not name.startswith(("der_", f"d{table.names[2]}_")):
            raise ValueError(
                f"{table.path} has a column {name!r} that is no derivative of {table.names[2]!r}; "
                "leave it out"
            )


def _check_finite(table: Table) -> None:
    wrong = ~table.numbers[:, :3].isfinite()
    if bool(wrong.any()):
        row, column = wrong.nonzero()[0].tolist()
        raise table.fault(
            row,
            f"{float(table.numbers[row, column])} is no finite number; leave no gaps: give points "
            "that were not visited a high energy",
        )


@dataclass(frozen=True)
class _Axis:
    """Equal steps over one turn: which line of the grid each row of a table stands on."""

    name: str
    low: float
    count: int
    place: Tensor

    def at(self, line: int) -> float:
        """The angle of a grid line, radians."""
        return self.low + 2 * math.pi * line / self.count

    @classmethod
    def of(cls, table: Table, column: int, name: str) -> _Axis:
        angle = table.numbers[:, column]
        known = _distinct(angle)
        gaps = known.diff()
        if not len(gaps):
            raise ValueError(f"{table.path}: {name} is {float(known[0]):g} everywhere")
        step = float(gaps.median())
        uneven = (gaps - step).abs() > 2 * _OFF_GRID * step
        if bool(uneven.any()):
            after = int(uneven.nonzero()[0]) + 1
            row = int((angle >= known[after]).nonzero()[0])
            raise table.fault(
                row,
                f"{name} = {float(angle[row]):g} lies {float(gaps[after - 1]):.4g} from its "
                f"neighbour, others {step:.4g}; give a grid of equal steps",
            )
        turn, count = _turn(table, name, known)
        radians = angle * (2 * math.pi / turn)
        width = 2 * math.pi / count
        first = float(radians.min())
        # the line nearest to -pi counts as its own; -3.141593 in print is -pi
        shift = math.remainder(first + math.pi, width)
        low = -math.pi + (0.0 if abs(shift) < 1e-5 * width else shift)
        place = torch.round((radians - low) / width)
        return cls(name, low, count, torch.remainder(place, count).long())


def _distinct(angle: Tensor) -> Tensor:
    """The values (m,) of a column in order; those that differ by rounding count once."""
    values = angle.unique()
    apart = values.diff() > 1e-6 * float(values[-1] - values[0])
    return values[torch.cat([apart.new_ones(1), apart])]


def _turn(table: Table, name: str, known: Tensor) -> tuple[float, int]:
    """The length of a turn in the table's unit, and the number of grid lines over it."""
    span = float(known[-1] - known[0])
    step = span / (len(known) - 1)
    for turn in (2 * math.pi, 360.0):
        for length, count in ((span + step, len(known)), (span, len(known) - 1)):
            if abs(length - turn) < _OFF_GRID * step:
                return turn, count
    raise ValueError(
        f"{table.path}: {name} runs from {float(known[0]):.6g} to {float(known[-1]):.6g} in "
        f"{len(known)} steps of {step:.4g}; give one turn, 2 pi or 360 degrees"
    )
