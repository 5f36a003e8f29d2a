"""``diffodesic models``: what can be loaded."""

from __future__ import annotations

import argparse
from typing import Any

from diffodesic.cli.options import command

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command."""
    command(commands, "models", run, "list the models that can be loaded")


def run(given: argparse.Namespace) -> None:
    """Print a line per model."""
    from diffodesic.models.loading import available

    for name, text in available().items():
        print(f"{name:12} {text}")
    print("FOLDER       any folder written by `diffodesic train` or Model.save")
