"""Digits at known angles: pairs, truths and orbits, and what a set of frames is worth beside them.

    truth     the digit turned by the angle that a frame stands for
    orbit     the same digit turned by any angle within +-90 degrees: the nearest in pixels
    sets      FID and KID of all inner frames against the same digits at free angles in the gap:
              other digits would differ more among themselves than methods do

Everything is kept per digit, (N,), so that intervals can be taken by resampling digits.  Inner
frames count; for smoothness, PPL and PDV, all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from diffodesic.experiments.common.inputs import mnist_folder
from diffodesic.images.evaluation import evaluate
from diffodesic.images.features import Features
from diffodesic.models.datasets import held_out, load_mnist, rotate

__all__ = ["Pairs", "Scores", "angles_found", "choose", "measure", "pairs", "turned"]

ORBIT = torch.arange(-90.0, 91.0, 2.0)  # degrees
# digits of each class, in the order of MNIST's test set; the first ten ship with the library
SPLITS = {"validation": (10, 50), "test": (50, 70), "second": (70, 80)}


@dataclass(frozen=True)
class Pairs:
    """Digits at two angles, and everything between."""

    gap: float  # angle between them, in degrees
    angles: Tensor  # of the frames, (F,), from -gap/2 to gap/2
    truth: Tensor  # the digits at these angles, (N, F, 1, 28, 28) in [0, 1]
    orbit: Tensor  # the digits at the angles of ``ORBIT``, (N, K, 1, 28, 28)
    reference: Tensor  # the digits at free angles within the gap, (N, G, 1, 28, 28)

    def to(self, device: torch.device | str) -> Pairs:
        """The same pictures on a device."""
        moved = {k: getattr(self, k).to(device) for k in ("truth", "orbit", "reference")}
        return replace(self, **moved)


Scores = dict[str, Tensor]
"""Numbers per digit, (N,), by measure, and features of the inner frames (N, F - 2, size), by
extractor."""


def turned(digits: Tensor, degrees: Tensor) -> Tensor:
    """Digits (N, 1, 28, 28) in [0, 1] at angles (K,) or (N, K): (N, K, 1, 28, 28)."""
    count = len(digits)
    angles = degrees.to(digits).expand(count, -1)
    each = (digits * 2 - 1).repeat_interleave(angles.shape[1], 0)
    return ((rotate(each, angles.flatten()) + 1) / 2).clamp(0, 1).unflatten(0, (count, -1))


def choose(data: Path, count: int, split: str) -> tuple[Tensor, Tensor]:
    """Digits that no network was trained on, as many of each class.

    Args:
        data: folder of MNIST, or of its ``mnist`` folder.
        count: how many.
        split: ``validation``, for choices; ``test``, opened once; or ``second``, opened once for
            what was seen on the first: disjoint.

    Returns:
        digits (N, 1, 28, 28) in [0, 1], and their labels (N,).

    Raises:
        ValueError: for an unknown split, or more digits than it has.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}")
    first, last = SPLITS[split]
    each = -(-count // 10)
    if each > last - first:
        raise ValueError(f"there are {10 * (last - first)} {split} digits, not {count}")
    images, labels = load_mnist(mnist_folder(data), "test")
    own = held_out(labels, first + each).reshape(10, -1)[:, first:].T.flatten()[:count]
    return (images[own] + 1) / 2, labels[own]


def pairs(digits: Tensor, gap: float, frames: int, seed: int = 0) -> Pairs:
    """Pairs at ``-gap/2`` and ``gap/2`` of digits (N, 1, 28, 28)."""
    angles = torch.linspace(-gap / 2, gap / 2, frames)
    generator = torch.Generator().manual_seed(seed)
    free = (torch.rand(len(digits), frames - 2, generator=generator) - 0.5) * gap
    reference = torch.cat([turned(digits, column.reshape(-1, 1)) for column in free.T], 1)
    return Pairs(gap, angles, turned(digits, angles), turned(digits, ORBIT), reference)


def angles_found(frames: Tensor, orbit: Tensor) -> tuple[Tensor, Tensor]:
    """Index into the orbit (N, K, ...) nearest to each frame (N, F, ...), and the RMSE, (N, F)."""
    pixels = orbit.shape[2:].numel()
    far = torch.cdist(frames.flatten(2).double(), orbit.flatten(2).double())
    best = far.min(-1)
    return best.indices, best.values / pixels**0.5


def measure(frames: Tensor, given: Pairs, extractors: Sequence[Features]) -> Scores:
    """Everything about frames (N, F, 1, 28, 28) that can be said digit by digit.

    Args:
        frames: the ends first and last.
        given: what they should be.
        extractors: the feature extractors.

    Returns:
        features, and per digit: PSNR, SSIM and feature distance to the truth; RMSE and feature
        distance to the nearest of the orbit, and its angle's error in degrees; PPL and PDV; PSNR
        of the ends.
    """
    frames, truth = frames.float(), given.truth
    count, inner = len(frames), frames[:, 1:-1]
    index, rmse = angles_found(inner, given.orbit)
    nearest = torch.stack([orbit[i] for orbit, i in zip(given.orbit, index, strict=True)])
    scores = {
        "orbit RMSE": rmse.mean(1),
        "angle error": (ORBIT[index.cpu()] - given.angles[1:-1]).abs().mean(1),
    }
    pooled = {}
    for extractor in extractors:
        name, flat = extractor.name, inner.flatten(0, 1)
        own = evaluate(frames, features=extractor, truth=truth, ends=truth[:, [0, -1]])
        parts = own.psnr, own.ssim, own.feature, own.ends, own.ppl, own.pdv
        psnr, ssim, feature, ends, ppl, pdv = (x for x in parts if x is not None)
        scores |= {
            "truth PSNR": psnr[:, 1:-1].mean(1),
            "truth SSIM": ssim[:, 1:-1].mean(1),
            "end PSNR": ends.clamp(max=60).mean(1),
            f"truth, {name}": feature[:, 1:-1].mean(1),
            f"PPL, {name}": ppl,
            f"PDV, {name}": pdv,
        }
        far = extractor.distance(flat, nearest.flatten(0, 1))
        scores[f"orbit, {name}"] = far.unflatten(0, (count, -1)).mean(1)
        pooled[name] = extractor.pooled(flat).unflatten(0, (count, -1)).cpu()
    return {name: value.double().cpu() for name, value in scores.items()} | pooled
