"""Pages of paths between images: frames in step with those of other paths, curves and numbers.

    length    L = int_0^1 |c'(s)| ds          on a grid finer than the nodes ("refined")
    energy    E = 1/2 int_0^1 |c'(s)|^2 ds    so that L^2 <= 2 E, with equality at constant speed
    log SNR   lam = -2 log sigma              of the process z = x0 + sigma eps

**Cost** no network evaluation; memory a small multiple of the frames.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from torch import Tensor

from diffodesic.geometry.status import Status
from diffodesic.images.shown_path import ShownPath
from diffodesic.metrics.continuation import Stop
from diffodesic.output.images import to_uint8
from diffodesic.output.page import number, write_page
from diffodesic.output.svg import Curve, chart

__all__ = ["write_extrapolation_page", "write_interpolation_page", "write_sequence_page"]

_ASSETS = Path(__file__).parent / "assets"
_WAYS = {  # a reader who knows none of the names
    "arch": "The arch passes through what is typical of the model, and is the one to look at",
    "geodesic": "the geodesic is the shortest path, whose frames may mix the two pictures",
    "LERP": "LERP is the straight line between the noisy pictures",
    "SLERP": "SLERP is the great circle between them",
}


def write_interpolation_page(
    file: Path,
    paths: Mapping[str, ShownPath],
    inputs: Tensor,
    content: Mapping[str, Any],
    *,
    ok: bool,
) -> Path:
    """Write the page of an interpolation.

    Args:
        file: the .html file.
        paths: the paths by name, the geodesic among them.
        inputs: the two images (2, C, H, W).
        content: the numbers, as in ``result.json``, and ``origin``.
        ok: whether the geodesic ended well.

    Returns:
        the path written.
    """
    settings, own = content["settings"], paths["geodesic"]
    frames = {name: to_uint8(shown.frames) for name, shown in paths.items()}
    reached = frames["geodesic"]
    return write_page(
        file,
        _ASSETS / "interpolation.html",
        title="A geodesic between two images",
        subtitle=f"Model {settings['model']}, {settings['metric']} metric, both ends lifted to "
        f"log SNR {settings['log_snr']:g}. {_ways(paths)}",
        ok=ok,
        status=content["status_text"],
        paths={name: {"frames": frames[name], **_numbers(paths[name], own)} for name in paths},
        titles=[f"s = {s:.3f}" for s in own.s.tolist()],
        marks={0: "A", len(reached) - 1: "B"},
        readouts=_readouts(next(iter(paths.values()))),
        charts=_charts(paths, own.s.tolist()),
        certificate=_certificate(content, own),
        judged="judged" in content["certificate"],
        checked=any(path.check is not None for path in paths.values()),
        ends=list(
            zip(
                "AB",
                to_uint8(inputs),
                reached[:: len(reached) - 1],
                content["end_error_rms"],
                strict=True,
            )
        ),
        alarms=content["alarms"],
        notices=[one for one in content["notices"] if one not in content["alarms"]],
        origin=content["origin"],
        settings=settings,
        versions=content["versions"],
    )


def write_sequence_page(
    file: Path,
    rows: Mapping[str, list[np.ndarray]],
    marks: Mapping[int, str],
    pairs: Sequence[Mapping[str, Any]],
    origin: Mapping[str, str],
) -> Path:
    """Write the page of a path through several images.

    Args:
        file: the .html file.
        rows: frames in 8 bits by the name of their path.
        marks: letters of the images by the number of their frame.
        pairs: the numbers of the pairs, as in ``result.json``.
        origin: what it was made by and of.

    Returns:
        the path written.
    """
    first, bad = pairs[0], [pair for pair in pairs if not Status[pair["status"]].ok]
    names, count = list(marks.values()), len(next(iter(rows.values())))
    lines = [
        (
            f"{a} to {b}",
            pair["paths"]["geodesic"]["length"],
            f"{pair['status']}; its own page is pair-{i + 1}/report.html",
        )
        for i, (a, b, pair) in enumerate(zip(names, names[1:], pairs, strict=False))
    ]
    whole = sum(pair["paths"]["geodesic"]["length"] for pair in pairs)
    settings, alarms, notices = (
        first["settings"],
        *(
            list(dict.fromkeys(text for pair in pairs for text in pair[kind]))
            for kind in ("alarms", "notices")
        ),
    )
    return write_page(
        file,
        _ASSETS / "frames.html",
        title=f"A path through {len(marks)} images",
        subtitle=f"Model {settings['model']}, {settings['metric']} metric, geodesics from image to "
        "image.",
        ok=not bad,
        status=(bad or [first])[0]["status_text"],
        paths={name: {"frames": frames} for name, frames in rows.items()},
        **_told([f"frame {i + 1} of {count}{_named(marks, i)}" for i in range(count)]),
        marks=marks,
        heading="Lengths of the geodesics",
        lines=[*lines, ("In all", whole, "")],
        alarms=alarms,
        notices=[text for text in notices if text not in alarms],
        origin=origin,
        settings=settings,
        versions=first["versions"],
    )


def write_extrapolation_page(
    file: Path,
    rows: Mapping[str, list[np.ndarray]],
    marks: Mapping[int, str],
    content: Mapping[str, Any],
    origin: Mapping[str, str],
) -> Path:
    """Write the page of a path that goes on beyond its second image.

    Args:
        file: the .html file.
        rows: frames in 8 bits by the name of their path.
        marks: what stands at a frame, by its number.
        content: the numbers, as in ``result.json``.
        origin: what it was made by and of.

    Returns:
        the path written.
    """
    settings, turn = content["settings"], content["first_frame_beyond"]
    count = len(next(iter(rows.values())))
    where = ["between the images" if i < turn else "beyond the second" for i in range(count)]
    return write_page(
        file,
        _ASSETS / "frames.html",
        title="A geodesic, continued",
        subtitle=f"Model {settings['model']}, {settings['metric']} metric, by the "
        f"{content['method']} method.",
        ok=Status[content["status"]].ok and Stop[content["stop"]] is Stop.COMPLETE,
        status=content["stop_text"],
        paths={name: {"frames": frames} for name, frames in rows.items()},
        **_told([f"frame {i + 1} of {count}, {where[i]}{_named(marks, i)}" for i in range(count)]),
        marks=marks,
        heading="How far",
        lines=[
            ("Reached", content["reached"], "of the path, beyond the second image"),
            ("Length", content["certificate"]["length"], "of the path between the images"),
            ("Network evaluations", content["cost"]["evaluations"], "forward passes"),
        ],
        alarms=(),
        notices=content["notices"],
        origin=origin,
        settings=settings,
        versions=content["versions"],
    )


def _told(lines: list[str]) -> dict[str, Any]:
    """The same words beside the slider and for screen readers, on a page without charts."""
    return {"readouts": lines, "titles": lines, "charts": {}}


def _named(marks: Mapping[int, str], i: int) -> str:
    return f" · {marks[i]}" if i in marks else ""


def _ways(paths: Mapping[str, ShownPath]) -> str:
    """What the paths are, in a sentence."""
    text = "; ".join(text for name, text in _WAYS.items() if name in paths)
    return f"{text[:1].upper()}{text[1:]}."


def _numbers(shown: ShownPath, own: ShownPath) -> dict[str, object]:
    """Length and energy of a path, and their excess over the geodesic's own."""
    check = "–"
    if shown.check is not None:
        check = Markup("{} ± {}").format(number(shown.check[0]), f"{shown.check[1]:.2g}")
    return {
        "length": shown.length,
        "longer": "" if shown is own else _excess(shown.length, own.length),
        "energy": shown.energy,
        "dearer": "" if shown is own else _excess(shown.energy, own.energy),
        "check": check,
    }


