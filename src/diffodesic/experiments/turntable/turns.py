"""Turning objects: real photographs at known angles, pairs of them, and what lies between.

20 objects of Fruits-360 (Oltean and Muresan, MIT), 120 photographs each, 3 degrees apart.  Ten are
for choices, paths between views of eight of them had been looked at before; the ten others are for
the table.  Every photograph is there twice: raw, and through the model's autoencoder, as its frames
are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from diffodesic.experiments.common.archive import Archive
from diffodesic.models.model import Model
from diffodesic.output.stages import Stage, Store

__all__ = ["SPLITS", "STEP", "Pairs", "Turns", "photographs", "read_turns", "through"]

STEP = 3.0  # degrees between neighbouring photographs
SPLITS = {
    "choices": (2, 5, 6, 12, 15, 16, 17, 18, 27, 30),
    "test": (0, 8, 11, 14, 20, 21, 23, 24, 26, 29),
}
_CHUNK = 40  # pictures through the autoencoder in one stage


@dataclass(frozen=True)
class Turns:
    """Photographs of N objects all around, in bytes."""

    names: tuple[str, ...]
    raw: Tensor  # (N, K, 3, H, W), K of a full turn
    seen: Tensor  # the same through the autoencoder

    @property
    def angle(self) -> float:
        """Degrees between neighbouring photographs."""
        return 360 / self.raw.shape[1]


@dataclass(frozen=True)
class Pairs:
    """Two photographs to be joined, for each of N objects, and what lies between them.

    Attributes:
        title: what the tables call them.
        gap: degrees between the two; None where they show different objects.
        first: number of the first photograph of each, (N,).
        ends: both photographs, (N, 2, 3, H, W) in [0, 1].
    """

    title: str
    gap: float | None
    first: Tensor
    ends: Tensor

    @classmethod
    def turned(cls, turns: Turns, gap: float, seed: int) -> Pairs:
        """Every object at a drawn angle, the same for every gap, and ``gap`` degrees further."""
        first = _starts(turns, seed)
        return cls(f"{gap:g} degrees", gap, first, _ends(turns, first, round(gap / turns.angle), 0))

    @classmethod
    def morphs(cls, turns: Turns, seed: int) -> Pairs:
        """Every object at a drawn angle, and the next object at its own."""
        first = _starts(turns, seed)
        return cls("morphs", None, first, _ends(turns, first, 0, 1))

    def between(self, turns: Turns) -> Tensor:
        """Numbers (N, G) of the photographs strictly between the ends."""
        count = round((self.gap or 0) / turns.angle)
        return (self.first[:, None] + torch.arange(1, count)) % turns.raw.shape[1]


def _starts(turns: Turns, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(turns.raw.shape[1], (len(turns.names),), generator=generator)


def _ends(turns: Turns, first: Tensor, further: int, other: int) -> Tensor:
    count, around = turns.raw.shape[:2]
    own = torch.arange(count)
    last = (own + other) % count
    a, b = turns.raw[own, first], turns.raw[last, (first[last] + further) % around]
    return torch.stack([a, b], 1).double() / 255


def read_turns(
    data: Path, split: str, count: int, side: int, around: int = 120
) -> tuple[tuple[str, ...], Tensor]:
    """Raw photographs of the objects of a split.

    Args:
        data: folder that holds ``fruit_turntable/images.npz``.
        split: ``choices`` or ``test``.
        count: how many objects, the first of the split.
        side: pixels to which the photographs are resampled (Lanczos).
        around: how many photographs of the turn, evenly spaced.

    Returns:
        names of the objects, and photographs in bytes, (N, around, 3, side, side).

    Raises:
        ValueError: without the file, or for more objects than there are.
    """
    import numpy as np

    known = SPLITS[split]
    if not 2 <= count <= len(known):
        raise ValueError(f"give 2 to {len(known)} objects, not {count}")
    archive = Archive.read(data / "fruit_turntable" / "images.npz")
    owner, names = archive.arrays["object_id"], archive.arrays["object_names"]
    found = []
    for number in known[:count]:
        rows = np.flatnonzero(owner == number)
        found.append(archive.pictures(rows[:: len(rows) // around], side))
    return tuple(str(names[number]) for number in known[:count]), torch.stack(found)


def photographs(data: Path, count: int, side: int) -> Tensor:
    """Raw photographs of many fruits that no model was trained on, in bytes (count, 3, H, W)."""
    import numpy as np

    archive = Archive.read(data / "fruits" / "images.npz")
    test = np.flatnonzero(archive.arrays["is_test"])
    rows = test[np.linspace(0, len(test) - 1, count).round().astype(int)]
    return archive.pictures(rows, side)


def through(model: Model, raw: Tensor, store: Store, name: str) -> Tensor:
    """Pictures (..., 3, H, W) in bytes through the autoencoder and back, as stages."""
    flat = raw.flatten(0, -4)

    def coded(part: Tensor) -> Stage:
        with torch.no_grad():
            back = model.codec.decode(model.codec.encode(part.float() / 255))
        return {"images": (back * 255).round().clamp(0, 255).byte()}, {}

    parts = [
        store.stage(f"{name}-{i}", partial(coded, part))[0]["images"]
        for i, part in enumerate(flat.split(_CHUNK))
    ]
    return torch.cat(parts).reshape(raw.shape)
