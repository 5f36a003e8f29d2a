"""``--metric`` and the options of the space that it names."""

from __future__ import annotations

import argparse
from inspect import signature

from diffodesic.cli.options import add_flags, chosen
from diffodesic.cli.own_code import is_own, load_own, own_file
from diffodesic.geometry.metric import Metric
from diffodesic.images.spaces import SPACES, Fixed, Space, choose_space
from diffodesic.models.model import Model
from diffodesic.numerics.words import in_short
from diffodesic.output.manifest import sha256

__all__ = ["add_space", "chosen_space"]


def add_space(parser: argparse.ArgumentParser, default: Space) -> None:
    """Add ``--metric`` and a flag for every option of any space."""
    parser.add_argument(
        "--metric",
        default=default.name,
        help=f"{', '.join(SPACES)}, or FILE.py:NAME, a metric of yours or a function that makes "
        f"one of the model's denoiser (default: {default.name})",
    )
    add_flags(parser, *SPACES.values(), labels=tuple(SPACES))


def chosen_space(given: argparse.Namespace, model: Model) -> Space:
    """The space that was asked for; options that it does not have are refused."""
    name, among = given.metric, tuple(SPACES.values())
    what = f"the metric {name}"
    if not is_own(name):
        kind = type(choose_space(name, None))
        return chosen(kind, given, among=among, what=what)
    own = load_own(name)
    if callable(own) and not isinstance(own, Metric):
        try:
            own = own(model.denoiser) if signature(own).parameters else own()
        except ValueError:  # a sentence of ours
            raise
        except (Exception, SystemExit) as error:  # whatever the code of others leads to
            cure = "correct it"
            if isinstance(own, type):
                cure = f"a class is called with the model's denoiser: name my = {own.__name__}(...)"
            raise ValueError(f"{name} cannot be called ({in_short(error)}); {cure}") from error
    if not isinstance(own, Metric):
        raise ValueError(f"{name} is neither a Metric nor a function of a denoiser that makes one")
    source = f"{name} ({sha256(own_file(name))})"
    return chosen(Fixed, given, among=among, what=what, own=own, source=source)
