"""Structures of alanine dipeptide: PDB files and AMBER's files with changed lines and atoms."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from random import Random

import pytest
import torch
from torch import Tensor

from campaign.mutators import spoil_bytes, spoil_lines
from campaign.oracle import judge
from diffodesic.transitions.molecules import Molecule, from_amber

NAMES = ("AD_A", "AD_B", "AD_c7ax", "AD_c7eq")


def case(index: int, rng: Random, folder: Path) -> str:
    """A file with one thing wrong about it."""
    pytest.importorskip("openmm")
    if not os.environ.get("DIFFODESIC_DATA"):
        pytest.skip("DIFFODESIC_DATA does not name the folder of real data")
    return (_pdb, _moved, _amber, _moved)[index % 4](rng, folder)


def _data() -> Path:
    return Path(os.environ["DIFFODESIC_DATA"]) / "alanine"


@cache
def _molecule() -> Molecule:
    stem = _data() / "amber/alanine-dipeptide"
    return from_amber(f"{stem}.prmtop", f"{stem}.crd")


def _coordinates(text: str) -> Tensor:
    """Coordinates (N, 3) by the columns of the format, nm."""
    lines = [line for line in text.split("\n") if line.startswith(("ATOM", "HETATM"))]
    once = {line[6:27]: line for line in reversed(lines)}  # of an atom given twice, the first
    rows = [line for line in lines if line is once[line[6:27]]]
    places = [[float(row[k : k + 8]) for k in (30, 38, 46)] for row in rows]
    return torch.tensor(places, dtype=torch.float64) / 10


def _sound(x: Tensor) -> bool:
    """Bonds within 30 % of a good structure's, and L-alanine: by distances and one determinant."""
    good = _molecule().positions.reshape(-1, 3)
    pairs = torch.tensor([[a.index, b.index] for a, b in _molecule().topology.bonds()])
    found, known = ((y[pairs[:, 0]] - y[pairs[:, 1]]).norm(dim=-1) for y in (x, good))
    hands = [torch.linalg.det(y[[6, 9, 10]] - y[8]) for y in (x, good)]
    return float((found / known - 1).abs().max()) < 0.32 and float(hands[0] * hands[1]) > 0


def _read(what: str, content: bytes, folder: Path) -> str:
    file = folder / "state.pdb"
    file.write_bytes(content)

    def right(found: Tensor) -> bool:
        points = found.reshape(-1, 3)
        truth = _coordinates(content.decode("latin-1"))[: len(points)]
        return _sound(points) and torch.allclose(points, truth, atol=1e-9)

    return judge(what, lambda: _molecule().read(file), right, names=file.name)


def _pdb(rng: Random, folder: Path) -> str:
    """Lines or bytes of a PDB file changed."""
    name = rng.choice(NAMES)
    text = (_data() / f"{name}.pdb").read_text(encoding="utf-8")
    if rng.random() < 0.3:
        what, content = spoil_bytes(rng, text.encode())
        return _read(f"{name}.pdb, {what}", content, folder)
    what, changed = spoil_lines(rng, text)
    return _read(f"{name}.pdb, {what}", changed.encode(), folder)


def _moved(rng: Random, folder: Path) -> str:
    """Atoms of a PDB file moved or exchanged."""
    name = rng.choice(NAMES)
    text = (_data() / f"{name}.pdb").read_text(encoding="utf-8")
    x = 10 * _coordinates(text)
    i, j = rng.randrange(22), rng.randrange(22)
    order = torch.tensor(rng.sample(range(22), 22))
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(rng.randrange(2**32)))
    size = rng.choice((0.01, 0.1, 0.5, 3.0))
    mirror, scale = torch.tensor([-1.0, 1.0, 1.0]), rng.choice((0.1, 0.5, 0.8, 1.1, 1.5, 10.0))
    cut = x.clone()
    cut[i:] += 25.0
    swapped = x.clone()
    swapped[[i, j]] = x[[j, i]]
    what, moved = rng.choice(
        [
            (f"atoms {i + 1} and {j + 1} exchanged", swapped),
            (f"atoms {i + 1} and {j + 1} exchanged", swapped),
            ("mirrored", x * mirror),
            (f"scaled by {scale}", x * scale),
            (f"noise of {size} angstrom", x + size * noise),
            ("all atoms in another order", x[order]),
            (f"atoms after {i} in another box", cut),
            ("all at one place", torch.zeros_like(x)),
            ("turned and moved", x[:, [1, 2, 0]] + 3.0),
        ]
    )
    lines = text.split("\n")
    atoms = [n for n, line in enumerate(lines) if line.startswith(("ATOM", "HETATM"))]
    for n, place in zip(atoms, moved.tolist(), strict=True):
        lines[n] = lines[n][:30] + "".join(f"{v:8.3f}" for v in place) + lines[n][54:]
    return _read(f"{name}.pdb, {what}", "\n".join(lines).encode(), folder)


def _amber(rng: Random, folder: Path) -> str:
    """A topology or its coordinates changed: the energy is that of before, or none."""
    suffix = rng.choice(("prmtop", "crd", "crd"))
    files = {kind: folder / f"mol.{kind}" for kind in ("prmtop", "crd")}
    for kind, file in files.items():
        file.write_bytes((_data() / f"amber/alanine-dipeptide.{kind}").read_bytes())
    text = files[suffix].read_text(encoding="utf-8")
    if suffix == "crd":
        what, changed = spoil_lines(rng, text)
    else:  # a changed digit is another force field: only what is no number, or missing, is a fault
        lines = text.split("\n")
        at = rng.randrange(2, len(lines) - 1)
        what, changed = rng.choice(
            [
                (f"cut in line {at + 1}", "\n".join(lines[:at])),
                (
                    f"line {at + 1} is words",
                    "\n".join([*lines[:at], "no number", *lines[at + 1 :]]),
                ),
                (f"line {at + 1} left out", "\n".join([*lines[:at], *lines[at + 1 :]])),
                ("empty", ""),
                ("zeros", "\0" * 100),
            ]
        )
    files[suffix].write_bytes(changed.encode())
    true = _molecule()

    def right(found: Molecule) -> bool:
        if suffix == "prmtop":
            x = true.positions
            same = torch.allclose(found(x), true(x), rtol=0, atol=1e-6)
            # a title or a comment may go
            return same and torch.equal(found.positions, x)
        return (
            _sound(found.positions.reshape(-1, 3))
            and float((found.positions - true.positions).abs().max()) < 0.05
        )

    return judge(
        f"mol.{suffix}, {what}",
        lambda: from_amber(files["prmtop"], files["crd"]),
        right,
        names="mol.",
    )
