"""What sampled transition paths leave on disk.

paths.npz         coordinates (radians for angles), energies, MaxEnergy, the path in spacetime
result.json       numbers, settings, versions
landscape.png     paths over the surface (two coordinates)
profiles.png      energy, noise and MaxEnergy along the way
structures.pdb    for a molecule: the first structure, and with it the topology
structures.dcd    all structures along the typical path
structures.csv    torsions asked for and reached, energies
report.html       all of it on one page
"""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from typing import Any, cast

import torch

from diffodesic.metrics.spacetime.metric import Spacetime
from diffodesic.models.identity import identity, short
from diffodesic.output.files import write_atomically, write_text
from diffodesic.output.folder import replace_files
from diffodesic.output.manifest import Run
from diffodesic.output.records import versions, write_json
from diffodesic.transitions.molecules import wrap_angle
from diffodesic.transitions.page import write_paths_page
from diffodesic.transitions.pictures import draw_landscape, draw_profiles
from diffodesic.transitions.recipe import Pathways
from diffodesic.transitions.structures import AllAtomPath

__all__ = ["paths_dict", "save_paths"]


def save_paths(
    found: Pathways, outdir: str | os.PathLike[str], *, inputs: tuple[tuple[str, str], ...] = ()
) -> Path:
    """Write everything about sampled paths into a folder.

    Args:
        found: the paths.
        outdir: the folder, made if needed; files of the last run in it are removed.
        inputs: names of the files that the paths were made of, with hashes.

    Returns:
        the folder.
    """
    content = paths_dict(found)
    denoiser = identity(cast(Spacetime, found.geodesic.metric).denoiser)
    model = {"model": denoiser["name"], "fingerprint": short(denoiser)}
    run = Run(command="paths", inputs=inputs, model=model, settings=content["settings"])
    with replace_files(outdir, run) as folder:
        _arrays(found, folder)
        write_json(folder / "result.json", content)
        if found.paths.potential.dim == 2:
            draw_landscape(found, folder / "landscape.png")
        draw_profiles(found, folder / "profiles.png")
        if found.atoms is not None:
            _molecule(found.atoms, folder)
        write_paths_page(found, {**content, "origin": run.origin}, folder)
    return Path(outdir)


def paths_dict(found: Pathways) -> dict[str, Any]:
    """Everything about sampled paths but their coordinates, for JSON."""
    paths, path = found.paths, found.geodesic
    low, high = paths.interval()
    return {
        "max_energy": {
            "mean": paths.mean_max_energy,
            "standard_error": paths.standard_error,
            "interval_95": [low, high],
            "spread": paths.spread,
            "unit": paths.potential.unit,
        },
        "target_hit_percent": 100 * float(found.hits.double().mean()),
        "lowest_pass": {
            "energy": found.lowest.energy,
            "top": found.lowest.top.tolist(),
            "grid_spacing": found.lowest.spacing.tolist(),
        },
        "channels": [
            {
                "saddle": c.saddle.tolist(),
                "energy": c.energy,
                "share": c.share,
                "peaks_above": c.above,
                "peaks_away": c.away,
            }
            for c in found.channels
        ],
        "states": found.states.tolist(),
        "energy_evaluations": paths.evaluations,
        "accepted_share": [float(paths.accepted.min()), float(paths.accepted.max())],
        "geodesic": {
            "status": path.status.name,
            "status_text": path.status.value,
            "length": float(path.length),
            "evaluations": path.evaluations,
        },
        "typical_path": found.typical,
        "structures": None if found.atoms is None else _structures_dict(found.atoms),
        "settings": paths.settings,
        "notices": list(found.notices),
        "seconds": {name: round(value, 2) for name, value in found.seconds.items()},
        "versions": versions(),
    }


def _structures_dict(atoms: AllAtomPath) -> dict[str, Any]:
    return {
        "molecule": atoms.molecule.name,
        "frames": len(atoms.energies),
        "largest_error_degrees": float(atoms.errors.max()),
        "largest_turn_degrees": float(atoms.turns.max()),
        "largest_step_nm": float(atoms.steps.max()),
        "from_first_state": atoms.seam,
        "energies_kJ_mol": atoms.energies.tolist(),
    }


def _arrays(found: Pathways, folder: Path) -> None:
    import numpy as np

    paths = found.paths
    arrays = {
        "frames": paths.potential.wrap(paths.frames),
        "energies": paths.energies,
        "nodes_kept": paths.kept,
        "max_energy": paths.max_energy,
        "peak": paths.potential.wrap(paths.peak),
        "hits": found.hits,
        "spacetime_nodes": paths.nodes,
        "posterior_mean": paths.potential.wrap(found.mean),
    }
    plain = {name: value.detach().cpu().numpy() for name, value in arrays.items()}
    buffer = io.BytesIO()  # zipfile reports a full disk a second time, when it is closed
    np.savez_compressed(buffer, **plain)  # type: ignore[arg-type]
    write_atomically(folder / "paths.npz", buffer.getvalue())


def _molecule(atoms: AllAtomPath, folder: Path) -> None:
    trajectory = atoms.molecule.trajectory(atoms.structures)
    trajectory[0].save_pdb(str(folder / "structures.pdb"))
    trajectory.save_dcd(str(folder / "structures.dcd"))
    write_text(folder / "structures.csv", _table(atoms))


def _table(atoms: AllAtomPath) -> str:
    """One line per structure: degrees and kJ/mol."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = ("phi_asked", "psi_asked", "phi", "psi")
    writer.writerow(["s", *(f"{name}_degrees" for name in names), "energy_kJ_mol"])
    asked = torch.rad2deg(wrap_angle(atoms.targets))
    s = torch.linspace(0, 1, len(asked), dtype=asked.dtype)
    columns = [s[:, None], asked, torch.rad2deg(atoms.phi_psi), atoms.energies[:, None]]
    for row in torch.cat(columns, -1).tolist():
        writer.writerow([f"{value:.4f}" for value in row])
    return buffer.getvalue()
