r"""The likelihood of data under a model, two ways that have nothing in common but the model.

Both give the log density of a point x with the model's least noise, averaged over that noise,

    l(x) = E log p(x + s eps; s),    s = sigma at the last log SNR,

p(z; sigma) the law of z = x0 + sigma eps.  With k = 1/sigma^2 and a Gaussian of the data's mean and
variance where noise hides the rest:

- **denoising errors** (pointwise I-MMSE: Guo, Shamai & Verdu 2005; Kong et al. 2023, 2302.03792):

      l(x) = -D/2 log(2 pi e s^2) - 1/2 int_0^{1/s^2} E |x - m(x + sigma eps, sigma)|^2 dk,

  from evaluations alone, levels drawn one from each of equal parts of the log SNR: no error but
  that of the draws, which has a standard error.  For any m, posterior mean or not, it is a lower
  bound of the mean log density that the model's reverse SDE gives (Song et al. 2021, 2101.09258;
  Kingma et al. 2021, 2107.00630);
- **the probability flow** (Chen et al. 2018; Song et al. 2020, 2011.13456): along
  dz/dlog sigma = z - m the density changes by the divergence D - tr dm/dz,

      log p(z; s) = log p(z_T; T) + D log(T/s) - int tr dm/dz dlog sigma,

  which is the exact density of what the flow samples, whatever m is.

For an exact posterior mean the two agree.  For a network they are likelihoods of two models, and
their difference is a measure of how far it is from a posterior mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.denoisers.flow import clean_log_snr
from diffodesic.numerics import checks

__all__ = ["Likelihood", "denoising_likelihood", "flow_density", "flow_likelihood", "last_log_snr"]

_HIDDEN = 0.1  # SNR of a coordinate above which a Gaussian in place of the noisiest data is wrong
_FAINT = 10.0  # e-folds of SNR below 1 at which the data are nothing beside the noise


class Likelihood(NamedTuple):
    """Log densities of points.

    Attributes:
        nats: mean log density under the last noise, in the units of the data, (...).
        error: its standard error, (...).
        log_snr: level of that noise.
    """

    nats: Tensor
    error: Tensor
    log_snr: float


def last_log_snr(denoiser: Denoiser) -> float:
    """The level whose density is asked for: that of clean data (``clean_log_snr``)."""
    return clean_log_snr(denoiser)


def denoising_likelihood(
    denoiser: Denoiser,
    x: Tensor,
    *,
    log_snr: float | None = None,
    levels: int = 32,
    draws: int = 8,
    seed: int = 0,
) -> Likelihood:
    """Log density by denoising errors.

    Args:
        denoiser: posterior mean.
        x: clean points (..., D); all share their noise, so that differences are known better than
            the values.
        log_snr: level s of the density; default that of clean data, the model's last or 9.2.
        levels: levels of the noise per draw.
        draws: independent draws n >= 2 of all levels and their noise.
        seed: of the draws, on the CPU.

    Returns:
        the log density and its standard error, which falls as ``1/sqrt(levels draws)``.

    Raises:
        TypeError: for complex numbers.
        ValueError: for points of another dimension or not finite, fewer than 2 draws or 1 level, a
            log SNR outside the denoiser's range, periodic data, or a denoiser whose range ends
            before noise hides the data (above an SNR of .1).

    Cost: ``levels * draws`` evaluations per point.
    """
    checks.of_kind(denoiser, "denoiser", Denoiser)
    if levels < 1 or draws < 2:
        raise ValueError(
            f"levels must be at least 1 and draws at least 2, got {levels} and {draws}"
        )
    x, low, high = _checked(denoiser, x, log_snr)
    generator = checks.generator(seed)
    width = (high - low) / levels
    each = torch.zeros(draws, *x.shape[:-1], dtype=torch.float64, device=x.device)
    with torch.no_grad():
        for level in range(levels):
            place = level + torch.rand(draws, generator=generator, dtype=torch.float64)
            sigma = (-(low + width * place) / 2).exp().to(x)
            noise = torch.randn(draws, denoiser.dim, generator=generator, dtype=torch.float64)
            shape = (draws, *[1] * (x.ndim - 1))
            sigma, noise = sigma.reshape(shape), noise.to(x).reshape(*shape, denoiser.dim)
            off = denoiser(x + sigma.unsqueeze(-1) * noise, sigma) - x
            each += width / 2 * (off.square().sum(-1) / sigma**2).double()
    hidden = denoiser.dim / 2 * (math.log(2 * math.pi * math.e) - high)
    nats = -hidden - _faint(denoiser, x.double(), math.exp(low)) - each.mean(0)
    return Likelihood(nats, each.std(0) / math.sqrt(draws), high)


def flow_likelihood(
    denoiser: Denoiser,
    x: Tensor,
    *,
    log_snr: float | None = None,
    steps: int = 24,
    probes: int | None = 4,
    draws: int = 4,
    seed: int = 0,
) -> Likelihood:
    """Log density by the probability flow, averaged over the last noise.

    Args:
        denoiser: posterior mean.
        x: clean points (..., D).
        log_snr: level s of the density; default that of clean data, the model's last or 9.2.
        steps: steps of Runge's and Kutta's rule, >= 1.
        probes: random vectors behind the trace at each of 2 steps + 1 levels; None for the full
            trace.
        draws: draws n >= 2 of the last noise; ``|eps|^2`` is a control variate.
        seed: of noise and probes, on the CPU.

    Returns:
        the log density and its standard error, from the scatter over draws: it holds the error of
        the probes, and not that of the steps (order 4 in ``1/steps``).

    Raises:
        TypeError: for complex numbers.
        ValueError: as for :func:`denoising_likelihood`.

    Cost: ``draws (4 steps + 1)`` evaluations and ``draws probes (2 steps + 1)`` JVPs per point.
    """
    checks.of_kind(denoiser, "denoiser", Denoiser)
    if draws < 2:
        raise ValueError(f"draws must be at least 2, got {draws}")
    x, _, high = _checked(denoiser, x, log_snr)
    generator = checks.generator(seed)
    noise = torch.randn(
        draws, *[1] * (x.ndim - 1), denoiser.dim, generator=generator, dtype=torch.float64
    ).to(x)
    z = x + math.exp(-high / 2) * noise
    nats = flow_density(denoiser, z, high, steps=steps, probes=probes, generator=generator)
    # log p falls with |eps|^2 as the normal directions do, and its mean is known
    nats = nats + (noise.square().sum(-1) - denoiser.dim).double() / 2
    return Likelihood(nats.mean(0), nats.std(0) / math.sqrt(draws), high)


def flow_density(
    denoiser: Denoiser,
    z: Tensor,
    log_snr: float,
    *,
    steps: int,
    probes: int | None,
    generator: torch.Generator,
) -> Tensor:
    """Log density of noisy points by the probability flow; arguments of :func:`flow_likelihood`.

    Args:
        denoiser: posterior mean.
        z: points (..., D) with the noise of ``log_snr``.
        log_snr: their level.
        steps: steps of the rule, >= 1.
        probes: random vectors per level, fresh at each, shared by the points; None for the trace.
        generator: of the probes, on the CPU.

    Returns:
        nats (...), in float64.

    Raises:
        ValueError: for ``steps`` or ``probes`` below 1, or as for :func:`denoising_likelihood`.
    """
    if steps < 1 or (probes is not None and probes < 1):
        raise ValueError(f"steps and probes must be at least 1, got {steps} and {probes}")
    z, low, high = _checked(denoiser, z, log_snr)
    width = (high - low) / (2 * steps)  # of a step, in log sigma
    lost = torch.zeros(z.shape[:-1], dtype=torch.float64, device=z.device)
    with torch.no_grad():
        for node, (sigma, at) in enumerate(_upwards(denoiser, z, high, low, steps)):
            # Simpson's rule, two nodes to a step
            share = (1 if node in (0, 2 * steps) else 2 if node % 2 == 0 else 4) * width / 6
            lost += share * _trace(denoiser, at, sigma, probes, generator)
    spread = denoiser.variance + math.exp(-low)
    off = (at - torch.as_tensor(denoiser.mean).to(at)).double()
    far = -(off.square().sum(-1) / spread + denoiser.dim * math.log(2 * math.pi * spread)) / 2
    return far + denoiser.dim * (high - low) / 2 - lost


def _upwards(
    denoiser: Denoiser, z: Tensor, high: float, low: float, steps: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Levels and points of the flow from data to noise, at the ends of its steps and between them.

    The rule of Runge and Kutta of order 4 in sigma, in which noise alone moves on straight lines,
    with steps equal in log sigma; the point half-way in log sigma is that of the cubic with the
    slopes of both ends.

    Yields:
        sigma, and the points (..., D).
    """
    grid = torch.linspace(-high / 2, -low / 2, 2 * steps + 1, dtype=torch.float64).exp().to(z)

    def slope(at: Tensor, sigma: Tensor) -> Tensor:
        return (at - denoiser(at, sigma)) / sigma

    first = slope(z, grid[0])
    for now, between, then in zip(grid[:-1:2], grid[1::2], grid[2::2], strict=True):
        yield now, z
        h = then - now
        second = slope(z + h / 2 * first, now + h / 2)
        third = slope(z + h / 2 * second, now + h / 2)
        fourth = slope(z + h * third, then)
        after = z + h / 6 * (first + 2 * second + 2 * third + fourth)
        last, s = slope(after, then), (between - now) / h
        bow = h * ((1 - s) * (first - (after - z) / h) - s * (last - (after - z) / h))
        yield between, torch.lerp(z, after, s) + s * (1 - s) * bow
        z, first = after, last
    yield grid[-1], z


