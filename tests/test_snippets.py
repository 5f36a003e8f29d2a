"""Every Python snippet of README and docs runs, page by page, in the order of the page.

What a snippet needs and its page need not show (a folder to load, a module to import) stands before
it in the page's source, in a comment ``<!-- python ... -->``.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^(?:```python|<!-- python)\n(.*?)^(?:```|-->)", re.M | re.S)
PAGES = {
    page.stem: blocks
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    if (blocks := BLOCK.findall(page.read_text("utf-8")))
}
# those that search on networks, or make a pipeline, take seconds to minutes
SLOW = {"README", "start", "edit-distance", "bring-your-own-model", "pretrained-models"}


@pytest.mark.parametrize(
    "page", [pytest.param(p, marks=pytest.mark.slow) if p in SLOW else p for p in PAGES]
)
@pytest.mark.filterwarnings("ignore::diffodesic.geometry.status.SearchWarning")
def test_snippets_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "mynet", ModuleType("mynet"))  # the file that a page shows
    names: dict[str, Any] = {}
    for number, block in enumerate(PAGES[page], 1):
        exec(compile(block, f"{page}, block {number}", "exec"), names)


def test_no_page_hides_a_snippet_from_the_test():
    for page in (ROOT / "docs").glob("*.md"):
        assert not re.search(r"^```py\n", page.read_text("utf-8"), re.M), page
