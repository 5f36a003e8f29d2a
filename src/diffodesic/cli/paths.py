"""``diffodesic paths``: sampled transition paths between two states."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffodesic.cli.options import add_flags, belongs, chosen, command, in_flags
from diffodesic.cli.potential_options import PotentialOptions, potential
from diffodesic.cli.progress import progress
from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.models.folder import CONFIG, WEIGHTS
from diffodesic.models.prepare import chosen_device
from diffodesic.output.folder import own_outdir
from diffodesic.output.manifest import hashed
from diffodesic.output.options import Options, option
from diffodesic.transitions.learned import load_denoiser
from diffodesic.transitions.molecules import Molecule, from_amber
from diffodesic.transitions.potentials import Potential
from diffodesic.transitions.recipe import PathwayOptions, Pathways, pathways, structures

__all__ = ["add"]

EXAMPLES = """\
  diffodesic paths --potential mueller-brown --from -0.56,1.44 --to 0.62,0.03 --outdir out
  diffodesic paths --potential alanine --from -2.5,2.8 --to 0.8,1.0 --relax
  diffodesic paths --potential mine.py:energy --box=-2,2,-2,2 --kT 1 --unit kT --from -1,0 --to 1,0
  diffodesic paths --potential alanine --model my-alanine --from -1.1,2.5 --to 0.8,1.0 --relax
  diffodesic paths --system mol.prmtop,mol.inpcrd --from A.pdb --to B.pdb --relax