def _trace(
    denoiser: Denoiser,
    z: Tensor,
    sigma: Tensor,
    probes: int | None,
    generator: torch.Generator,
) -> Tensor:
    """Tr dm/dz at points (..., D), (...): by Hutchinson's probes, or in full."""
    if probes is None:
        # a small difference of large numbers where data lie far from the origin
        m, second = denoiser.moments(z.double(), sigma.double())
        return (second - m.square().sum(-1)) / sigma.double() ** 2
    shape = (probes, *[1] * (z.ndim - 1), denoiser.dim)
    signs = torch.randint(2, shape, generator=generator).to(z) * 2 - 1
    pushed = denoiser.jvp(z, sigma, signs)[1]
    return (signs * pushed).sum(-1).double().mean(0)


def _checked(denoiser: Denoiser, x: Tensor, log_snr: float | None) -> tuple[Tensor, float, float]:
    """Points, and the noisiest and the last level."""
    x = checks.points(x, "x", denoiser.dim, "the dimension of the data")
    high = last_log_snr(denoiser) if log_snr is None else float(log_snr)
    low = -math.log(denoiser.variance * denoiser.dim) - _FAINT
    low = max(low, denoiser.log_snr_range[0])
    if any(getattr(denoiser, "period", ())):
        raise ValueError(
            "the data of this denoiser are periodic, and have no density on the line; that of a "
            "cell is exp(-U/kT) of the potential"
        )
    if math.exp(low) * denoiser.variance > _HIDDEN:
        raise ValueError(
            f"the denoiser knows noise up to log SNR {low:.3g}, which does not hide data of "
            f"variance {denoiser.variance:.3g}: a likelihood needs one that is right up to "
            f"{math.log(_HIDDEN / denoiser.variance):.3g}"
        )
    if not low < high <= denoiser.log_snr_range[1]:
        raise ValueError(
            f"log_snr must be above {low:.3g} and at most {denoiser.log_snr_range[1]:.3g}, "
            f"got {high:g}"
        )
    return x, low, high


def _faint(denoiser: Denoiser, x: Tensor, k: float) -> Tensor:
    """1/2 int_0^k E |x - m|^2 of a Gaussian with the data's mean and variance, (...)."""
    v = denoiser.variance
    off = (x - torch.as_tensor(denoiser.mean).to(x)).square().sum(-1)
    gain = k / (1 + k * v)
    return (off * gain + denoiser.dim * (math.log1p(k * v) - gain * v)) / 2
