"""One self-contained page about a geodesic between two images.

The page shows the frames of the geodesic in step with those of other paths between the same ends,
the noise level and the speed along the way, and the numbers that say how good the path is:

    length    L = int_0^1 |c'(s)| ds          on a grid finer than the nodes ("refined")
    energy    E = 1/2 int_0^1 |c'(s)|^2 ds    so that L^2 <= 2 E, with equality at constant speed
    log SNR   lam = -2 log sigma              of the process z = x0 + sigma eps

It takes plain data (`ReportData`), knows no metric and no solver, and loads nothing from anywhere:
the template, the style and the script are files of this package, the pictures are base64 PNGs.

**Cost** no network evaluation; memory a small multiple of the frames.
"""

from __future__ import annotations

import base64
import html
import io
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage

from diffodesic.output.files import write_atomically
from diffodesic.output.svg import Curve, chart, number

Image = npt.NDArray[np.uint8]
"""One picture: uint8, (H, W) grey or (H, W, 3) RGB."""

_ASSETS = Path(__file__).parent / "assets" / "page"


@dataclass(frozen=True, kw_only=True)
class PathData:
    """One path between the two ends: its frames, and what the metric says about it.

    Args:
        name: what the page calls it, e.g. "geodesic", "LERP".
        frames: n pictures, all of one shape.
        length: refined length L under the report's metric, or None.
        energy: energy E under the report's metric, or None.
        check: length by an estimator independent of the metric's, and its standard error, or None.
        s: m parameters in [0, 1], increasing, at which the two curves below are given.
        log_snr: m values of lam = -2 log sigma; empty where the metric has one fixed noise level.
        speed: m values of |c'(s)|; empty where unknown.
    """

    name: str
    frames: Sequence[Image]
    length: float | None = None
    energy: float | None = None
    check: tuple[float, float] | None = None
    s: Sequence[float] = ()
    log_snr: Sequence[float] = ()
    speed: Sequence[float] = ()

    def __post_init__(self) -> None:
        """Check shapes and dtypes.

        Raises:
            ValueError: if a frame is no uint8 picture, or a curve does not match `s`.
        """
        for frame in self.frames:
            _check_image(frame, f"a frame of path {self.name!r}")
        for label, values in (("log_snr", self.log_snr), ("speed", self.speed)):
            if len(values) not in (0, len(self.s)):
                raise ValueError(
                    f"path {self.name!r}: {label} has {len(values)} values for {len(self.s)} "
                    "parameters s; give one per parameter, or none"
                )


