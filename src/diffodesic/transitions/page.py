"""The page of sampled transition paths: paths over the surface, profiles, and their numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from diffodesic.output.page import number, write_page
from diffodesic.transitions.recipe import Pathways

__all__ = ["write_paths_page"]

_TEMPLATE = Path(__file__).parent / "assets" / "paths.html"


def write_paths_page(found: Pathways, content: Mapping[str, Any], folder: Path) -> Path:
    """Write ``report.html`` beside the pictures; ``content``: ``result.json`` and ``origin``."""
    potential, surface = found.paths.potential, folder / "landscape.png"
    return write_page(
        folder / "report.html",
        _TEMPLATE,
        title=f"{len(found.paths)} transition paths on {potential.name}",
        subtitle=_subtitle(found),
        ok=found.geodesic.ok,
        status=f"Geodesic: {found.geodesic.status.value}",
        surface=surface if surface.exists() else None,
        profiles=folder / "profiles.png",
        unit=potential.unit,
        numbers=_numbers(content),
        saddles=_saddles(content),
        structures=_structures(content["structures"]),
        notices=content["notices"],
        origin=content["origin"],
        settings={**content["settings"], "seconds": sum(content["seconds"].values())},
        versions=content["versions"],
    )


def _signed(value: float, digits: str = ".3g") -> str:
    return f"{value:{digits}}".replace("-", "−")


def _point(coordinates: Iterable[float]) -> str:
    return f"({', '.join(map(_signed, coordinates))})"


def _subtitle(found: Pathways) -> str:
    potential = found.paths.potential
    a, b = (_point(state) for state in potential.wrap(found.states).tolist())
    angles = " radians" if potential.period == (2 * math.pi,) * 2 else ""
    return (
        f"From {a} to {b}{angles}: annealed Langevin along a spacetime geodesic, "
        f"kT = {potential.kT:.4g} {potential.unit}."
    )


def _numbers(content: Mapping[str, Any]) -> list[tuple[str, object, str]]:
    top, unit = content["max_energy"], content["max_energy"]["unit"]
    low, high = (number(end) for end in top["interval_95"])
    mean, error = number(top["mean"]), f"{top['standard_error']:.2g}"
    least, _ = content["accepted_share"]
    return [
        (
            f"MaxEnergy ({unit})",
            Markup("{} ± {}").format(mean, error),
            "mean over paths of the highest U at every Langevin step",
        ),
        ("95 % interval", Markup("{} to {}").format(low, high), "of that mean"),
        ("Spread", top["spread"], "standard deviation between paths"),
        (
            f"Lowest pass ({unit})",
            content["lowest_pass"]["energy"],
            "by graph search; no path over its grid points stays below",
        ),
        ("Target hit", f"{content['target_hit_percent']:.1f} %", "paths that end in B’s basin"),
        ("Energy evaluations", content["energy_evaluations"], "each with its gradient"),
        ("Accepted steps", f"≥ {100 * least:.1f} %", "at every node; 100 % if not corrected"),
    ]


def _saddles(content: Mapping[str, Any]) -> list[tuple[object, ...]]:
    return [
        (
            _point(channel["saddle"]),
            number(channel["energy"]),
            f"{100 * channel['share']:.1f} %",
            _signed(channel["peaks_above"]),
            _signed(channel["peaks_away"]),
        )
        for channel in content["channels"][:8]
    ]


def _structures(found: Mapping[str, Any] | None) -> dict[str, object]:
    if found is None:
        return {}
    low, high = (_signed(end(found["energies_kJ_mol"]), ".1f") for end in (min, max))
    return {
        "Molecule": found["molecule"],
        "Structures": found["frames"],
        "Largest error of a torsion": f"{found['largest_error_degrees']:.2g} degrees",
        "Largest turn between structures": f"{found['largest_turn_degrees']:.2g} degrees",
        "Largest step between structures": f"{found['largest_step_nm']:.2g} nm RMS",
        "Energies": f"{low} to {high} kJ/mol",
    }
