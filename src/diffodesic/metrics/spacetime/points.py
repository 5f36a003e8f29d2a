"""Points of spacetime: (z, log SNR) in one tensor, and their natural parameters."""

from __future__ import annotations

import torch
from torch import Tensor

from diffodesic.geometry.energy import PathEnergy
from diffodesic.geometry.metric import Metric, MetricEnergy
from diffodesic.numerics import checks

__all__ = [
    "NoisyEnergy",
    "NoisyPoints",
    "from_natural",
    "natural",
    "natural_velocity",
    "pack",
    "packed",
]


def pack(z: Tensor, lam: Tensor) -> Tensor:
    """Pack ``z`` (..., D) and ``lam`` (...) into points (..., D + 1)."""
    return torch.cat([z, lam.unsqueeze(-1)], -1)


def natural(x: Tensor) -> Tensor:
    """Natural parameters ``(k z, -k/2)`` of packed points (..., D + 1)."""
    k = x[..., -1:].exp()
    return torch.cat([k * x[..., :-1], -k / 2], -1)


def from_natural(eta: Tensor) -> Tensor:
    """Packed points of natural parameters (..., D + 1) with ``eta[..., -1] < 0``."""
    k = -2 * eta[..., -1:]
    return torch.cat([eta[..., :-1] / k, k.log()], -1)


def natural_velocity(x: Tensor, u: Tensor) -> Tensor:
    """Derivative of the natural parameters at ``x`` along ``u``, both (..., D + 1)."""
    k = x[..., -1:].exp()
    return torch.cat([k * (u[..., :-1] + x[..., :-1] * u[..., -1:]), -k / 2 * u[..., -1:]], -1)


def packed(x: Tensor, name: str, data_dim: int, *, detach: bool = True) -> Tensor:
    """Packed points (..., D + 1) of a public function, checked by :func:`checks.points`."""
    what = "the dimension of the data and one for log SNR: pack points by space.point(z, log_snr)"
    return checks.points(x, name, data_dim + 1, what, detach=detach)


class NoisyPoints(Metric):
    """Points packed from (z, log SNR): ``x = (z, lam)`` of shape (..., D + 1)."""

    data_dim: int
    log_snr_range: tuple[float, float]

    @property
    def dim(self) -> int:  # type: ignore[override]
        """D + 1."""
        return self.data_dim + 1

    def energy(self) -> PathEnergy:
        """The energy of ``squared_steps``."""
        return NoisyEnergy(self)

    def point(self, z: Tensor, log_snr: Tensor | float) -> Tensor:
        """Pack points.

        Args:
            z: noisy data (..., D).
            log_snr: log SNR, a number or (...).

        Returns:
            (..., D + 1), in the dtype of ``z`` (integers: torch's default); differentiable.

        Raises:
            TypeError: for complex numbers.
            ValueError: if D is wrong, z is not finite, or log SNR is not finite or outside the
                range.
        """
        what = "the dimension of the data"
        z = checks.points(z, "z", self.data_dim, what, empty=True, detach=False)
        lam = checks.expanded(log_snr, z, "log_snr")
        low, high = self.log_snr_range
        low, high = max(low, -checks.WIDEST), min(high, checks.WIDEST)
        if not bool(((lam >= low) & (lam <= high)).all()):
            raise ValueError(
                f"log SNR must be finite and between {low:g} and {high:g}, the range of this space"
            )
        # a float32 may round out of the range
        return pack(z, lam.to(z.dtype).clamp(low, high))

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Unpack points (..., D + 1) into ``z`` (..., D) and ``log_snr`` (...)."""
        if x.ndim == 0 or x.shape[-1] != self.dim:
            raise ValueError(
                f"x has shape {tuple(x.shape)}; its last axis must be {self.dim}: "
                "pack points by point(z, log_snr)"
            )
        return x[..., :-1], x[..., -1]


class NoisyEnergy(MetricEnergy):
    """The energy of a metric on noisy points: z and log SNR have weights of their own."""

    @property
    def blocks(self) -> tuple[int, ...]:
        """The D coordinates of z, and log SNR."""
        return (self.dim - 1, 1)
