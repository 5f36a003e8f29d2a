"""The site, built offline by `make site`."""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from pathlib import Path
from typing import Any

from sphinx_gallery.sorting import FunctionSortKey

import diffodesic

HERE = Path(__file__).parent

project = "diffodesic"
author = copyright = "the diffodesic authors"
version = release = diffodesic.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
suppress_warnings = ["config.cache"]  # nothing here is pickled between builds
templates_path = ["_templates"]

myst_heading_anchors = 3

autosummary_generate = True
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False

# what most readers look for first
ORDER = [
    "photographs.py",
    "key_pictures.py",
    "extrapolate.py",
    "edit.py",
    "distances_knn.py",
    "map_of_pictures.py",
    "likelihood.py",
    "local_dimension.py",
    "own_network.py",
    "diffusers_folder.py",
    "own_metric.py",
    "score_metric.py",
    "toy.py",
    "mueller_brown.py",
    "alanine.py",
]

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py$",
    "within_subsection_order": FunctionSortKey(ORDER.index, "ORDER"),
    "min_reported_time": 86_400,  # a busy machine's time would mislead
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_signature": False,
    "write_computation_times": False,
    "image_scrapers": ("matplotlib",),
}

html_theme = "furo"
html_title = "diffodesic"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False

# package -> the heading of its page
PACKAGES = {
    "geometry": "Geodesics",
    "metrics": "Metrics",
    "metrics.spacetime": "Spacetime",
    "denoisers": "Denoisers",
    "denoisers.schedules": "Schedules of networks",
    "models": "Models",
    "images": "Images",
    "transitions": "Transition paths",
    "numerics": "Curves and costs",
}


def heading(title: str, full: str) -> list[str]:
    """The first lines of a page of reference."""
    return [title, "=" * len(title), "", f".. automodule:: {full}", ""]


def listed(names: list[str], *options: str) -> list[str]:
    """A table of names with what each is for."""
    return [".. autosummary::", *(f"   {option}" for option in options), "", *indented(names), ""]


def indented(lines: list[str]) -> list[str]:
    """The lines as the body of a directive."""
    return [f"   {line}" for line in lines]


def constant(name: str, value: Any) -> list[str]:
    """An entry for what has no docstring of its own: an alias of types, a table of names."""
    shown = ", ".join(value) if isinstance(value, dict) else str(value).replace("typing.", "")
    shown = re.sub(r"ForwardRef\('([^']+)'\)", r"\1", shown)
    if union := re.fullmatch(r"Union\[(.*)\]", shown):
        shown = union[1].replace(", ", " | ")
    return [f".. py:data:: {name}", "", f"   ``{shown}``", ""]


def write_reference() -> None:
    """A page for every package, whose table gives every public name a page of its own."""
    folder = HERE / "api" / "generated"
    folder.mkdir(parents=True, exist_ok=True)
    pages = {"diffodesic": ["diffodesic", "=" * 10, "", *listed(top(), ":nosignatures:")]}
    for package, title in PACKAGES.items():
        full = f"diffodesic.{package}"
        module = import_module(full)
        public = {name: getattr(module, name) for name in module.__all__}
        documented = [n for n, v in public.items() if inspect.isclass(v) or inspect.isroutine(v)]
        documented.sort(key=lambda name: inspect.isclass(public[name]))  # what is done comes first
        lines = [*heading(title, full), f".. currentmodule:: {full}", ""]
        lines += listed(documented, ":toctree: .", ":nosignatures:")
        for name, value in public.items():
            if name not in documented and not inspect.ismodule(value):
                lines += constant(name, value)
        pages[full] = lines
    for full, lines in pages.items():
        (folder / f"{full}.rst").write_text("\n".join(lines), "utf-8")


def top() -> list[str]:
    """The names of the library itself, by their homes, where their pages are."""
    return [
        f"~diffodesic.{home}.{name}"
        for name, home in sorted(diffodesic._HOME.items())
        if not inspect.ismodule(getattr(diffodesic, name))
    ]


def plain_bars(
    _app: Any, _what: str, _name: str, _obj: Any, _options: Any, lines: list[str]
) -> None:
    """Let docstrings write ``|x|^2`` without the backslashes of reStructuredText."""
    lines[:] = [re.sub(r"(``.*?``)|(?<!\\)\|", lambda m: m[1] or r"\|", line) for line in lines]


def files_of_the_repository(_app: Any, _page: str, source: list[str]) -> None:
    """Turn links to pages outside this folder, as the repository shows them, into downloads."""
    source[0] = re.sub(r"\]\((\.\./[^)#]+\.md)\)", r"](path:\1)", source[0])


def setup(app: Any) -> None:
    """Called by Sphinx."""
    write_reference()
    app.connect("autodoc-process-docstring", plain_bars)
    app.connect("source-read", files_of_the_repository)
