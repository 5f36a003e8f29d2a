r"""Relative entropy of posteriors from denoiser evaluations alone: mismatched estimation.

Observe the clean data further, ``dY = x0 dk' + dW``.  Natural parameters add, so the posterior of
point i given Y is that of ``eta_i + (Y, -k'/2)``, with mean ``m_i(Y, k') = m(z, sigma)`` at
``k = k_i + k'``, ``z = (k_i z_i + Y)/k``.  By Girsanov's theorem (Duncan 1970; Verdu 2010), with Y
simulated under posterior 1, which is the reverse SDE ``dY = m_1 dk' + dW`` started at point 1,

    KL(1 || 2) = 1/2 int_0^inf E_1 |m_1(Y, k') - m_2(Y, k')|^2 dk'.

No Jacobian, no divergence, never negative, right for any number of modes, and for a network that is
no exact posterior mean still a relative entropy, that of the two reverse processes.

- A *hub* is a point from which Y is simulated.  With a hub at every node of a path, each of whose
  trajectories serves the segments on both sides, a segment gets KL both ways, whose sum is the
  exact squared step of spacetime.  Hubs at every second node cost half, to second order.
- Levels ``k'_j = s (e^{u_j} - 1)``, u equally spaced: 1/s is the largest posterior variance met at
  the hub, since modes far apart are told apart long before k' = k.  Weights are Gregory's, of order
  four; beyond the last level the integrand falls as ``k^-2``, as on any smooth support.
- m is a martingale, so Euler's step has the right mean but lacks the posterior variance.  The step
  ``Y + d m + dW + theta d (m~ - m)``, m~ the mean after Euler's, has it to second order, and
  exactly for N(m0, v I) and for flat manifolds: ``theta = (1 + a)(sqrt(1 + a) - 1)/a``,
  ``a = d/(k + k' + 1/v)``.  Where posteriors can be sampled, ``Y = k' x0 + W`` needs no step.
- Every row is the mean over W and -W, which takes away all that is odd in the noise: for Gaussian
  laws and one noise level that is all its scatter, as a control variate would.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from diffodesic.denoiser import Denoiser
from diffodesic.flow import clean_log_snr

MARGIN = 3.0  # e-folds of SNR between a path and the model's last level
REACH = 6.0  # e-folds of SNR observed where the denoiser knows no last level
GREGORY = (3 / 8, 7 / 6, 23 / 24)  # first and last weights of the rule of order 4; 1 between

Hubs = Literal["all", "alternate"]
Posterior = Callable[[Tensor, Tensor, int, torch.Generator], Tensor]

__all__ = [
    "Hubs",
    "Posterior",
    "entropies",
    "frozen_noise",
    "mismatch_length",
    "mismatch_steps",
    "neighbours",
    "relative_entropy",
    "symmetrised",
    "walk",
]


def relative_entropy(
    denoiser: Denoiser,
    a: Tensor,
    b: Tensor,
    *,
    samples: int = 4,
    levels: int = 32,
    seed: int = 0,
    posterior: Posterior | None = None,
) -> Tensor:
    """KL(posterior at ``a`` || posterior at ``b``), one row per sample.

    Args:
        denoiser: posterior mean.
        a: points packed from (z, log SNR), (..., D+1).
        b: points (..., D+1), broadcast against ``a``.
        samples: number S of antithetic pairs of trajectories; all points share their noise.
        levels: steps in k', >= 5.
        seed: seed of the noise, drawn on the CPU.
        posterior: ``posterior(z (B, D), sigma (B,), count, generator)`` -> clean samples
            (count, B, D) of the posterior, where they are known: then Y is simulated exactly.

    Returns:
        (S, ...), nats; the mean over rows has the error of the rule in k' (1e-3 to 1e-2 at 32
        levels) beside its scatter; none is negative.

    Raises:
        ValueError: for points of another dimension or too close to the model's last level, or
            samples or levels too few.

    Cost: ``2 S (3 levels + 1)`` evaluations per pair of points and 4 derivatives.
    """
    _check(denoiser, a, samples, levels)
    _check(denoiser, b, samples, levels)
    a, b = torch.broadcast_tensors(a, b)
    noise = frozen_noise(denoiser.dim, samples=samples, levels=levels, seed=seed)
    hub, other = a.reshape(-1, a.shape[-1]), b.reshape(-1, 1, b.shape[-1])
    clean = _draw(posterior, hub, 2 * samples, seed)
    square = entropies(denoiser, hub, other, noise, clean=clean)
    return square.reshape(samples, *a.shape[:-1]) / 2


def mismatch_steps(
    denoiser: Denoiser,
    x: Tensor,
    *,
    samples: int = 4,
    levels: int = 32,
    seed: int = 0,
    hubs: Hubs = "all",
    chunk: int | None = None,
    posterior: Posterior | None = None,
) -> Tensor:
    """Squared lengths of the segments of paths through spacetime, one row per sample.

    Args:
        denoiser: posterior mean.
        x: nodes packed from (z, log SNR), (..., n+1, D+1).
        samples: number S of antithetic pairs of trajectories; all nodes share their noise.
        levels: steps in k', >= 5.
        seed: seed of the noise, drawn on the CPU.
        hubs: ``"all"``: KL both ways, exact for segments of any length; ``"alternate"``: twice the
            KL from every second node, half the cost; the error of third order in the length of
            one segment changes sign with the next.
        chunk: at most so many hubs at a time; default all.
        posterior: see :func:`relative_entropy`.

    Returns:
        (S, ..., n); see :func:`relative_entropy`.

    Raises:
        ValueError: for nodes that are not (..., n+1, D+1) or too close to the model's last level,
            samples or levels too few, or unknown hubs.

    Cost: ``2 S (4 levels + 1)`` evaluations per hub and 8 derivatives; there are n + 1 hubs, or
    n/2 alternate ones.
    """
    _check(denoiser, x, samples, levels)
    if x.ndim < 2 or x.shape[-2] < 2:
        raise ValueError(
            f"nodes have shape {tuple(x.shape)}; they must be (..., n+1, D+1), n >= 1"
        )
    if hubs not in get_args(Hubs):
        raise ValueError(f"hubs is {hubs!r}; choose one of {', '.join(get_args(Hubs))}")
    noise = frozen_noise(denoiser.dim, samples=samples, levels=levels, seed=seed)
    hub, others = neighbours(x, hubs)
    flat = hub.reshape(-1, hub.shape[-1])
    square = entropies(
        denoiser,
        flat,
        others.reshape(-1, *others.shape[-2:]),
        noise,
        chunk=chunk,
        clean=_draw(posterior, flat, 2 * samples, seed),
    )
    return symmetrised(square.reshape(samples, *others.shape[:-1]), x.shape[-2] - 1, hubs)


def mismatch_length(
    denoiser: Denoiser,
    x: Tensor,
    *,
    samples: int = 4,
    levels: int = 32,
    seed: int = 0,
    hubs: Hubs = "all",
    chunk: int | None = None,
    posterior: Posterior | None = None,
) -> tuple[float, float]:
    """Length of a path through spacetime, and its standard error.

    Args:
        denoiser: posterior mean.
        x: nodes (n+1, D+1).
        samples: antithetic pairs of trajectories, >= 2 for a standard error.
        levels: steps in k'.
        seed: seed of the noise.
        hubs: see :func:`mismatch_steps`.
        chunk: at most so many hubs at a time.
        posterior: see :func:`relative_entropy`.

    Returns:
        ``sum sqrt(mean steps)``, and its standard error by the jackknife over samples: the
        scatter of the samples only, not the error of the rule in k'.

    Raises:
        ValueError: as for :func:`mismatch_steps`, or for several paths at once.

    Cost: as for :func:`mismatch_steps`.
    """
    if x.ndim != 2:
        raise ValueError(f"nodes have shape {tuple(x.shape)}; the length is that of one path")
    with torch.no_grad():
        steps = mismatch_steps(
            denoiser,
            x,
            samples=samples,
            levels=levels,
            seed=seed,
            hubs=hubs,
            chunk=chunk,
            posterior=posterior,
        )
    length = float(steps.mean(0).sqrt().sum())
    if samples < 2:
        return length, float("nan")
    others = (steps.sum(0) - steps) / (samples - 1)
    left_out = others.sqrt().sum(-1)
    error = ((samples - 1) / samples * (left_out - left_out.mean()).square().sum()).sqrt()
    return length, float(error)


def frozen_noise(dim: int, *, samples: int, levels: int, seed: int) -> Tensor:
    """Standard normal numbers (levels, 2 S, 1, D), drawn on the CPU; the second half mirrored."""
    generator = torch.Generator().manual_seed(seed)
    half = torch.randn(levels, samples, 1, dim, generator=generator, dtype=torch.float64)
    return torch.cat([half, -half], 1)


def neighbours(x: Tensor, hubs: Hubs) -> tuple[Tensor, Tensor]:
    """Hubs (..., H, d) of paths (..., n+1, d), and their two neighbours (..., H, 2, d).

    A hub at an end stands in for the neighbour that it lacks.
    """
    first, last = x[..., :1, :], x[..., -1:, :]
    around = torch.stack(
        [torch.cat([first, x[..., :-1, :]], -2), torch.cat([x[..., 1:, :], last], -2)], -2
    )
    if hubs == "all":
        return x, around
    return x[..., 1::2, :], around[..., 1::2, :, :]


def symmetrised(square: Tensor, segments: int, hubs: Hubs) -> Tensor:
    """From twice the KL of each hub to its neighbours (..., H, 2) to steps (..., n)."""
    if hubs == "all":
        return (square[..., :-1, 1] + square[..., 1:, 0]) / 2
    return square.flatten(-2)[..., :segments]


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

    Cost: ``1 + M + T levels (2 + M)`` evaluations per hub, 2 M derivatives; one evaluation per
    level less with ``clean``.
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
    """The means of some points given the same observation Y.

    Attributes:
        denoiser: posterior mean.
        h: natural parameters k z of the points, (B, 1 + M, D), the hub first.
        k: their precisions (B, 1 + M).
    """

    denoiser: Denoiser
    h: Tensor
    k: Tensor

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


def _again(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Call a function; its backward pass computes it anew instead of keeping what is inside."""
    if not torch.is_grad_enabled():
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
    u = torch.log1p(reach / scale)
    s = torch.linspace(0, 1, count + 1, dtype=k.dtype, device=k.device)
    more = scale.unsqueeze(-1) * torch.expm1(u.unsqueeze(-1) * s)
    rule = torch.ones_like(s)
    rule[:3] = rule.new_tensor(GREGORY)
    rule[-3:] = rule.new_tensor(GREGORY[::-1])
    weights = rule * (u / count).unsqueeze(-1) * (scale.unsqueeze(-1) + more)
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
        direction = field.denoiser.jvp(z, sigma, direction)[1]
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
        noise: see :func:`frozen_noise`.
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
        for weight, means in walk(denoiser, hub[part], others[part], noise, known):
            gap = means[..., 1:, :] - means[..., :1, :]
            total = total + weight.unsqueeze(-1) * gap.square().sum(-1)
        rows.append(total.unflatten(0, (2, -1)).mean(0))
    return torch.cat(rows, 1)


def _draw(posterior: Posterior | None, hub: Tensor, count: int, seed: int) -> Tensor | None:
    """Samples of the posteriors at the hubs (count, B, D), from a stream apart from the noise's."""
    if posterior is None:
        return None
    generator = torch.Generator().manual_seed(seed + 1)
    return posterior(hub[:, :-1], (-hub[:, -1] / 2).exp(), count, generator)


def _check(denoiser: Denoiser, x: Tensor, samples: int, levels: int) -> None:
    if x.ndim < 1 or x.shape[-1] != denoiser.dim + 1:
        raise ValueError(
            f"nodes have shape {tuple(x.shape)}; their last axis must be {denoiser.dim + 1}, "
            "the data's dimension and one for log SNR"
        )
    if samples < 1 or levels < 5:
        raise ValueError(
            f"samples and levels must be at least 1 and 5, got {samples} and {levels}"
        )
    level, cleanest = float(x[..., -1].max()), denoiser.log_snr_range[1]
    if level > cleanest - MARGIN:
        raise ValueError(
            f"a node has log SNR {level:g}; this estimate needs all of them below "
            f"{cleanest - MARGIN:g}, well above the noise of the model's last level"
        )
