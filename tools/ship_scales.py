"""Solve the random pairs that edit distances of the shipped models are ranked among.

    python tools/ship_scales.py

writes twenty distances of each model to ``src/diffodesic/images/assets/scales``, for the default
options of ``diffodesic distance``.  Eight minutes a model on one core; a run that was stopped goes
on.  To be run again where a model, or what the default search finds, has changed.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

import diffodesic as dd
from diffodesic.cli.ranking import edits_of_pairs
from diffodesic.images.calibration import (
    EDITS,
    SHIPPED,
    depends_on,
    kept_scale,
    pictures_for,
    shipped,
)
from diffodesic.images.editing import EditOptions

MODELS = ("fruits", "mnist")
WORK = Path("build") / "scales"


def main() -> None:
    """Measure what is missing, and keep the distances alone; those of former models go."""
    torch.set_num_threads(1)
    options = edits_of_pairs(EditOptions())
    shutil.rmtree(SHIPPED, ignore_errors=True)
    for name in MODELS:
        model = dd.load(name)
        scale = kept_scale(model, options, EDITS, WORK, progress=print)
        assert scale is not None  # make=False alone gives none
        count = pictures_for(options, EDITS)
        store = shipped(depends_on(model, options, f"{count} samples"))
        store.write("complete", {"distances": scale.distances}, {})
        print(name, scale.sentence(float(scale.distances.median())))


if __name__ == "__main__":
    main()
