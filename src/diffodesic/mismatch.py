r"""Lengths in spacetime from denoiser evaluations alone: relative entropy by mismatched estimation.

Observe the clean data further, ``dY = x0 dk' + dW``.  Natural parameters add, so the posterior of
point i given Y is that of ``eta_i + (Y, -k'/2)``, with mean ``m_i(Y, k') = m(z, sigma)`` at
``k = k_i + k'``, ``z = (k_i z_i + Y)/k``.  By Girsanov's theorem (Duncan 1970; Verdu 2010), with Y
simulated under posterior 1, which is the reverse SDE started at point 1,

    KL(1 || 2) = 1/2 int_0^inf E_1 |m_1(Y, k') - m_2(Y, k')|^2 dk'.

For neighbours, with Y simulated from between them, ``int E |m_1 - m_2|^2 dk'`` is the squared
length of the segment to second order.  It needs no Jacobian and no divergence, is never negative,
holds for any posterior however many modes it has, and is still a relative entropy (of the two
reverse processes) for a network that is no exact posterior mean.  It shares nothing with the other
estimators of :mod:`diffodesic.spacetime` but the denoiser: an independent check of their paths.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffodesic.denoiser import Denoiser
from diffodesic.flow import clean_log_snr

MARGIN = 3.0  # e-folds of SNR between a path and the model's last level

__all__ = ["mismatch_length", "mismatch_steps"]


def mismatch_steps(
    denoiser: Denoiser, x: Tensor, *, samples: int = 4, levels: int = 32, seed: int = 0
) -> Tensor:
    """Squared lengths of the segments of a path through spacetime, one row per sample.

    Args:
        denoiser: posterior mean.
        x: nodes packed from (z, log SNR), (n+1, D+1).
        samples: number S of simulated observations Y; they share their noise along the path.
        levels: number of steps in k', equally spaced in log(1 + k'/k) up to clean data.
        seed: seed of the noise, drawn on the CPU.

    Returns:
        (S, n), each row an estimate whose error in the mean is that of the step in k' (several
        per cent at 16 levels, less at 64) and of stopping at the last level; none is negative.

    Raises:
        ValueError: for nodes that are not (n+1, D+1) or too close to the model's last level, or
            samples or levels below 1.

    Cost: ``2 S n (levels + 1)`` evaluations.
    """
    if x.ndim != 2 or x.shape[-1] != denoiser.dim + 1 or len(x) < 2:
        raise ValueError(
            f"nodes have shape {tuple(x.shape)}; they must be (n+1, {denoiser.dim + 1}), n >= 1"
        )
    if samples < 1 or levels < 1:
        raise ValueError(f"samples and levels must be at least 1, got {samples} and {levels}")
    generator = torch.Generator().manual_seed(seed)
    k = x[:, -1].exp()
    h = k.unsqueeze(-1) * x[:, :-1]
    left, right = (h[:-1], k[:-1]), (h[1:], k[1:])
    base = torch.minimum(left[1], right[1])
    ceiling = x.new_tensor(_cleanest(denoiser, float(x[:, -1].max()))).exp()
    ceiling = ceiling - torch.maximum(left[1], right[1])
    y, more = h.new_zeros(samples, *left[0].shape), torch.zeros_like(base)
    total = y.new_zeros(samples, len(base))
    before, means = _gap(denoiser, left, right, y, more)
    for i in range(levels):
        then = base * ((1 + ceiling / base) ** ((i + 1) / levels) - 1)
        width = (then - more).unsqueeze(-1)
        noise = torch.randn(samples, 1, denoiser.dim, generator=generator, dtype=x.dtype)
        y, more = y + width * means + width.sqrt() * noise.to(x.device), then
        after, means = _gap(denoiser, left, right, y, more)
        total = total + width[..., 0] * (before + after) / 2
        before = after
    return total


def _cleanest(denoiser: Denoiser, level: float) -> float:
    """Log SNR up to which data are observed; beyond it a share e^-3 of the integral at most."""
    cleanest = denoiser.log_snr_range[1]
    if math.isinf(cleanest):
        return max(clean_log_snr(denoiser), level + 6)
    if level > cleanest - MARGIN:
        raise ValueError(
            f"a node has log SNR {level:g}; this estimate needs all of them below "
            f"{cleanest - MARGIN:g}, well above the noise of the model's last level"
        )
    return cleanest


def _gap(
    denoiser: Denoiser,
    left: tuple[Tensor, Tensor],
    right: tuple[Tensor, Tensor],
    y: Tensor,
    more: Tensor,
) -> tuple[Tensor, Tensor]:
    """Squared gap of the two means given Y, (S, n), and the mean between them, (S, n, D)."""
    first, second = (
        denoiser((h + y) / (k + more).unsqueeze(-1), (k + more).rsqrt()) for h, k in (left, right)
    )
    return (first - second).square().sum(-1), (first + second) / 2


def mismatch_length(
    denoiser: Denoiser, x: Tensor, *, samples: int = 4, levels: int = 32, seed: int = 0
) -> tuple[float, float]:
    """Length of a path through spacetime, and its standard error.

    Args:
        denoiser: posterior mean.
        x: nodes (n+1, D+1).
        samples: simulated observations, >= 2 for a standard error.
        levels: steps in k'.
        seed: seed of the noise.

    Returns:
        ``sum sqrt(mean steps)``, and its standard error by the jackknife over samples: the
        scatter of the samples only, not the error of the step in k'.

    Cost: as for :func:`mismatch_steps`.
    """
    steps = mismatch_steps(denoiser, x, samples=samples, levels=levels, seed=seed)
    length = float(steps.mean(0).sqrt().sum())
    if samples < 2:
        return length, float("nan")
    others = (steps.sum(0) - steps) / (samples - 1)
    left_out = others.sqrt().sum(-1)
    error = ((samples - 1) / samples * (left_out - left_out.mean()).square().sum()).sqrt()
    return length, float(error)
