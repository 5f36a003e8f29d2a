"""The house's architecture, held: who may import whom, file sizes, what `import diffodesic` does.

Read from the sources by `ast`, so that a forbidden import is found even where it never runs.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "diffodesic"

# A module may import from layers above its own line and, without cycles, from its own.
LAYERS = (
    {
        "calculus",
        "schedule",
        "curve",
        "curvature",
        "integral",
        "arc",
        "chart",
        "dataset",
        "files",
        "guard",
        "checkpoint",
    },
    {"shelf", "thinning"},
    {"denoiser", "network", "classifier", "training"},
    {"mixture", "metric", "flow", "jacobian", "level", "likely", "sphere"},
    {"parametrization", "train"},
    {"score", "counterexample", "graph"},
    {"gauss", "conformal", "frozen"},
    {"hyperbolic"},
    {"estimator", "gaussian", "selfcheck"},
    {"observation"},
    {"mismatch"},
    {"estimator_path", "estimator_secant"},
    {"spacetime", "descent", "quality", "smooth"},
    {"solver", "dual", "divergence", "consistency"},
    {"geodesic", "reference", "lagrangian"},
    {"shooting", "dimension", "constraint", "continuation"},
    # potentials and transition paths
    {"potential"},
    {"surface", "langevin", "learned", "molecule", "quadrature"},
    {"density", "allatom", "boltzmann", "pathsampling", "train_law", "transition"},
    {"channel"},
    {"landscape"},
    {"pathways"},
    # images
    {"model", "image", "baseline", "report", "features", "recheck"},
    {"plot", "plot_canvas"},
    {"bridge"},
    {"rival", "row"},
    {"interpolate", "output", "extrapolate", "evaluate", "diagnose"},
    {"edit", "chain"},
    {"pairwise", "plot_edit"},
    {"neighbours"},
    {"plot_paths", "paths_report"},
    {"paths_output"},
    {"adapters"},
    {"experiments"},
    {"commands"},
    {"cli", "__main__"},
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}

# Stricter than the layers: the whole list of what these may import.
ONLY = {
    "calculus": set(),
    "curve": set(),
    "schedule": {"calculus"},
    "denoiser": {"calculus", "schedule", "curve"},
    "metric": {"calculus", "schedule", "curve", "curvature", "integral", "arc", "denoiser"},
    "score": {"curvature", "denoiser", "level", "metric"},
    "mixture": {"calculus", "schedule", "curve", "curvature", "integral", "arc", "denoiser"},
    "hyperbolic": {"metric"},
    "estimator": {"calculus", "curvature", "denoiser", "hyperbolic"},
    "spacetime": {
        "curvature",
        "curve",
        "denoiser",
        "estimator",
        "estimator_path",
        "estimator_secant",
        "hyperbolic",
        "selfcheck",
    },
    "selfcheck": {"calculus", "denoiser"},
    "parametrization": {"calculus", "denoiser", "guard", "schedule"},
    "descent": {"calculus", "curvature", "metric"},
    "solver": {"calculus", "curve", "metric", "descent", "smooth"},
    "smooth": {"calculus", "curve", "metric"},
    "observation": {"denoiser", "flow"},
    "mismatch": {"denoiser", "observation"},
    "estimator_secant": {"calculus", "denoiser", "estimator", "hyperbolic"},
    "estimator_path": {"denoiser", "estimator", "hyperbolic", "mismatch", "observation"},
    "consistency": {"denoiser", "hyperbolic", "spacetime"},
    "geodesic": {"calculus", "curve", "metric", "descent", "solver"},
    "reference": {"calculus", "curve", "metric", "descent", "solver"},
    "shooting": {"calculus", "curve", "metric", "solver", "geodesic"},
    "flow": {"calculus", "denoiser", "schedule"},
    "baseline": {"curve"},
    "image": set(),
    "model": {"network", "parametrization", "schedule", "adapters"},
    "plot": {"report", "files"},
    "output": {"files", "image", "report", "plot", "interpolate"},
}

# `model.load` and the command line open the door to foreign models, and nothing else does.
DOORS = {"model", "cli", "__main__"}


def parts(path: Path) -> tuple[str, ...]:
    """The dotted name of a module inside the package: () is the package itself."""
    names = path.relative_to(PACKAGE).with_suffix("").parts
    return names[:-1] if names[-1] == "__init__" else names


SOURCES = {parts(path): path for path in sorted(PACKAGE.rglob("*.py"))}
UNITS = sorted({name[0] for name in SOURCES if name})


def unit(name: tuple[str, ...]) -> str:
    """The module or subpackage a name belongs to; the package's own names count as its root."""
    return name[0] if name and name[0] in RANK.keys() | set(UNITS) else "__init__"


