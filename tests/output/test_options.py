"""Options: misspelt names, values out of range, what they write, what their docstrings say."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytest

import diffodesic as dd
from diffodesic.output.options import Options, explained, kinds, option, suggests


@dataclass(frozen=True, kw_only=True)
class Few(Options):
    """Some options.

    Args:
        nodes: segments of the path, as many
            as it takes.
        level: a level.
    """

    nodes: int = option(32, least=2)
    level: float | Literal["auto"] = "auto"


@dataclass(frozen=True, kw_only=True)
class Many(Few):
    """More options.

    Args:
        share: a share.
        names: several names.
        on: a switch.
        kept: not a flag.
    """

    nodes: int = option(16, least=2)
    share: float | None = option(None, above=0, most=1)
    names: tuple[Literal["a", "b"], ...] = ("a",)
    on: bool = False
    kept: object = option(None, flag=False)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"nodes": 1}, "nodes must be at least 2, got 1"),
        ({"nodes": 2.5}, "nodes must be a whole number, got 2.5"),
        ({"nodes": "3"}, "nodes must be a whole number, got '3'"),
        ({"nodes": True}, "nodes must be a whole number, got True"),
        ({"nodes": None}, "nodes must be a whole number, got None"),
        ({"level": "low"}, "level must be a number or auto, got 'low'"),
        ({"level": float("nan")}, "level must be finite, got nan"),
        ({"share": 0}, "share must be above 0, got 0"),
        ({"share": 1.5}, "share must be at most 1, got 1.5"),
        ({"names": ("a", "c")}, "unknown names 'c'; choose one of a, b"),
        ({"names": "a"}, "names must be a tuple, got 'a'"),
        ({"on": 1}, "on must be True or False, got 1"),
    ],
)
def test_values_are_checked(given: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        Many(**given)


def test_values_that_are_taken():
    assert Many(nodes=np.int64(4)).nodes == 4  # type: ignore[arg-type]
    assert Many(level=2, share=np.float64(0.5)).share == 0.5
    assert Many(names=["a", "b"]).names == ("a", "b")  # type: ignore[arg-type]


def test_names_are_checked_and_the_nearest_is_suggested():
    with pytest.raises(TypeError, match=r"Many\(\) has no option 'ndoes'; did you mean 'nodes'\?"):
        Many(ndoes=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"Few\(\) has no option 'x'; it has nodes, level"):
        Few(x=3)  # type: ignore[call-arg]


PACKAGE = __name__.rpartition(".")[0]


@suggests(options=(Few,))
def verb(model: str, *, metric: str = "flat", options: Few | None = None) -> str:
    return model + metric


def test_a_function_is_called_by_its_name():
    assert verb("a", metric="b") == "ab"
    call: Any = verb
    for name, hint in (
        ("metrc", "'metric'"),
        ("nodes", f"options={PACKAGE}.Few(nodes=...)"),
        ("levle", f"options={PACKAGE}.Few(level=...)"),
    ):
        with pytest.raises(TypeError) as caught:
            call("a", **{name: 1})
        assert str(caught.value) == f"verb() has no option {name!r}; did you mean {hint}?"
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'model'"):
        verb()  # type: ignore[call-arg]


def test_what_is_given_replaces_and_none_does_not():
    few = Few(nodes=4)
    assert few.but(nodes=None, level=1.0) == Few(nodes=4, level=1.0)
    with pytest.raises(ValueError, match="at least 2"):
        few.but(nodes=0)


def test_settings_are_plain():
    assert Many(kept=Few()).settings() == {
        "nodes": 16,
        "level": "auto",
        "names": ["a"],
        "on": False,
        "kept": "Few(nodes=32, level='auto')",
    }
    assert Many(kept=object()).settings()["kept"] == "object"


def test_docstrings_explain_inherited_fields_too():
    assert explained(Many)["nodes"] == "segments of the path, as many as it takes"
    assert list(explained(Many)) == ["nodes", "level", "share", "names", "on", "kept"]
    assert "kept" not in kinds(Many)
    assert str(kinds(Many)["level"]) == "a number or auto"


@pytest.mark.parametrize(
    "function",
    [dd.interpolate, dd.extrapolate, dd.edit, dd.pairwise, dd.nearest, dd.diagnose],
)
def test_options_that_are_named_can_be_imported_from_there(function: Any):
    with pytest.raises(TypeError) as caught:
        function(seed=1)
    ((place, owner),) = re.findall(r"=(diffodesic[\w.]*)\.(\w+)\(", str(caught.value))
    assert hasattr(importlib.import_module(place), owner)
