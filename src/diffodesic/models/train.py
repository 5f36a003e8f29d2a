"""Train a model on a user's images: data, labels, a codec and a teacher brought together."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from diffodesic.models.datasets import load_images
from diffodesic.models.image_training import ImageTraining, TrainSettings
from diffodesic.models.loading import load
from diffodesic.models.log_partition_training import LogPartitionTraining
from diffodesic.models.training_data import Examples, as_latents, check_images, resized

__all__ = ["train"]


def train(
    data: str | os.PathLike[str] | Tensor,
    outdir: str | os.PathLike[str],
    *,
    labels: Sequence[str | int] | None = None,
    settings: TrainSettings | None = None,
    resume: bool = True,
    progress: bool = True,
) -> Path:
    """Train a denoiser and write it as a model directory.

    Args:
        data: what `load_images` takes, or images (N, C, H, W) in [-1, 1], at least 50.
        outdir: receives weights.safetensors, config.json and CARD.md (and the folder checkpoint).
        labels: of every image, such as its kind; one network then learns the images of each kind
            and, as labels are dropped at random, of all.
        settings: see `TrainSettings`.
        resume: continue from `outdir`'s checkpoint, if there is one.
        progress: show a progress bar, if standard error is a terminal, and at every checkpoint a
            line with the share done, the time left and the error on held-out images.

    Returns:
        `outdir`.

    Missing data end in `FileNotFoundError`; data, settings, a device or a checkpoint that cannot
    be used, a teacher of other pictures, and a loss that is not finite, in `ValueError`; each says
    what to change.

    Cost: `steps` forward and backward passes of `batch` images, with a codec one pass of its
    encoder per image before, kept for later runs. With `log_partition` a step takes two to three
    times as long, and an evaluation of the teacher per image more.
    """
    settings, outdir = settings or TrainSettings(), Path(outdir)
    device = _device(settings.device)
    images = data if isinstance(data, Tensor) else load_images(data)
    check_images(images)
    teacher = load(settings.teacher, device=device) if settings.teacher else None
    if settings.codec:
        say = partial(print, file=sys.stderr) if progress else None
        examples = as_latents(
            images, settings.size, outdir / "latents", device=device, bf16=settings.bf16, say=say,
            like=teacher.codec if teacher else None,
        )  # fmt: skip
    else:
        examples = Examples(resized(images, settings.size))
    _check_sides(examples.points, settings)
    examples = examples.labelled(labels)
    if settings.log_partition:
        run: ImageTraining = LogPartitionTraining(examples, settings, outdir, device, teacher)
    else:
        run = ImageTraining(examples, settings, outdir, device)
    try:
        run.run(resume=resume, progress=progress)
    finally:
        run.pool.shutdown()
    return run.outdir


def _device(name: str) -> torch.device:
    """Where to train; refuses a device that is not there."""
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise ValueError("device cuda is not there, or torch is built without it: give cpu.")
    return torch.device("cuda" if there and name != "cpu" else "cpu")


def _check_sides(points: Tensor, settings: TrainSettings) -> None:
    """Refuse sides that the network cannot halve."""
    factor = 2 ** (len(settings.channels) - 1)
    height, width = points.shape[-2:]
    if height % factor or width % factor:
        what = "latents" if settings.codec else "images"
        raise ValueError(
            f"{what} are {height}x{width}: make both sides divisible by {factor} (--size), or "
            "give fewer channels."
        )
