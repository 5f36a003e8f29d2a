"""Structures of another molecule: like atoms exchanged, mirror images, other units."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from diffodesic.transitions.molecules import Molecule, from_amber
from diffodesic.transitions.skeleton import Skeleton
from diffodesic.transitions.structures import follow

# alanine dipeptide: its elements, and the numbers of its methyl hydrogens
ELEMENTS = "HCHHCONHCHCHHHCONHCHHH"
METHYLS = ({0, 2, 3}, {11, 12, 13}, {19, 20, 21})
SWAPS = [
    pair for pair in itertools.combinations(range(22), 2) if len({ELEMENTS[i] for i in pair}) == 1
]


@pytest.fixture(scope="module")
def folder(data_folder: Path) -> Path:
    pytest.importorskip("openmm", reason="molecules need openmm, of diffodesic[molecules]")
    return data_folder / "alanine"


@pytest.fixture(scope="module")
def molecule(folder: Path) -> Molecule:
    stem = folder / "amber/alanine-dipeptide"
    return from_amber(f"{stem}.prmtop", f"{stem}.crd")


def changed(pdb: Path, change: Callable[[Tensor], Tensor], to: Path) -> Path:
    """The PDB file with its coordinates (N, 3), in angstrom, changed."""
    lines = pdb.read_text(encoding="utf-8").splitlines()
    atoms = [i for i, line in enumerate(lines) if line.startswith(("ATOM", "HETATM"))]
    places = [[float(lines[i][k : k + 8]) for k in (30, 38, 46)] for i in atoms]
    moved = change(torch.tensor(places, dtype=torch.float64)).tolist()
    for i, place in zip(atoms, moved, strict=True):
        lines[i] = lines[i][:30] + "".join(f"{v:8.3f}" for v in place) + lines[i][54:]
    to.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return to


def exchange(i: int, j: int) -> Callable[[Tensor], Tensor]:
    def change(x: Tensor) -> Tensor:
        return x.index_copy(0, torch.tensor([i, j]), x[[j, i]])

    return change


def test_the_pairs_are_all_that_there_are(molecule: Molecule):
    assert [a.element.symbol for a in molecule.topology.atoms()] == list(ELEMENTS)
    assert len(SWAPS) == 66 + 15 + 1 + 1


@pytest.mark.parametrize("file", ["AD_A", "AD_B", "AD_c7ax", "AD_c7eq"])
@pytest.mark.parametrize("pair", SWAPS, ids=str)
def test_like_atoms_exchanged(
    molecule: Molecule, folder: Path, tmp_path: Path, file: str, pair: tuple[int, int]
):
    pdb = folder / f"{file}.pdb"
    swapped = changed(pdb, exchange(*pair), tmp_path / "swapped.pdb")
    if any(set(pair) <= methyl for methyl in METHYLS):  # which only renames atoms that are alike
        found, other = molecule.read(swapped), molecule.read(pdb)
        energies = molecule(torch.stack([found, other]))
        torch.testing.assert_close(energies[0], energies[1], rtol=1e-9, atol=1e-9)
        (phrase,) = molecule.skeleton.relabelled(found, other)
        assert all(list(molecule.skeleton.names)[i] in phrase for i in pair)
        return
    with pytest.raises(ValueError, match=r"their bond is .* in the order of the topology") as said:
        molecule.read(swapped)
    # one of the two atoms, or a neighbour that lost it, is named
    bonds = {frozenset(bond) for bond in molecule.skeleton.bonds.tolist()}
    named = {int(number) - 1 for number in re.findall(r"atom (\d+) \(", str(said.value))}
    assert named in bonds
    assert named & set(pair)


@pytest.mark.parametrize("file", ["AD_A", "AD_B", "AD_c7ax", "AD_c7eq"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_mirror_images(molecule: Molecule, folder: Path, tmp_path: Path, file: str, axis: int):
    turn = torch.ones(3, dtype=torch.float64)
    turn[axis] = -1
    mirrored = changed(folder / f"{file}.pdb", lambda x: x * turn, tmp_path / "mirror.pdb")
    with pytest.raises(ValueError, match=r"mirror\.pdb: .* atom 9 \(CA\).* other handedness"):
        molecule.read(mirrored)


@pytest.mark.parametrize("scale", [0.1, 10.0])
def test_other_units(molecule: Molecule, folder: Path, tmp_path: Path, scale: float):
    scaled = changed(folder / "AD_A.pdb", lambda x: scale * x, tmp_path / "scaled.pdb")
    sentence = rf"atom \d+ \(.*\) and atom \d+ .* bonds are {scale:.2g} times as long .* angstroms"
    with pytest.raises(ValueError, match=sentence):
        molecule.read(scaled)
    with pytest.raises(ValueError, match=rf"start: .* {scale:.2g} times"):
        follow(molecule, torch.zeros(2, 2), scale * molecule.positions, molecule.positions)


def amber_with(folder: Path, tmp_path: Path, change: Callable[[Tensor], Tensor]) -> Molecule:
    """The molecule with the coordinates (N, 3) of its AMBER file changed."""
    lines = (folder / "amber/alanine-dipeptide.crd").read_text(encoding="utf-8").splitlines()
    numbers = [float(word) for line in lines[2:] for word in line.split()]
    moved = change(torch.tensor(numbers, dtype=torch.float64).reshape(-1, 3)).reshape(-1, 6)
    rows = ("".join(f"{v:12.7f}" for v in row) for row in moved.tolist())
    file = tmp_path / "changed.crd"
    file.write_text("\n".join([*lines[:2], *rows]) + "\n", encoding="utf-8")
    return from_amber(folder / "amber/alanine-dipeptide.prmtop", file)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda x: 0.1 * x, r"bonds are 0\.1 times as long"),
        (lambda x: 10 * x, r"bonds are 10 times as long"),
        (exchange(9, 11), "in the order of the topology"),
        (lambda x: -x, r"changed\.crd: atom CA of ALA 2 is that of the D form"),
        (lambda x: torch.full_like(x, torch.nan), r"atom 1 \(H1\) has .* not finite"),
    ],
)
def test_coordinates_of_the_topology(
    folder: Path, tmp_path: Path, change: Callable[[Tensor], Tensor], sentence: str
):
    with pytest.raises(ValueError, match=sentence):
        amber_with(folder, tmp_path, change)


def test_a_molecule_cut_by_a_periodic_box(molecule: Molecule):
    x = molecule.positions.reshape(-1, 3).clone()
    x[14:, 0] += 2.5
    with pytest.raises(ValueError, match="in one piece"):
        molecule.skeleton.check(x, "here")


def test_bonds_up_to_thirty_per_cent(molecule: Molecule):
    x = molecule.positions.reshape(-1, 3)
    bond, length = x[0] - x[1], 0.109
    for share, fits in ((0.72, True), (1.28, True), (0.68, False), (1.32, False)):
        moved = x.clone()
        moved[0] = x[1] + bond / bond.norm() * length * share
        if fits:
            molecule.skeleton.check(moved, "here")
        else:
            with pytest.raises(ValueError, match=r"atom 1 \(H1\) and atom 2 \(CH3\)"):
                molecule.skeleton.check(moved, "here")


def test_a_flat_centre_has_no_handedness():
    tetrahedron = torch.tensor(
        [[0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64
    )
    length = 3**0.5
    lengths = {(0, i): length for i in range(1, 5)}
    skeleton = Skeleton.of(("C", "F", "Cl", "Br", "I"), "CFLBI", lengths, tetrahedron)
    skeleton.check(tetrahedron, "here")
    flat = torch.tensor([[0, 0, 0], [1, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1, 0]]) * length
    with pytest.raises(ValueError, match=r"F, Cl, Br, I, are flat"):
        skeleton.check(flat, "here")
    # with two branches alike there is nothing to be mirrored
    like = Skeleton.of(("C", "F", "F", "Br", "I"), "CFFBI", lengths, tetrahedron)
    like.check(-tetrahedron, "here")


def test_a_jump_is_noticed_and_its_cause_named(molecule: Molecule, folder: Path):
    start = molecule.read(folder / "AD_A.pdb")
    end = exchange(11, 12)(start.reshape(-1, 3)).reshape(-1)
    at = molecule.phi_psi(start)
    path = at + torch.linspace(0, 0.3, 4, dtype=torch.float64)[:, None]
    assert follow(molecule, path, start, start).notices == ()
    (notice,) = follow(molecule, path, start, end).notices
    assert "HB1, HB2, HB3 at atom 11 (CB)" in notice
    assert "nm apart" in notice


def test_a_topology_that_breaks_off_is_named(folder: Path, tmp_path: Path):
    stem = folder / "amber/alanine-dipeptide"
    lines = Path(f"{stem}.prmtop").read_text(encoding="utf-8").splitlines()
    file = tmp_path / "mol.prmtop"
    for at in range(4, len(lines), 11):
        file.write_text("\n".join([*lines[:at], "no number", *lines[at + 1 :]]))
        try:
            from_amber(file, f"{stem}.crd")  # titles and comments may be anything
        except ValueError as error:
            assert "mol.prmtop" in str(error)  # noqa: PT017
