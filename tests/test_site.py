"""The site builds without a warning, runs its examples, and holds together.

One test, since one build serves all checks and takes minutes: it runs the gallery.
"""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*.py"))


class Page(HTMLParser):
    """What a page links to, what it loads, and the places in it that can be linked to."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.loads: set[str] = set()
        self.places: set[str] = set()
        self.feed(file.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.places |= {value for key in ("id", "name") if (value := given.get(key))}
        if tag == "a" and (link := given.get("href")):
            self.links.add(link)
        if tag in ("script", "img", "link") and given.get("rel") not in ("search", "canonical"):
            self.loads |= {value for key in ("src", "href") if (value := given.get(key))}


@pytest.mark.slow
def test_the_site_builds_and_holds_together(tmp_path: Path):
    pytest.importorskip("sphinx_gallery")
    site = tmp_path / "html"
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q"]
    command += ["-d", str(tmp_path / "trees"), str(ROOT / "docs"), str(site)]
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    told = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert told.returncode == 0, told.stderr
    pages = {file: Page(file) for file in site.rglob("*.html")}
    every_public_name_has_a_page(site)
    every_example_was_run_and_can_be_downloaded(site)
    links_inside_the_site_lead_somewhere(site, pages)
    nothing_is_loaded_from_elsewhere(pages)


def every_public_name_has_a_page(site: Path):
    for package in (site / "api" / "generated").glob("diffodesic.*.html"):
        name = package.name.removesuffix(".html")
        try:
            module = import_module(name)
        except ImportError:
            continue  # the page of a name
        for public in module.__all__:
            value = getattr(module, public)
            if inspect.isclass(value) or inspect.isroutine(value):
                assert (package.parent / f"{name}.{public}.html").exists(), f"{name}.{public}"
            elif not inspect.ismodule(value):
                assert public in package.read_text("utf-8")


def every_example_was_run_and_can_be_downloaded(site: Path):
    assert len(EXAMPLES) >= 12
    for name in EXAMPLES:
        text = (site / "gallery" / f"{name}.html").read_text("utf-8")
        assert re.search(r"sphx-glr-script-out|sphx-glr-single-img", text), name
        for kind in ("py", "ipynb"):
            assert re.search(rf'href="[^"]*{name}\.{kind}"', text), (name, kind)


def links_inside_the_site_lead_somewhere(site: Path, pages: dict[Path, Page]):
    for file, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            assert target.exists(), f"{file.relative_to(site)}: {link}"
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].places, (file.name, link)


def nothing_is_loaded_from_elsewhere(pages: dict[Path, Page]):
    for file, page in pages.items():
        elsewhere = [load for load in page.loads if urlsplit(load).netloc]
        assert not elsewhere, (file.name, elsewhere)
