r"""A denoiser that is the gradient of a log-partition: exact moments, covariance and divergences.

For a network of ``log p(z; sigma)`` (2506.05310) the log-partition of the posteriors is

    psi(k z, -k/2) = log p(z; sigma) + k |z|^2/2 + (D/2) log(2 pi sigma^2),   k = 1/sigma^2,

and its gradient in the natural parameters is ``(E[x0 | z], E[|x0|^2 | z])``, its Hessian the
posterior covariance.  All that is exact for a mixture is exact here for the law that the network
describes: relative entropies, lengths as upper bounds, gradients by products with the covariance.

What a network does not promise is convexity.  A step ``d_eta . d_mu`` between points where psi is
not convex may be negative; it counts as doubtful, as everywhere.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from diffodesic.denoisers.differentiable import differentiable, full_float32
from diffodesic.denoisers.network import NetworkDenoiser
from diffodesic.numerics import checks
from diffodesic.numerics.cost import record

__all__ = ["LogPartitionDenoiser", "LogPartitionNetwork"]


class LogPartitionNetwork(Protocol):
    """What a network of the log-density answers; :mod:`diffodesic.models.log_partition` has one."""

    def mean_and_spread(self, x: Tensor, noise: Tensor, **condition: Any) -> tuple[Tensor, Tensor]:
        """EDM's F (n, *shape), and ``E|x0 - m|^2 / gain^2`` (n,)."""
        ...

    def log_density(self, z: Tensor, log_sigma: Tensor, **condition: Any) -> Tensor:
        """``log p(z; sigma)`` (n,) of points (n, D) at levels (n,)."""
        ...


@dataclass(eq=False)
class LogPartitionDenoiser(NetworkDenoiser):
    """A network of the log-density as a posterior mean; made as :class:`NetworkDenoiser` is.

    ``fn`` is a :class:`LogPartitionNetwork` that answers calls as an EDM network does; the
    prediction is ``"edm"``, and ``jvp_mode`` is not read.

    **Cost** an evaluation is one forward and one backward pass, and counts as one evaluation and
    one derivative; a product with the Jacobian or the covariance two derivatives more.
    """

    closed_form = True

    def jvp(self, z: Tensor, sigma: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`Denoiser.jvp`: the Jacobian is symmetric, so that ``J v`` is a pullback."""
        v = torch.broadcast_tensors(self._points(z), v)[1]
        m, second, moved, _ = self.moments_and_covariance(z, sigma, v, v.new_zeros(v.shape[:-1]))
        del second
        level = torch.as_tensor(sigma, dtype=m.dtype, device=m.device)
        return m, moved / level.unsqueeze(-1) ** 2

    def moments(self, z: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`Denoiser.moments`, at the cost of one evaluation."""
        flat, level, batch = self._flatten(z, sigma)
        both = self._in_chunks(self._both, flat, level)
        m, second = self._counted(batch, both[:, :-1], both[:, -1])
        return m, second

    def statistic_covariance(
        self, z: Tensor, sigma: Tensor, a: Tensor, b: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As :meth:`Denoiser.statistic_covariance`, by one product with the Hessian of psi."""
        return self.moments_and_covariance(z, sigma, a, b)[2:]

    def moments_and_covariance(
        self, z: Tensor, sigma: Tensor, a: Tensor, b: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As :meth:`Denoiser.moments_and_covariance`, at the cost of the covariance."""
        flat, level, batch = self._flatten(z, sigma)
        batch = torch.broadcast_shapes(batch, a.shape[:-1], b.shape)
        if len(flat) != batch.numel():
            z = self._points(z).expand(*batch, self.dim)
            flat, level, _ = self._flatten(z, sigma)
        direction = torch.cat([a.expand(*batch, self.dim), b.expand(batch).unsqueeze(-1)], -1)
        found = self._in_chunks(self._pulled, flat, level, direction.reshape(-1, self.dim + 1))
        record(derivatives=2 * batch.numel())
        m, second, first, change = found.split([self.dim, 1, self.dim, 1], -1)
        m, second, first, change = self._counted(batch, m, second[:, 0], first, change[:, 0])
        return m, second, first, change

    def log_partition(self, h: Tensor, k: Tensor) -> Tensor:
        """Log-partition psi of the law of the network, in float64.

        Args:
            h: first natural parameter ``k z``, (..., D).
            k: precision of the noise ``1/sigma^2``, (...), within the levels of the network.

        Returns:
            psi, (...), in nats; its gradient in (h, -k/2) is that of :meth:`moments`.

        Raises:
            TypeError: for complex numbers.
            ValueError: if the last axis of ``h`` is not D, or for levels out of range.

        Cost: one evaluation per point, in float64.
        """
        h = self._points(h, "h")
        k = checks.expanded(k, h, "k").to(h)
        flat, level = h.reshape(-1, self.dim), k.reshape(-1).rsqrt()
        self.schedule.time(-2 * level.log())  # refuses levels out of range
        network = copy.deepcopy(self.fn).double()  # type: ignore[attr-defined]

        def psi(h: Tensor, sigma: Tensor) -> Tensor:
            z = h.double() * sigma.double().unsqueeze(-1) ** 2
            log_sigma = sigma.double().log()
            place = self._place(z)[0]
            bound = self._conditions(len(z), z.dtype, place)
            with differentiable():
                found = network.log_density(z.to(place), log_sigma.to(place), **bound).to(z)
            size = (h.double() * z).sum(-1) / 2
            return found + size + self.dim * (log_sigma + math.log(2 * math.pi) / 2)

        # no backward pass yet
        (found,) = super()._counted(k.shape, self._in_chunks(psi, flat, level))
        return found.to(h)

    def _counted(self, batch: torch.Size, *parts: Tensor) -> tuple[Tensor, ...]:
        record(derivatives=batch.numel())
        return super()._counted(batch, *parts)

    def _both(self, z: Tensor, sigma: Tensor) -> Tensor:
        """Both moments of one chunk, ``z`` (n, D) and ``sigma`` (n,), as (n, D + 1)."""
        skip, gain, x, t = self._inputs(z, sigma)
        device, dtype = self._place(x)
        inputs = x.reshape(-1, *self.shape).to(device=device, dtype=dtype)
        bound = self._conditions(len(x), dtype, device)
        network = cast(LogPartitionNetwork, self.fn)
        with full_float32(), differentiable():
            field, spread = network.mean_and_spread(inputs, t.to(inputs), **bound)
        given = self._finite(torch.cat([field.flatten(1), spread.unsqueeze(-1)], -1).to(x), sigma)
        m = skip * z + gain * given[:, :-1]
        return torch.cat([m, m.square().sum(-1, keepdim=True) + gain**2 * given[:, -1:]], -1)

    def _pulled(self, z: Tensor, sigma: Tensor, direction: Tensor) -> Tensor:
        """Both moments and the covariance applied to directions (n, D + 1), (n, 2 D + 2)."""

        def moments(z: Tensor, log_sigma: Tensor) -> Tensor:
            return self._both(z, log_sigma.exp())

        both, pull = torch.func.vjp(moments, z, sigma.log())  # type: ignore[misc]
        by_z, by_level = pull(direction)
        # from (z, log sigma) to (k z, -k/2)
        change = 2 * (z * by_z).sum(-1) + by_level
        square = sigma.unsqueeze(-1) ** 2
        return torch.cat([both, square * by_z, square * change.unsqueeze(-1)], -1)
