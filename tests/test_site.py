"""The site builds without a warning, runs its examples, and holds together.

One test for all that is built, since a build takes minutes: it runs the gallery.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import diffodesic
from support.browser import Chromium, find

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*.py"))
NOTEBOOK = "own_metric"  # seconds
WIDTHS = "[document.documentElement.clientWidth, document.documentElement.scrollWidth]"


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


def python(*words: str, folder: Path = ROOT) -> None:
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    told = subprocess.run(
        [sys.executable, *words],
        env={**os.environ, "PYTHONPATH": path, "MPLBACKEND": "agg"},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0, told.stderr


@pytest.mark.slow
def test_the_site_builds_and_holds_together(tmp_path: Path):
    pytest.importorskip("sphinx_gallery")
    site = tmp_path / "html"
    trees = ("-d", str(tmp_path / "trees"))
    python("-m", "sphinx", "-W", "--keep-going", "-q", *trees, str(ROOT / "docs"), str(site))
    pages = {file: Page(file) for file in site.rglob("*.html")}
    every_public_name_has_a_page(site)
    every_example_was_run_and_can_be_downloaded(site)
    links_inside_the_site_lead_somewhere(site, pages)
    nothing_is_loaded_from_elsewhere(pages)
    a_downloaded_notebook_runs_from_its_first_cell_to_its_last(site, tmp_path)
    no_page_scrolls_sideways_on_a_telephone(site, tmp_path / "profile")


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


def a_downloaded_notebook_runs_from_its_first_cell_to_its_last(site: Path, tmp_path: Path):
    (file,) = (site / "_downloads").rglob(f"{NOTEBOOK}.ipynb")
    cells = json.loads(file.read_text("utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert len(code) > 1
    script = tmp_path / "cells.py"
    # magics of the notebook itself are no Python
    script.write_text(re.sub(r"(?m)^%", "# %", "\n\n".join(code)), "utf-8")
    python(str(script), folder=tmp_path)


def no_page_scrolls_sideways_on_a_telephone(site: Path, profile: Path):
    binary = find()
    if binary is None:
        pytest.skip("no Chromium here: all else holds, widths were not looked at")
    looked_at = [*site.glob("*.html"), *site.glob("gallery/*.html"), *site.glob("api/*.html")]
    looked_at += site.glob("api/generated/diffodesic.[im]*.html")
    assert len(looked_at) > 60
    wide = {}
    with Chromium(binary, profile) as chromium:
        chromium.resize(420)
        for page in looked_at:
            chromium.open(page)
            seen, whole = chromium.evaluate(WIDTHS)
            if whole > seen:
                wide[page.name] = (seen, whole)
    assert not wide


def test_workflows_and_templates_are_valid():
    yaml = pytest.importorskip("yaml")
    folder = ROOT / ".github"
    loaded = {file.name: yaml.safe_load(file.read_text("utf-8")) for file in folder.rglob("*.yml")}
    commands = [
        step["run"]
        for job in loaded["tests.yml"]["jobs"].values()
        for step in job["steps"]
        if "run" in step
    ]
    assert ".ci/run" in commands
    for command in commands:
        for place in re.findall(r"tests/\w+", command):
            assert (ROOT / place).is_dir(), place
    for name in ("bug.yml", "model.yml"):
        assert {"name", "description", "body"} <= loaded[name].keys()


def test_every_place_names_the_same_version():
    version = re.escape(diffodesic.__version__)
    for name, line in (
        ("pyproject.toml", rf'version = "{version}"'),
        ("CITATION.cff", rf"version: {version}"),
    ):
        assert re.search(f"(?m)^{line}$", (ROOT / name).read_text("utf-8")), name
