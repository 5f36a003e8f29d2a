"""README and docs name what exists: modules, names, arguments, commands, files.

Nothing is run.  Snippets are compiled, and what they name of this package is looked up.
"""

from __future__ import annotations

import ast
import inspect
import io
import re
import shlex
from collections.abc import Iterator
from contextlib import redirect_stdout
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import pytest

import diffodesic
from diffodesic.cli.main import COMMANDS, _parser
from diffodesic.experiments.registry import EXPERIMENTS
from diffodesic.geometry.status import Status
from diffodesic.images.baselines.between import Baseline
from diffodesic.metrics.spacetime.metric import ESTIMATORS
from diffodesic.transitions.surfaces import SHIPPED

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


parser = cache(_parser)


def snippets(page: Path) -> list[ast.Module]:
    """The Python of a page, parsed."""
    blocks = FENCE.findall(page.read_text("utf-8"))
    return [ast.parse(text) for language, text in blocks if language == "python"]


def inline(page: Path) -> list[str]:
    """What stands between backticks in the sentences of a page."""
    return re.findall(r"`([^`\n]+)`", FENCE.sub("", page.read_text("utf-8")))


def resolve(name: str) -> Any:
    """The object of a dotted name of this package, sub-modules included; ``dd`` is the package."""
    first, *rest = name.split(".")
    assert first in ("dd", "diffodesic")
    found: Any = diffodesic
    for part in rest:
        if not hasattr(found, part) and inspect.ismodule(found):
            import_module(f"{found.__name__}.{part}")
        found = getattr(found, part)
    return found


def dotted(node: ast.AST) -> str | None:
    """``a.b.c`` of an expression, where it is that."""
    if isinstance(node, ast.Attribute):
        owner = dotted(node.value)
        return owner and f"{owner}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else None


def ours(module: ast.Module) -> dict[str, str]:
    """Names that a snippet imports from this package, and what they stand for."""
    known = {"dd": "dd", "diffodesic": "diffodesic"}
    for node in ast.walk(module):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("diffodesic"):
            known |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    return known


def full_name(node: ast.AST, known: dict[str, str]) -> str | None:
    """The dotted name of an expression that begins with one of ours."""
    first, dot, rest = (dotted(node) or "").partition(".")
    return known[first] + dot + rest if first in known else None


@EVERY_PAGE
def test_names_in_snippets_exist(page: Path):
    for module in snippets(page):
        known = ours(module)
        used = [full_name(node, known) for node in ast.walk(module)]
        for name in filter(None, [*known.values(), *used]):
            resolve(name)


@EVERY_PAGE
def test_calls_in_snippets_fit_their_signatures(page: Path):
    for module in snippets(page):
        known = ours(module)
        for node in ast.walk(module):
            if isinstance(node, ast.Call) and (name := full_name(node.func, known)):
                if any(isinstance(argument, ast.Starred) for argument in node.args):
                    continue  # as many as there are
                function, arguments = resolve(name), list(node.args)
                if inspect.isclass(function):
                    # not that of the class: options have a ``__new__`` that takes everything
                    function, arguments = function.__init__, [node, *arguments]
                keywords = {str(keyword.arg): keyword.value for keyword in node.keywords}
                inspect.signature(function).bind(*arguments, **keywords)


@EVERY_PAGE
def test_names_in_sentences_exist(page: Path):
    for code in inline(page):
        for name in re.findall(r"(?<![\w./\[])(?:dd|diffodesic)(?:\.[A-Za-z_]\w*)+", code):
            resolve(name)


def commands(page: Path) -> Iterator[str]:
    """Command lines of ``diffodesic`` in the blocks and the sentences of a page."""
    blocks = [
        text for language, text in FENCE.findall(page.read_text("utf-8")) if language != "python"
    ]
    lines = [line for text in blocks for line in text.splitlines()]
    for line in [*lines, *inline(page)]:
        if found := re.search(r"(?:^|&& |bin/)diffodesic +([a-z].*|--.*)", line):
            yield found[1]


@EVERY_PAGE
def test_command_lines_parse(page: Path):
    for line in commands(page):
        words = shlex.split(line, comments=True)
        if len(words) == 1:  # a command that a sentence names
            assert words[0] in COMMANDS, line
            continue
        given, unknown = parser().parse_known_args(words)
        assert not unknown, line
        if words[0] == "reproduce":
            assert set(given.name) <= {experiment.name for experiment in EXPERIMENTS}, line


@cache
def helps() -> str:
    """The help of every command."""
    text = io.StringIO()
    for name in ("distances", *COMMANDS):
        with pytest.raises(SystemExit), redirect_stdout(text):
            parser().parse_args([name, "--help"])
    return text.getvalue()


# the page of benchmarks has commands of its own
@pytest.mark.parametrize("page", [p for p in PAGES if p.stem != "benchmarks"], ids=lambda p: p.stem)
def test_flags_in_sentences_exist(page: Path):
    elsewhere = {"--check", "--hook-type"}  # of ruff and pre-commit
    for code in inline(page):
        for flag in set(re.findall(r"(?<![\w-])--[a-zA-Z][\w-]*", code)) - elsewhere:
            assert re.search(rf"{flag}\b", helps()), f"{flag} in {code}"


def first_column(page: str) -> set[str]:
    """What stands between backticks at the beginning of table rows of a page of ``docs``."""
    return set(re.findall(r"^\| `([^`]+)`", (ROOT / "docs" / page).read_text("utf-8"), re.M))


def test_every_status_is_explained():
    assert {status.name for status in Status} <= first_column("certificate.md")


def test_estimators_and_baselines_are_in_the_glossary():
    assert {*ESTIMATORS, *get_args(Baseline)} == first_column("glossary.md")


def test_every_potential_is_in_the_table():
    text = (ROOT / "docs" / "transition-paths.md").read_text("utf-8")
    assert all(f"`{name}`" in text for name in SHIPPED)


@EVERY_PAGE
def test_links_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text("utf-8"), re.M)
            anchors = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
            assert anchor in anchors, target


def test_files_that_contributing_names_exist():
    """Paths are given from the repository, or by their end; NAME stands for a new file."""
    known = [f"/{path.relative_to(ROOT)}" for path in ROOT.glob("*")]
    for folder in ("src", "tests", "docs", "benchmarks", "results", ".ci", ".github"):
        known += [f"/{path.relative_to(ROOT)}" for path in (ROOT / folder).rglob("*")]
    for code in inline(ROOT / "CONTRIBUTING.md"):
        for path in re.findall(r"^[\w./]+/[\w./]*$|^[\w/]+\.(?:py|md|toml)$", code):
            place = path.rsplit("/", 1)[0] if "NAME" in path else path
            end = "/" + place.removeprefix("./").strip("/")
            assert any(name.endswith(end) for name in known), path
