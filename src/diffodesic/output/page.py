"""Pages that need nothing from outside: one base template, one style, pictures inside.

A page is a jinja2 template that extends ``base.html`` of this package.  Style, script and pictures
(base64 PNGs) are part of the document, and its policy forbids everything else.  Values are escaped
unless they are markup already.

**Cost** no network evaluation; memory a small multiple of the pictures.
"""

from __future__ import annotations

import base64
import io
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from PIL import Image as PillowImage

from diffodesic.output.files import write_text

__all__ = ["number", "render", "write_page"]

_ASSETS = Path(__file__).parent / "assets" / "page"
_SMALL = 96  # pixels; a picture of at most this size is shown with its pixels visible


def write_page(path: Path, template: Path, **values: Any) -> Path:
    """Write a page.

    Args:
        path: the .html file; replaced whole or not at all.
        template: a file that extends ``base.html``.
        **values: what the template and its base show: ``title``, ``subtitle``, ``ok``, ``status``,
            ``origin``, ``settings``, ``versions`` and the template's own.

    Returns:
        the path written.
    """
    return write_text(path, render(template, **values))


def render(template: Path, **values: Any) -> str:
    """Return a page as one HTML document without external resources; see :func:`write_page`."""
    environment = Environment(
        loader=FileSystemLoader([template.parent, _ASSETS]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"code": _code, "number": number, "picture": _picture}
    return environment.get_template(template.name).render(values).lstrip()


def number(value: object) -> Markup:
    """Return a value for reading: four digits, powers of ten, thin spaces between thousands.

    Args:
        value: a number, or anything else, which is shown as its text.

    Returns:
        HTML.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        return escape(value)
    if isinstance(value, int | np.integer):
        return Markup(f"{value:,}".replace(",", "\u202f").replace("-", "−"))
    real = float(value)
    if not math.isfinite(real):
        return Markup("not finite")
    if real != 0 and not 1e-3 <= abs(real) < 1e5:
        mantissa, exponent = f"{real:.2e}".split("e")
        text = f"{mantissa}\u2009×\u200910<sup>{int(exponent)}</sup>"
    elif abs(real) >= 1:
        # trailing zeros stay: columns of lengths line up
        text = f"{real:#.4g}".rstrip(".")
    else:
        text = f"{real:.4g}"
    return Markup(text.replace("-", "−"))


def _code(sentence: str) -> Markup:
    """A sentence whose words in backticks are code."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(sentence))))


def _picture(source: np.ndarray | Path, alt: str) -> Markup:
    """A picture inside the page: a PNG file, or pixels (H, W) or (H, W, 3) in 8 bits."""
    if isinstance(source, Path):
        content, small = source.read_bytes(), False
    else:
        buffer = io.BytesIO()
        PillowImage.fromarray(source).save(buffer, format="PNG", optimize=True)
        content, small = buffer.getvalue(), max(source.shape[:2]) <= _SMALL
    # enlarged pixels are shown as pixels: smoothing would flatter a small model
    kind = Markup(' class="small"') if small else ""
    code = base64.b64encode(content).decode()
    return Markup('<img{} alt="{}" src="data:image/png;base64,{}">').format(kind, alt, code)
