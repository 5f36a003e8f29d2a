r"""Molecules: an OpenMM system as a potential U(x), with its files and its torsions.

A point x holds the 3N Cartesian coordinates of the atoms in nm, atom by atom; energies are in
kJ/mol.  Forces come from OpenMM's Reference platform (double precision) and enter autograd as

    dU/dx = -F(x).

The torsion a-b-c-d is the signed angle between the planes (a, b, c) and (b, c, d), zero when a and
d eclipse each other and positive clockwise along b -> c (IUPAC).  phi = C-N-CA-C, psi = N-CA-C-N.
"""

from __future__ import annotations

import math
import os
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffodesic.transitions.potentials import Potential
from diffodesic.transitions.skeleton import Skeleton

__all__ = ["Molecule", "from_amber", "torsion", "wrap_angle"]

GAS_CONSTANT = 8.31446261815324e-3  # kJ/(mol K)
# the chiral amino acids, with AMBER's states of protonation; their names stand for the L form
_AMINO_ACIDS = (
    "ALA ARG ASH ASN ASP CYM CYS CYX GLH GLN GLU HID HIE HIP HIS ILE LEU LYN LYS MET PHE PRO SER "
    "THR TRP TYR VAL"
)
SOLVENTS = ("HCT", "OBC1", "OBC2", "GBn", "GBn2")  # names in openmm.app


