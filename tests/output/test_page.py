"""A page shows what it is given, escapes it, and needs nothing from outside."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import jinja2
import numpy as np
import pytest
from PIL import Image as PillowImage

from diffodesic.output.files import write_atomically
from diffodesic.output.page import number, render, write_page
from diffodesic.output.svg import Curve, chart

BASE = {
    "title": "From a 3 to an 8",
    "subtitle": "Through {{ title }} and <b>back</b>.",
    "ok": True,
    "status": "Converged: <all> is well & `rtol` was met.",
    "settings": {"nodes": 32, "weight": 2.0, "solver": "Relax<x>"},
    "origin": {"command": "diffodesic interpolate"},
    "versions": {"torch": "2.13.0"},
}


@pytest.fixture
def template(tmp_path: Path) -> Path:
    path = tmp_path / "own.html"
    path.write_text(
        '{% extends "base.html" %}{% import "macros.html" as page %}{% block main %}'
        "<table>{{ page.lines(rows) }}</table>{{ page.notes(notices) }}"
        '{{ pixels|picture("a <frame>") }}{{ file|picture("a file") }}{% endblock %}'
    )
    return path


@pytest.fixture
def values(tmp_path: Path) -> dict[str, object]:
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    PillowImage.fromarray(pixels).save(tmp_path / "a.png")
    rows = [("Length", 6.408, "a <hint>"), ("Unknown", None, "never seen")]
    more = {"rows": rows, "notices": ["A caveat."], "pixels": pixels, "file": tmp_path / "a.png"}
    return BASE | more


def test_a_page_is_self_contained_and_escapes_what_it_is_given(template, values):
    page = render(template, **values)
    assert page.startswith("<!doctype html>")
    assert not re.search(r"https?://|//cdn|@import|<link[^>]+stylesheet|<script[^>]+src", page)
    assert "&lt;all&gt; is well &amp; <code>rtol</code> was met" in page
    assert "a &lt;hint&gt;" in page
    assert "Relax&lt;x&gt;" in page
    # a value that looks like a placeholder is a value
    assert "Through {{ title }} and &lt;b&gt;back" in page
    assert page.count("{{") == 1


def test_what_is_not_known_is_not_shown_and_what_is_missing_is_an_error(template, values):
    page = render(template, **values)
    assert '<tr><th scope="row">Length</th><td>6.408</td>' in page
    assert "Unknown" not in page
    assert '<td class="text">32</td>' in page
    assert '<td class="text">2</td>' in page  # a setting, not a measured number
    del values["notices"]
    with pytest.raises(jinja2.UndefinedError, match="notices"):
        render(template, **values)


def test_a_bad_end_is_visible(template, values):
    assert 'class="status good"' in render(template, **values)
    page = render(template, **values | {"ok": False, "status": "Stopped early."})
    assert '<p class="status bad"><span>Stopped early.</span>' in page


def test_pictures_are_inside_to_the_last_bit(template, values):
    page = render(template, **values)
    codes = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    for code in codes:
        shown = PillowImage.open(io.BytesIO(base64.b64decode(code)))
        np.testing.assert_array_equal(np.asarray(shown), values["pixels"])
    assert len(codes) == 2
    assert '<img class="small" alt="a &lt;frame&gt;"' in page
    assert '<img alt="a file"' in page  # a file is drawn at its size: no visible pixels


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (12345678, "12\u202f345\u202f678"),
        (-1.5, "−1.500"),
        (2410.0, "2410"),
        (1e-7, "1.00\u2009×\u200910<sup>−7</sup>"),
        (float("nan"), "not finite"),
        ("a<b", "a&lt;b"),
        (True, "True"),
    ],
)
def test_number(value, text):
    assert number(value) == text


@pytest.mark.parametrize("values", [[3.0, 3.0, 3.0], [0.0, float("nan"), 1.0], [1e-9, 2e-9, 3e-9]])
def test_chart_stays_inside_its_frame(values):
    svg = chart([Curve(0, [0, 0.5, 1], values)], label="x<y", frames=[0.0, 0.5, 1.0])
    assert "nan" not in svg
    assert 'aria-label="x&lt;y along' in svg
    outline = re.findall(r"[ML]([\d.]+) ([\d.]+)", svg)
    assert len(outline) == sum(np.isfinite(values))
    assert all(0 <= float(x) <= 460 and 0 <= float(y) <= 190 for x, y in outline)


def test_write_is_whole_or_not_at_all(template, values, tmp_path, monkeypatch):
    target = tmp_path / "out" / "report.html"
    target.parent.mkdir()
    assert write_page(target, template, **values) == target
    before = target.read_bytes()

    def fail(self, target):
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(target, b"half")
    assert target.read_bytes() == before
    assert list(target.parent.iterdir()) == [target]
