"""The page holds what it was given, needs nothing from outside, and its slider moves pictures."""

from __future__ import annotations

import base64
import dataclasses
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from diffodesic.output.files import write_atomically
from diffodesic.output.page import (
    CertificateData,
    Image,
    PathData,
    ReportData,
    render,
    write_report,
)
from diffodesic.output.pictures import animation, filmstrip
from diffodesic.output.svg import Curve, chart, number
from support.browser import Chromium, find

N = 9


def frames(shift: int) -> list[Image]:
    """N different pictures: a bright square that travels, with one dark corner per path."""
    pictures = []
    for i in range(N):
        picture = np.full((12, 12), 20 * shift, np.uint8)
        picture[2:5, i : i + 3] = 255
        pictures.append(picture)
    return pictures


def report(**changes: object) -> ReportData:
    fine = np.linspace(0, 1, 33)
    lam = (4 - 5 * np.sin(np.pi * fine)).tolist()
    constant = [4.0] * 33
    certificate = CertificateData(
        status="Converged: <all> is well & the speed is constant.",
        converged=True,
        estimator="exact two-point",
        length_refined=6.408,
        length_discrete=6.4136,
        energy=20.57,
        speed_spread=0.0071,
        negative_fraction=0.125,
        gradient_norm=2.3e-5,
        evaluations=4183,
        derivatives=12044,
        node_gradients=1976,
        seconds=21.4,
    )
    data = ReportData(
        title="From a 3 to an 8",
        subtitle="Through {{title}} and <b>back</b>.",
        metric="spacetime",
        certificate=certificate,
        paths=(
            PathData(
                name="geodesic",
                frames=frames(0),
                length=6.408,
                energy=20.57,
                s=fine.tolist(),
                log_snr=lam,
                speed=[6.4] * 33,
            ),
            PathData(
                name="LERP",
                frames=frames(1),
                length=8.01,
                energy=41.3,
                s=fine.tolist(),
                log_snr=constant,
                speed=[8.0] * 33,
            ),
            PathData(name="SLERP", frames=frames(2)),
        ),
        s=np.linspace(0, 1, N).tolist(),
        inputs=(frames(0)[0], frames(0)[-1]),
        endpoint_errors=(0.0041, 0.0038),
        settings={"nodes": 32, "weight": 2.0},
        versions={"torch": "2.13.0"},
        notes=("A caveat.",),
    )
    return dataclasses.replace(data, **changes)  # type: ignore[arg-type]


def test_page_is_self_contained_and_escapes_what_it_is_given():
    page = render(report())
    assert not re.search(r"https?://|//cdn|@import|<link[^>]+stylesheet|<script[^>]+src", page)
    assert "&lt;all&gt; is well &amp;" in page
    assert "<all>" not in page
    # a value that looks like a placeholder is a value
    assert "Through {{title}} and &lt;b&gt;back" in page
    assert page.count("{{") == 1


def test_page_holds_every_frame_exactly():
    strip = render(report()).split('class="strip"')[1].split("<h2>")[0]
    codes = re.findall(r'src="data:image/png;base64,([^"]+)"', strip)
    assert len(codes) == 3 * N
    wanted = [f for shift in range(3) for f in frames(shift)]
    for code, frame in zip(codes, wanted, strict=True):
        shown = np.asarray(PillowImage.open(io.BytesIO(base64.b64decode(code))))
        np.testing.assert_array_equal(shown, frame)


def test_tables_hold_the_numbers():
    page = render(report())
    for text in ("6.408", "6.414", "20.57", "0.0071", "12.5 %", "2.30\u2009×\u200910<sup>−5</sup>"):
        assert f"<td>{text}</td>" in page
    for text in ("4\u202f183", "12\u202f044", "1\u202f976", "21.4 s"):
        assert f"<td>{text}</td>" in page
    assert "+25.0\u2009%" in page  # 8.01 against 6.408
    assert "×\u20092.01" in page  # 41.3 against 20.57
    assert "Energy / floor" not in page  # not known, not shown
    assert 'class="status good"' in page


def test_failure_is_visible():
    certificate = dataclasses.replace(
        report().certificate, converged=False, status="Stopped early.", floor_ratio=1.5
    )
    page = render(report(certificate=certificate))
    assert 'class="status bad">Stopped early.' in page
    assert "<td>1.500</td>" in page


def test_page_without_optional_parts():
    paths = (PathData(name="geodesic", frames=frames(0)),)
    page = render(report(paths=paths, inputs=None, endpoint_errors=None, notes=()))
    assert "End points" not in page
    assert "class=chart" not in page


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"paths": ()}, "at least one path"),
        ({"s": [0.0]}, "at least 2 frames"),
        ({"s": [0.0, 1.0]}, "9 frames for 2 parameters"),
        ({"inputs": (np.zeros((4, 4)), np.zeros((4, 4)))}, "an input is float64"),
    ],
)
def test_report_refuses_what_it_cannot_show(changes, message):
    with pytest.raises(ValueError, match=message):
        report(**changes)


def test_path_refuses_curves_that_do_not_match():
    with pytest.raises(ValueError, match="speed has 2 values for 3 parameters"):
        PathData(name="x", frames=frames(0), s=[0, 0.5, 1], speed=[1.0, 2.0])
    with pytest.raises(ValueError, match=r"shape \(3, 4, 4\)"):
        PathData(name="x", frames=[np.zeros((3, 4, 4), np.uint8)])


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
    ],
)
def test_number(value, text):
    assert number(value) == text


