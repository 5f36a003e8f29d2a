r"""Observing the clean data further: posterior means along simulated observations.

Under the posterior of a *hub*, a point (z, log SNR) with precision k, observations Y of the clean
data are simulated by ``dY = x0 dk' + dW``, that is ``dY = m dk' + dW`` with m the mean given Y: the
reverse SDE started at the hub.  The means of other points given the same Y are taken beside it.

- Levels k' at equal steps of ``(s + k')^(-2/5)``: 1/s is the largest posterior variance met at the
  hub, since modes far apart are told apart long before k' = k, and most of what points differ by
  shows early.  Weights are Gregory's, of order four; beyond the last level the integrand falls as
  ``k^-2``, as on any smooth support.
- m is a martingale, so Euler's step has the right mean but lacks the posterior variance.  The step
  ``Y + d m + dW + theta d (m~ - m)``, m~ the mean after Euler's, has it to second order, and
  exactly for N(m0, v I) and for flat manifolds: ``theta = (1 + a)(sqrt(1 + a) - 1)/a``,
  ``a = d/(k + k' + 1/v)``.  Where posteriors can be sampled, ``Y = k' x0 + W`` needs no step.
- Noise comes as W and -W.  Their mean loses all that is odd in the noise: for Gaussian laws at one
  noise level that is all the scatter, as a control variate from the closure would.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.denoisers.flow import clean_log_snr
from diffodesic.numerics import checks

REACH = 6.0  # e-folds of SNR observed where the denoiser knows no last level
POWER = 2.5  # of the levels: the early ones, which carry most of the integral, lie closer
GREGORY = (3 / 8, 7 / 6, 23 / 24)  # first and last weights of the rule of order 4; 1 between

Out = TypeVar("Out")

__all__ = ["entropies", "frozen_noise", "walk"]


def frozen_noise(dim: int, *, samples: int, levels: int, seed: int, hubs: int = 1) -> Tensor:
    """Standard normal numbers in mirrored pairs.

    Args:
        dim: number D of data coordinates.
        samples: number S of pairs.
        levels: steps in k'; five or more, for the rule's weights at both ends.
        seed: seed, on the CPU.
        hubs: how many hubs have noise of their own; 1: they share it.

    Returns:
        (levels, 2 S, hubs, D), float64; the second half of the pairs is minus the first.

    Raises:
        ValueError: for samples or levels too few.
    """
    if samples < 1 or levels < 5:
        raise ValueError(f"samples and levels must be at least 1 and 5, got {samples} and {levels}")
    generator = checks.generator(seed)
    half = torch.randn(levels, samples, hubs, dim, generator=generator, dtype=torch.float64)
    return torch.cat([half, -half], 1)


def walk(
    denoiser: Denoiser,
    hub: Tensor,
    others: Tensor,
    noise: Tensor,
    clean: Tensor | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Posterior means along trajectories of each hub, level by level.

    Differentiable in the points with the noise held; each level is recomputed in the backward
    pass, so that memory holds one level of the network at a time.

    Args:
        denoiser: posterior mean.
        hub: points (B, D+1).
        others: points to compare with, (B, M, D+1).
        noise: see :func:`frozen_noise`, (levels, T, 1 or B, D).
        clean: samples x0 of the posterior at each hub (T, B, D), where they are known.

    Yields:
        weights in k' (B,) and the means of the hub and the others given the same Y,
        (T, B, 1 + M, D); the sum over levels of weight times squared difference of two of them is
        twice the relative entropy.

    Cost: ``T levels (2 + M) + 6 M + 2`` evaluations per hub; ``T levels`` less with ``clean``.
    """
    points = torch.cat([hub.unsqueeze(-2), others], -2)
    k = points[..., -1].exp()
    field = _Field(denoiser, k.unsqueeze(-1) * points[..., :-1], k)
    more, weights = _levels(field, len(noise))
    noise = noise.to(hub)
    y = hub.new_zeros(noise.shape[1], len(hub), denoiser.dim)
    means = field(y[:1], more[:, 0]).expand(len(y), -1, -1, -1)
    yield weights[:, 0], means
    for j, kick in enumerate(noise):
        now, then = more[:, j], more[:, j + 1]
        kick = (then - now).sqrt().unsqueeze(-1) * kick
        if clean is None:
            y, means = _again(field.step, y, means[..., 0, :], kick, now, then)
        else:
            y = y + (then - now).unsqueeze(-1) * clean + kick
            means = _again(field, y, then)
        yield weights[:, j + 1], means