"""


@dataclass(frozen=True, kw_only=True)
class PathsOptions(Options):
    """What ``paths`` has beside the options of pathways.

    Args:
        system: PRMTOP,INPCRD: a molecule in AMBER's formats.
        relax: move the states to minima.
        uncorrected: no Metropolis correction.
        model: denoiser by `diffodesic train`; default exact, on a grid.
        device: where that denoiser runs: cpu, cuda or auto.
        solvent: of the system: OBC2, OBC1, ... or none.
        temperature: of the system, in K.
        frames: structures along a path.
        store: folder of finished paths, to go on after an interruption.
        outdir: folder of the results.
    """

    system: str | None = None
    relax: bool = False
    uncorrected: bool = False
    model: str | None = None
    device: str = "cpu"
    solvent: str = "OBC2"
    temperature: float = 300.0
    frames: int = option(33, least=2, most=10_000)
    store: str | None = None
    outdir: str = "out"


def add(commands: Any) -> None:
    """Add the command."""
    text = "sampled transition paths between two states"
    parser = command(commands, "paths", run, text, EXAMPLES)
    # otherwise argparse takes the state -0.56,1.44 for an option
    parser._negative_number_matcher = re.compile(r"-\.?\d")
    parser.add_argument("--from", dest="start", required=True, help="coordinates, or a PDB file")
    parser.add_argument("--to", dest="end", required=True, help="coordinates, or a PDB file")
    add_flags(parser, PotentialOptions, PathwayOptions, skip=("descend", "correct", "frames"))
    add_flags(parser, PathsOptions)


def run(given: argparse.Namespace) -> None:
    """Sample paths, print a summary, write the folder."""
    from diffodesic.transitions.saving import save_paths

    options = chosen(PathsOptions, given)
    given.resumes = options.store is not None
    kept: dict[str, Any] = {"descend": options.relax, "correct": not options.uncorrected}
    asked = chosen(PathwayOptions, given, **kept, frames=None)  # frames are of the structures
    if options.system is None:
        belongs(given, ["solvent", "temperature", "frames"], "--system")
    if options.model is None:
        belongs(given, ["device"], "--model")
    molecule = _molecule(options) if options.system else None
    target = _potential(chosen(PotentialOptions, given), molecule)
    ends, atoms = _ends((given.start, given.end), target, molecule)
    denoiser = _denoiser(options, target)
    files = _files(given, options)
    with own_outdir(options.outdir, "paths", [name for name, _ in files]), progress() as say:
        sampled = pathways(
            target, *ends, asked, denoiser=denoiser, store=options.store, progress=say
        )
        if molecule is not None:
            say("structures")
            followed = structures(sampled, molecule, *atoms, frames=options.frames)
            notices = (*sampled.notices, *followed.notices)
            sampled = replace(sampled, atoms=followed, notices=notices)
        say("writing")
        folder = save_paths(sampled, options.outdir, inputs=files)
    _summarise(sampled, folder, given.parser)


def _files(given: argparse.Namespace, options: PathsOptions) -> tuple[tuple[str, str], ...]:
    """The files that the paths are made of, with their hashes."""
    potential = (given.__dict__.get("potential") or "").rpartition(".py:")
    named = [potential[0] + ".py" if potential[1] else potential[2], given.start, given.end]
    named += (options.system or "").split(",")
    named += [f"{options.model}/{name}" for name in (CONFIG, WEIGHTS)]
    return hashed(name for name in named if Path(name).is_file())


def _molecule(options: PathsOptions) -> Molecule:
    files = (options.system or "").split(",")
    if len(files) != 2:
        raise ValueError(f"--system takes two files, PRMTOP,INPCRD, not {options.system!r}")
    solvent = None if options.solvent == "none" else options.solvent
    return from_amber(*files, solvent=solvent, temperature=options.temperature)


def _potential(options: PotentialOptions, molecule: Molecule | None) -> Potential:
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


def _denoiser(options: PathsOptions, target: Potential) -> Denoiser | None:
    """The denoiser that ``--model`` names; None for the exact one."""
    if options.model is None:
        return None
    denoiser = load_denoiser(options.model, device=chosen_device(options.device))
    denoiser.check(target)
    return denoiser


def _ends(
    texts: tuple[str, str], target: Potential, molecule: Molecule | None
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The two states, and for a molecule their structures."""
    if molecule is not None:
        first, last = (molecule.read(file) for file in texts)
        return (molecule.phi_psi(first), molecule.phi_psi(last)), (first, last)
    states = []
    for flag, text in zip(("--from", "--to"), texts, strict=True):
        try:
            numbers = [float(word) for word in text.split(",")]
        except ValueError:
            raise ValueError(
                f"{flag} {text} is not {target.dim} numbers with commas between; "
                "a PDB file needs --system"
            ) from None
        if len(numbers) != target.dim:
            raise ValueError(
                f"{flag} {text} has {len(numbers)} coordinates, {target.name} has {target.dim}"
            )
        states.append(torch.tensor(numbers, dtype=torch.float64))
    first, last = states
    return (first, last), (first, last)


def _summarise(sampled: Pathways, folder: Path, parser: argparse.ArgumentParser) -> None:
    paths, unit = sampled.paths, sampled.paths.potential.unit
    status = sampled.geodesic.status
    low, high = paths.interval()
    print(f"geodesic: {status.name}: {in_flags(status.value, parser)}")
    print(
        f"MaxEnergy of {len(paths)} paths: {paths.mean_max_energy:.4g} +- "
        f"{paths.standard_error:.2g} {unit} (95 %: {low:.4g} to {high:.4g}); "
        f"lowest pass {sampled.lowest.energy:.4g}"
    )
    print(
        f"{100 * float(sampled.hits.double().mean()):.1f} % end in the target's basin; "
        f"{paths.evaluations:,} energy evaluations, {sum(sampled.seconds.values()):.0f} s"
    )
    if sampled.atoms is not None:
        print(
            f"{len(sampled.atoms.energies)} structures, torsions within "
            f"{float(sampled.atoms.errors.max()):.2g} degrees of the path, at most "
            f"{float(sampled.atoms.turns.max()):.2g} degrees apart, energies "
            f"{float(sampled.atoms.energies.min()):.1f} to "
            f"{float(sampled.atoms.energies.max()):.1f} kJ/mol"
        )
    for notice in sampled.notices:
        print(f"note: {in_flags(notice, parser)}")
    print(f"wrote {folder}/report.html, paths.npz, result.json and pictures")
