"""Sentences on options name those that exist where they are printed."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields

import pytest

import diffodesic as dd
from diffodesic.cli.main import _parser
from diffodesic.cli.options import in_flags
from diffodesic.geometry.solvers.redraw import Redraw
from diffodesic.geometry.status import Status

COMMANDS = ("interpolate", "extrapolate", "distance", "distances", "paths")  # that print statuses


def parser_of(command: str):
    words = {
        "distance": ["a", "b"],
        "distances": ["a"],
        "paths": ["--from", "0", "--to", "1"],
    }
    return _parser().parse_args([command, *words.get(command, [])]).parser


@pytest.mark.parametrize("command", COMMANDS)
def test_flags_that_a_status_names_are_flags_of_the_command(command):
    parser = parser_of(command)
    known = {word for action in parser._actions for word in action.option_strings}
    for status in Status:
        sentence = in_flags(status.value, parser)
        assert "`" not in sentence, sentence
        assert set(re.findall(r"--[\w-]+", sentence)) <= known, sentence
        # nothing but advice is left out
        assert sentence.startswith(re.split("`|; ", status.value)[0])
    assert "raise --iterations or loosen --rtol" in in_flags(Status.ITERATION_LIMIT.value, parser)
    assert "; raise --nodes" in in_flags(Status.TOO_COARSE.value, parser)
    assert in_flags(Status.LEFT_DOMAIN.value, parser).endswith("; move the ends closer")


def test_names_that_a_status_names_exist_in_python():
    known = {
        *inspect.signature(dd.geodesic).parameters,
        *inspect.signature(dd.Spacetime).parameters,
        *(f.name for kind in (dd.Relax, Redraw) for f in fields(kind)),
        "Redraw",
    }
    for status in Status:
        assert set(re.findall(r"`(\w+)", status.value)) <= known, status


def test_a_command_that_is_named_is_no_option():
    parser = parser_of("interpolate")
    text = "train again; give `diffodesic train` more time; raise `frames`, `levels=3`"
    assert in_flags(text, parser) == "train again; give `diffodesic train` more time"


@pytest.mark.parametrize("command", COMMANDS)
def test_limits_are_flags(command):
    text = parser_of(command).format_help()
    assert {"--iterations", "--rtol", "--nodes"} <= set(re.findall(r"--\w+", text))
