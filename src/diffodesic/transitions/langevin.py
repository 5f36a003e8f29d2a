r"""Langevin dynamics of a Boltzmann law, free or held near a point by the noise of a posterior.

The posterior of z = x + sigma eps under p(x) ~ exp(-U/kT) is exp(-V) with

    V(x) = U(x)/kT + (k/2)|x - z|^2,     k = 1/sigma^2     (2505.17517, Alg. 1; k = 0 is free),

and one step of size tau (in squared units of x: kT times time over friction) is

    x' = x - tau grad V(x) + sqrt(2 tau) xi.

Unadjusted, its stationary law is off by the order of tau.  The Metropolis correction (MALA, Roberts
& Tweedie 1996) accepts x' with probability min(1, e^{V(x) - V(x')} q(x|x')/q(x'|x)), where
q(x'|x) ~ exp(-|x' - x + tau grad V(x)|^2 / 4 tau), and leaves exp(-V) exactly invariant.

Walkers are vectorised; a step costs each of them one evaluation with gradient.  Periodic
coordinates are left on the line, so |x - z| needs no image.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffodesic.transitions.potentials import Potential, positive

__all__ = ["Walkers", "sample", "suggested_step", "walk"]

_FAR = 1e3  # box sizes; nothing that is still a path goes there
_STUCK, _TRIES = 0.01, 1000  # share of accepted moves, of so many, below which nothing moves


@dataclass(frozen=True)
class Walkers:
    """States of P chains, with what the next step needs of them.

    Attributes:
        x: positions (P, d).
        energy: U, (P,).
        slope: gradient of U, (P, d).
        accepted: share of moves accepted in the last :func:`walk`; 1 if it was not corrected.
    """

    x: Tensor
    energy: Tensor
    slope: Tensor
    accepted: float = 1.0

    @classmethod
    def at(cls, potential: Potential, x: Tensor) -> Walkers:
        """Chains that start at ``x`` (P, d); one evaluation each."""
        return cls(x, *potential.gradient(x))


def walk(
    potential: Potential,
    walkers: Walkers,
    *,
    steps: int,
    step: float,
    generator: torch.Generator,
    z: Tensor | None = None,
    log_snr: float = -math.inf,
    correct: bool = True,
    watch: Callable[[Walkers], None] | None = None,
) -> Walkers:
    """Take Langevin steps.

    Args:
        potential: U and kT.
        walkers: where the chains are.
        steps: number of steps.
        step: tau, in squared units of x.
        generator: source of the noise, on the CPU.
        z: point that the chains are held near, (d,) or (P, d); default none.
        log_snr: log SNR of that hold, ``log k``.
        correct: use the Metropolis correction.
        watch: called after every step with the walkers.

    Returns:
        the walkers, with the share of accepted moves.

    Raises:
        ValueError: if the step size is not positive, or so large that a chain leaves for infinity
            or that fewer than 1 % of the corrected moves are accepted.

    Cost: one evaluation of the potential with gradient per step and walker.
    """
    positive(step, "step")
    k = 0.0 if z is None else math.exp(log_snr)
    centre = walkers.x if z is None else z
    far = _FAR * max(high - low for low, high in potential.box)
    size = (steps, *walkers.x.shape)
    noise = math.sqrt(2 * step) * torch.randn(size, generator=generator, dtype=torch.float64)
    taken, kT = 0, potential.kT
    for kick in noise.to(walkers.x):
        drift = walkers.slope / kT + k * (walkers.x - centre)
        x = walkers.x - step * drift + kick
        # NaN fails the comparison too
        near = (x - centre).abs().amax(-1, keepdim=True) < far
        if not correct and not bool(near.all()):
            raise ValueError(_exploded(potential, step))
        trial = Walkers.at(potential, torch.where(near, x, walkers.x) if correct else x)
        if correct:
            accept = _accepted(walkers, trial, centre, k, step, kT, generator) & near[:, 0]
            taken += int(accept.sum())
            walkers = _choose(accept, trial, walkers)
        else:
            walkers = trial
        if watch:
            watch(walkers)
    tries = steps * len(walkers.x)
    share = taken / tries if correct else 1.0
    if share < _STUCK and tries >= _TRIES:
        raise ValueError(
            f"step {step:g} is too large for {potential.name}: {100 * share:.2g} % of the moves "
            f"were accepted; try step={step / 10:g}"
        )
    return Walkers(walkers.x, walkers.energy, walkers.slope, share)


def _accepted(
    old: Walkers,
    new: Walkers,
    centre: Tensor,
    k: float,
    step: float,
    kT: float,
    generator: torch.Generator,
) -> Tensor:
    """Which trial moves the Metropolis rule takes, (P,)."""

    def towards(source: Walkers, target: Walkers) -> Tensor:
        drift = source.slope / kT + k * (source.x - centre)
        return (target.x - source.x + step * drift).square().sum(-1) / (4 * step)

    def depth(state: Walkers) -> Tensor:
        return state.energy / kT + k / 2 * (state.x - centre).square().sum(-1)

    log_ratio = depth(old) - depth(new) + towards(old, new) - towards(new, old)
    level = torch.rand(len(old.x), generator=generator, dtype=torch.float64).to(old.x)
    # an infinite energy gives -inf or NaN: not accepted
    return level.log() < log_ratio


def _choose(accept: Tensor, new: Walkers, old: Walkers) -> Walkers:
    taken = accept.unsqueeze(-1)
    return Walkers(
        torch.where(taken, new.x, old.x),
        torch.where(accept, new.energy, old.energy),
        torch.where(taken, new.slope, old.slope),
    )


def _exploded(potential: Potential, step: float) -> str:
    return (
        f"step {step:g} makes the dynamics on {potential.name} explode; "
        f"try step={step / 10:g}, or correct=True, which rejects such moves"
    )


def suggested_step(potential: Potential, x: Tensor, log_snr: float = -math.inf) -> float:
    """A tenth of the fastest relaxation time near ``x``: ``0.1 / (k + max |Hess U|/kT)``.

    Args:
        potential: the potential.
        x: points (..., d), such as the two states of a path.
        log_snr: log SNR of the tightest hold.

    Returns:
        a step size, in squared units of x.

    Cost: ``2 d`` evaluations with gradient per point.
    """
    stiffest = float(hessian(potential, x).abs().sum(-1).max()) / potential.kT
    return 0.1 / (math.exp(log_snr) + stiffest)


def hessian(potential: Potential, x: Tensor) -> Tensor:
    """Second derivatives of U by central differences of its gradient.

    Args:
        potential: the potential.
        x: points (..., d).

    Returns:
        symmetric matrices (..., d, d), to 1e-8 of the box squared times the fourth derivative.

    Cost: ``2 d`` evaluations with gradient per point.
    """
    h = 1e-4 * min(high - low for low, high in potential.box)
    move = h * torch.eye(potential.dim, dtype=x.dtype, device=x.device)
    ahead, behind = (potential.gradient(x.unsqueeze(-2) + sign * move)[1] for sign in (1, -1))
    rows = (ahead - behind) / (2 * h)
    return (rows + rows.mT) / 2


def sample(
    potential: Potential,
    start: Tensor,
    *,
    steps: int,
    step: float,
    every: int = 1,
    correct: bool = True,
    seed: int = 0,
) -> tuple[Tensor, float]:
    """Sample the Boltzmann law by chains from given points, for training and for comparison.

    Args:
        potential: U and kT.
        start: first states (P, d).
        steps: steps of every chain.
        step: tau, in squared units of x.
        every: keep one state in so many.
        correct: use the Metropolis correction, without which the law is off by the order of tau.
        seed: seed of the noise, drawn on the CPU.

    Returns:
        states (P, steps // every, d), not wrapped, and the share of accepted moves.

    Raises:
        ValueError: if ``steps`` or ``every`` leaves no state, or the step size is too large.

    Cost: ``steps + 1`` evaluations with gradient per chain.
    """
    if every < 1 or steps < every:
        raise ValueError(f"every must be between 1 and steps, got every={every}, steps={steps}")
    generator = torch.Generator().manual_seed(seed)
    walkers = Walkers.at(potential, start)
    kept, shares = [], []
    for _ in range(steps // every):
        walkers = walk(
            potential, walkers, steps=every, step=step, generator=generator, correct=correct
        )
        kept.append(walkers.x)
        shares.append(walkers.accepted)
    return torch.stack(kept, 1), sum(shares) / len(shares)
