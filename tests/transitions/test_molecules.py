"""Alanine dipeptide in OpenMM: stored energies and forces, torsions, structures along a path."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from torch import Tensor

from diffodesic.numerics.cost import counting
from diffodesic.transitions.molecules import Molecule, from_amber, torsion
from diffodesic.transitions.structures import AllAtomPath, follow
from support.checks import Draw

pytest.importorskip("openmm", reason="molecules need openmm, of diffodesic[molecules]")
mdtraj = pytest.importorskip("mdtraj", reason="molecules need mdtraj, of diffodesic[molecules]")


@pytest.fixture(scope="session")
def amber(data_folder: Path) -> Path:
    return data_folder / "alanine" / "amber"


def load(amber: Path, solvent: str | None = "OBC2", **options: float) -> Molecule:
    stem = amber / "alanine-dipeptide"
    return from_amber(f"{stem}.prmtop", f"{stem}.crd", solvent=solvent, **options)


@pytest.fixture(scope="session")
def molecule(amber: Path) -> Molecule:
    return load(amber)


@pytest.fixture(scope="session")
def bent(molecule: Molecule, amber: Path) -> AllAtomPath:
    """A path from C7eq to C7ax, straight in (phi, psi)."""
    start, end = (molecule.read(amber.parent / f"AD_c7{kind}.pdb") for kind in ("eq", "ax"))
    first, last = molecule.phi_psi(torch.stack([start, end]))
    s = torch.linspace(0, 1, 9, dtype=torch.float64)[:, None]
    return follow(molecule, torch.lerp(first, last, s), start, end)


# computed by OpenMM's Reference platform and stored with the data, to four decimals
@pytest.mark.parametrize(("solvent", "energy"), [(None, -88.0886), ("OBC1", -138.9697)])
def test_energies_are_those_stored(amber: Path, solvent: str | None, energy: float):
    found = load(amber, solvent)
    assert float(found(found.positions)) == pytest.approx(energy, abs=5e-5)


@pytest.mark.parametrize(
    ("solvent", "file"), [("OBC1", "OBC1_NonPeriodic"), ("GBn2", "GBn2_NoCutoff")]
)
def test_forces_are_those_stored(amber: Path, solvent: str, file: str):
    found = load(amber, solvent)
    stored = ElementTree.parse(amber / f"{file}.xml").getroot().find("Forces")
    assert stored is not None
    values = [[float(force.attrib[axis]) for axis in "xyz"] for force in stored]
    force = found.force(found.read(amber / "alanine-dipeptide.pdb")).reshape(-1, 3)
    expected = torch.tensor(values, dtype=torch.float64)
    assert float(expected.abs().max()) > 800
    # the stored forces were made by another version with other constants, in single precision
    torch.testing.assert_close(force, expected, rtol=0, atol=0.03)


def test_forces_are_minus_the_slope_of_the_energy(molecule: Molecule, draw: Draw):
    x, v = molecule.positions, draw(molecule.dim)
    v = v / v.norm()
    slope = float(molecule.gradient(x)[1] @ v)
    numeric = [float(molecule(x + h * v) - molecule(x - h * v)) / (2 * h) for h in (2e-4, 1e-4)]
    # Richardson: what is left is h^4 times stiff bonds' fifth derivative, and rounding 1e-13/h
    assert (4 * numeric[1] - numeric[0]) / 3 == pytest.approx(slope, rel=1e-5, abs=1e-3)


def test_autograd_goes_through_openmm(molecule: Molecule, draw: Draw):
    x = (molecule.positions + 1e-3 * draw(2, 3, molecule.dim)).requires_grad_()
    weight = draw(2, 3)
    with counting() as spent:
        (found,) = torch.autograd.grad((weight * molecule(x)).sum(), x)
        energy, slope = molecule.gradient(x)
    assert spent.energies == 12
    torch.testing.assert_close(found, weight[..., None] * slope)
    torch.testing.assert_close(energy, molecule(x).detach())


def test_the_energy_does_not_know_where_the_molecule_is(molecule: Molecule, draw: Draw):
    turn, _ = torch.linalg.qr(draw(3, 3))
    frames = molecule.positions.reshape(-1, 3)
    moved = (frames @ turn + draw(3)).reshape(-1)
    # a reflection too: no term of the force field is chiral
    assert float(molecule(moved)) == pytest.approx(float(molecule(molecule.positions)), abs=1e-6)


def test_temperature_is_in_kelvin(amber: Path):
    # R to the digits of its definition (2019 SI), 8.31446261815324 J/(mol K)
    assert load(amber, temperature=500.0).kT == pytest.approx(4.15723130907662, rel=1e-14)


def test_torsions_of_known_figures(draw: Draw, uniform: Draw):
    angle = uniform(-3, 3, 20)
    zero, one = torch.zeros_like(angle), torch.ones_like(angle)
    a = torch.stack([one, zero, zero], -1)
    b, c = torch.zeros_like(a), torch.stack([zero, zero, one], -1)
    # seen from b towards c, up the z axis, the mathematical sense is clockwise: positive (IUPAC)
    d = c + torch.stack([angle.cos(), angle.sin(), zero], -1)
    torch.testing.assert_close(torsion(a, b, c, d), angle)
    # backwards it is the same, mirrored it is the opposite
    torch.testing.assert_close(torsion(d, c, b, a), angle)
    mirror = torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(torsion(*(x * mirror for x in (a, b, c, d))), -angle)
    turn, _ = torch.linalg.qr(draw(3, 3))
    turn = turn * torch.sign(torch.linalg.det(turn))
    torch.testing.assert_close(torsion(*(x @ turn for x in (a, b, c, d))), angle)


def test_phi_and_psi_are_those_of_mdtraj(molecule: Molecule, draw: Draw):
    x = molecule.positions + 0.02 * draw(10, molecule.dim)
    ours, trajectory = molecule.phi_psi(x), molecule.trajectory(x)
    for column, angles in enumerate((mdtraj.compute_phi, mdtraj.compute_psi)):
        theirs = torch.from_numpy(angles(trajectory)[1][:, 0]).double()
        # mdtraj keeps coordinates in single precision
        assert float(torch.sin(ours[:, column] - theirs).abs().max()) < 1e-5
    assert molecule.torsion_atoms().tolist() == [[4, 6, 8, 14], [6, 8, 14, 16]]


def test_structures_follow_the_path(bent: AllAtomPath):
    # |dU/dt|/K with slopes of some 40 kJ/mol/rad and K = 1e4: .2 degrees; asked for are 5
    assert float(bent.errors.max()) < 1.0
    torch.testing.assert_close(bent.molecule(bent.structures), bent.energies)
    torch.testing.assert_close(bent.molecule.phi_psi(bent.structures), bent.phi_psi)
    # they are relaxed: no bond is strained, and the barrier is one of a torsion
    assert -180 < float(bent.energies.min()) < float(bent.energies.max()) < -100
    assert 0 < bent.seam < 9


def test_frames_load_in_mdtraj_within_five_degrees(bent: AllAtomPath, tmp_path: Path):
    trajectory = bent.molecule.trajectory(bent.structures)
    trajectory[0].save_pdb(str(tmp_path / "top.pdb"))
    for kind in ("dcd", "xtc"):
        trajectory.save(str(tmp_path / f"path.{kind}"))
        found = mdtraj.load(str(tmp_path / f"path.{kind}"), top=str(tmp_path / "top.pdb"))
        angles = [mdtraj.compute_phi(found)[1], mdtraj.compute_psi(found)[1]]
        reached = torch.cat([torch.from_numpy(a) for a in angles], -1).double()
        off = torch.remainder(reached - bent.targets + math.pi, 2 * math.pi) - math.pi
        assert float(torch.rad2deg(off).abs().max()) < 5


def test_the_error_of_a_restraint_falls_with_its_stiffness(bent: AllAtomPath):
    molecule = bent.molecule
    path = bent.targets[:2]
    start = bent.structures[0]
    errors = [follow(molecule, path, start, start, stiffness=k).errors.max() for k in (2e3, 4e3)]
    # |dU/dt|/K to first order in 1/K; the minimiser stops at a force of 1 kJ/mol/nm
    assert float(errors[0] / errors[1]) == pytest.approx(2, rel=0.1)


def test_both_ends_come_from_their_own_state(bent: AllAtomPath, amber: Path):
    molecule = bent.molecule
    ends = [molecule.read(amber.parent / f"AD_c7{kind}.pdb") for kind in ("eq", "ax")]
    for structure, state in zip(bent.structures[[0, -1]], ends, strict=True):
        heavy = [a.index for a in molecule.topology.atoms() if a.element.symbol != "H"]
        moved = molecule.trajectory(torch.stack([structure, state]))
        # relaxation moves heavy atoms by less than half an Angstrom
        assert float(mdtraj.rmsd(moved, moved, 1, atom_indices=heavy)[0]) < 0.05


def test_steps_ignore_rigid_motion(bent: AllAtomPath, draw: Draw):
    turn, _ = torch.linalg.qr(draw(3, 3))
    turn = turn * torch.sign(torch.linalg.det(turn))
    frame = bent.structures[0]
    moved = (frame.reshape(-1, 3) @ turn + draw(3)).reshape(-1)
    shifted = AllAtomPath(
        bent.molecule, bent.targets[:2], torch.stack([frame, moved]), bent.phi_psi[:2],
        bent.energies[:2], 1,
    )  # fmt: skip
    assert float(shifted.steps[0]) < 1e-7
    theirs = mdtraj.rmsd(bent.molecule.trajectory(bent.structures), *[
        bent.molecule.trajectory(bent.structures[:1]), 0
    ])[1]  # fmt: skip
    assert float(bent.steps[0]) == pytest.approx(float(theirs), rel=1e-3)


def _broken(text: str, tmp_path: Path) -> Path:
    file = tmp_path / "broken.pdb"
    file.write_text(text, encoding="utf-8")
    return file


def test_a_pdb_of_another_molecule_is_refused(molecule: Molecule, amber: Path, tmp_path: Path):
    lines = (amber.parent / "AD_A.pdb").read_text(encoding="utf-8").splitlines()
    atoms = [i for i, line in enumerate(lines) if line.startswith("ATOM")]
    fewer = "\n".join(line for i, line in enumerate(lines) if i != atoms[3])
    with pytest.raises(ValueError, match="21 atoms"):
        molecule.read(_broken(fewer, tmp_path))
    swapped = list(lines)
    # a carbon and an oxygen change places
    swapped[atoms[4]], swapped[atoms[5]] = swapped[atoms[5]], swapped[atoms[4]]
    with pytest.raises(ValueError, match=r"ACE O, .* has ACE C"):
        molecule.read(_broken("\n".join(swapped), tmp_path))


def test_files_that_cannot_be_read_are_named(molecule: Molecule, amber: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r"none\.pdb is not a file"):
        molecule.read(tmp_path / "none.pdb")
    with pytest.raises(ValueError, match="cannot be read as AMBER prmtop"):
        from_amber(_broken("nonsense", tmp_path), amber / "alanine-dipeptide.crd")


def test_arguments_are_checked(molecule: Molecule, amber: Path):
    with pytest.raises(ValueError, match="solvent must be one of"):
        load(amber, "water")
    with pytest.raises(ValueError, match="temperature must be"):
        load(amber, temperature=-1.0)
    start = molecule.positions
    with pytest.raises(ValueError, match="path has shape"):
        follow(molecule, torch.zeros(5, 3), start, start)
    with pytest.raises(ValueError, match="end has shape"):
        follow(molecule, torch.zeros(5, 2), start, start[:3])


@pytest.mark.parametrize("name", ["openmm", "mdtraj"])
def test_a_missing_library_names_its_extra(
    molecule: Molecule, amber: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"diffodesic\[molecules\]"):
        if name == "openmm":
            load(amber)
        else:
            molecule.trajectory(molecule.positions[None])


def test_structures_are_deterministic(bent: AllAtomPath):
    ends = [bent.structures[0], bent.structures[-1]]
    runs: list[Tensor] = [
        follow(bent.molecule, bent.targets[::4], *ends).structures for _ in range(2)
    ]
    assert torch.equal(*runs)
