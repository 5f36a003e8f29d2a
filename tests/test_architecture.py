"""The architecture, held: which package may import which, no circles, what an import does.

Read from the sources by `ast`, so that a forbidden import is found even where it never runs.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path
from types import FunctionType, ModuleType

import pytest

import diffodesic

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "diffodesic"

# package -> the packages that it may import, beside itself
ALLOWED = {
    "numerics": set(),
    "output": set(),
    "denoisers": {"numerics"},
    "geometry": {"numerics"},
    "metrics": {"numerics", "denoisers", "geometry"},
    "models": {"numerics", "output", "denoisers"},
    "images": {"numerics", "output", "denoisers", "geometry", "metrics", "models"},
    "transitions": {"numerics", "output", "denoisers", "geometry", "metrics", "models"},
}
ALLOWED["experiments"] = set(ALLOWED)
ALLOWED["cli"] = set(ALLOWED)

SOURCES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
FILES = {name: path for name, path in SOURCES.items() if path.stem != "__init__"}
BENCHMARKS = {f"benchmarks.{path.stem}": path for path in (ROOT / "benchmarks").glob("*.py")}


def imports(name: str) -> Iterator[str]:
    """Full names of what a file imports, inside functions and for type checkers too."""
    for node in ast.walk(ast.parse((SOURCES | BENCHMARKS)[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def file_of(imported: str) -> str | None:
    """The file of ours that an imported name lives in; None for a package or others."""
    parent = imported.rpartition(".")[0]
    return next((name for name in (imported, parent) if name in FILES | BENCHMARKS), None)


def test_packages_import_only_what_they_are_built_on():
    wrong = [
        f"{name} imports {target}"
        for name in FILES
        for target in imports(name)
        if name.count(".") > 1 and target.startswith("diffodesic.")
        if target.split(".")[1] not in ALLOWED[name.split(".")[1]] | {name.split(".")[1]}
    ]
    assert not wrong


def test_contributing_shows_this_table():
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    shown: dict[str, set[str]] = {}
    for name, words in re.findall(r"^\| `(\w+)/` \|.*\| (.*)\|$", text, re.M):
        named = set(re.findall(r"`(\w+)`", words))
        shown[name] = set(shown) - named if words.startswith("all of the above") else named
    assert shown == {name: allowed - {name} for name, allowed in ALLOWED.items()}


def test_files_form_no_circle():
    graph = {
        name: {file_of(target) for target in imports(name)} - {None} for name in FILES | BENCHMARKS
    }
    TopologicalSorter(graph).prepare()  # raises CycleError with the circle


def test_files_name_the_file_they_import_from():
    """Else an import could hide behind a package's own names, and the two tests above miss it."""
    wrong = [
        f"{name} imports {target}"
        for name in FILES
        for target in imports(name)
        if target.startswith("diffodesic.") and file_of(target) is None
    ]
    assert not wrong


def test_nothing_lies_flat():
    names = {path.name for path in PACKAGE.iterdir() if path.is_file()}
    assert names == {"__init__.py", "__main__.py", "py.typed"}
    assert {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()} == set(
        ALLOWED
    )


def test_every_package_says_what_it_is_for():
    for name, path in SOURCES.items():
        if path.stem == "__init__":
            assert ast.get_docstring(ast.parse(path.read_text("utf-8"))), name


def test_tests_mirror_the_package():
    """tests/PACKAGE/... holds the tests of PACKAGE; laws and spoilt inputs are of all packages."""
    folders = {p.parent.relative_to(ROOT / "tests") for p in (ROOT / "tests").rglob("test_*.py")}
    extra = {str(folder) for folder in folders if not (PACKAGE / folder).is_dir()}
    assert extra <= {"laws", "campaign"}


def test_no_test_imports_another():
    for path in (ROOT / "tests").rglob("*.py"):
        text = path.read_text("utf-8")
        assert not re.search(r"^\s*(from|import) (tests\.|test_|\w+\.test_)", text, re.M), path
        assert not re.search(r"^\s*from support.* import .*\b_[a-z]", text, re.M), path


def test_no_function_shadows_a_module():
    for name, path in SOURCES.items():
        if path.stem == "__init__":
            below = {p.stem for p in path.parent.glob("*.py")} | {
                p.parent.name for p in path.parent.glob("*/__init__.py")
            }
            module = __import__(name.removesuffix(".__init__"), fromlist=["__all__"])
            for exported in getattr(module, "__all__", ()):
                value = getattr(module, exported)
                assert isinstance(value, ModuleType) or exported not in below, (name, exported)


def test_public_functions_have_short_written_signatures():
    """At most eight arguments beside one value of options, and all of them named."""
    too_many = {"mismatch_length", "mismatch_steps"}  # still to be shortened
    for name, path in SOURCES.items():
        if path.stem == "__init__":
            module = __import__(name.removesuffix(".__init__"), fromlist=["__all__"])
            exported = [getattr(module, each) for each in getattr(module, "__all__", ())]
            for function in (each for each in exported if isinstance(each, FunctionType)):
                parameters = inspect.signature(function).parameters
                kinds = {each.kind for each in parameters.values()}
                assert inspect.Parameter.VAR_KEYWORD not in kinds, function
                count = len(parameters.keys() - {"options", "settings"})
                assert count <= 8 or function.__name__ in too_many, (function, count)


