"""Constraints on paths in spacetime: a least log SNR, and a region to stay away from."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from diffodesic.metrics.spacetime.metric import Spacetime
from diffodesic.metrics.spacetime.points import packed
from diffodesic.numerics import checks

__all__ = ["AvoidRegion", "MinLogSNR"]


@dataclass(frozen=True)
class MinLogSNR:
    """Keep log SNR at or above ``rho``: the low-variance paths of 2505.17517.

    Attributes:
        rho: lowest log SNR allowed.
    """

    rho: float

    def __call__(self, x: Tensor) -> Tensor:
        """``log_snr - rho`` of packed points, (..., m, D + 1) -> (..., m)."""
        return x[..., -1] - self.rho


@dataclass(frozen=True)
class AvoidRegion:
    """Stay a relative entropy ``kl_at_least`` away from the posterior at ``point``.

    Attributes:
        space: the spacetime.
        point: the centre z* of the region, packed (D + 1,).
        kl_at_least: rho > 0, in nats; absolute, whatever the ends of the path.

    Raises:
        TypeError: for complex numbers.
        ValueError: for a point of the wrong shape or not finite, or ``kl_at_least`` that is not
            positive.
    """

    space: Spacetime
    point: Tensor
    kl_at_least: float
    _star: tuple[Tensor, Tensor] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        checks.of_kind(self.space, "space", Spacetime)
        object.__setattr__(self, "point", packed(self.point, "point", self.space.data_dim))
        if self.point.shape != (self.space.dim,) or not self.kl_at_least > 0:
            raise ValueError(
                f"point has shape {tuple(self.point.shape)} and kl_at_least is "
                f"{self.kl_at_least}; they must be ({self.space.dim},) and positive"
            )
        with torch.no_grad():
            star = self.space.eta(self.point), self.space.mu(self.point)
        object.__setattr__(self, "_star", star)

    def kl(self, x: Tensor) -> Tensor:
        """Relative entropy of the posterior at ``point`` from those along a curve, in nats.

        Args:
            x: packed points (..., m, D + 1); where the log-partition is not known in closed form
                they must be the points of a curve, in order.

        Returns:
            KL(z* || x), (..., m), differentiable.

        Cost: none for mixtures; else one ``mu`` per point, and a quadrature for the first.
        """
        eta_star, mu_star = self._star
        eta = self.space.eta(x)
        psi = getattr(self.space.denoiser, "log_partition", None)
        if psi is not None:
            gap = psi(eta[..., :-1], -2 * eta[..., -1]) - psi(eta_star[:-1], -2 * eta_star[-1])
            return gap + ((eta_star - eta) * mu_star).sum(-1)
        from diffodesic.metrics.spacetime.posterior_divergences import kl

        with torch.no_grad():
            first = kl(self.space, self.point.expand_as(x[..., 0, :]), x[..., 0, :])
        excess = self.space.mu(x) - mu_star
        rise = (eta.diff(dim=-2) * (excess[..., 1:, :] + excess[..., :-1, :]) / 2).sum(-1)
        return first[..., None] + torch.nn.functional.pad(rise.cumsum(-1), (1, 0))

    def __call__(self, x: Tensor) -> Tensor:
        """``sqrt(2 KL) - sqrt(2 rho)``: near z* a distance, like the lengths of the path."""
        tiny = torch.finfo(x.dtype).tiny  # rounding may leave KL below zero near z*
        return (2 * self.kl(x)).clamp(min=tiny).sqrt() - (2 * self.kl_at_least) ** 0.5
