"""The percentile of a distance among random pairs: its options, where it is kept, what is said."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from diffodesic.cli.pictures import readable
from diffodesic.images.calibration import EDITS, PAIRS, kept_scale, pictures_for
from diffodesic.images.editing import EditOptions
from diffodesic.images.information import NoisyOptions
from diffodesic.images.pairs import PairwiseOptions
from diffodesic.models.model import Model
from diffodesic.output.options import Options, option

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["RankOptions", "edits_of_pairs", "ranked"]

EDIT_NODES = 32  # of a single edit on a network; lengths of coarser paths are others


@dataclass(frozen=True, kw_only=True)
class RankOptions(Options):
    """Options of the percentile.

    Args:
        percentile: number of random pairs that the distance is ranked among; 0 for none; default
            1,128 for iem and mean. DiffED solves none unless asked to: 20 take minutes, once.
        among: a folder of pictures that the pairs are drawn from; default samples of the model.
        cache: folder where their distances are kept; default that of the user,
            ~/.cache/diffodesic.
    """

    percentile: int | None = option(None, least=0, most=1_000_000)
    among: str | None = None
    cache: str | None = None


def edits_of_pairs(options: EditOptions) -> PairwiseOptions:
    """Options under which random pairs are solved as one pair is."""
    given = {f.name: getattr(options, f.name) for f in fields(EditOptions)}
    return PairwiseOptions(**{**given, "nodes": options.nodes or EDIT_NODES})


def ranked(
    model: Model,
    options: PairwiseOptions | NoisyOptions,
    distance: float,
    asked: RankOptions,
    *,
    resize: bool,
    progress: Callable[[str], None],
) -> str | None:
    """The percentile of a distance as a sentence.

    Args:
        model: the model.
        options: of the distance.
        distance: the distance.
        asked: among what.
        resize: fit pictures of another size.
        progress: called with a short line now and then.

    Returns:
        the sentence; None where none was asked for, or edits that nobody has solved yet.
    """
    if asked.percentile == 0:
        return None
    edits = isinstance(options, PairwiseOptions)
    pairs = asked.percentile or (EDITS if edits else PAIRS)
    pictures, among = None, ""
    if asked.among is not None:
        pictures = _drawn(model, Path(asked.among), pictures_for(options, pairs), resize)
        among = f"{len(pictures)} pictures of {asked.among}"
    scale = kept_scale(
        model,
        options,
        pairs,
        _place(asked.cache),
        pictures=pictures,
        among=among,
        make=not edits or asked.percentile is not None,
        progress=progress,
    )
    return None if scale is None else scale.sentence(distance)


def _drawn(model: Model, folder: Path, count: int, resize: bool) -> Tensor:
    """Pictures of a folder in a random order, ``count`` at most."""
    import torch

    from diffodesic.output.decoding import picture_files

    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; give --among one with pictures")
    files = picture_files(folder)
    order = torch.randperm(len(files), generator=torch.Generator().manual_seed(0)).tolist()
    read = readable(model, (files[place] for place in order), most=count, resize=resize)
    if len(read) < 3:
        raise ValueError(f"{folder} holds {len(read)} pictures that fit; --among needs 3 or more")
    return torch.stack([image for _, image in read])


def _place(cache: str | None) -> Path | None:
    """The folder of the cache; None, with a note, where nothing can be written."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    place = Path(home) / "diffodesic" if cache is None else Path(cache)
    near = next(folder for folder in (place, *place.absolute().parents) if folder.exists())
    if near.is_dir() and os.access(near, os.W_OK):
        return place
    print(f"note: nothing can be kept in {place}; give --cache another folder", file=sys.stderr)
    return None