@pytest.mark.parametrize("values", [[3.0, 3.0, 3.0], [0.0, float("nan"), 1.0], [1e-9, 2e-9, 3e-9]])
def test_chart_stays_inside_its_frame(values):
    svg = chart([Curve(0, [0, 0.5, 1], values)], label="x", frames=[0.0, 0.5, 1.0])
    assert "nan" not in svg
    outline = re.findall(r"[ML]([\d.]+) ([\d.]+)", svg)
    assert len(outline) == sum(np.isfinite(values))
    assert all(0 <= float(x) <= 460 and 0 <= float(y) <= 190 for x, y in outline)


def test_write_is_whole_or_not_at_all(tmp_path, monkeypatch):
    target = tmp_path / "report.html"
    assert write_report(report(), target) == target
    before = target.read_bytes()

    def fail(self, target):
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(target, b"half")
    assert target.read_bytes() == before
    assert list(tmp_path.iterdir()) == [target]


def test_filmstrip_places_every_frame(tmp_path):
    rows = {"geodesic": frames(0), "LERP": frames(1)}
    strip = np.asarray(PillowImage.open(filmstrip(rows, tmp_path / "strip.png", size=24, gap=2)))
    for row in rows.values():
        for frame in row:
            wanted = np.repeat(np.kron(frame, np.ones((2, 2), np.uint8))[..., None], 3, axis=2)
            windows = np.lib.stride_tricks.sliding_window_view(strip, wanted.shape)[..., 0, :, :, :]
            assert (windows == wanted).all(axis=(-1, -2, -3)).sum() == 1


def test_filmstrip_refuses_unequal_rows(tmp_path):
    with pytest.raises(ValueError, match="same number of frames of one shape"):
        filmstrip({"a": frames(0), "b": frames(0)[1:]}, tmp_path / "strip.png")
    with pytest.raises(ValueError, match="frames must agree"):
        filmstrip({}, tmp_path / "strip.png")


@pytest.mark.parametrize(("ping_pong", "count"), [(False, N), (True, 2 * N - 2)])
def test_animation_plays_every_frame(tmp_path, ping_pong, count):
    with PillowImage.open(animation(frames(0), tmp_path / "a.gif", ping_pong=ping_pong)) as gif:
        assert getattr(gif, "n_frames", 1) == count
        assert gif.info["loop"] == 0
        gif.seek(3)
        shown = np.asarray(gif.convert("L").resize((12, 12), PillowImage.Resampling.NEAREST))
    np.testing.assert_allclose(shown, frames(0)[3], atol=2)


def test_page_in_a_browser(tmp_path):
    binary = find()
    if binary is None:
        pytest.skip("no Chromium found (looked for chromium, chromium-browser, google-chrome)")
    page = write_report(report(), tmp_path / "report.html")
    with Chromium(binary, tmp_path / "profile") as browser:
        browser.open(page)
        _check_slider(browser)
        _check_charts_and_play(browser)
        browser.screenshot(tmp_path / "light.png")
        browser.screenshot(tmp_path / "dark.png", dark=True)
        assert browser.problems == []
        assert {url.split(":")[0] for url in browser.requests} <= {"file", "data"}
        assert sum(url.startswith("file:") for url in browser.requests) == 1
    light, dark = (
        np.asarray(PillowImage.open(tmp_path / name).convert("L"))[2, 2]
        for name in ("light.png", "dark.png")
    )
    assert light > 240
    assert dark < 40


def _check_slider(browser: Chromium) -> None:
    """Every path's picture follows the slider, and is the one of the strip."""
    shown = "[...document.querySelectorAll('.stage img')].map(i => i.src)"
    moved = set()
    for frame in (0, 3, N - 1):
        browser.evaluate(
            f"slider.value = {frame}; slider.dispatchEvent(new Event('input', {{bubbles: true}}))"
        )
        pictures = browser.evaluate(shown)
        strip = (
            "[...document.querySelectorAll('.row')].map(r => "
            f"r.querySelectorAll('img')[{frame}].src)"
        )
        assert pictures == browser.evaluate(strip)
        assert len(set(pictures)) == 3
        moved.add(tuple(pictures))
        assert f"s = {frame / (N - 1):.3f}" in browser.evaluate("readout.textContent")
        assert browser.evaluate("document.querySelectorAll('.now').length") == 3
    assert len(moved) == 3


def _check_charts_and_play(browser: Chromium) -> None:
    """The cursor stands at the slider, a click on a chart moves it, and the button plays."""
    cursor = "document.querySelector('.cursor').getAttribute('x1')"
    at_end = float(browser.evaluate(cursor))
    browser.evaluate("document.querySelector('.row li').click()")
    at_start = float(browser.evaluate(cursor))
    assert at_end - at_start > 300
    box = "document.querySelector('.chart svg').getBoundingClientRect()"
    browser.evaluate("document.querySelector('.chart svg').scrollIntoView()")
    x, y = browser.evaluate(f"[{box}.x + {box}.width - 3, {box}.y + 40]")
    for kind in ("mousePressed", "mouseReleased"):
        browser.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
    assert browser.evaluate("slider.value") == str(N - 1)
    browser.evaluate("play.click()")
    assert browser.evaluate("[slider.value, play.ariaPressed]") == ["0", "true"]
    browser.evaluate("play.click()")
    assert browser.evaluate("play.ariaPressed") == "false"