def imports(source: tuple[str, ...], *, lazy: bool) -> Iterator[tuple[str, ...]]:
    """The full dotted names that a module imports, outside (and, if lazy, inside) functions."""
    tree = ast.parse(SOURCES[source].read_text(encoding="utf-8"))
    package = source if SOURCES[source].name == "__init__.py" else source[:-1]
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = tuple(node.module.split(".")) if node.module else ()
            if node.level:
                base = ("diffodesic", *package[: len(package) - node.level + 1], *base)
            yield from ((*base, alias.name) for alias in node.names)
        elif lazy or not _runs_later(node):
            todo.extend(ast.iter_child_nodes(node))


def _runs_later(node: ast.AST) -> bool:
    """A function's body, or a block for type checkers alone."""
    if isinstance(node, ast.If):
        return "TYPE_CHECKING" in ast.unparse(node.test)
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)


def inner_imports(source: tuple[str, ...], *, lazy: bool) -> set[str]:
    """The units of this package that a module imports, itself apart."""
    found = {unit(name[1:]) for name in imports(source, lazy=lazy) if name[0] == "diffodesic"}
    return found - {unit(source)}


def edges(*, lazy: bool) -> dict[str, set[str]]:
    graph: dict[str, set[str]] = {}
    for source in SOURCES:
        graph.setdefault(unit(source), set()).update(inner_imports(source, lazy=lazy))
    return graph


def test_every_module_has_a_place():
    unplaced = set(UNITS) - set(RANK)
    assert not unplaced, f"say in LAYERS where these belong: {sorted(unplaced)}"


def test_imports_point_downwards():
    wrong = [
        f"{source} imports {target}"
        for source, targets in edges(lazy=True).items()
        if source != "__init__"
        for target in targets
        if RANK.get(target, 0) > RANK.get(source, len(LAYERS)) and target != "adapters"
    ]
    assert not wrong


@pytest.mark.parametrize("name", sorted(ONLY.keys() & set(UNITS)))
def test_core_modules_import_only_what_they_are_built_on(name):
    assert edges(lazy=True)[name] <= ONLY[name]


def test_the_core_does_not_import_the_package_itself():
    wrong = {source for source, targets in edges(lazy=True).items() if "__init__" in targets}
    assert wrong <= {"cli", "__main__", "experiments", "output"}


def test_only_the_doors_import_adapters():
    users = {source for source, targets in edges(lazy=True).items() if "adapters" in targets}
    assert users <= DOORS


def test_modules_form_no_cycle():
    graph = edges(lazy=False)
    graph.pop("__init__", None)
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name not in done:
            for target in graph.get(name, ()):
                visit(target, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_only_plot_imports_matplotlib():
    users = {
        unit(source)
        for source in SOURCES
        if any(name[0] == "matplotlib" for name in imports(source, lazy=True))
    }
    assert users <= {"plot", "plot_canvas"}


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
for app in ("numpy", "PIL", "matplotlib", "safetensors", "tqdm", "tyro"):
    assert app not in sys.modules, f"import diffodesic imports {app}"
"""


def test_import_needs_torch_alone_and_changes_nothing():
    run = subprocess.run(
        [sys.executable, "-c", WATCH], capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == ""


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
