"""What a notebook shows of a result."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diffodesic.images.editing import EditOptions, edit
from diffodesic.images.extrapolation import ExtrapolateOptions, extrapolate
from diffodesic.images.interpolation import InterpolateOptions, interpolate
from diffodesic.images.sequence import interpolate_through
from diffodesic.images.spaces import EuclideanSpace
from diffodesic.output.notebook import MOST, fragment
from support.tiny import pictures, tiny_model

FAST = InterpolateOptions(frames=3, nodes=3, flow_steps=2, space=EuclideanSpace())


class Balanced(HTMLParser):
    """Holds the tags that are open, and all that were seen."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.append(tag)
        if tag not in ("img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_fragment_is_whole_and_escaped():
    text = fragment("<b>", "raise `nodes` & <i>", {"a<b": "1 > 0"}, ok=False, notices=["`x` <y>"])
    page = Balanced(text)
    assert not page.open
    assert "i" not in page.seen
    assert "raise <code>nodes</code> &amp; &lt;i&gt;" in text
    assert "<li><code>x</code> &lt;y&gt;</li>" in text


def test_a_strip_is_small_and_inside():
    frames = [np.full((8, 8), i, np.uint8) for i in range(40)]
    text = fragment("t", "s", {}, ok=True, strip={"path": frames})
    (code,) = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    with Image.open(io.BytesIO(base64.b64decode(code))) as picture:
        assert picture.width < 90 * (MOST + 2)
    assert len(text) < 20_000


@pytest.mark.parametrize("kind", ["pair", "several", "beyond", "edit"])
def test_results_show_themselves(kind):
    model, (a, b, c) = tiny_model(), pictures(3)
    result: Any
    if kind == "pair":
        result = interpolate(model, a, b, options=FAST)
    elif kind == "several":
        result = interpolate_through(model, [a, b, c], options=FAST)
    elif kind == "beyond":
        options = ExtrapolateOptions(frames=3, nodes=3, flow_steps=2, points=1)
        result = extrapolate(model, a, b, options=options)
    else:
        result = edit(model, a, b, options=EditOptions(nodes=3, flow_steps=2))
    page = Balanced(result._repr_html_())
    assert not page.open
    assert ("img" in page.seen) is (kind != "edit")
    assert not {"script", "link", "style"} & set(page.seen)
