"""Tables of energies over two angles: read right in every form, or refused with the line."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from diffodesic.transitions.surfaces import read_grid

TURN = 2 * math.pi
Row = tuple[float, float, float]


def waves(x: Tensor) -> Tensor:
    """A surface that is not symmetric in its two angles."""
    phi, psi = x.unbind(-1)
    return torch.sin(phi) + 2 * torch.cos(2 * psi) + torch.sin(phi - psi)


def rows(
    n_phi: int = 12, n_psi: int = 12, *, low: float = -math.pi, close: bool = False
) -> list[Row]:
    """Points with their energies, phi fastest, radians."""

    def axis(n: int) -> list[float]:
        return [low + TURN * i / n for i in range(n + close)]

    points = [(phi, psi) for psi in axis(n_psi) for phi in axis(n_phi)]
    energies = waves(torch.tensor(points, dtype=torch.float64)).tolist()
    return [(*point, u) for point, u in zip(points, energies, strict=True)]


def text(table: list[Row], *, head: str = "", unit: float = 1.0, more: str = "") -> str:
    lines = (f"{phi * unit:.9f} {psi * unit:.9f} {u:.9f}{more}" for phi, psi, u in table)
    return head + "\n".join(lines) + "\n"


PLUMED = "#! FIELDS phi psi file.free der_phi der_psi\n#! SET periodic_phi true\n"


def forms() -> Iterator[tuple[str, str | bytes]]:
    """One surface, written in many ways."""
    plain, degrees = rows(), 180 / math.pi
    blocks = text(plain).splitlines()
    yield "plain", text(plain)
    yield "closing line", text(rows(close=True))
    yield "degrees", text(plain, unit=degrees)
    yield "degrees, closing line", text(rows(close=True), unit=degrees)
    yield "0 to 360", text(rows(low=0.0), unit=degrees)
    yield "bin centres", text(rows(low=-math.pi + TURN / 24))
    yield "not square", text(rows(12, 15))
    yield "derivatives", text(plain, head=PLUMED, more=" 1.0 inf")
    yield "psi first, named", text([(q, p, u) for p, q, u in plain], head="# psi phi energy\n")
    yield "psi fastest, named", text(sorted(plain), head="#! FIELDS phi psi free\n")
    yield "turned about", text(plain[::-1])
    yield "blank lines", "\n\n".join("\n".join(blocks[i : i + 12]) for i in range(0, 144, 12))
    yield "comments", "  # one\n" + text(plain, more=" # two") + "#\n#!\n"
    yield "Latin-1", "# Universit\xe9 \x85 line\n".encode("latin-1") + text(plain).encode()
    yield "byte order mark", text(plain).encode("utf-8-sig")
    yield "Windows", text(plain).replace("\n", "\r\n").encode()
    yield "old Mac", text(plain).replace("\n", "\r").encode()
    yield "Fortran", text(plain).replace("\n", "D+00\n")
    yield "two digits", "\n".join(f"{p:.2f} {q:.2f} {u:.9f}" for p, q, u in plain)


@pytest.mark.parametrize("content", [pytest.param(form, id=name) for name, form in forms()])
def test_one_surface_in_every_form(tmp_path: Path, content: str | bytes):
    file = tmp_path / "table.dat"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    found = read_grid(file, kT=1.0)
    x = 7 * torch.rand(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    # the spline through 12 samples a turn errs by h^4/384 of the fourth derivative, 2 * 2^4
    torch.testing.assert_close(found(x), waves(x), rtol=0, atol=0.02)


def lines_of(change: Callable[[list[str]], object]) -> str:
    """The plain table, changed."""
    lines = text(rows()).splitlines()
    change(lines)
    return "\n".join(lines)


def broken() -> Iterator[tuple[str, str | bytes, str]]:
    """What is wrong, the table, and what the sentence must say."""
    plain = rows()

    def put(line: int, value: str) -> str:
        return lines_of(lambda lines: lines.__setitem__(line - 1, value))

    phi, psi, energy = text(plain).splitlines()[6].split()
    yield "inf", put(7, f"{phi} {psi} inf"), "line 7: inf is no finite number"
    yield "nan", put(7, f"{phi} {psi} nan"), "line 7: nan is no finite number"
    yield "infinite angle", put(7, f"-inf {psi} 0"), "line 7: -inf is no finite number"
    yield "word", put(7, f"{phi} {psi} high"), "line 7: 'high' is no number"
    yield "underscore", put(7, f"{phi} {psi} 1_0"), "line 7: '1_0' is no number"
    yield "commas", text(plain).replace(" ", ","), "line 1: '.*,.*' is no number"
    yield "decimal comma", put(7, f"{phi} {psi} 1,5"), "line 7: '1,5' is no number"
    yield "too few", put(7, f"{phi} {psi}"), "line 7: 2 numbers, line 1 has 3"
    yield "too many", put(7, f"{phi} {psi} {energy} 1"), "line 7: 4 numbers, line 1 has 3"
    yield "two columns", "1 2\n3 4\n", "line 1: 2 numbers; a table has three"
    yield "not named", text(plain, more=" 1 1"), "line 1: 5 numbers, .* leave out the others"
    yield (
        "named otherwise",
        text(plain, head=PLUMED.replace("der_psi", "count"), more=" 1 1"),
        ("a column 'count' that is no derivative"),
    )
    yield "fewer names", text(plain, head=PLUMED, more=" 1"), "line 3: 4 numbers"
    yield "missing", lines_of(lambda lines: lines.pop(6)), r"no energy at phi = 0, psi = -3\.142"
    yield "other energy", put(8, f"{phi} {psi} 9"), "line 8: the energy is 9, and line 7 gives"
    yield "closing line off", text([*rows(), (math.pi, -math.pi, 9.0)]), "line 145: .* is 9"
    moved = [(p + 0.2 * (abs(p) < 0.1), q, u) for p, q, u in plain]
    yield "not uniform", text(moved), r"line 7: phi = 0\.2 lies 0\.7236 from its neighbour"
    yield "half a turn", text(plain, unit=0.5), r"phi runs from -1\.5708 .* give one turn"
    yield "in turns", text(plain, unit=1 / TURN), "give one turn"
    yield "part", text([row for row in plain if row[0] < 1]), "phi runs .* give one turn"
    yield "one angle", "1 2 3\n1 2 3\n", "line 2: the second column runs fastest|is 1 everywhere"
    yield "psi fastest", text(sorted(plain)), "line 2: the second column runs fastest"
    yield "psi first", text([(q, p, u) for p, q, u in plain]), "line 2: the second column runs"
    yield (
        "not periodic",
        text(plain, head=PLUMED.replace("true", "false"), more=" 1 1"),
        ("phi is not periodic"),
    )
    yield "trajectory", "#! FIELDS time phi psi\n0 1 2\n", "is a trajectory, time phi psi"
    yield "empty", "", "holds no numbers"
    yield "comments only", "# phi psi energy\n", "holds no numbers"
    yield "binary", b"PK\x03\x04\x00\x00", "is no text"
    yield "UTF-16", text(plain).encode("utf-16"), "is no text"


@pytest.mark.parametrize(
    ("content", "sentence"), [pytest.param(*fault, id=what) for what, *fault in broken()]
)
def test_what_is_no_such_table_is_refused(tmp_path: Path, content: str | bytes, sentence: str):
    file = tmp_path / "table.dat"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=sentence) as refused:
        read_grid(file, kT=1.0)
    assert "table.dat" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_every_line_that_is_spoilt_is_named(tmp_path: Path):
    file = tmp_path / "table.dat"
    for line in range(1, 145):
        lines = text(rows()).splitlines()
        lines[line - 1] = lines[line - 1].rpartition(" ")[0] + " x"
        file.write_text("\n".join(lines))
        with pytest.raises(ValueError, match=rf"line {line}: 'x'"):
            read_grid(file, kT=1.0)
