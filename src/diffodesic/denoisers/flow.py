r"""Between data and noise: the probability-flow ODE both ways, and samples of the posterior.

In core coordinates the probability-flow ODE (2011.13456; 2206.00364, Eq. 1) and its grid are

    dz/dsigma = (z - m(z, sigma)) / sigma,      sigma_i^(1/7) equally spaced,

solved by Heun's rule.  :func:`lift` carries data up to a noise level, and :func:`drop` brings
points of any level back; every point of a batch has its own level.

The reverse SDE, in natural parameters h = k z with precision k = 1/sigma^2, is

    dh = m dk + dW,    z = h / k

(stochastic localisation, El Alaoui & Montanari 2022; 2505.17517 App.).  A step with m held fixed,
``z' = (k z + m dk + sqrt(dk) xi)/(k + dk)``, is exact once m is the data point itself.  Started at
(z, sigma) the SDE samples the denoising posterior p(x0 | z).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.numerics import checks

__all__ = ["clean_log_snr", "drop", "integrate", "lift", "sample_posterior", "trajectory"]

_CLEANEST = 9.2  # sigma = .01: below what an 8-bit image can show
_SHARE = 100.0  # variance of the data over that of the noise, at the least


def clean_log_snr(denoiser: Denoiser) -> float:
    """Log SNR at which data count as clean.

    Args:
        denoiser: knows the variance of the data.

    Returns:
        9.2 (sigma = .01), for data of a deviation s below .1 the level of sigma = s/10; at most the
        model's own last level.
    """
    # a law of one point has no scale
    fine = math.log(_SHARE / denoiser.variance) if denoiser.variance else _CLEANEST
    return min(max(_CLEANEST, fine), denoiser.log_snr_range[1])


def lift(denoiser: Denoiser, x: Tensor, log_snr: Tensor | float, *, steps: int = 24) -> Tensor:
    """Carry clean data up to a noise level by the probability-flow ODE (an inversion).

    Args:
        denoiser: posterior mean.
        x: data (..., D).
        log_snr: target level, a number or (...).
        steps: steps of Heun's rule.

    Returns:
        z at that level, (..., D), in the dtype of ``x`` (integers: torch's default);
        differentiable.

    Raises:
        TypeError: for complex numbers.
        ValueError: for data of another dimension or not finite, if the level is outside the
            denoiser's range or cleaner than clean, or ``steps < 1``.

    Cost: ``2 steps`` evaluations per point.
    """
    checks.of_kind(denoiser, "denoiser", Denoiser)
    x, top, bottom = _noisy_and_clean(denoiser, x, log_snr, "x")
    return integrate(denoiser, x, bottom, top, steps=steps)


def drop(denoiser: Denoiser, z: Tensor, log_snr: Tensor | float, *, steps: int = 24) -> Tensor:
    """Bring points back to clean data by the probability-flow ODE; the inverse of :func:`lift`.

    Args:
        denoiser: posterior mean.
        z: noisy points (..., D).
        log_snr: their levels, a number or (...).
        steps: steps of Heun's rule.

    Returns:
        data (..., D), as for :func:`lift`.

    Raises:
        TypeError: as for :func:`lift`.
        ValueError: as for :func:`lift`.

    Cost: ``2 steps`` evaluations per point.
    """
    checks.of_kind(denoiser, "denoiser", Denoiser)
    z, top, bottom = _noisy_and_clean(denoiser, z, log_snr, "z")
    return integrate(denoiser, z, top, bottom, steps=steps)


def trajectory(
    denoiser: Denoiser, z: Tensor, log_snr: Tensor | float, *, steps: int = 48
) -> Tensor:
    """All points that :func:`drop` visits, (..., steps + 1, D), noisiest first; same cost."""
    checks.of_kind(denoiser, "denoiser", Denoiser)
    z, top, bottom = _noisy_and_clean(denoiser, z, log_snr, "z")
    return torch.stack([z, *_states(denoiser, z, top, bottom, steps)], -2)


def integrate(denoiser: Denoiser, z: Tensor, start: Tensor, stop: Tensor, *, steps: int) -> Tensor:
    """Solve the probability-flow ODE between two levels, up or down.

    Args:
        denoiser: posterior mean.
        z: points (..., D) at the first level.
        start: log SNR to start from, (...).
        stop: log SNR to end at, (...).
        steps: steps of Heun's rule.

    Returns:
        the points at the last level, (..., D).

    Cost: ``2 steps`` evaluations per point.
    """
    for after in _states(denoiser, z, start, stop, steps):
        z = after
    return z


def _noisy_and_clean(
    denoiser: Denoiser, z: Tensor, log_snr: Tensor | float, name: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Points and their levels (...), checked, and the clean level in the same shape."""
    what = "the dimension of the data"
    z = checks.points(z, name, denoiser.dim, what, empty=True, detach=False)
    lam = checks.expanded(log_snr, z, "log_snr").to(z.dtype)
    low, high = denoiser.log_snr_range[0], clean_log_snr(denoiser)
    # a spline may overshoot the range of the solver by rounding
    if not bool(((lam >= low - 1e-6) & (lam <= high + 1e-6) & lam.isfinite()).all()):
        raise ValueError(
            f"log SNR must be finite and between {low:g} and {high:g}, got "
            f"{float(lam.min()):g} to {float(lam.max()):g}"
        )
    return z, lam, torch.full_like(lam, high)


def _states(
    denoiser: Denoiser, z: Tensor, start: Tensor, stop: Tensor, steps: int
) -> Iterator[Tensor]:
    """Heun's rule on the grid of 2206.00364 (rho = 7), each point on its own grid."""
    if steps < 1:
        raise ValueError(f"the flow takes at least 1 step, got {steps}")
    rho = 7.0
    s = torch.linspace(0, 1, steps + 1, dtype=z.dtype, device=z.device)
    first, last = ((-lam / (2 * rho)).exp().unsqueeze(-1) for lam in (start, stop))
    grid = ((1 - s) * first + s * last) ** rho
    for i in range(steps):
        now, then = grid[..., i], grid[..., i + 1]
        width = (then - now).unsqueeze(-1)
        slope = (z - denoiser(z, now)) / now.unsqueeze(-1)
        guess = z + width * slope
        end_slope = (guess - denoiser(guess, then)) / then.unsqueeze(-1)
        z = z + width * (slope + end_slope) / 2
        yield z


def sample_posterior(
    denoiser: Denoiser,
    z: Tensor,
    log_snr: Tensor | float,
    *,
    samples: int = 1,
    steps: int = 64,
    seed: int = 0,
    shared: bool = False,
) -> Tensor:
    """Sample the denoising posterior p(x0 | z) by the reverse SDE, started at each point.

    Args:
        denoiser: posterior mean.
        z: noisy points (..., D).
        log_snr: their levels, a number or (...).
        samples: number S of samples per point.
        steps: steps, equally spaced in log SNR (Heun's rule, order 2 in distribution).
        seed: seed of the noise, drawn on the CPU.
        shared: use the same noise for every point, so that samples along a path vary smoothly.

    Returns:
        clean samples (S, ..., D), in the dtype of ``z`` (integers: torch's default).

    Raises:
        TypeError: for complex numbers.
        ValueError: for points of another dimension or not finite, if a level is outside the
            denoiser's range or cleaner than clean, or ``samples`` or ``steps`` is below 1.

    Cost: ``2 steps + 1`` evaluations per sample.
    """
    checks.of_kind(denoiser, "denoiser", Denoiser)
    if min(samples, steps) < 1:
        raise ValueError(f"samples and steps must be at least 1, got {samples} and {steps}")
    generator = checks.generator(seed)
    z, start, stop = _noisy_and_clean(denoiser, z, log_snr, "z")
    grid = torch.lerp(
        start[..., None],
        stop[..., None],
        torch.linspace(0, 1, steps + 1, dtype=z.dtype, device=z.device),
    ).expand(samples, *start.shape, steps + 1)
    z = z.expand(samples, *z.shape)
    noise_shape = (samples, *[1] * start.ndim, denoiser.dim) if shared else z.shape
    for i in range(steps):
        now, then = grid[..., i], grid[..., i + 1]
        k, k_then = now.exp().unsqueeze(-1), then.exp().unsqueeze(-1)
        noise = torch.randn(noise_shape, generator=generator, dtype=z.dtype).to(z.device)
        kick = k * z + (k_then - k).sqrt() * noise
        m = denoiser(z, (-now / 2).exp())
        guess = (kick + (k_then - k) * m) / k_then
        m = (m + denoiser(guess, (-then / 2).exp())) / 2
        z = (kick + (k_then - k) * m) / k_then
    return denoiser(z, (-grid[..., -1] / 2).exp())