@dataclass(frozen=True, kw_only=True)
class CertificateData:
    """How good the geodesic is, and what it cost.

    Args:
        status: a sentence that says how the solver ended, with advice.
        converged: whether that is a success.
        estimator: how squared steps were estimated, e.g. "exact two-point", "Gaussian closure".
        length_refined: length on a grid finer than the nodes.
        length_discrete: sum of the square roots of the squared steps between nodes.
        energy: n/2 times the sum of the n squared steps.
        speed_spread: relative spread of the speed; 0 at constant speed.
        negative_fraction: share of squared steps below zero, in [0, 1].
        gradient_norm: norm of the energy's gradient where the solver stopped.
        evaluations: network forwards; a batch of n points counts n.
        derivatives: JVPs and VJPs, counted likewise.
        node_gradients: one node, one energy gradient.
        floor_ratio: energy over a lower bound of it, at least 1, or None without such a bound.
        seconds: wall-clock time of the solve, or None.
    """

    status: str
    converged: bool
    estimator: str
    length_refined: float
    length_discrete: float
    energy: float
    speed_spread: float
    negative_fraction: float
    gradient_norm: float
    evaluations: int
    derivatives: int
    node_gradients: int
    floor_ratio: float | None = None
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """Everything the page shows.

    Args:
        title: the heading, e.g. "From a 3 to an 8".
        subtitle: one sentence about model, metric and anchor.
        metric: the name under which every length on the page is measured.
        certificate: numbers of the geodesic.
        paths: the geodesic first, then the paths it is compared with; n frames each.
        s: n parameters in [0, 1], one per frame, shared by every path.
        inputs: the two pictures that were asked for, or None.
        endpoint_errors: root-mean-square error of the first and the last frame against `inputs`,
            pixels on a scale from 0 to 1, or None.
        settings: what was asked for, in the order of the page.
        versions: of the program and its libraries.
        notes: caveats, one sentence each.
    """

    title: str
    subtitle: str
    metric: str
    certificate: CertificateData
    paths: Sequence[PathData]
    s: Sequence[float]
    inputs: tuple[Image, Image] | None = None
    endpoint_errors: tuple[float, float] | None = None
    settings: Mapping[str, object] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Check that the paths can be shown in step.

        Raises:
            ValueError: if there is no path, or the frames do not match `s`.
        """
        if not self.paths:
            raise ValueError("a report needs at least one path; put the geodesic first in `paths`")
        if len(self.s) < 2:
            raise ValueError(f"a report needs at least 2 frames, `s` has {len(self.s)}")
        for path in self.paths:
            if len(path.frames) != len(self.s):
                raise ValueError(
                    f"path {path.name!r} has {len(path.frames)} frames for {len(self.s)} "
                    "parameters `s`; every path needs one frame per parameter"
                )
        for image in self.inputs or ():
            _check_image(image, "an input")


def write_report(data: ReportData, path: str | os.PathLike[str]) -> Path:
    """Write the page.

    Args:
        data: what to show.
        path: the .html file; replaced whole or not at all.

    Returns:
        The path written.
    """
    return write_atomically(path, render(data).encode())


def render(data: ReportData) -> str:
    """Return the page as one HTML document without external resources.

    Args:
        data: what to show.

    Returns:
        The document.
    """
    values = {
        "style": _asset("page.css"),
        "script": _asset("page.js"),
        "title": html.escape(data.title),
        "subtitle": html.escape(data.subtitle),
        "status_class": "good" if data.certificate.converged else "bad",
        "status": html.escape(data.certificate.status),
        "stage": _stage(data),
        "last": str(len(data.s) - 1),
        "charts": _charts(data),
        "strip": _strip(data),
        "frames": str(len(data.s)),
        "metric": html.escape(data.metric),
        "comparison": _comparison(data),
        "certificate": _certificate(data.certificate),
        "ends": _ends(data),
        "notes": "".join(f"<p class=note>{html.escape(note)}</p>" for note in data.notes),
        "settings": _pairs(data.settings),
        "versions": _pairs(data.versions),
        "readouts": json.dumps(_readouts(data)),
    }
    # one pass: a value that happens to hold {{...}} stays as it is
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], _asset("page.html"))


def page_style() -> str:
    """The style sheet of every page."""
    return _asset("page.css")


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


def _check_image(image: Image, what: str) -> None:
    if image.dtype != np.uint8 or not (
        image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
    ):
        raise ValueError(
            f"{what} is {image.dtype} of shape {image.shape}; "
            "give uint8 of shape (H, W) or (H, W, 3)"
        )


def _img(image: Image, alt: str) -> str:
    buffer = io.BytesIO()
    PillowImage.fromarray(image).save(buffer, format="PNG", optimize=True)
    code = base64.b64encode(buffer.getvalue()).decode()
    # enlarged pixels are shown as pixels: smoothing would flatter a small model
    small = " class=small" if max(image.shape[:2]) <= 96 else ""
    return f'<img{small} alt="{html.escape(alt)}" src="data:image/png;base64,{code}">'


def _stage(data: ReportData) -> str:
    """The current frame of every path, large; the middle one until the slider moves."""
    middle = len(data.s) // 2
    figures = []
    for index, path in enumerate(data.paths):
        length = "" if path.length is None else f"<i>L</i> = {number(path.length)}"
        figures.append(
            f"<figure data-path={index}>{_img(path.frames[middle], path.name)}<figcaption>"
            f"<span class=key></span><b>{html.escape(path.name)}</b> {length}</figcaption></figure>"
        )
    return "".join(figures)


def _strip(data: ReportData) -> str:
    """Every frame of every path; the script takes its pictures from here."""
    rows = []
    for index, path in enumerate(data.paths):
        frames = "".join(
            f"<li>{_img(frame, f'{path.name}, s = {s:.3f}')}</li>"
            for s, frame in zip(data.s, path.frames, strict=True)
        )
        rows.append(
            f"<div class=row data-path={index}><h3><span class=key></span>{html.escape(path.name)}"
            f"</h3><ol>{frames}</ol></div>"
        )
    return "".join(rows)


def _charts(data: ReportData) -> str:
    """Noise level and speed against s, where the paths have them."""
    charts = []
    for attribute, label, zero in (("log_snr", "log SNR", False), ("speed", "speed |c′(s)|", True)):
        curves = [
            Curve(index, path.s, values)
            for index, path in enumerate(data.paths)
            if len(values := getattr(path, attribute))
        ]
        if curves:
            drawing = chart(curves, label=label, frames=data.s, from_zero=zero)
            charts.append(f"<figure class=chart><figcaption>{label}</figcaption>{drawing}</figure>")
    return "".join(charts)


def _readouts(data: ReportData) -> list[str]:
    """What stands beside the slider, frame by frame: plain text, for the script."""
    path = data.paths[0]
    lines = []
    for s in data.s:
        parts = [f"s = {s:.3f}"]
        if len(path.log_snr):
            log_snr = float(np.interp(s, path.s, path.log_snr))
            parts.append(f"log SNR {log_snr:.2f}  (σ = {math.exp(-log_snr / 2):.3g})")
        if len(path.speed):
            parts.append(f"speed {np.interp(s, path.s, path.speed):.4g}")
        lines.append(" · ".join(parts).replace("-", "−"))
    return lines


def _comparison(data: ReportData) -> str:
    """Length and energy of every path, and their excess over the geodesic's."""
    first = data.paths[0]
    rows = []
    for index, path in enumerate(data.paths):
        cells = "".join(
            f"<td>{'–' if value is None else number(value)}</td><td class=excess>"
            f"{'' if index == 0 else _excess(value, reference)}</td>"
            for value, reference in ((path.length, first.length), (path.energy, first.energy))
        )
        check = "–" if path.check is None else f"{number(path.check[0])} ± {path.check[1]:.2g}"
        cells += f"<td>{check}</td>"
        rows.append(
            f"<tr data-path={index}><th scope=row><span class=key></span>"
            f"{html.escape(path.name)}</th>{cells}</tr>"
        )
    return "".join(rows)


