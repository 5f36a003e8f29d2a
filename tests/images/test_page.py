"""The page of an interpolation holds its frames and numbers, and its slider moves pictures."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from torch import Tensor

from diffodesic.images.page import write_interpolation_page
from diffodesic.images.shown_path import ShownPath
from diffodesic.output.images import to_uint8
from support.browser import Chromium, find

N = 9


def frames(shift: int) -> Tensor:
    """N different pictures (N, 1, 12, 12): a bright square that travels, over one grey per path."""
    pictures = torch.full((N, 1, 12, 12), 20 * shift / 255)
    for i in range(N):
        pictures[i, :, 2:5, i : i + 3] = 1
    return pictures


def path(shift: int, length: float, energy: float) -> ShownPath:
    fine, s = torch.linspace(0, 1, 33), torch.linspace(0, 1, N)
    level = 4 - 5 * (math.pi * fine).sin()
    return ShownPath(
        frames(shift), length, energy, None, None, s, level[::4], fine, level, 0 * fine + length
    )


ROWS = {
    "geodesic": path(0, 6.408, 20.57),
    "LERP": dataclasses.replace(path(1, 8.01, 41.3), check=(8.2, 0.25)),
    "SLERP <b>": path(2, math.nan, math.inf),
}
CONTENT: dict[str, Any] = {
    "status_text": "converged <all> well",
    "certificate": {
        "length": 6.408,
        "discrete_length": 6.4136,
        "discrete_energy": 20.57,
        "speed_spread": 0.0071,
        "negative_fraction": 0.125,
        "gradient_norm": 2.3e-5,
    },
    "cost": {"evaluations": 4183, "derivatives": 12044, "node_gradients": 1976},
    "work": {"search": 4000, "frames": 183},
    "end_error_rms": [0.0041, 0.0038],
    "seconds": 21.4,
    "settings": {"model": "a", "metric": "spacetime", "log_snr": 2.0, "estimator": "secant"},
    "alarms": [],
    "notices": ["A caveat."],
    "origin": {"command": "diffodesic interpolate"},
    "versions": {"torch": "2.13.0"},
}


def written(folder: Path, rows: dict[str, ShownPath] = ROWS, *, ok: bool = True) -> Path:
    inputs = frames(0)[[0, -1]]
    return write_interpolation_page(folder / "report.html", rows, inputs, CONTENT, ok=ok)


def test_page_holds_every_frame_exactly(tmp_path):
    page = written(tmp_path).read_text("utf-8")
    strip = page.split('class="strip"')[1].split("<h2>")[0]
    codes = re.findall(r'src="data:image/png;base64,([^"]+)"', strip)
    assert len(codes) == 3 * N
    wanted = [f for row in ROWS.values() for f in to_uint8(row.frames)]
    for code, frame in zip(codes, wanted, strict=True):
        shown = np.asarray(PillowImage.open(io.BytesIO(base64.b64decode(code))))
        np.testing.assert_array_equal(shown, frame)


def test_tables_hold_the_numbers(tmp_path):
    page = written(tmp_path).read_text("utf-8")
    for text in ("6.408", "6.414", "20.57", "0.0071", "12.5 %", "2.30\u2009×\u200910<sup>−5</sup>"):
        assert f"<td>{text}</td>" in page
    for text in ("4\u202f183", "12\u202f044", "1\u202f976", "21.4 s", "8.200 ± 0.25"):
        assert f"<td>{text}</td>" in page
    assert "+25.0\u2009%" in page  # 8.01 against 6.408
    assert "×\u20092.01" in page  # 41.3 against 20.57
    assert '<td>not finite</td><td class="excess"></td>' in page
    assert "SLERP &lt;b&gt;" in page
    assert "Energy / floor" not in page  # not known, not shown
    readouts = re.search(r'id="readouts">(.*?)</script>', page)
    assert readouts is not None
    lines = json.loads(readouts[1])
    assert len(lines) == N
    assert lines[N // 2] == "s = 0.500 · log SNR −1.00  (σ = 1.65) · speed 6.408"
    unchecked = {name: dataclasses.replace(row, check=None) for name, row in ROWS.items()}
    assert "Length, checked" in page
    assert "checked" not in written(tmp_path, unchecked).read_text("utf-8").lower()
    level = torch.ones_like(ROWS["geodesic"].curve_log_snr)
    flat = {name: dataclasses.replace(row, curve_log_snr=level) for name, row in ROWS.items()}
    assert page.count('class="chart"') == 2
    assert written(tmp_path, flat).read_text("utf-8").count('class="chart"') == 1
    floor = dataclasses.replace(ROWS["geodesic"], floor=10.285)
    assert "<td>2.000</td>" in written(tmp_path, {"geodesic": floor}).read_text("utf-8")


@pytest.mark.parametrize("ok", [True, False])
def test_the_colour_says_whether_the_path_ended_well(tmp_path, ok):
    page = written(tmp_path, ok=ok).read_text("utf-8")
    kind = "good" if ok else "bad"
    assert f'<p class="status {kind}"><span>converged &lt;all&gt; well</span>' in page


def test_page_in_a_browser(tmp_path):
    binary = find()
    if binary is None:
        pytest.skip("no Chromium found (looked for chromium, chromium-browser, google-chrome)")
    page = written(tmp_path)
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
