"""``diffodesic paths``: sampled transition paths between two states."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffodesic.cli.options import command, progress, seed
from diffodesic.cli.potential_options import add_potential, numbers, potential

if TYPE_CHECKING:
    from torch import Tensor

    from diffodesic.denoisers.denoiser import Denoiser
    from diffodesic.transitions.molecules import Molecule
    from diffodesic.transitions.potentials import Potential
    from diffodesic.transitions.recipe import Pathways

__all__ = ["add"]

EXAMPLES = """\
  diffodesic paths --potential mueller-brown --from -0.56,1.44 --to 0.62,0.03 --outdir out
  diffodesic paths --potential alanine --from -2.5,2.8 --to 0.8,1.0 --relax
  diffodesic paths --potential mine.py:energy --box=-2,2,-2,2 --kT 1 --unit kT --from -1,0 --to 1,0
  diffodesic paths --potential alanine --model my-alanine --from -1.42,1.22 --to 0.84,0.87 --relax
  diffodesic paths --system mol.prmtop,mol.inpcrd --from A.pdb --to B.pdb --relax
"""


def add(commands: Any) -> None:
    """Add the verb."""
    text = "sampled transition paths between two states"
    parser = command(commands, "paths", run, text, EXAMPLES)
    # otherwise argparse takes the state -0.56,1.44 for an option
    parser._negative_number_matcher = re.compile(r"-\.?\d")
    add_potential(parser)
    parser.add_argument("--system", metavar="PRMTOP,INPCRD", help="a molecule in AMBER's formats")
    parser.add_argument("--from", dest="start", required=True, help="coordinates, or a PDB file")
    parser.add_argument("--to", dest="end", required=True, help="coordinates, or a PDB file")
    parser.add_argument("--paths", type=int, default=1000, help="number of paths")
    parser.add_argument("--nodes", type=int, default=128, help="segments of the geodesic")
    parser.add_argument(
        "--langevin-steps", type=int, default=128, help="steps of the dynamics at each node"
    )
    parser.add_argument("--step", type=float, help="of the dynamics, in squared coordinates")
    parser.add_argument("--log-snr", type=float, help="of both ends; default: that of the basins")
    parser.add_argument("--relax", action="store_true", help="move the states to minima")
    parser.add_argument("--uncorrected", action="store_true", help="no Metropolis correction")
    parser.add_argument(
        "--model", metavar="DIR", help="denoiser by `diffodesic train`; default: exact, on a grid"
    )
    parser.add_argument("--solvent", default="OBC2", help="of --system: OBC2, OBC1, ... or none")
    parser.add_argument("--temperature", type=float, default=300.0, help="of --system, in K")
    parser.add_argument("--frames", type=int, default=33, help="structures along a path")
    parser.add_argument("--store", help="folder of finished paths, to go on after an interruption")
    parser.add_argument("--seed", type=seed, default=0)
    parser.add_argument("--outdir", default="out")


def run(options: argparse.Namespace) -> None:
    """Sample paths, print a summary, write the folder."""
    from dataclasses import replace

    from diffodesic.output.folder import check_outdir
    from diffodesic.transitions.recipe import PathwayOptions, pathways, structures
    from diffodesic.transitions.saving import save_paths

    molecule = _molecule(options) if options.system else None
    law = _potential(options, molecule)
    ends, atoms = _ends(options, law, molecule)
    denoiser = _denoiser(options, law)
    check_outdir(options.outdir)
    chosen = PathwayOptions(
        paths=options.paths,
        nodes=options.nodes,
        langevin_steps=options.langevin_steps,
        step=options.step,
        log_snr=options.log_snr,
        descend=options.relax,
        correct=not options.uncorrected,
        seed=options.seed,
    )
    with progress() as say:
        found = pathways(law, *ends, chosen, denoiser=denoiser, store=options.store, progress=say)
        if molecule is not None:
            say("structures")
            found = replace(found, atoms=structures(found, molecule, *atoms, frames=options.frames))
        say("writing")
        folder = save_paths(found, options.outdir)
    _summarise(found, folder)


def _molecule(options: argparse.Namespace) -> Molecule:
    from diffodesic.transitions.molecules import from_amber

    files = options.system.split(",")
    if len(files) != 2:
        raise ValueError(f"--system takes two files, PRMTOP,INPCRD, not {options.system!r}")
    solvent = None if options.solvent == "none" else options.solvent
    return from_amber(*files, solvent=solvent, temperature=options.temperature)


def _potential(options: argparse.Namespace, molecule: Molecule | None) -> Potential:
    name = options.potential
    if name is None:
        if molecule is None:
            raise ValueError("give a potential (--potential) or a molecule (--system)")
        residues = [residue.name for residue in molecule.topology.residues()]
        if residues != ["ACE", "ALA", "NME"]:
            raise ValueError(
                f"there is no shipped surface over (phi, psi) for {molecule.name}; give one with "
                "--potential, a table `phi psi energy`"
            )
        name = "alanine"
    return potential(options, name)


def _denoiser(options: argparse.Namespace, law: Potential) -> Denoiser | None:
    """The denoiser that ``--model`` names; None for the exact one."""
    from diffodesic.transitions.learned import load_denoiser

    if options.model is None:
        return None
    found = load_denoiser(options.model)
    found.check(law)
    return found


def _ends(
    options: argparse.Namespace, law: Potential, molecule: Molecule | None
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The two states, and for a molecule their structures."""
    import torch

    texts = (options.start, options.end)
    if molecule is not None:
        first, last = (molecule.read(file) for file in texts)
        return (molecule.phi_psi(first), molecule.phi_psi(last)), (first, last)
    states = []
    for flag, text in zip(("--from", "--to"), texts, strict=True):
        try:
            states.append(torch.tensor(numbers(text), dtype=torch.float64))
        except argparse.ArgumentTypeError:
            raise ValueError(
                f"{flag} {text} is not {law.dim} numbers with commas between; "
                "a PDB file needs --system"
            ) from None
        if len(states[-1]) != law.dim:
            raise ValueError(
                f"{flag} {text} has {len(states[-1])} coordinates, {law.name} has {law.dim}"
            )
    first, last = states
    return (first, last), (first, last)


def _summarise(found: Pathways, folder: Path) -> None:
    paths, unit = found.paths, found.paths.potential.unit
    low, high = paths.interval()
    print(f"geodesic: {found.geodesic.status.name}: {found.geodesic.status.value}")
    print(
        f"MaxEnergy of {len(paths)} paths: {paths.mean_max_energy:.4g} +- "
        f"{paths.standard_error:.2g} {unit} (95 %: {low:.4g} to {high:.4g}); "
        f"lowest pass {found.lowest.energy:.4g}"
    )
    print(
        f"{100 * float(found.hits.double().mean()):.1f} % end in the target's basin; "
        f"{paths.evaluations:,} energy evaluations, {sum(found.seconds.values()):.0f} s"
    )
    if found.atoms is not None:
        print(
            f"{len(found.atoms.energies)} structures, torsions within "
            f"{float(found.atoms.errors.max()):.2g} degrees of the path, at most "
            f"{float(found.atoms.turns.max()):.2g} degrees apart, energies "
            f"{float(found.atoms.energies.min()):.1f} to "
            f"{float(found.atoms.energies.max()):.1f} kJ/mol"
        )
    for notice in found.notices:
        print(f"note: {notice}")
    print(f"wrote {folder}/report.html, paths.npz, result.json and pictures")
