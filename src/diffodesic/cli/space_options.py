"""``--metric`` and the options of the space that it names."""

from __future__ import annotations

import argparse

from diffodesic.cli.options import add_flags, chosen
from diffodesic.images.spaces import SPACES, Space

__all__ = ["add_space", "chosen_space"]


def add_space(parser: argparse.ArgumentParser, default: Space) -> None:
    """Add ``--metric`` and a flag for every option of any space."""
    parser.add_argument(
        "--metric",
        choices=tuple(SPACES),
        default=default.name,
        help=f"the space in which images are joined (default: {default.name})",
    )
    add_flags(parser, *SPACES.values(), labels=tuple(SPACES))


def chosen_space(given: argparse.Namespace) -> Space:
    """The space that was asked for; options that it does not have are refused."""
    kinds = tuple(SPACES.values())
    return chosen(SPACES[given.metric], given, among=kinds, what=f"the metric {given.metric}")
