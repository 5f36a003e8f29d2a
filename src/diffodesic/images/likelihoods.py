r"""How likely is a picture under a model: nats, bits per dimension, and its rank among others.

The nats l are those of :mod:`diffodesic.denoisers.likelihood`: the log density of the picture's
vector x, averaged over the model's least noise s eps.  That noise is the dequantisation.  The bits
bound those of the 8-bit picture itself (Ho et al. 2020, 2006.11239; Kingma et al. 2021,
2107.00630): x with its noise is sent, at ``-D/2 log(2 pi e s^2) - l``, and the level v of each
pixel read off the denoised m = m(x + s eps, s), by a logistic law F of the width b that suits the
picture,

    -log [F((v + 1/2) delta - m) - F((v - 1/2) delta - m)],    delta levels apart, in units of x,

with all that lies beyond black and white.  b is one of a few, whose number is sent too.

Of latents there are no bits: l is the density of the latents, which is not that of the picture.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.denoisers.likelihood import (
    Likelihood,
    denoising_likelihood,
    flow_likelihood,
)
from diffodesic.images.door import Data, as_data
from diffodesic.images.measured import Measured, made_of
from diffodesic.images.own_kind import strange
from diffodesic.models.codec import PixelCodec
from diffodesic.models.model import Model
from diffodesic.numerics import checks
from diffodesic.numerics.cost import counting, expect, stage
from diffodesic.output.options import Options, option, suggests

__all__ = ["LikelihoodOptions", "PictureLikelihood", "by_denoising", "by_flow", "likelihood"]

TOP = 255  # the lightest level of an 8-bit pixel
CHUNK = 64  # pictures measured together
READS = 4  # draws of the last noise that levels are read off
WIDTHS = tuple(2.0**i for i in range(-5, 6))  # of the logistic law, in levels


@dataclass(frozen=True, kw_only=True)
class LikelihoodOptions(Options):
    """Options of :func:`likelihood`.

    Args:
        levels: noise levels per draw.
        draws: independent draws of all levels, behind the standard error.
        flow: estimate it a second time, by the probability flow; takes 20 times as long.
        steps: steps of the flow.
        probes: random vectors behind the trace at each step of the flow.
        seed: of all noise; pictures share it, so that their order is known better than the values.
    """

    levels: int = option(64, least=1, most=10_000)
    draws: int = option(4, least=2, most=10_000)
    flow: bool = False
    steps: int = option(24, least=1, most=10_000)
    probes: int = option(4, least=1, most=10_000)
    seed: int = option(0, least=0, most=2**62)


@dataclass(frozen=True, repr=False, kw_only=True)
class PictureLikelihood(Measured):
    """What :func:`likelihood` returns; tensors have one entry per picture (N,).

    Attributes:
        nats: log density, mean over the last noise.
        error: its standard error.
        bits: bits per pixel and channel of the 8-bit picture, an upper bound in the mean; None for
            a model of latents.
        bits_error: their standard error.
        flow_nats: log density by the probability flow; None where it was not asked for.
        flow_error: its standard error.
        share: share of the other pictures that are less likely; None where none were given.
        others: number of these.
        log_snr: level of the last noise.
        about: what the density is of, and which dequantisation, in words.
    """

    command = "likelihood"
    file = "result.json"
    nats: Tensor
    error: Tensor
    bits: Tensor | None
    bits_error: Tensor | None
    flow_nats: Tensor | None
    flow_error: Tensor | None
    share: Tensor | None
    others: int
    log_snr: float
    about: str

    def __repr__(self) -> str:
        """One line: of how many, and the mean."""
        return f"PictureLikelihood({len(self.nats)} pictures, mean {self.nats.mean():.5g} nats)"

    def lines(self) -> list[str]:
        """A line per picture."""
        found = []
        for i, (nats, error) in enumerate(zip(self.nats, self.error, strict=True)):
            words = [f"{nats:.1f} +- {error:.2g} nats"]
            if self.bits is not None and self.bits_error is not None:
                words.append(f"{self.bits[i]:.3f} +- {self.bits_error[i]:.2g} bits per dimension")
            if self.flow_nats is not None and self.flow_error is not None:
                words.append(
                    f"by the flow {self.flow_nats[i]:.1f} +- {self.flow_error[i]:.2g} nats"
                )
            if self.share is not None:
                words.append(f"likelier than {self.share[i]:.0%} of {self.others} others")
            found.append(", ".join(words))
        return found


@suggests(options=(LikelihoodOptions,))
def likelihood(
    model: Model,
    images: Data,
    *,
    among: Data | None = None,
    options: LikelihoodOptions | None = None,
    progress: Callable[[str], None] | None = None,
) -> PictureLikelihood:
    """Log density of pictures under a model, with a standard error and a scale.

    Args:
        model: the model, unconditional or under its condition.
        images: a picture or several: tensors (C, H, W) or (N, C, H, W) in [0, 1], arrays, PIL
            images or paths.
        among: other pictures, to rank these among; best held out ones of the model's kind.
        options: how thoroughly; default ``LikelihoodOptions()``.
        progress: called with a short line.

    Returns:
        the log densities; ``save(outdir)`` writes them.

    Raises:
        ValueError: for pictures of another shape or range, or none.

    Cost: ``levels * draws`` evaluations per picture, ``among`` included, and 16 per picture; for
    the flow ``draws (4 steps + 1)`` evaluations and ``draws probes (2 steps + 1)`` JVPs more.
    """
    checks.of_kind(model, "model", Model)
    began, say = time.monotonic(), progress or (lambda _: None)
    asked = options or LikelihoodOptions()
    images = _several(model, images)
    if not len(images):
        raise ValueError("images holds no pictures; give at least one")
    around = images[:0] if among is None else _several(model, among)
    if isinstance(codec := model.codec, PixelCodec):  # what is measured has bits: 8 of each pixel
        images, around = ((each * TOP).round() / TOP for each in (images, around))
    with counting() as cost:
        expect(_expected(asked, len(images), len(around)))
        points = codec.encode(images)
        found = by_denoising(model, points, asked, say)
        flow = by_flow(model, points, asked, say) if asked.flow else None
        rest = by_denoising(model, codec.encode(around), asked, say) if len(around) else None
        bits, bits_error = _bits(model, points, images, found, asked.seed)
        names = [f"picture {i + 1}" for i in range(len(images))]
        alarms = strange(model, images, names)
    share = (found.nats.unsqueeze(-1) > rest.nats).double().mean(-1) if rest else None
    return PictureLikelihood(
        nats=found.nats,
        error=found.error,
        bits=bits,
        bits_error=bits_error,
        flow_nats=flow.nats if flow else None,
        flow_error=flow.error if flow else None,
        share=share,
        others=len(around),
        log_snr=found.log_snr,
        about=_about(model, found.log_snr),
        cost=cost,
        seconds=time.monotonic() - began,
        settings={**made_of(model, points), **asked.settings()},
        notices=(*alarms, *model.caveats()),
    )


def _several(model: Model, data: Data) -> Tensor:
    """Pictures (N, C, H, W)."""
    found = as_data(model, data)
    return found.unsqueeze(0) if found.ndim == 3 else found


def _expected(asked: LikelihoodOptions, pictures: int, others: int) -> dict[str, int]:
    """Evaluations and derivatives by stage; see :func:`likelihood`."""
    expected = {"denoising": asked.levels * asked.draws * (pictures + others)}
    if asked.flow:
        of_one = 4 * asked.steps + 1 + 2 * asked.probes * (2 * asked.steps + 1)
        expected["flow"] = of_one * asked.draws * pictures
    return expected


@stage("denoising")
def by_denoising(
    model: Model, points: Tensor, asked: LikelihoodOptions, say: Callable[[str], None]
) -> Likelihood:
    """Log densities of points (N, D) by denoising errors, some at a time; (N,) on the CPU."""
    parts = []
    for start in range(0, len(points), CHUNK):
        say(f"denoising, picture {start + 1} of {len(points)}")
        part = points[start : start + CHUNK].double()
        parts.append(
            denoising_likelihood(
                model.denoiser, part, levels=asked.levels, draws=asked.draws, seed=asked.seed
            )
        )
    nats = torch.cat([part.nats for part in parts]).cpu()
    error = torch.cat([part.error for part in parts]).cpu()
    return Likelihood(nats, error, parts[0].log_snr)


@stage("flow")
def by_flow(
    model: Model, points: Tensor, asked: LikelihoodOptions, say: Callable[[str], None]
) -> Likelihood:
    """Log densities of points (N, D) by the probability flow, one at a time; (N,) on the CPU."""
    nats, errors = [], []
    for i, point in enumerate(points.double()):
        say(f"probability flow, picture {i + 1} of {len(points)}")
        one = flow_likelihood(
            model.denoiser,
            point,
            steps=asked.steps,
            probes=asked.probes,
            draws=asked.draws,
            seed=asked.seed,
        )
        nats.append(one.nats.cpu())
        errors.append(one.error.cpu())
    return Likelihood(torch.stack(nats), torch.stack(errors), one.log_snr)


@stage("denoising")
def _bits(
    model: Model, points: Tensor, images: Tensor, found: Likelihood, seed: int
) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Bits per dimension of 8-bit pictures and their standard error, (N,) each; not of latents."""
    if not isinstance(model.codec, PixelCodec):
        return None, None
    delta, dim = (1 - model.codec.low) / TOP, model.denoiser.dim
    read = _read(model.denoiser, points.double(), images, delta, found.log_snr, seed).cpu()
    sent = -dim / 2 * (math.log(2 * math.pi * math.e) - found.log_snr) - found.nats
    unit = dim * math.log(2)
    return (sent + read) / unit, found.error / unit