@dataclass(frozen=True)
class _Field:
    """The means of some points given the same observation Y."""

    denoiser: Denoiser  # posterior mean
    h: Tensor  # natural parameters k z of the points, (B, 1 + M, D), the hub first
    k: Tensor  # their precisions (B, 1 + M)

    def __call__(self, y: Tensor, more: Tensor) -> Tensor:
        """Means (T, B, 1 + M, D) given ``y`` (T, B, D) observed up to ``more`` (B,)."""
        return self._mean(self.h, self.k, y.unsqueeze(-2), more.unsqueeze(-1))

    def step(
        self, y: Tensor, m: Tensor, kick: Tensor, now: Tensor, then: Tensor
    ) -> tuple[Tensor, Tensor]:
        """One step of Y under the hub's posterior, and all the means after it.

        Args:
            y: observations (T, B, D).
            m: mean of the hub given them, (T, B, D).
            kick: increments of W, (T, B, D).
            now: levels k' before, (B,).
            then: levels after, (B,).

        Returns:
            Y (T, B, D) and the means (T, B, 1 + M, D) at ``then``.
        """
        width = (then - now).unsqueeze(-1)
        guess = y + width * m + kick
        after = self._mean(self.h[:, 0], self.k[:, 0], guess, then)
        a = width / (self.k[:, :1] + now.unsqueeze(-1) + 1 / self.denoiser.variance)
        root = (1 + a).sqrt()
        # (1 + a)(sqrt(1 + a) - 1)/a without the difference of nearly equal numbers
        y = guess + root**2 / (1 + root) * width * (after - m)
        return y, self(y, then)

    def _mean(self, h: Tensor, k: Tensor, y: Tensor, more: Tensor) -> Tensor:
        total = k + more
        return self.denoiser((h + y) / total.unsqueeze(-1), total.rsqrt())


def _again(function: Callable[..., Out], *inputs: Tensor) -> Out:
    """Call a function; its backward pass computes it anew instead of keeping what is inside."""
    if not (torch.is_grad_enabled() and any(t.requires_grad for t in inputs)):
        return function(*inputs)
    return checkpoint(function, *inputs, use_reentrant=False)


def _levels(field: _Field, count: int) -> tuple[Tensor, Tensor]:
    """Levels k' and weights of the rule, (B, count + 1)."""
    k = field.k
    cleanest = field.denoiser.log_snr_range[1]
    if math.isinf(cleanest):
        clean = k.new_tensor(clean_log_snr(field.denoiser)).exp()
        reach = torch.maximum(torch.maximum(clean, math.exp(REACH) * k[:, 0]), k.amax(-1)) - k[:, 0]
    else:
        reach = k.new_tensor(cleanest).exp() - k.amax(-1)
    scale = 1 / torch.maximum(_variance(field), 1 / (k[:, 0] + 1 / field.denoiser.variance))
    s = torch.linspace(0, 1, count + 1, dtype=k.dtype, device=k.device)
    span = 1 - (1 + reach / scale) ** (-1 / POWER)
    root = 1 - span.unsqueeze(-1) * s  # (scale / (scale + k'))^(1/POWER)
    more = scale.unsqueeze(-1) * (root**-POWER - 1)
    rule = torch.ones_like(s)
    rule[:3] = rule.new_tensor(GREGORY)
    rule[-3:] = rule.new_tensor(GREGORY[::-1])
    slope = POWER * (span * scale).unsqueeze(-1) * root ** (-POWER - 1)  # dk'/ds
    weights = rule / count * slope
    tail = (k[:, :1] + more[:, -1:]) * (s == 1)  # int_K^inf (K/k)^2 dk = K
    return more, weights + tail


def _variance(field: _Field) -> Tensor:
    """Largest posterior variance at the hub by two power iterations from the first gaps, (B,)."""
    z = (field.h[:, :1] / field.k[:, :1, None]).expand(-1, field.k.shape[-1] - 1, -1)
    sigma = field.k[:, :1].rsqrt().expand(z.shape[:-1])
    means = field(torch.zeros_like(field.h[None, :, 0]), torch.zeros_like(field.k[:, 0]))[0]
    direction = means[:, 1:] - means[:, :1]
    largest = torch.zeros_like(sigma)
    for _ in range(2):
        size = direction.norm(dim=-1, keepdim=True)
        direction = direction / torch.where(size > 0, size, 1.0)
        direction = field.denoiser.difference(z, sigma, direction)[1]
        largest = torch.maximum(largest, sigma**2 * direction.norm(dim=-1))
    return largest.amax(-1)


def entropies(
    denoiser: Denoiser,
    hub: Tensor,
    others: Tensor,
    noise: Tensor,
    *,
    chunk: int | None = None,
    clean: Tensor | None = None,
) -> Tensor:
    """Twice the relative entropy of each hub to its others.

    Args:
        denoiser: posterior mean.
        hub: points (B, D+1).
        others: points (B, M, D+1).
        noise: see :func:`frozen_noise`; shared, or one for each hub.
        chunk: at most so many hubs at a time.
        clean: samples of the posterior at each hub, (2 S, B, D), or None.

    Returns:
        (S, B, M), each row the mean over two mirrored trajectories.

    Cost: as for :func:`walk`.
    """
    rows = []
    for part in torch.arange(len(hub), device=hub.device).split(chunk or len(hub)):
        total = hub.new_zeros(())
        known = None if clean is None else clean[:, part]
        own = noise if noise.shape[2] == 1 else noise[:, :, part]
        for weight, means in walk(denoiser, hub[part], others[part], own, known):
            gap = means[..., 1:, :] - means[..., :1, :]
            total = total + weight.unsqueeze(-1) * gap.square().sum(-1)
        rows.append(total.unflatten(0, (2, -1)).mean(0))
    return torch.cat(rows, 1)
