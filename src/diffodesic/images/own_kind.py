r"""Does a model know these pictures?  Its denoising error against the one that it expects.

For z = x0 + sigma eps, and data x0 of the model's own law, a posterior mean m obeys

    E |x0 - m|^2  =  sigma^2 E tr dm/dz        (the trace of the posterior covariance),

so that a model says itself which error it expects: no data are needed, and none are stored.  Both
sides are measured with the same few noises +-eps, the right one by Stein's identity

    sigma^2 tr dm/dz  ~  sigma eps . (m(x0 + sigma eps) - m(x0 - sigma eps)) / 2,

and summed over the levels at which v/sigma^2 is e^2, e^3 and e^4 for data of variance v: there the
error is that of details.  Pictures of the model's kind have a ratio near 1.  :data:`OUTSIDE` was
chosen by looking at all the pictures whose rates docs/diagnose.md has: these are no independent
test of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.images.lifting import as_floats
from diffodesic.models.codec import PixelCodec
from diffodesic.models.model import Model
from diffodesic.numerics.cost import stage
from diffodesic.output.stages import NOTE

__all__ = ["OUTSIDE", "PICTURES", "Surprise", "doubtful", "strange", "surprise", "tell"]

OUTSIDE = 1.5
"""Ratio of the errors from which on a picture is not of the model's kind."""
PICTURES = ("picture A", "picture B")
"""What sentences call the two ends of a path."""
LISTED = 3  # sentences on pictures in one result
SNRS = (2.0, 3.0, 4.0)  # log of v / sigma^2
NOISES = 2  # pairs +-eps per level
EVALUATIONS = 2 * NOISES * len(SNRS)  # per picture

IMPOSSIBLE = "there although the model expects none"

# ranges of pixels that networks are trained on: what to make of u in [0, 1], and its unit beside
# that of the usual [-1, 1]
RANGES: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "pixels in [-1, 1]": (lambda u: 2 * u - 1, 1.0),
    "pixels in [0, 1]": (lambda u: u, 0.5),
    "pixels in [0, 255]": (lambda u: 255 * u, 127.5),
    "its negative (dark and light exchanged)": (lambda u: 1 - 2 * u, 1.0),
}


@dataclass(frozen=True)
class Surprise:
    """Errors of a denoiser at pictures, (N,) each, in units of the noise, summed over levels.

    Attributes:
        error: |x0 - m|^2 / sigma^2.
        expected: tr dm/dz; nothing, or less, where m is no posterior mean.
        log_snr: the middle level.
    """

    error: Tensor
    expected: Tensor
    log_snr: float

    @property
    def ratio(self) -> Tensor:
        """Error over expected error; infinite where none, or less, is expected."""
        return torch.where(self.expected > 0, self.error / self.expected, math.inf)


def surprise(denoiser: Denoiser, points: Tensor, *, scale: float = 1.0) -> Surprise:
    """Measure the denoising error at clean points, and what the denoiser expects of it.

    Args:
        denoiser: the denoiser.
        points: clean data (N, D).
        scale: unit of the data, a multiple of that which ``denoiser.variance`` speaks of.

    Returns:
        both, per point.

    Cost: 12 evaluations per point.
    """
    low, high = denoiser.log_snr_range
    shift = math.log(denoiser.variance * scale**2)
    levels = [min(max(snr - shift, low), high) for snr in SNRS]
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(NOISES, 1, denoiser.dim, generator=generator, dtype=torch.float64)
    error, expected = points.new_zeros(2, len(points))
    with torch.no_grad():
        for level in levels:
            sigma = math.exp(-level / 2)
            eps = sigma * noise.to(points)
            ahead, behind = denoiser(
                torch.stack([points + eps, points - eps]), points.new_tensor(sigma)
            )
            off = torch.stack([ahead, behind]) - points
            error += off.square().sum(-1).mean((0, 1)) / sigma**2
            expected += (eps * (ahead - behind)).sum(-1).mean(0) / (2 * sigma**2)
    return Surprise(error, expected, levels[1])


@stage("lifting")
def strange(model: Model, images: Tensor, names: Sequence[str]) -> tuple[str, ...]:
    """A sentence on each picture that is not of the model's kind.

    Args:
        model: the model; one with guidance is no posterior mean, and gets no sentence.
        images: (N, C, H, W) in [0, 1].
        names: what to call them.

    Returns:
        the sentences; none where all pictures are of its kind.

    Cost: 12 evaluations per image, up to 72 where one is not of the model's kind.
    """
    if model.words.get("guidance", 1.0) != 1.0:
        return ()
    points = model.codec.encode(images)
    found = surprise(model.denoiser, points)
    outside = found.ratio > OUTSIDE
    if not bool(outside.any()):
        return ()
    fits = _other_range(model, images[outside])
    sentences = []
    for name, ratio in zip(names, found.ratio.tolist(), strict=True):
        if ratio > OUTSIDE:
            size = f"{ratio:.2g} times what the model expects"
            sentences.append(
                f"{name} is not of the model's kind: its denoising error near log SNR "
                f"{found.log_snr:.2g} is {size if ratio < math.inf else IMPOSSIBLE}, so paths and "
                f"lengths there mean little{fits}"
            )
    return tuple(sentences)


def tell(alarms: Sequence[str], progress: Callable[[str], None]) -> tuple[str, ...]:
    """Say the sentences of :func:`strange` before a search, so that it can be stopped; they."""
    for alarm in alarms:
        progress(f"{NOTE}{alarm}")
    return tuple(alarms)


def doubtful(source: Model | Denoiser, images: Tensor) -> tuple[str, ...]:
    """What every result about many pictures says of them and of the model.

    Args:
        source: the model; a denoiser of points has nothing said of it.
        images: (N, C, H, W) in [0, 1], or integers up to 255.

    Returns:
        sentences of :func:`strange` on picture 1, picture 2, ..., the first three and the number of
        the others, and what the model says of itself.

    Cost: that of :func:`strange`.
    """
    if not isinstance(source, Model):
        return ()
    names = [f"picture {i + 1}" for i in range(len(images))]
    found = strange(source, as_floats(images), names)
    more = len(found) - LISTED
    rest = (f"{more} more pictures are not of the model's kind",) if more > 0 else ()
    return (*found[:LISTED], *rest, *source.caveats())


def _other_range(model: Model, images: Tensor) -> str:
    """What pictures outside would have to be changed to, or nothing."""
    if not isinstance(model.codec, PixelCodec):
        return ""
    for name, (change, scale) in RANGES.items():
        moved = change(images.flatten(1))
        # the variance may have been given in units of the network or of its pixels
        for unit in {1.0, scale}:
            found = surprise(model.denoiser, moved, scale=unit)
            if bool((found.ratio <= OUTSIDE).all()):
                return (
                    f"; as {name} it is, so the range of pixels is wrong: give the network what "
                    "it was trained on (low of PixelCodec is what black becomes)"
                )
    return ""
