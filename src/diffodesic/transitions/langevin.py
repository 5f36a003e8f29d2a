r"""Langevin dynamics of a potential, free or held near a point by the noise of a posterior.

The posterior of z = x + sigma eps under p(x) ~ exp(-U/kT) is exp(-V) with

    V(x) = U(x)/kT + (k/2)|x - z|^2,     k = 1/sigma^2     (2505.17517, Alg. 1; k = 0 is free),

and one step of size tau (in squared units of x: kT times time over friction) is

    x' = x - tau grad V(x) + sqrt(2 tau) xi.

Unadjusted, its stationary distribution is off by the order of tau.  The Metropolis correction
(MALA, Roberts & Tweedie 1996) accepts x' with probability min(1, e^{V(x) - V(x')} q(x|x')/q(x'|x)),
where q(x'|x) ~ exp(-|x' - x + tau grad V(x)|^2 / 4 tau), and leaves exp(-V) exactly invariant.

Periodic coordinates are left on the line, so |x - z| needs no image.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffodesic.transitions.potentials import Potential, positive

__all__ = ["Langevin", "Walkers", "suggested_step"]

_FAR = 1e3  # box sizes; a state that far away has left for infinity
_STUCK, _TRIES = 0.01, 1000  # fewer than this share of so many moves accepted is an error


@dataclass(frozen=True)
class Walkers:
    """States of P independent walkers, with what their next step needs.

    Attributes:
        x: positions (P, d).
        energy: U, (P,).
        slope: gradient of U, (P, d).
        accepted: share of moves accepted in the last run; 1 if it was not corrected.
    """

    x: Tensor
    energy: Tensor
    slope: Tensor
    accepted: float = 1.0

    @classmethod
    def at(cls, potential: Potential, x: Tensor) -> Walkers:
        """Walkers at ``x`` (P, d).  **Cost** one energy with gradient each."""
        return cls(x, *potential.gradient(x))

    def __getitem__(self, keep: Tensor) -> Walkers:
        """The walkers ``keep``, a mask (P,)."""
        return Walkers(self.x[keep], self.energy[keep], self.slope[keep])

    def where(self, mask: Tensor, other: Walkers) -> Walkers:
        """These walkers where ``mask`` (P,) is true, else those of ``other``."""
        wide = mask.unsqueeze(-1)
        return Walkers(
            torch.where(wide, self.x, other.x),
            torch.where(mask, self.energy, other.energy),
            torch.where(wide, self.slope, other.slope),
        )


@dataclass(frozen=True)
class Langevin:
    """Langevin dynamics with steps of one size, on P walkers at once.

    Attributes:
        potential: U and kT.
        step: tau, in squared units of x.
        z: point that the walkers are held near, (d,) or (P, d); default none.
        log_snr: ``log k`` of that hold.
        correct: use the Metropolis correction.

    Raises:
        ValueError: if the step size is not positive.
    """

    potential: Potential
    step: float
    z: Tensor | None = None
    log_snr: float = -math.inf
    correct: bool = True

    def __post_init__(self) -> None:
        positive(self.step, "step")

    def run(
        self,
        walkers: Walkers,
        steps: int,
        generator: torch.Generator,
        watch: Callable[[Walkers], None] | None = None,
    ) -> Walkers:
        """Take Langevin steps.

        Args:
            walkers: where to start.
            steps: number of steps.
            generator: source of the noise, on the CPU.
            watch: called after every step with the walkers.

        Returns:
            the walkers, with the share of accepted moves.

        Raises:
            ValueError: if the step size is so large that a walker leaves for infinity or that
                fewer than 1 % of the corrected moves are accepted.

        **Cost** one energy with gradient per step and walker.
        """
        start, taken = walkers.x, 0
        noise = torch.randn((steps, *start.shape), generator=generator, dtype=torch.float64)
        for kick in (math.sqrt(2 * self.step) * noise).to(start):
            x = walkers.x - self.step * self._slope(walkers) + kick
            # NaN is not below
            near = (x - start).abs().amax(-1) < self._far
            if self.correct:
                trial = Walkers.at(self.potential, torch.where(near.unsqueeze(-1), x, walkers.x))
                accept = self._accepted(walkers, trial, generator) & near
                taken += int(accept.sum())
                walkers = trial.where(accept, walkers)
            elif bool(near.all()):
                walkers = Walkers.at(self.potential, x)
            else:
                raise ValueError(
                    f"step {self.step:g} makes the dynamics on {self.potential.name} explode; "
                    f"try step={self.step / 10:g}, or correct=True, which rejects such moves"
                )
            if watch:
                watch(walkers)
        tries = steps * len(start)
        share = taken / tries if self.correct else 1.0
        if share < _STUCK and tries >= _TRIES:
            raise ValueError(
                f"step {self.step:g} is too large for {self.potential.name}: {100 * share:.2g} % "
                f"of the moves were accepted; try step={self.step / 10:g}"
            )
        return replace(walkers, accepted=share)

    @property
    def _far(self) -> float:
        return _FAR * max(high - low for low, high in self.potential.box)

    def _accepted(self, old: Walkers, new: Walkers, generator: torch.Generator) -> Tensor:
        """Which trial moves the Metropolis rule takes, (P,)."""

        def unlikely(source: Walkers, target: Walkers) -> Tensor:
            """``-log q(target|source)``, up to a constant."""
            gap = target.x - source.x + self.step * self._slope(source)
            return gap.square().sum(-1) / (4 * self.step)

        log_ratio = self._depth(old) - self._depth(new) + unlikely(old, new) - unlikely(new, old)
        level = torch.rand(len(old.x), generator=generator, dtype=torch.float64).to(old.x)
        # an infinite energy gives -inf or NaN: not accepted
        return level.log() < log_ratio

    def _depth(self, state: Walkers) -> Tensor:
        """V, (P,)."""
        depth = state.energy / self.potential.kT
        if self.z is None:
            return depth
        return depth + math.exp(self.log_snr) / 2 * (state.x - self.z).square().sum(-1)

    def _slope(self, state: Walkers) -> Tensor:
        """``grad V``, (P, d)."""
        slope = state.slope / self.potential.kT
        return slope if self.z is None else slope + math.exp(self.log_snr) * (state.x - self.z)


def suggested_step(potential: Potential, x: Tensor, log_snr: float = -math.inf) -> float:
    """A tenth of the fastest relaxation time near ``x``: ``0.1 / (k + max |Hess U|/kT)``.

    Args:
        potential: the potential.
        x: points (..., d), such as the two states of a path.
        log_snr: log SNR of the tightest hold.

    Returns:
        a step size, in squared units of x.

    **Cost** ``2 d`` energies with gradient per point.
    """
    stiffest = float(potential.hessian(x).abs().sum(-1).max()) / potential.kT
    return 0.1 / (math.exp(log_snr) + stiffest)