def test_public_functions_have_written_signatures_and_few_arguments():
    """At most eight arguments beside one value of options, and none that is not named."""
    for name, path in SOURCES.items():
        if path.stem != "__init__":
            continue
        module = import_module(name.removesuffix(".__init__"))
        for exported in getattr(module, "__all__", ()):
            function = getattr(module, exported)
            if isinstance(function, FunctionType):
                kinds = inspect.signature(function).parameters
                named = set(kinds) - {"options", "method", "settings"}
                assert len(named) <= 8, (exported, sorted(named))
                assert all(p.kind is not p.VAR_KEYWORD for p in kinds.values()), exported


def test_the_public_names():
    assert dir(diffodesic) == sorted(diffodesic.__all__)
    functions = [n for n in diffodesic.__all__ if isinstance(getattr(diffodesic, n), FunctionType)]
    assert len(functions) > 20
    assert len([n for n in diffodesic.__all__ if n not in ALLOWED]) <= 50


def test_only_the_command_line_and_loading_open_foreign_models():
    users = {
        name
        for name in FILES
        if any(target.startswith("diffodesic.models.adapters") for target in imports(name))
        and not name.startswith("diffodesic.models.adapters")
    }
    assert users <= {"diffodesic.models.loading", "diffodesic.cli.model_options"}


def test_only_figures_import_matplotlib():
    users = {n for n in FILES if any(t.startswith("matplotlib") for t in imports(n))}
    assert users <= {"diffodesic.output.pictures", "diffodesic.output.figures"}


@pytest.mark.parametrize("path", SOURCES.values(), ids=lambda path: path.name)
def test_files_stay_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 450, "split it"


# Runs in a fresh interpreter. Torch is imported first, by itself, so that what is watched
# afterwards is this package alone.
WATCH = """
import importlib.abc, importlib.metadata, os, re, sys

ALLOWED = set(sys.stdlib_module_names) | {"diffodesic"}
todo = ["torch"]
while todo:
    project = todo.pop()
    try:
        distribution = importlib.metadata.distribution(project)
    except importlib.metadata.PackageNotFoundError:
        continue
    names = {file.parts[0].split(".")[0] for file in distribution.files or ()}
    if not names <= ALLOWED:
        ALLOWED |= names
        needs = [r for r in distribution.requires or () if "extra" not in r]
        todo += [re.match(r"[\\w.-]+", need)[0] for need in needs]

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in ALLOWED:
            raise ModuleNotFoundError(f"blocked: {name}", name=name)

sys.meta_path.insert(0, Blocker())
import torch, torch.func, torch.utils.checkpoint

def state():
    return (
        torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled(),
        torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(),
        torch.get_float32_matmul_precision(), torch.random.initial_seed(),
        torch.random.get_rng_state().tolist(), sys.flags, os.getcwd(),
    )

def root(frame):
    return frame.f_globals.get("__name__", "").split(".")[0]

reads = []
class Spy(type(os.environ)):
    def __getitem__(self, key):
        frame = sys._getframe(1)
        # os.getenv and .get come by way of these two
        while root(frame) in ("os", "collections"):
            frame = frame.f_back
        if root(frame) == "diffodesic":
            reads.append(key)
        return super().__getitem__(key)
os.environ.__class__ = Spy

before = state()
import diffodesic
for name in getattr(diffodesic, "__all__", ()):
    getattr(diffodesic, name)
assert state() == before, "import diffodesic changed torch's global state"
assert not reads, f"import diffodesic reads the environment: {reads}"
for app in ("jinja2", "numpy", "PIL", "matplotlib", "safetensors", "tqdm", "tyro"):
    assert app not in sys.modules, f"import diffodesic imports {app}"
"""


def test_import_needs_torch_alone_and_changes_nothing():
    run = subprocess.run(
        [sys.executable, "-c", WATCH], capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == ""


def test_import_loads_nothing_but_the_package_itself():
    """Not even torch, so that it takes no longer than torch's own import; warnings are errors."""
    code = "import sys; before = {*sys.modules}; import diffodesic; print(*{*sys.modules} - before)"
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
    )
    assert (run.returncode, run.stderr) == (0, "")
    loaded = {name.split(".")[0] for name in run.stdout.split()}
    assert loaded - set(sys.stdlib_module_names) == {"diffodesic"}
    assert "diffodesic.denoisers" not in run.stdout.split()


def test_no_module_sets_a_global_default():
    calls = re.compile(r"\bset_default_(dtype|device|tensor_type)\b|\bmanual_seed_all\b")
    wrong = [path.name for path in SOURCES.values() if calls.search(path.read_text("utf-8"))]
    assert not wrong


def test_makefile_runs_the_lines_of_the_readme():
    lines = re.findall(r"^python3 -m venv .*$", (ROOT / "README.md").read_text("utf-8"), re.M)
    demo, test = lines
    assert demo.endswith("diffodesic interpolate")
    assert "pytest" in test
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert f"\ndemo:\n\t{demo}\n" in makefile
    assert f"\ntest:\n\t{test}\n" in makefile
