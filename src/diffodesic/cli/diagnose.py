"""``diffodesic diagnose``: manifold, dimension and symmetry of a model near given images."""

from __future__ import annotations

import argparse
from typing import Any

from diffodesic.cli.measuring import add_measure, measure
from diffodesic.cli.options import chosen
from diffodesic.cli.pictures import ResultOptions
from diffodesic.images.diagnosis import DiagnoseOptions, Diagnosis, diagnose

__all__ = ["add"]

EXAMPLES = """\
  diffodesic diagnose                                     two shipped photographs, results in out/
  diffodesic diagnose --model mnist                       four shipped digits
  diffodesic diagnose A.png B.png --model my-model --log-snr 0,2,4
"""
DIGITS = range(4)  # of the package, for a model of digits


def add(commands: Any) -> None:
    """Add the command."""
    text = "local dimension, tangent spaces and symmetry of a model near given images"
    add_measure(commands, "diagnose", run, text, EXAMPLES, DiagnoseOptions, ResultOptions)


def run(given: argparse.Namespace) -> None:
    """Diagnose, print the table, write the folder."""
    options, where = chosen(DiagnoseOptions, given), chosen(ResultOptions, given)

    def lines(found: Diagnosis) -> tuple[str, str]:
        paths = found.trajectories
        flow = (
            f"sampling trajectories: in planes of {paths.dimension.mean():.3g} dimensions, "
            f"straightness {paths.straightness.mean():.4f}, turning {paths.turning.mean():.3g} "
            "degrees"
        )
        return found.table(), flow

    measure(
        given,
        Diagnosis,
        where,
        DIGITS,
        lambda model, images, say: diagnose(model, images, options=options, progress=say),
        lines,
    )
