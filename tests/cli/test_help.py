"""What the command line says of itself: help, completion, warnings."""

from __future__ import annotations

import argparse
import warnings
from importlib import import_module

import pytest

from diffodesic.cli.main import COMMANDS, _parser
from support.commands import TINY


def parsers() -> dict[str, argparse.ArgumentParser]:
    """The parser of every command."""
    groups = [a for a in _parser()._actions if isinstance(a, argparse._SubParsersAction)]
    return dict(groups[0].choices)


@pytest.mark.parametrize("command", parsers())
def test_help_names_every_default(command):
    for action in parsers()[command]._actions:
        if action.option_strings and not action.required and "--help" not in action.option_strings:
            assert "default" in (action.help or ""), action.option_strings


def test_help_is_plain_text():
    for parser in (_parser(), *parsers().values()):
        text = parser.format_help()
        assert not [mark for mark in ("``", ":class:", ":func:", ":meth:") if mark in text]


def test_every_command_that_takes_a_model_takes_a_device():
    for name, parser in parsers().items():
        flags = {word for action in parser._actions for word in action.option_strings}
        if "--model" in flags:
            assert "--device" in flags, name


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_a_shell_completes_commands_and_options(run, shell):
    pytest.importorskip("shtab", reason="the extra `completion`")
    code, out, err = run("--print-completion", shell)
    assert (code, err) == (0, "")
    for word in (*COMMANDS, "--allow-download"):
        assert word.lstrip("-") in out


def test_without_the_extra_completion_says_which(run, monkeypatch):
    monkeypatch.setitem(import_module("sys").modules, "shtab", None)
    code, _, err = run("--print-completion", "bash")
    assert code == 2
    assert "pip install 'diffodesic[completion]'" in err


@pytest.mark.filterwarnings("always")
def test_a_warning_is_one_line_without_its_source(run, place, monkeypatch):
    module = import_module("diffodesic.cli.interpolate")
    before = warnings.formatwarning

    def warns(*_, **__):
        # what pytest records is not shown: as Python itself would show it
        text = warnings.formatwarning("two\n lines", RuntimeWarning, "x.py", 3, "code()")
        import_module("sys").stderr.write(text)
        raise ValueError("enough")

    monkeypatch.setattr(module, "read_pictures", warns)
    _, _, err = run(*TINY)
    assert err == "diffodesic: warning: two lines\ndiffodesic: enough\n"
    assert warnings.formatwarning is before