def _read(
    denoiser: Denoiser, points: Tensor, images: Tensor, delta: float, log_snr: float, seed: int
) -> Tensor:
    """Mean nats by which the levels of pictures are read off the last noise, (N,)."""
    generator = torch.Generator().manual_seed(seed + 1)
    noise = torch.randn(READS, 1, denoiser.dim, generator=generator, dtype=torch.float64)
    sigma = math.exp(-log_snr / 2)
    level = (images * TOP).round().flatten(1).to(points)
    nats = points.new_zeros(len(WIDTHS), len(points))
    for eps in noise.to(points):
        with torch.no_grad():
            off = (denoiser(points + sigma * eps, points.new_tensor(sigma)) - points) / delta
        for i, width in enumerate(WIDTHS):
            above = torch.where(level == TOP, 1.0, ((0.5 - off) / width).sigmoid())
            below = torch.where(level == 0, 0.0, ((-0.5 - off) / width).sigmoid())
            nats[i] -= (above - below).log().sum(-1) / READS
    return nats.amin(0) + math.log(len(WIDTHS))


def _about(model: Model, log_snr: float) -> str:
    noise = math.exp(-log_snr / 2)
    if isinstance(model.codec, PixelCodec):
        delta = (1 - model.codec.low) / TOP
        return (
            f"log density of pixels in [{model.codec.low:g}, 1] under noise of {noise:.3g} (log "
            f"SNR {log_snr:.3g}), which is {noise / delta:.3g} levels of 8 bits; bits are those of "
            "the 8-bit picture, at most, its levels read off the denoised noise"
        )
    return (
        f"log density of the model's latents under noise of {noise:.3g} (log SNR {log_snr:.3g}), "
        "not of the picture: what the autoencoder leaves out has no density here"
    )