def _excess(value: float | None, reference: float | None) -> str:
    if value is None or not reference or not math.isfinite(value / reference):
        return ""
    ratio = value / reference
    text = f"×\u2009{ratio:.3g}" if ratio >= 2 else f"{100 * (ratio - 1):+.1f}\u2009%"
    return text.replace("-", "−")


def _certificate(certificate: CertificateData) -> str:
    c = certificate
    rows: list[tuple[str, object, str]] = [
        ("Length, refined", c.length_refined, "on a grid finer than the nodes"),
        ("Length, discrete", c.length_discrete, "between the nodes alone"),
        ("Energy", c.energy, "≥ <i>L</i>²/2, equal at constant speed"),
        ("Energy / floor", c.floor_ratio, "1 is the best possible"),
        ("Speed spread", c.speed_spread, "relative; 0 at constant speed"),
        ("Negative steps", f"{100 * c.negative_fraction:.3g} %", "0 % for a true posterior mean"),
        ("Gradient norm", c.gradient_norm, "of the energy; 0 at a geodesic"),
        ("Network evaluations", c.evaluations, "forward passes, point by point"),
        ("Derivatives", c.derivatives, "Jacobian products, either side"),
        ("Node gradients", c.node_gradients, "one node, one energy gradient"),
        ("Solve time", None if c.seconds is None else f"{c.seconds:.3g} s", "wall clock"),
    ]
    body = "".join(
        f"<tr><th scope=row>{name}</th><td>{number(value)}</td><td class=hint>{hint}</td></tr>"
        for name, value, hint in rows
        if value is not None
    )
    sentences = (("Status", c.status), ("Estimator", c.estimator))
    head = "".join(
        f"<tr><th scope=row>{name}</th><td colspan=2 class=text>{html.escape(text)}</td></tr>"
        for name, text in sentences
    )
    return head + body


def _ends(data: ReportData) -> str:
    """The pictures asked for beside those reached."""
    if data.inputs is None:
        return ""
    errors = data.endpoint_errors or (None, None)
    reached = (data.paths[0].frames[0], data.paths[0].frames[-1])
    items = []
    for name, image, frame, error in zip("AB", data.inputs, reached, errors, strict=True):
        text = "" if error is None else f"<p>rms error <b>{number(error)}</b></p>"
        items.append(
            f"<div class=end><figure>{_img(image, f'input {name}')}<figcaption>input {name}"
            f"</figcaption></figure><figure>{_img(frame, f'end {name}')}<figcaption>path’s end"
            f"</figcaption></figure>{text}</div>"
        )
    return (
        "<div class=subsection><h2>End points</h2><p class=lead>Error of the path’s ends against "
        f"the inputs, pixels from 0 to 1.</p><div class=ends>{''.join(items)}</div></div>"
    )


def _pairs(mapping: Mapping[str, object] | Mapping[str, str]) -> str:
    return "".join(
        f"<tr><th scope=row>{html.escape(key)}</th>"
        f"<td class=text>{html.escape(str(value))}</td></tr>"
        for key, value in mapping.items()
    )