def _excess(value: float, reference: float) -> str:
    if not reference or not math.isfinite(value / reference):
        return ""
    ratio = value / reference
    text = f"×\u2009{ratio:.3g}" if ratio >= 2 else f"{100 * (ratio - 1):+.1f}\u2009%"
    return text.replace("-", "−")


def _charts(paths: Mapping[str, ShownPath], s: list[float]) -> dict[str, Markup]:
    """Speed of every path, and its noise level where that is not one and the same."""
    charts = {}
    for name, label in (("curve_log_snr", "log SNR"), ("curve_speed", "speed |c′(s)|")):
        curves = [
            Curve(index, shown.curve_s.tolist(), getattr(shown, name).tolist())
            for index, shown in enumerate(paths.values())
        ]
        levels = {level for curve in curves for level in curve.values}
        if name == "curve_log_snr" and len(levels) == 1:
            continue
        charts[label] = chart(curves, label=label, frames=s, from_zero=name == "curve_speed")
    return charts


def _readouts(own: ShownPath) -> list[str]:
    """What stands beside the slider, frame by frame."""
    grid = own.curve_s.tolist()
    lines = []
    for s in own.s.tolist():
        log_snr, speed = (
            float(np.interp(s, grid, curve.tolist()))
            for curve in (own.curve_log_snr, own.curve_speed)
        )
        sigma = math.exp(-log_snr / 2)
        text = f"s = {s:.3f} · log SNR {log_snr:.2f}  (σ = {sigma:.3g}) · speed {speed:.4g}"
        lines.append(text.replace("-", "−"))
    return lines


def _certificate(content: Mapping[str, Any], own: ShownPath) -> list[tuple[str, object, object]]:
    """Rows (name, value, what it says)."""
    c, cost = content["certificate"], content["cost"]
    work = content["work"]
    whole = sum(work.values())
    floor = own.energy / own.floor if own.floor else None
    gradient = c["gradient_norm"] if math.isfinite(c["gradient_norm"]) else None
    wrong = f"{100 * c['negative_fraction']:.3g} %"
    judged = f"{c['judged']:.4g} ± {c['judged_error']:.2g}" if "judged" in c else None
    noise = f"{c['least_noise']:.2f} to {c['most_noise']:.2f}" if "least_noise" in c else None
    return [
        ("Length, judged", judged, "by an independent estimate"),
        ("Length, refined", c["length"], "on a grid finer than the nodes"),
        ("Length, discrete", c["discrete_length"], "between the nodes alone"),
        ("Energy, discrete", c["discrete_energy"], Markup("≥ <i>L</i>²/2 of the discrete length")),
        ("Energy / floor", floor, "1 is the best possible"),
        ("Speed spread", c["speed_spread"], "relative; 0 at constant speed"),
        ("Noise", noise, "of a point, of what its level says; networks know 1"),
        ("Negative steps", wrong, "0 % for a true posterior mean"),
        ("Gradient norm", gradient, "of the energy; 0 at a geodesic"),
        ("Network evaluations", cost["evaluations"], "forward passes, point by point"),
        ("Derivatives", cost["derivatives"], "Jacobian products, either side"),
        ("Node gradients", cost["node_gradients"], "one node, one energy gradient"),
        ("The whole run", whole, ", ".join(f"{name} {calls:,}" for name, calls in work.items())),
        ("Solve time", f"{content['seconds']:.3g} s", "wall clock"),
    ]
