"""What a denoiser of pictures is trained on: their pixels, or their latents, and their labels.

Latents are made once and kept, with checksums, beside the checkpoint of the run.  Every channel is
shifted and scaled to a standard deviation that is known (`taesd.SPREAD`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from diffodesic.models.codec import Codec
from diffodesic.models.taesd import TaesdCodec, load_taesd, normalisation
from diffodesic.output.stages import Stage, Store, fingerprint

__all__ = ["FEWEST", "Examples", "as_latents", "check_images", "resized"]

FEWEST = 50
"""Pictures below which no model of them is trained."""
_CHUNK = 1024  # pictures per stage: half a minute to two of one core


@dataclass(frozen=True)
class Examples:
    """What is trained on.

    Attributes:
        points: pixels in [-1, 1] or latents, (N, C, H, W).
        labels: of each, (N,), from 0 to ``len(names) - 1``; None without.
        names: of the labels.
        codec: between pictures and latents; None where the points are pixels.
    """

    points: Tensor
    labels: Tensor | None = None
    names: tuple[str, ...] = ()
    codec: TaesdCodec | None = None

    def labelled(self, labels: Sequence[str | int] | None) -> Examples:
        """The same examples with the label of each.

        Args:
            labels: words or numbers; None leaves the examples without.

        Returns:
            the examples; labels are numbered in their order.

        Raises:
            ValueError: for labels that are not as many as the pictures, or all the same.
        """
        if labels is None:
            return self
        names = sorted(set(labels), key=lambda label: (isinstance(label, str), label))
        if len(labels) != len(self.points) or len(names) < 2:
            raise ValueError(
                f"there are {len(labels)} labels, {len(names)} different ones, for "
                f"{len(self.points)} pictures: give one for each, and at least two kinds."
            )
        number = {name: index for index, name in enumerate(names)}
        index = torch.tensor([number[label] for label in labels])
        return replace(self, labels=index, names=tuple(map(str, names)))

    def fingerprint(self) -> str:
        """A short hash of everything that is trained on."""
        parts = (self.points,) if self.labels is None else (self.points, self.labels)
        return fingerprint(*parts, *self.names)


def check_images(images: Tensor) -> None:
    """Refuse images that no model can be trained on.

    Args:
        images: should be (N, C, H, W) in [-1, 1].

    Raises:
        ValueError: if they are not, if they are fewer than `FEWEST`, or all one constant.
    """
    if images.ndim != 4:
        raise ValueError(f"images have shape {tuple(images.shape)}: give (N, C, H, W).")
    if len(images) < FEWEST:
        raise ValueError(
            f"there are {len(images)} pictures: give at least {FEWEST}, better thousands."
        )
    if not images.isfinite().all():
        raise ValueError("the images contain NaN or infinity: remove them.")
    if images.abs().max() > 1.001:
        raise ValueError("the images leave [-1, 1]: rescale them, or give bytes.")
    if images.std() == 0:
        raise ValueError("the images are all one constant: there is nothing to learn.")


def resized(images: Tensor, size: int | None) -> Tensor:
    """Square images of a side in pixels, by cropping the centre and bicubic resampling."""
    if size is None or images.shape[-2:] == (size, size):
        return images
    height, width = images.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = images[..., top : top + side, left : left + side]
    return F.interpolate(square, (size, size), mode="bicubic", antialias=True).clamp(-1, 1)


def as_latents(
    images: Tensor,
    size: int | None,
    folder: Path,
    *,
    device: torch.device,
    bf16: bool = False,
    say: Callable[[str], None] | None = None,
    like: Codec | None = None,
) -> Examples:
    """Latents of pictures, read where they were made before.

    Args:
        images: (N, C, H, W) in [-1, 1]; one channel counts as grey in colour.
        size: side that they are brought to; None leaves theirs.
        folder: keeps the latents.
        device: where the encoder runs.
        bf16: encode in bfloat16, which changes latents by about half a per cent of their spread.
        say: called with a short line about the progress.
        like: a codec whose normalisation is taken; default that of these latents.

    Returns:
        normalised latents (N, 4, H / 8, W / 8) and their codec.

    Raises:
        ModelError: for sides that are not divisible by 8, or weights that are missing.
        ValueError: for a folder with latents of other data.

    Cost: one pass of the encoder per picture.
    """
    height, width = (size, size) if size else images.shape[-2:]
    codec = TaesdCodec(load_taesd(device), (3, height, width))
    depends = {"latents": fingerprint(images), "size": size, "bf16": bf16}
    store = Store(folder, depends, "give another outdir, or resume=False (--fresh)")

    @torch.no_grad()
    def encoded(part: Tensor) -> Stage:
        pictures = (resized(part, size).expand(-1, 3, -1, -1).to(device) + 1) / 2
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            z = codec.encode(pictures.clamp(0, 1))
        return {"latents": z.unflatten(-1, codec.latent_shape)}, {}

    latents = []
    for start in range(0, len(images), _CHUNK):
        make = partial(encoded, images[start : start + _CHUNK])
        latents.append(store.stage(f"{start:07d}", make)[0]["latents"])
        if say:
            say(f"{min(start + _CHUNK, len(images))} of {len(images)} pictures encoded")
    z = torch.cat(latents)
    if isinstance(like, TaesdCodec):
        means, scales = like.mean, like.scale
    else:
        means, scales = normalisation(z)
    codec = replace(codec, mean=means, scale=scales)
    mean, scale = (z.new_tensor(values)[:, None, None] for values in (codec.mean, codec.scale))
    return Examples((z - mean) * scale, codec=codec)
