r"""A network of the log-density: its gradient is the posterior mean, its slope in noise the spread.

The log-density of noisy data, ``log p(z; sigma) = -U``, is that of Gaussian data with the mean
``mu`` and covariance C of the data, corrected by a network f through the whitened residual n,

    U = |n|^2/2 + log det(C + sigma^2)/2 + (D/2) log 2 pi + D (s^2/r^2) beta(log sigma),
    n = (C + sigma^2)^(-1/2) (z - mu) - W (f(x, c) - o F_G),
    x = (z - (1 - o) mu)/r,  c = log(sigma)/4,  r^2 = s^2 + sigma^2,
    W = t^2/(t^2 + sigma^2) (C/(C + sigma^2))^p,   p = 1/4 + 5/4 sigma^2/r^2,

with t^2 the largest eigenvalue of C: above it the data look Gaussian, each direction by its own
variance.  Much noise asks for p = 3/2, as third cumulants fade, so that what is learned of little
noise spoils nothing there; little noise asks for all directions, as normals of the data turn.
``U = |n|^2/2`` is the energy of an autoencoder (Salimans & Ho 2021), n the noise itself near data
of low dimension, and beta, a function of the level alone, counts their dimensions.  o = 1 where f
starts as the raw network F of an EDM denoiser, from which F_G, that of the Gaussian, is taken; else
o = 0.  Then (2506.05310)

    m = E[x0 | z]        = z - sigma^2 dU/dz,
    q = E[|z - x0|^2 | z] = sigma^2 (D - dU/dlog sigma)

come from one forward and one backward pass.  Both are derivatives of one function: the Jacobian is
symmetric, Maxwell's identity holds, and relative entropies are differences of U.  What is given out
is of order one at every level: F with ``m = skip z + gain F``, EDM's (2206.00364), and the spread
``E|x0 - m|^2 = q - |z - m|^2`` in units of gain^2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from diffodesic.denoisers.log_partition import LogPartitionDenoiser
from diffodesic.denoisers.predictions import edm_preconditioning
from diffodesic.denoisers.schedules import EDM

__all__ = ["LogPartitionNet", "covariance"]

KNOTS = 24  # of beta, over the levels of the training
RANK = 512  # directions of the data whose variance is kept, each its own
MOST = 2048  # coordinates up to which all directions are found at once
FEWEST = 1e-4  # variance of a direction, in that of the data
POWER = (0.25, 1.5)  # p, where there is little noise and where there is much


def covariance(points: Tensor) -> tuple[Tensor, Tensor, Tensor, float]:
    """Mean and covariance of examples, ``C = sum_i (l_i - rest) v_i v_i^T + rest``.

    Args:
        points: examples (N, ...), flattened to (N, D).

    Returns:
        the mean (D,), directions v (R, D), their variances l (R,), and that of all others.
    """
    flat = points.reshape(len(points), -1).double()
    mean = flat.mean(0)
    centred = flat - mean
    dim, total = flat.shape[1], float(centred.square().sum() / len(flat))
    if dim <= MOST:
        values, vectors = torch.linalg.eigh(centred.T @ centred / len(flat))
        values, basis = values.flip(0)[:RANK], vectors.T.flip(0)[:RANK]
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            _, sizes, right = torch.pca_lowrank(centred, min(RANK, *flat.shape), center=False)
        values, basis = sizes.square() / len(flat), right.T
    least = FEWEST * total / dim
    rest = (total - float(values.sum())) / max(1, dim - len(values))
    return mean, basis.contiguous(), values.clamp(min=least), max(rest, least)


class LogPartitionNet(nn.Module):
    """The log-density of noisy data, and what follows from its derivatives.

    Args:
        network: f, ``network(x (N, *shape), c (N,), ...) -> (N, *shape)``, smooth.
        shape: of one input.
        sigma_data: s.
        levels: smallest and largest noise of the training.
        rank: directions whose variance is kept; their values are buffers, filled by :meth:`fit` or
            by the weights on disk.
        offset: whether f is the raw network F of a denoiser (o = 1).
    """

    mean: Tensor
    basis: Tensor
    values: Tensor
    rest: Tensor

    def __init__(
        self,
        network: nn.Module,
        shape: tuple[int, ...],
        sigma_data: float,
        levels: tuple[float, float],
        rank: int,
        *,
        offset: bool = False,
    ) -> None:
        super().__init__()
        self.network, self.shape, self.sigma_data = network, tuple(shape), sigma_data
        self.dim, self.offset = math.prod(shape), offset
        if not 0 <= rank <= self.dim:
            raise ValueError(f"rank = {rank}: give 0 to {self.dim}, the number of coordinates.")
        self.levels = EDM(*levels)
        low, high = (math.log(level) for level in levels)
        self.width = (high - low) / (KNOTS - 1)
        self.knots = [low + i * self.width for i in range(KNOTS)]
        self.config: dict[str, Any] = {"rank": rank, "offset": offset}
        self.beta = nn.Parameter(torch.zeros(KNOTS))
        for name, value in (
            ("mean", torch.zeros(self.dim)),
            ("basis", torch.zeros(rank, self.dim)),
            ("values", torch.ones(rank)),
            ("rest", torch.ones(())),
        ):
            self.register_buffer(name, value)

    def fit(self, points: Tensor) -> None:
        """Take mean and covariance from examples (N, *shape)."""
        mean, basis, values, rest = covariance(points)
        rank = len(self.values)
        found = (mean, basis[:rank], values[:rank], torch.tensor(rest))
        buffers = (self.mean, self.basis, self.values, self.rest)
        for buffer, value in zip(buffers, found, strict=True):
            buffer.copy_(value)

    def denoiser(self, chunk: int | None = None) -> LogPartitionDenoiser:
        """The posterior mean that this is, at most ``chunk`` points in one call."""
        return LogPartitionDenoiser(
            self,
            shape=self.shape,
            schedule=self.levels,
            prediction="edm",
            sigma_data=self.sigma_data,
            variance=self.sigma_data**2,
            log_snr_range=self.levels.log_snr_range,
            jvp_mode="double-vjp",
            chunk=chunk,
        )

    def forward(self, x: Tensor, noise: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """F, as :class:`diffodesic.models.unet.UNet` has it, the gradient of the log-density.

        Args:
            x: ``z / r``, (N, *shape).
            noise: ``log(sigma) / 4``, (N,).
            class_labels: labels (N,), for a network of classes.

        Returns:
            F (N, *shape).

        Cost: one evaluation and one backward pass of f.
        """
        return self.mean_and_spread(x, noise, class_labels)[0]

    def mean_and_spread(
        self,
        x: Tensor,
        noise: Tensor,
        class_labels: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """F, and ``E|x0 - m|^2 / gain^2``.

        Args:
            x: ``z / r``, (N, *shape).
            noise: ``log(sigma) / 4``, (N,).
            class_labels: labels (N,), for a network of classes.

        Returns:
            (N, *shape) and (N,).

        Cost: one evaluation and one backward pass of f.
        """
        sigma = (4 * noise).exp().unsqueeze(-1)
        skip, gain, scale, _ = edm_preconditioning(sigma, self.sigma_data)
        z = x.flatten(1) * scale

        def total(z: Tensor, log_sigma: Tensor) -> Tensor:
            return self.correction(z, log_sigma, class_labels).sum()

        by_z, by_level = torch.func.grad(total, argnums=(0, 1))(z, 4 * noise)
        shrunk = self._scaled(z - self.mean, sigma, lambda v: sigma**2 / (v + sigma**2))  # z - m_G
        moved = sigma * scale / self.sigma_data * by_z  # (m - m_G) / gain
        field = (z - shrunk - skip * z) / gain + moved
        spread = (
            self.gaussian_spread(sigma) / gain.squeeze(-1) ** 2
            + (moved * (2 / gain * shrunk - moved)).sum(-1)
            + (scale / self.sigma_data).squeeze(-1) ** 2 * by_level
        )
        return field.reshape(x.shape), spread

    def gaussian_spread(self, sigma: Tensor) -> Tensor:
        """``E|x0 - m|^2`` of the Gaussian data, (N,), for levels (N, 1)."""
        square = sigma**2
        rest = self.rest * square / (self.rest + square)
        kept = (self.values * square / (self.values + square)).sum(-1)
        return kept + (self.dim - len(self.values)) * rest.squeeze(-1)

    def correction(
        self, z: Tensor, log_sigma: Tensor, class_labels: Tensor | None = None
    ) -> Tensor:
        """How far ``log p(z; sigma)`` lies above that of the Gaussian, (N,).

        Args:
            z: noisy points (N, D).
            log_sigma: levels (N,).
            class_labels: labels (N,), for a network of classes.

        Returns:
            nats (N,).

        Cost: one evaluation of f.
        """
        sigma = log_sigma.exp().unsqueeze(-1)
        skip, gain, scale, _ = edm_preconditioning(sigma, self.sigma_data)
        given = () if class_labels is None else (class_labels,)
        x = z if self.offset else z - self.mean
        raw = self.network((x / scale).reshape(-1, *self.shape), log_sigma / 4, *given).flatten(1)
        if self.offset:
            shrunk = self._scaled(z - self.mean, sigma, lambda v: sigma**2 / (v + sigma**2))
            raw = raw - (z - shrunk - skip * z) / gain
        whole = self._scaled(z - self.mean, sigma, lambda v: (v + sigma**2).rsqrt())
        top = self.values[0] if len(self.values) else self.rest
        power = POWER[0] + (POWER[1] - POWER[0]) * (sigma / scale) ** 2
        fade = self._scaled(raw, sigma, lambda v: (v / (v + sigma**2)) ** power)
        step = top / (top + sigma**2) * fade
        share = (self.sigma_data / scale).squeeze(-1) ** 2
        return (step * (whole - step / 2)).sum(-1) - self.dim * share * self._counted(log_sigma)

    def log_density(
        self, z: Tensor, log_sigma: Tensor, class_labels: Tensor | None = None
    ) -> Tensor:
        """``log p(z; sigma)``, (N,), in nats; arguments and cost as :meth:`correction`."""
        sigma = log_sigma.exp().unsqueeze(-1)
        whole = self._scaled(z - self.mean, sigma, lambda v: (v + sigma**2).rsqrt())
        rest = (self.dim - len(self.values)) * (self.rest + sigma**2).log().squeeze(-1)
        size = (self.values + sigma**2).log().sum(-1) + rest + self.dim * math.log(2 * math.pi)
        return self.correction(z, log_sigma, class_labels) - (whole.square().sum(-1) + size) / 2

    def _scaled(self, v: Tensor, sigma: Tensor, by: Callable[[Tensor], Tensor]) -> Tensor:
        """A function of C, given by that of its eigenvalues, applied to vectors (N, D)."""
        rest = by(self.rest)
        return rest * v + ((by(self.values) - rest) * (v @ self.basis.T)) @ self.basis

    def _counted(self, log_sigma: Tensor) -> Tensor:
        """Beta (N,): bumps of its slope, integrated from no data left down to the level."""
        knots = log_sigma.new_tensor(self.knots)
        beyond = torch.erfc((log_sigma.unsqueeze(-1) - knots) / (math.sqrt(2) * self.width))
        return math.sqrt(math.pi / 2) * self.width * (beyond * self.beta).sum(-1)