def torsion(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Signed dihedral angle a-b-c-d of points (..., 3), in radians in (-pi, pi], (...)."""
    first, axis, last = b - a, c - b, d - c
    left, right = torch.linalg.cross(first, axis), torch.linalg.cross(axis, last)
    sine = (first * right).sum(-1) * axis.norm(dim=-1)
    return torch.atan2(sine, (left * right).sum(-1))


def wrap_angle(x: Tensor) -> Tensor:
    """The same angle in [-pi, pi)."""
    return torch.remainder(x + math.pi, 2 * math.pi) - math.pi


def from_amber(
    prmtop: str | os.PathLike[str],
    inpcrd: str | os.PathLike[str],
    *,
    solvent: str | None = "OBC2",
    temperature: float = 300.0,
) -> Molecule:
    """Read a molecule in AMBER's formats, without cutoffs and without constraints.

    Args:
        prmtop: topology and force field.
        inpcrd: coordinates that belong to it.
        solvent: implicit solvent: HCT, OBC1, OBC2, GBn or GBn2; None is vacuum.
        temperature: in K, for kT.

    Returns:
        the molecule; its kT is RT in kJ/mol.

    Raises:
        ValueError: for a file that OpenMM cannot read, files that do not belong together, bonds
            30 % off their length, amino acids that are not L, an unknown solvent, a temperature
            that is not positive.
    """
    app = openmm().app
    if solvent is not None and solvent not in SOLVENTS:
        raise ValueError(f"solvent must be one of {', '.join(SOLVENTS)} or None, not {solvent!r}")
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature must be a positive number of kelvins, got {temperature:g}")
    parameters = _read(app.AmberPrmtopFile, prmtop, "AMBER prmtop")
    coordinates = _read(app.AmberInpcrdFile, inpcrd, "AMBER coordinate")
    system = _system(parameters, prmtop, solvent)
    positions = in_nanometres(coordinates.positions)
    atoms = system.getNumParticles()
    if len(positions) != atoms:
        raise ValueError(
            f"{inpcrd} holds {len(positions)} atoms and {prmtop} {atoms}; give files of one system"
        )
    _skeleton(parameters.topology, system, positions).check(positions, str(inpcrd))
    molecule = Molecule(
        parameters.topology,
        system,
        positions.reshape(-1),
        kT=GAS_CONSTANT * temperature,
        name=f"{Path(prmtop).stem}, {solvent or 'vacuum'}",
    )
    _check_amino_acids(parameters.topology, positions, inpcrd)
    return molecule


def _system(parameters: Any, prmtop: str | os.PathLike[str], solvent: str | None) -> Any:
    app = openmm().app
    try:
        return parameters.createSystem(
            nonbondedMethod=app.NoCutoff,
            constraints=None,
            rigidWater=False,
            implicitSolvent=solvent and getattr(app, solvent),
            removeCMMotion=False,
        )
    except Exception as error:  # some sections of a file are read only now
        raise _unreadable(prmtop, "AMBER prmtop", error) from error


def _check_amino_acids(topology: Any, x: Tensor, file: str | os.PathLike[str]) -> None:
    """Refuse structures (N, 3) in which an amino acid is the mirror image of its name."""
    for residue in topology.residues():
        at = {atom.name: x[atom.index] for atom in residue.atoms()}
        if residue.name not in _AMINO_ACIDS.split() or not {"N", "CA", "C", "CB"} <= at.keys():
            continue
        arms = torch.stack([at[name] - at["CA"] for name in ("N", "C", "CB")])
        if float(torch.linalg.det(arms)) < 0:
            raise ValueError(
                f"{file}: atom CA of {residue.name} {residue.id} is that of the D form, and the "
                "name stands for the L form; give a structure that is no mirror image"
            )


def _skeleton(topology: Any, system: Any, reference: Tensor) -> Skeleton:
    """Bonds by the force field; one that it does not hold is as long as in the reference (3N,)."""
    mm, atoms, x = openmm(), list(topology.atoms()), reference.reshape(-1, 3)
    lengths: dict[tuple[int, int], float] = {}
    for first, second in topology.bonds():
        i, j = sorted((first.index, second.index))
        lengths[i, j] = float((x[i] - x[j]).norm())
    for force in system.getForces():
        if isinstance(force, mm.HarmonicBondForce):
            for bond in range(force.getNumBonds()):
                i, j, length, _ = force.getBondParameters(bond)
                lengths[min(i, j), max(i, j)] = length.value_in_unit(mm.unit.nanometer)
    elements = [atom.element.symbol if atom.element else "" for atom in atoms]
    return Skeleton.of([atom.name for atom in atoms], elements, lengths, reference)


class Molecule(Potential):
    """An OpenMM system as a potential over its 3N Cartesian coordinates in nm.

    Args:
        topology: an ``openmm.app.Topology``.
        system: an ``openmm.System`` without constraints.
        positions: reference structure (3N,), nm, float64.
        kT: thermal energy in kJ/mol.
        name: for messages and files.

    Raises:
        ValueError: if the reference structure has bonds of other lengths than the system.

    **Cost** one OpenMM call per structure, structure by structure (22 atoms: about .2 ms).
    """

    unit = "kJ/mol"

    def __init__(
        self, topology: Any, system: Any, positions: Tensor, *, kT: float, name: str
    ) -> None:
        self.topology, self.system, self.positions = topology, system, positions
        self.kT, self.name, self.dim = kT, name, positions.numel()
        self.period = (None,) * self.dim
        # half a nanometre around the reference: a scale for steps, no grid is made of it
        self.box = tuple((v - 0.5, v + 0.5) for v in positions.tolist())
        self.skeleton = _skeleton(topology, system, positions)
        self.skeleton.check(positions, f"the reference structure of {name}")
        self._context = reference_context(system)

    def energy(self, x: Tensor) -> Tensor:
        """U(x) in kJ/mol for structures (..., 3N); once differentiable."""
        return _Energy.apply(x, self._context)

    def _gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return _evaluate(x, self._context)

    def torsion_atoms(self) -> Tensor:
        """Atoms of the only phi and the only psi, (2, 4); ValueError without just one of each."""
        residues = [{a.name: a.index for a in r.atoms()} for r in self.topology.residues()]
        phi, psi = [], []
        for i, here in enumerate(residues):
            if not {"N", "CA", "C"} <= here.keys():
                continue
            core = [here["N"], here["CA"], here["C"]]
            if i > 0 and "C" in residues[i - 1]:
                phi.append([residues[i - 1]["C"], *core])
            if i + 1 < len(residues) and "N" in residues[i + 1]:
                psi.append([*core, residues[i + 1]["N"]])
        if len(phi) != 1 or len(psi) != 1:
            raise ValueError(
                f"{self.name} has {len(phi)} phi and {len(psi)} psi torsions; paths in (phi, psi) "
                "need a molecule with one of each, such as alanine dipeptide"
            )
        return torch.tensor([phi[0], psi[0]])

    def phi_psi(self, x: Tensor) -> Tensor:
        """Torsions of structures (..., 3N), in radians, (..., 2)."""
        corners = x.unflatten(-1, (-1, 3))[..., self.torsion_atoms(), :]  # (..., 2, 4, 3)
        return torsion(*corners.unbind(-2))

    def read(self, pdb: str | os.PathLike[str]) -> Tensor:
        """Coordinates of a PDB file of this molecule.

        Atoms are matched by their order, which elements, residues, bond lengths and handedness
        must confirm; names of atoms differ too much between programs.

        Args:
            pdb: the file; of several models the first counts.

        Returns:
            (3N,) in nm, float64.

        Raises:
            ValueError: if the file cannot be read or is of another molecule.
        """
        read = _read(_pdb, pdb, "PDB")
        ours, theirs = (list(t.atoms()) for t in (self.topology, read.topology))
        if len(ours) != len(theirs):
            raise ValueError(
                f"{pdb} has {len(theirs)} atoms and {self.name} {len(ours)}; "
                "give a PDB file of the molecule of the topology"
            )
        for mine, other in zip(ours, theirs, strict=True):
            a, b = (
                f"{atom.residue.name} {atom.element and atom.element.symbol}"
                for atom in (mine, other)
            )
            if a != b:
                raise ValueError(
                    f"{pdb}: atom {other.index + 1} ({other.name}) is {b}, {self.name} has {a} "
                    f"({mine.name}) there; give the atoms in the order of the topology"
                )
        positions = in_nanometres(read.positions).reshape(-1)
        self.skeleton.check(positions, str(pdb))
        return positions

    def trajectory(self, x: Tensor) -> Any:
        """Structures (n, 3N) as an ``mdtraj.Trajectory``, which writes DCD, XTC and PDB."""
        mdtraj = _extra("mdtraj")
        topology = mdtraj.Topology.from_openmm(self.topology)
        return mdtraj.Trajectory(x.detach().unflatten(-1, (-1, 3)).numpy(), topology)


class _Energy(torch.autograd.Function):
    """U with its gradient -F; both come from one OpenMM call."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, context: Any) -> Tensor:
        energy, gradient = _evaluate(x, context)
        ctx.save_for_backward(gradient)
        return energy

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return weight.unsqueeze(-1) * gradient, None


def _evaluate(x: Tensor, context: Any) -> tuple[Tensor, Tensor]:
    """U (...) and its gradient (..., 3N), structure by structure."""
    energies, slopes = [], []
    for row in x.detach().reshape(-1, x.shape[-1]).double().cpu():
        context.setPositions(row.reshape(-1, 3).numpy())
        state = context.getState(getEnergy=True, getForces=True)
        energies.append(state.getPotentialEnergy()._value)
        slopes.append(-torch.from_numpy(state.getForces(asNumpy=True)._value).reshape(-1))
    energy = torch.tensor(energies, dtype=torch.float64).reshape(x.shape[:-1])
    return energy.to(x), torch.stack(slopes).reshape(x.shape).to(x)


def reference_context(system: Any) -> Any:
    """A context of OpenMM's Reference platform: double precision, one thread."""
    mm = openmm()
    platform = mm.Platform.getPlatformByName("Reference")
    return mm.Context(system, mm.VerletIntegrator(0.001), platform)


def in_nanometres(positions: Any) -> Tensor:
    """Positions of OpenMM as (N, 3) in nm."""
    nanometre = openmm().unit.nanometer
    return torch.tensor(positions.value_in_unit(nanometre), dtype=torch.float64)


def _pdb(path: str) -> Any:
    # OpenMM leaves a file open that it cannot read; remarks may be in any language
    with open(path, encoding="latin-1") as file:
        return openmm().app.PDBFile(file)


def _read(kind: Any, path: str | os.PathLike[str], what: str) -> Any:
    if not Path(path).is_file():
        raise ValueError(f"{path} is not a file; give {what} here")
    try:
        return kind(str(path))
    except Exception as error:  # OpenMM's readers raise exceptions of many types
        raise _unreadable(path, what, error) from error


def _unreadable(path: str | os.PathLike[str], what: str, error: Exception) -> ValueError:
    said = " ".join(str(error).split()) or type(error).__name__
    return ValueError(f"{path} cannot be read as {what}: {said}")


def openmm() -> Any:
    """The openmm package, or an error that names the extra."""
    return _extra("openmm", "openmm.app", "openmm.unit")


def _extra(name: str, *parts: str) -> Any:
    try:
        for part in parts:
            import_module(part)
        return import_module(name)
    except ImportError as error:
        raise ImportError(f"molecules need {name}: pip install 'diffodesic[molecules]'") from error
