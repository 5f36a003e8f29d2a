r"""Relative entropy of posteriors from denoiser evaluations alone: mismatched estimation.

Observe the clean data further, ``dY = x0 dk' + dW``.  Natural parameters add, so the posterior of
point i given Y is that of ``eta_i + (Y, -k'/2)``, with mean ``m_i(Y, k') = m(z, sigma)`` at
``k = k_i + k'``, ``z = (k_i z_i + Y)/k``.  By Girsanov's theorem (Duncan 1970; Verdu 2010), with Y
simulated under posterior 1, which is the reverse SDE ``dY = m_1 dk' + dW`` started at point 1,

    KL(1 || 2) = 1/2 int_0^inf E_1 |m_1(Y, k') - m_2(Y, k')|^2 dk'.

No Jacobian, no divergence, never negative, right for any number of modes, and for a network that is
no exact posterior mean still a relative entropy, that of the two reverse processes.

With Y simulated from every node of a path (a *hub*; see
:mod:`diffodesic.metrics.spacetime.reverse_paths`) and each trajectory serving the segments on both
sides, a segment gets KL both ways, whose sum is the exact squared step of spacetime.  Hubs at every
second node cost half and are right to second order.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import pad

from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.metrics.spacetime.points import packed
from diffodesic.metrics.spacetime.reverse_paths import entropies, frozen_noise
from diffodesic.numerics import checks

MARGIN = 3.0  # e-folds of SNR between a path and the model's last level
MOST = 8  # samples of a length that is wanted to a given accuracy

Hubs = Literal["all", "alternate"]
Posterior = Callable[[Tensor, Tensor, int, torch.Generator], Tensor]

__all__ = [
    "Hubs",
    "Posterior",
    "check_lengths",
    "mismatch_length",
    "mismatch_steps",
    "neighbours",
    "relative_entropy",
    "symmetrised",
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
        levels) beside its scatter; none is negative; in the dtype of the points, differentiable.

    Raises:
        TypeError: for complex numbers.
        ValueError: for points of another dimension, none, not finite, or too close to the model's
            last level, or samples or levels too few.

    Cost: ``6 S levels`` evaluations per pair of points, and 8 for the levels.
    """
    checks.of_kind(denoiser, "denoiser", Denoiser)
    a, b = checks.pair(_checked(denoiser, a, "a"), _checked(denoiser, b, "b"))
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
    shared: bool = False,
    chunk: int | None = None,
) -> Tensor:
    """Squared lengths of the segments of paths through spacetime, one row per sample.

    Args:
        denoiser: posterior mean.
        x: nodes packed from (z, log SNR), (..., n+1, D+1).
        samples: number S of antithetic pairs of trajectories.
        levels: steps in k', >= 5.
        seed: seed of the noise, drawn on the CPU.
        hubs: ``"all"``: KL both ways, exact for segments of any length; ``"alternate"``: twice the
            KL from every second node, half the cost; the error of third order in the length of
            one segment changes sign with the next.
        shared: give all nodes the same noise, so that steps vary smoothly along the path; else
            each has its own and their errors average out in a sum over segments.
        chunk: at most so many hubs at a time; default all.

    Returns:
        (S, ..., n); see :func:`relative_entropy`.

    Raises:
        TypeError: for complex numbers.
        ValueError: for nodes that are not (..., n+1, D+1), not finite, or too close to the model's
            last level, samples or levels too few, or unknown hubs.

    Cost: ``8 S levels`` evaluations per hub, and 14 for the levels; there are n + 1 hubs, or n/2
    alternate ones.
    """
    checks.of_kind(denoiser, "denoiser", Denoiser)
    x = _checked(denoiser, x, "x")
    if x.ndim < 2 or x.shape[-2] < 2:
        raise ValueError(f"x has shape {tuple(x.shape)}; nodes must be (..., n+1, D+1), n >= 1")
    if hubs not in get_args(Hubs):
        raise ValueError(f"hubs is {hubs!r}; choose one of {', '.join(get_args(Hubs))}")
    hub, others = neighbours(x, hubs)
    count = hub.shape[-2]
    noise = frozen_noise(
        denoiser.dim, samples=samples, levels=levels, seed=seed, hubs=1 if shared else count
    )
    flat = hub.reshape(-1, hub.shape[-1])
    square = entropies(
        denoiser,
        flat,
        others.reshape(-1, *others.shape[-2:]),
        noise if shared else noise.repeat(1, 1, len(flat) // count, 1),
        chunk=chunk,
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
    shared: bool = False,
    chunk: int | None = None,
) -> tuple[float, float]:
    """Length of a path through spacetime, and its standard error.

    Args:
        denoiser: posterior mean.
        x: nodes (n+1, D+1).
        samples: antithetic pairs of trajectories, >= 2 for a standard error.
        levels: steps in k'.
        seed: seed of the noise.
        hubs: see :func:`mismatch_steps`.
        shared: see :func:`mismatch_steps`.
        chunk: at most so many hubs at a time.

    Returns:
        ``sum sqrt(mean steps)``, less the bias that the root of a mean has, and its standard error,
        both by the jackknife over samples; the error of the rule in k' comes on top.

    Raises:
        ValueError: as for :func:`mismatch_steps`, or for several paths at once.

    Cost: as for :func:`mismatch_steps`.
    """
    checks.of_kind(denoiser, "denoiser", Denoiser)
    if x.ndim != 2:
        raise ValueError(
            f"x has shape {tuple(x.shape)}; the length is that of one path, nodes (n+1, D+1)"
        )
    with torch.no_grad():
        steps = mismatch_steps(
            denoiser,
            x,
            samples=samples,
            levels=levels,
            seed=seed,
            hubs=hubs,
            shared=shared,
            chunk=chunk,
        )
    length, error = _jackknife(steps)
    return float(length), float(error)


def _jackknife(steps: Tensor, shared: int | None = None) -> tuple[Tensor, Tensor]:
    """Lengths of paths, less the bias of roots, and their standard errors.

    Of one sample the error is that of the second differences of three or more parts, as if the
    speed along a path were smooth: too large where it is not.

    Args:
        steps: squared lengths of segments, one row per sample, (S, ..., n).
        shared: so many neighbours share their noise, and make a part that is independent of others;
            default all.

    Returns:
        lengths (...) and errors (...), NaN where there are too few samples and parts.
    """
    shared = shared or steps.shape[-1]
    steps = pad(steps, (0, -steps.shape[-1] % shared)).unflatten(-1, (-1, shared))
    samples, length = len(steps), steps.mean(0).sqrt().sum(-1)  # (..., parts)
    if samples > 1:
        left_out = ((steps.sum(0) - steps) / (samples - 1)).sqrt().sum(-1)
        middle = left_out.mean(0)
        variance = (samples - 1) / samples * (left_out - middle).square().sum(0)
        length = samples * length - (samples - 1) * middle
    else:
        bend = length[..., 2:] - 2 * length[..., 1:-1] + length[..., :-2]
        variance = bend.square().mean(-1, keepdim=True).expand_as(length) / 6  # 1 + 4 + 1 variances
    return length.sum(-1), variance.sum(-1).sqrt()


def check_lengths(
    denoiser: Denoiser, x: Tensor, seed: int, *, within: float | None = None
) -> tuple[Tensor, Tensor]:
    """A quick :func:`mismatch_length` of paths, to check another estimate with.

    Args:
        denoiser: posterior mean.
        x: nodes (B, n+1, d).
        seed: seed of the noise; every path has the same.
        within: standard error that is wanted, as a share of the length: samples are added until a
            path has it, or 8 samples. None: one sample.

    Returns:
        lengths and standard errors, (B,) each; NaN for a path that stays where it is, that is too
        clean for this estimate, or on which the denoiser is not finite. The error of one sample of
        fewer than six segments is NaN, too.

    Cost: ``39 n`` evaluations per path and sample, all paths in the same calls.
    """
    unknown = x.new_full((len(x),), torch.nan)
    length, error = unknown.clone(), unknown.clone()
    clean = x[..., -1].amax(-1) > denoiser.log_snr_range[1] - MARGIN
    rows = torch.nonzero(~clean & (x[:, 0] != x[:, -1]).any(-1)).flatten()
    if not len(rows):
        return unknown, unknown
    draws = torch.randint(2**31, (MOST - 1,), generator=checks.generator(seed))
    ask = partial(mismatch_steps, denoiser, samples=1, levels=8, hubs="alternate")
    try:
        with torch.no_grad():
            steps = ask(x[rows], seed=seed)
            length[rows], error[rows] = _jackknife(steps, 2)
            for draw in draws.tolist():
                if within is None:
                    break
                loose = ~(error[rows] <= within * length[rows])
                rows = rows[loose]
                if not len(rows):
                    break
                steps = torch.cat([steps[:, loose], ask(x[rows], seed=draw)])
                length[rows], error[rows] = _jackknife(steps, 2)
    except FloatingPointError:
        if len(x) == 1:
            return unknown, unknown
        # the refusal costs only the paths that it is of
        alone = [check_lengths(denoiser, path[None], seed, within=within) for path in x]
        length, error = (torch.cat(part) for part in zip(*alone, strict=True))
    return length, error


def neighbours(x: Tensor, hubs: Hubs) -> tuple[Tensor, Tensor]:
    """Hubs (..., H, d) of paths (..., n+1, d), and their two neighbours (..., H, 2, d).

    Args:
        x: paths.
        hubs: which nodes are hubs.

    Returns:
        hubs and neighbours; a hub at an end stands in for the neighbour that it lacks.
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


def _draw(posterior: Posterior | None, hub: Tensor, count: int, seed: int) -> Tensor | None:
    """Samples of the posteriors at the hubs (count, B, D), from a stream apart from the noise's."""
    if posterior is None:
        return None
    generator = torch.Generator().manual_seed(seed + 1)
    return posterior(hub[:, :-1], (-hub[:, -1] / 2).exp(), count, generator)


def _checked(denoiser: Denoiser, x: Tensor, name: str) -> Tensor:
    x = packed(x, name, denoiser.dim, detach=False)
    level, cleanest = float(x[..., -1].detach().max()), denoiser.log_snr_range[1]
    if level > cleanest - MARGIN:
        raise ValueError(
            f"a point of {name} has log SNR {level:g}; this estimate needs all of them below "
            f"{cleanest - MARGIN:g}, well above the noise of the model's last level"
        )
    return x
