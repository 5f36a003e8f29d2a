r"""All-atom structures along a path of torsions.

A path of torsions t_0 .. t_n becomes structures by minimising U with stiff restraints,

    x_i = argmin U(x) + K/2 |t(x) - t_i|^2,        |t(x_i) - t_i| = |dU/dt| / K,

each started from its neighbour.  One sweep starts at the first state and one at the last.  They
are joined where the sum of their energies is lowest.  Both ends are then the given states, and
where a sweep has carried a slow coordinate past its barrier the other sweep is taken.  If the
hydrogens of a methyl group have other labels in the two states, there is a jump at the joint; a
jump is among the notices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffodesic.transitions.molecules import (
    Molecule,
    in_nanometres,
    openmm,
    reference_context,
    wrap_angle,
)

__all__ = ["AllAtomPath", "follow", "thin"]


@dataclass(frozen=True)
class AllAtomPath:
    """Structures along a (phi, psi) path.

    Attributes:
        molecule: whose structures they are.
        targets: the path asked for (n, 2), radians.
        structures: relaxed coordinates (n, 3N), nm.
        phi_psi: torsions reached (n, 2), radians.
        energies: U of the molecule without the restraints (n,), kJ/mol.
        seam: number of structures of the sweep from the first state; the rest are of the other.
        notices: what a reader should know.
    """

    molecule: Molecule
    targets: Tensor
    structures: Tensor
    phi_psi: Tensor
    energies: Tensor
    seam: int
    notices: tuple[str, ...] = ()

    @property
    def errors(self) -> Tensor:
        """Distance of each torsion from the path (n, 2), in degrees."""
        return torch.rad2deg(wrap_angle(self.phi_psi - self.targets).abs())

    @property
    def turns(self) -> Tensor:
        """Largest turn of a torsion between neighbours (n-1,), in degrees."""
        return torch.rad2deg(wrap_angle(self.phi_psi[1:] - self.phi_psi[:-1]).abs()).amax(-1)

    @property
    def steps(self) -> Tensor:
        """RMS displacement between neighbours after superposition (n-1,), in nm."""
        return _rmsd(self.structures[:-1], self.structures[1:])


def follow(
    molecule: Molecule,
    path: Tensor,
    start: Tensor,
    end: Tensor,
    *,
    stiffness: float = 1e4,
    max_turn: float = math.radians(10.0),
) -> AllAtomPath:
    """Turn a path of torsions into relaxed structures.

    Args:
        molecule: with one phi and one psi.
        path: n points (phi, psi), (n, 2), radians.
        start: structure of the first state (3N,), nm.
        end: structure of the last state (3N,), nm.
        stiffness: K of the restraints, kJ/mol/rad^2.
        max_turn: largest turn of a torsion between two minimisations, radians.

    Returns:
        the structures, their torsions and energies.

    Raises:
        ValueError: for a path or structures of the wrong shape, or structures of which a bond is
            30 % off its length or a centre has another handedness than in the molecule.

    **Cost** two sweeps of at least n minimisations, some hundred forces each; seconds for 22 atoms.
    """
    if path.ndim != 2 or path.shape[-1] != 2 or len(path) < 2:
        raise ValueError(
            f"path has shape {tuple(path.shape)}; give at least two (phi, psi), (n, 2)"
        )
    for name, x in (("start", start), ("end", end)):
        if x.shape != (molecule.dim,):
            raise ValueError(f"{name} has shape {tuple(x.shape)}; it must be ({molecule.dim},)")
        molecule.skeleton.check(x, name)
    path = path.double()
    relax = _Restrained(molecule, stiffness)
    there = relax.sweep(path, start, max_turn)
    back = relax.sweep(path.flip(0), end, max_turn).flip(0)
    with torch.no_grad():
        energies = molecule(torch.stack([there, back]))
    seam = _seam(there, back, energies, molecule.kT)
    structures = torch.cat([there[:seam], back[seam:]])
    relabelled = molecule.skeleton.relabelled(start, end)
    return AllAtomPath(
        molecule,
        path,
        structures,
        molecule.phi_psi(structures),
        torch.cat([energies[0, :seam], energies[1, seam:]]),
        seam,
        _jump(_rmsd(structures[:-1], structures[1:]), seam, relabelled),
    )


def _seam(there: Tensor, back: Tensor, energies: Tensor, kT: float) -> int:
    """Where to join the sweeps: at the smallest jump within kT of the lowest sum of energies."""
    total = energies[0].cumsum(0)[:-1] + energies[1].flip(0).cumsum(0).flip(0)[1:]
    jump = _rmsd(there[:-1], back[1:])
    return 1 + int(torch.where(total <= total.min() + kT, jump, math.inf).argmin())


def _jump(steps: Tensor, seam: int, relabelled: tuple[str, ...]) -> tuple[str, ...]:
    """A notice where the structures of the two sweeps do not meet: steps (n-1,), nm."""
    jump, others = float(steps[seam - 1]), torch.cat([steps[: seam - 1], steps[seam:]])
    usual = float(others.max()) if len(others) else math.inf
    if jump <= 2 * usual and not relabelled:
        return ()
    cause = f": {'; '.join(relabelled)}" if relabelled else ""
    return (
        f"structures {seam} and {seam + 1}, where the sweeps from the two states meet, are "
        f"{jump:.2g} nm apart, others at most {usual:.2g} nm{cause}",
    )


class _Restrained:
    """Minimisation of a molecule with its phi and psi held by harmonic restraints."""

    def __init__(self, molecule: Molecule, stiffness: float) -> None:
        mm = openmm()
        self.molecule = molecule
        system = mm.XmlSerializer.clone(molecule.system)
        force = mm.CustomTorsionForce(
            f"0.5*{stiffness!r}*turn^2;turn=min(off, {2 * math.pi!r}-off); off=abs(theta-target)"
        )
        force.addPerTorsionParameter("target")
        for atoms in molecule.torsion_atoms().tolist():
            force.addTorsion(*atoms, [0.0])
        system.addForce(force)
        self._force, self._context, self._openmm = force, reference_context(system), mm

    def sweep(self, path: Tensor, x: Tensor, max_turn: float) -> Tensor:
        """Structures (n, 3N) along the path, each started from the one before."""
        at, relaxed = self.molecule.phi_psi(x), []
        for target in path:
            turn = wrap_angle(target - at)
            stops = max(1, math.ceil(float(turn.abs().max()) / max_turn))
            for i in range(1, stops + 1):
                x = self._minimise(x, wrap_angle(at + turn * i / stops))
            relaxed.append(x)
            at = target
        return torch.stack(relaxed)

    def _minimise(self, x: Tensor, target: Tensor) -> Tensor:
        atoms = self.molecule.torsion_atoms().tolist()
        for i, (four, angle) in enumerate(zip(atoms, target.tolist(), strict=True)):
            self._force.setTorsionParameters(i, *four, [angle])
        self._force.updateParametersInContext(self._context)
        self._context.setPositions(x.reshape(-1, 3).numpy())
        self._openmm.LocalEnergyMinimizer.minimize(self._context, 1.0)  # rms force, kJ/mol/nm
        return in_nanometres(self._context.getState(getPositions=True).getPositions()).reshape(-1)


def _rmsd(a: Tensor, b: Tensor) -> Tensor:
    """RMS displacement of structures b (..., 3N) from a after the best rigid motion (Kabsch)."""
    a, b = (x.unflatten(-1, (-1, 3)) for x in (a, b))
    a, b = a - a.mean(-2, keepdim=True), b - b.mean(-2, keepdim=True)
    u, _, vh = torch.linalg.svd(b.mT @ a)
    proper = torch.ones_like(a[..., 0, :])
    proper[..., -1] = torch.sign(torch.linalg.det(u @ vh))
    turned = b @ (u * proper.unsqueeze(-2)) @ vh
    return (turned - a).square().sum(-1).mean(-1).sqrt()


def thin(states: Tensor, count: int) -> Tensor:
    """Choose states of a path so that the largest step between them is the smallest.

    Args:
        states: all states of the path in order (T + 1, d), periodic coordinates unwrapped.
        count: largest number of states, the two ends among them.

    Returns:
        their numbers, increasing, at most ``count``.

    Raises:
        ValueError: for fewer than two states, or a count below 2.

    **Cost** some forty passes over the states per chosen state.
    """
    if len(states) < 2 or count < 2:
        raise ValueError(f"{count} of {len(states)} states: give at least 2 of each")
    low, high = 0.0, float((states[-1] - states[0]).norm())
    best = [0, len(states) - 1]
    for _ in range(40):
        reach = (low + high) / 2
        chosen = _walk(states, reach, count)
        if chosen is None:
            low = reach
        else:
            best, high = chosen, reach
    return torch.tensor(best)


def _walk(states: Tensor, reach: float, count: int) -> list[int] | None:
    """From end to end, each time to the last state within reach; None if ``count`` are too few."""
    chosen, last = [0], len(states) - 1
    while chosen[-1] != last:
        here = chosen[-1]
        near = ((states[here + 1 :] - states[here]).norm(dim=-1) <= reach).nonzero()
        if not len(near) or len(chosen) == count:
            return None
        chosen.append(here + 1 + int(near[-1]))
    return chosen
