"""Families of models: those of this package, and those that others add by an entry point."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import diffodesic as dd
from diffodesic.models.adapters.registry import GROUP, prefixes
from diffodesic.models.model import ModelError

FAMILY = """
import diffodesic as dd

PREFIX = "shrink"


def load(rest, *, device, allow_download, allow_pickle):
    assert (device, allow_download, allow_pickle) == ("cpu", True, False)
    share = float(rest)
    return dd.from_network(
        lambda x, t: share * x,
        shape=(1, 2, 2),
        schedule=dd.schedules.EDM(),
        prediction="x0",
        options=dd.denoisers.NetworkOptions(trial=False),
    )
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Install a package that names a module as a family."""

    def install(name: str, source: str, prefix: str = "shrink") -> None:
        site = tmp_path / name
        info = site / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (site / f"{name}_family.py").write_text(source)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{GROUP}]\n{prefix} = {name}_family\n")
        monkeypatch.syspath_prepend(str(site))
        monkeypatch.delitem(sys.modules, f"{name}_family", raising=False)

    return install


def test_the_families_of_this_package_are_its_files_with_a_prefix():
    assert prefixes() == ["diffusers", "edm", "hf", "python"]


def test_another_package_adds_a_family_by_an_entry_point(install, draw):
    install("outsider", FAMILY)
    assert prefixes()[-1] == "shrink"
    model = dd.load("shrink:0.25", allow_download=True)
    assert (model.name, model.codec.shape) == ("0.25", (1, 2, 2))
    z = draw(3, 4)
    assert torch.equal(model.denoiser(z, torch.tensor(1.0)), 0.25 * z)


def test_a_broken_family_is_no_hindrance_to_others(install):
    install("broken", "raise OSError('no such\\nlibrary')", prefix="broken")
    assert dd.load("mnist").name == "mnist"
    with pytest.raises(ModelError, match="the family of models 'broken' of broken") as caught:
        dd.load("broken:x")
    assert str(caught.value).endswith("(OSError: no such library); uninstall it")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import absent_module", "ModuleNotFoundError: No module named 'absent_module'"),
        ("1/0", "ZeroDivisionError: division by zero"),
        ("PREFIX = 'other'\ndef load(rest): ...", "needs PREFIX = 'shrink'"),
        ("PREFIX = 'shrink'", r"a function load\(rest, \*, device"),
        (FAMILY.partition("    return")[0] + "    return 3", "returned a int; it must return"),
    ],
)
def test_a_family_that_cannot_work_is_refused_in_one_sentence(install, source, words):
    install("outsider", source)
    with pytest.raises(ModelError, match=words) as caught:
        dd.load("shrink:1", allow_download=True)
    assert "\n" not in str(caught.value)


def test_two_families_of_one_name_are_refused(install):
    install("first", FAMILY)
    install("second", FAMILY)
    with pytest.raises(ModelError, match=r"'shrink' is defined by \w+ and by \w+: uninstall all"):
        dd.load("shrink:1")
    install("third", FAMILY.replace("shrink", "edm"), prefix="edm")
    with pytest.raises(ModelError, match="'edm' is defined by diffodesic and by third"):
        dd.load("edm:file.pkl")


def test_an_unknown_prefix_is_refused_with_the_known_ones():
    known = r"'foo:bar'.* known family \(diffusers:, edm:, hf:, python:\)"
    with pytest.raises(ModelError, match=known):
        dd.load("foo:bar")
