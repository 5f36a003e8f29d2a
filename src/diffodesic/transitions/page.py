"""One self-contained page about sampled transition paths.

It shows the paths over the surface, energy and noise along the way, and the numbers with what they
rest on.  Pictures are base64 PNGs; style and template are files of this package.

**Cost** none beyond reading the pictures.
"""

from __future__ import annotations

import base64
import html
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffodesic.output.files import write_atomically
from diffodesic.output.page import page_style
from diffodesic.output.svg import number
from diffodesic.transitions.recipe import Pathways

__all__ = ["write_paths_report"]

_ASSETS = Path(__file__).parent / "assets"


def write_paths_report(found: Pathways, content: Mapping[str, Any], folder: Path) -> Path:
    """Write ``report.html`` beside the pictures that it shows.

    Args:
        found: the paths.
        content: their numbers, as in ``result.json``.
        folder: where ``profiles.png`` and, for two coordinates, ``landscape.png`` lie.

    Returns:
        the page.
    """
    potential = found.paths.potential
    good = found.geodesic.ok
    surface = folder / "landscape.png"
    values = {
        "style": page_style(),
        "title": f"{len(found.paths)} transition paths on {html.escape(potential.name)}",
        "subtitle": _subtitle(found),
        "status_class": "good" if good else "bad",
        "status": f"Geodesic: {html.escape(found.geodesic.status.value)}",
        "surface": _picture(surface, "paths over the surface") if surface.exists() else "",
        "profiles": _picture(folder / "profiles.png", "energy, noise and MaxEnergy"),
        "numbers": _numbers(content),
        "channels": _channels(content, potential.unit),
        "structures": _structures(content),
        "notes": "".join(f"<p class=note>{html.escape(note)}</p>" for note in content["notices"]),
        "settings": _pairs({**content["settings"], "seconds": sum(content["seconds"].values())}),
        "versions": _pairs(content["versions"]),
    }
    page = (_ASSETS / "paths.html").read_text(encoding="utf-8")
    # one pass: a value that happens to hold {{...}} stays as it is
    text = re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], page)
    return write_atomically(folder / "report.html", text.encode())


def _subtitle(found: Pathways) -> str:
    a, b = (
        "(" + ", ".join(f"{v:.3g}" for v in state) + ")"
        for state in found.paths.potential.wrap(found.states).tolist()
    )
    kT = f"{found.paths.potential.kT:.4g} {html.escape(found.paths.potential.unit)}"
    angles = " radians" if found.paths.potential.period == (2 * math.pi,) * 2 else ""
    return f"From {a} to {b}{angles}: annealed Langevin along a spacetime geodesic, kT = {kT}."


def _picture(file: Path, alt: str) -> str:
    code = base64.b64encode(file.read_bytes()).decode()
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{code}">'


def _numbers(content: Mapping[str, Any]) -> str:
    top, unit = content["max_energy"], content["max_energy"]["unit"]
    low, high = top["interval_95"]
    least, _ = content["accepted_share"]
    rows = [
        (
            f"MaxEnergy ({unit})",
            f"{number(top['mean'])} ± {top['standard_error']:.2g}",
            "mean over paths of the highest U at every Langevin step",
        ),
        ("95 % interval", f"{number(low)} to {number(high)}", "of that mean"),
        ("Spread", number(top["spread"]), "standard deviation between paths"),
        (
            f"Lowest pass ({unit})",
            number(content["lowest_pass"]["energy"]),
            "by graph search; no path over its grid points stays below",
        ),
        ("Target hit", f"{content['target_hit_percent']:.1f} %", "paths that end in B’s basin"),
        ("Energy evaluations", number(content["energy_evaluations"]), "each with its gradient"),
        ("Accepted steps", f"≥ {100 * least:.1f} %", "at every node; 100 % if not corrected"),
    ]
    return "".join(
        f"<tr><th scope=row>{html.escape(name)}</th><td>{value}</td><td class=hint>{hint}</td></tr>"
        for name, value, hint in rows
    )


def _channels(content: Mapping[str, Any], unit: str) -> str:
    rows = "".join(
        f"<tr><th scope=row>({', '.join(f'{v:.3g}' for v in channel['saddle'])})</th>"
        f"<td>{number(channel['energy'])}</td><td>{100 * channel['share']:.1f} %</td>"
        f"<td>{channel['peaks_above']:.3g}</td><td>{channel['peaks_away']:.3g}</td></tr>"
        for channel in content["channels"][:8]
    )
    if not rows:
        return "<p class=lead>No saddle was found from the highest states of the paths.</p>"
    return (
        f"<table><thead><tr><th scope=col>Saddle</th><th scope=col>U ({html.escape(unit)})</th>"
        "<th scope=col>Paths</th><th scope=col>Peaks above</th><th scope=col>Peaks away</th></tr>"
        f"</thead><tbody>{rows}</tbody></table><p class=hint>Where the highest states of paths "
        "descend to, and how far they lie above it and from it (medians, "
        f"{html.escape(unit)} and coordinates). Far from it, the paths crossed elsewhere.</p>"
    )


def _structures(content: Mapping[str, Any]) -> str:
    found = content["structures"]
    if found is None:
        return ""
    return (
        "<section><h2>Structures</h2><p class=lead>One typical path as relaxed all-atom "
        "structures: structures.pdb with structures.dcd, energies in structures.csv.</p>"
        "<table class=plain><tbody>"
        + _pairs(
            {
                "Molecule": found["molecule"],
                "Structures": found["frames"],
                "Largest error of a torsion": f"{found['largest_error_degrees']:.2g} degrees",
                "Largest turn between structures": f"{found['largest_turn_degrees']:.2g} degrees",
                "Largest step between structures": f"{found['largest_step_nm']:.2g} nm RMS",
                "Energies": f"{min(found['energies_kJ_mol']):.1f} to "
                f"{max(found['energies_kJ_mol']):.1f} kJ/mol",
            }
        )
        + "</tbody></table></section>"
    )


def _pairs(mapping: Mapping[str, Any]) -> str:
    return "".join(
        f"<tr><th scope=row>{html.escape(key)}</th><td class=text>"
        f"{number(value) if isinstance(value, float) else html.escape(str(value))}</td></tr>"
        for key, value in mapping.items()
    )
