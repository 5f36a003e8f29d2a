"""The posterior mean of a diffusion model: all that the geometry needs from it.

The core knows one process, ``z = x0 + sigma eps``, and one function,

    m(z, sigma) = E[x0 | z],      log SNR lam = -2 log sigma,      k = e^lam = 1 / sigma^2.

Everything else follows from it (Robbins 1956; Tweedie's formula and its derivative):

    score(z)      = (m - z) / sigma^2
    Cov[x0 | z]   = sigma^2 dm/dz               symmetric, positive for a true posterior mean
    E[|x0|^2 | z] = |m|^2 + sigma^2 div m

Points are flat vectors with the batch in front, ``z`` of shape (..., D) and ``sigma`` of shape
(...).  ``network`` flattens the images of a network, ``models.codec`` those of a user.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from diffodesic.numerics import checks, derivatives
from diffodesic.numerics.cost import record

__all__ = ["Denoiser", "HasLogPartition"]


class Denoiser(ABC):
    """A posterior mean ``m(z, sigma) = E[x0 | z]`` of ``z = x0 + sigma eps``.

    A subclass writes :meth:`posterior_mean`, and :meth:`moments` where a closed form exists.  A
    function becomes a denoiser by :meth:`from_callable`, a network by ``from_network``.

    Attributes:
        dim: number D of coordinates of ``z``.
        mean: mean of the data, a number or a (D,) tensor; used for starts and scales only.
        variance: variance of one coordinate of the data, averaged over coordinates; used for
            starts, scales and steps of finite differences only.
        log_snr_range: lowest and highest log SNR at which the denoiser can be trusted.
        closed_form: True where :meth:`moments` and :meth:`statistic_covariance` are exact and cost
            one evaluation each.
        learned: True for a network: it is known to about 1e-3, and searches stop there.
        chunk: largest number of points in one call that keeps a graph; None for no limit.
    """

    dim: int
    mean: Tensor | float = 0.0
    variance: float = 1.0
    log_snr_range: tuple[float, float] = (-math.inf, math.inf)
    closed_form: bool = False
    learned: bool = False
    chunk: int | None = None

    @staticmethod
    def from_callable(
        f: Callable[[Tensor, Tensor], Tensor],
        *,
        dim: int,
        variance: float,
        mean: Tensor | float = 0.0,
        log_snr_range: tuple[float, float] = (-math.inf, math.inf),
    ) -> Denoiser:
        """Make a denoiser of a function, after a trial on a small batch.

        Args:
            f: the posterior mean ``f(z (N, D), sigma (N,)) -> (N, D)``, in the dtype and on the
                device of ``z``.  Torch must be able to differentiate it forward and backward.
            dim: number D of coordinates.
            variance: variance of one coordinate of the data, averaged over coordinates.
            mean: mean of the data, a number or (D,).  The trial has the dtype and the device of a
                tensor, and is in float64 on the CPU for a number.
            log_snr_range: lowest and highest log SNR at which ``f`` can be trusted.

        Returns:
            the denoiser.

        Raises:
            TypeError: if ``f`` cannot be called, or does not return a tensor in the dtype of ``z``.
            ValueError: if ``f`` returns another shape, or another argument is out of range.

        Cost: three evaluations at most.
        """
        return _CallableDenoiser(f, dim, variance, mean, log_snr_range)

    @abstractmethod
    def posterior_mean(self, z: Tensor, sigma: Tensor) -> Tensor:
        """E[x0 | z] for ``z`` (N, D) and ``sigma`` (N,), without counting; call the object."""

    def __call__(self, z: Tensor, sigma: Tensor) -> Tensor:
        """Posterior mean.

        Args:
            z: noisy points (..., D).
            sigma: noise standard deviations, above zero, broadcast over the batch (...).

        Returns:
            E[x0 | z], (..., D), in the dtype of ``z`` (integers: torch's default); NaN in the row
            of a point that is not finite.

        Raises:
            TypeError: for complex numbers.
            ValueError: if the last axis of ``z`` is not D.

        Cost: one evaluation per point.
        """
        flat, level, batch = self._flatten(z, sigma)
        return self._counted(batch, self.posterior_mean(flat, level))[0]

    def jvp(self, z: Tensor, sigma: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior mean and its directional derivative in ``z`` at fixed noise.

        Args:
            z: noisy points (..., D).
            sigma: noise standard deviations (...).
            v: directions (..., D), broadcast against ``z``.

        Returns:
            ``(m, J v)``, both (..., D); differentiable.

        Cost: one evaluation and one derivative per point.
        """
        # forward mode refuses tensors whose entries share memory, as broadcasting leaves them
        z, v = (t.contiguous() for t in torch.broadcast_tensors(self._points(z), v))
        value, tangent = derivatives.jvp(lambda p: self(p, sigma), (z,), (v,))
        count = tangent.numel() // self.dim
        record(derivatives=count)
        return value, derivatives.track_vjp(tangent, count)

    def moments(self, z: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """E[x0 | z] and E[|x0|^2 | z], by the full divergence unless a closed form exists.

        Args:
            z: noisy points (..., D).
            sigma: noise standard deviations (...).

        Returns:
            (..., D) and (...).

        Cost: D + 1 evaluations and D derivatives per point (one evaluation in closed form).
        """
        z = self._points(z)
        m = self(z, sigma)
        sigma = torch.as_tensor(sigma, dtype=z.dtype, device=z.device)
        basis = torch.eye(self.dim, dtype=z.dtype, device=z.device)
        _, columns = self.jvp(z.unsqueeze(-2), sigma.unsqueeze(-1), basis)
        divergence = torch.diagonal(columns, dim1=-2, dim2=-1).sum(-1)
        return m, m.square().sum(-1) + sigma**2 * divergence

    def statistic_covariance(
        self, z: Tensor, sigma: Tensor, a: Tensor, b: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Posterior covariance of ``T = (x0, |x0|^2)`` applied to ``(a, b)``.

        The derivative of the moments in the natural parameters ``(z/sigma^2, -1/(2 sigma^2))``.

        Args:
            z: noisy points (..., D).
            sigma: noise standard deviations (...).
            a: first part of the vector, (..., D).
            b: second part, (...).

        Returns:
            ``Cov[x0, a.x0 + b|x0|^2]`` (..., D) and ``Cov[|x0|^2, a.x0 + b|x0|^2]`` (...).

        Cost: one JVP of :meth:`moments`.
        """
        z = self._points(z)
        sigma = torch.as_tensor(sigma, dtype=z.dtype, device=z.device).expand(z.shape[:-1])
        square = sigma.unsqueeze(-1) ** 2
        velocity = (square * (a + 2 * z * b.unsqueeze(-1)), sigma**3 * b)
        record(derivatives=sigma.numel())
        packed = derivatives.jvp(
            self._packed_moments, (z.contiguous(), sigma.contiguous()), velocity
        )
        return packed[1][..., :-1], packed[1][..., -1]

    def moments_and_covariance(
        self, z: Tensor, sigma: Tensor, a: Tensor, b: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """:meth:`moments` and :meth:`statistic_covariance` in one call; cost of both."""
        return (*self.moments(z, sigma), *self.statistic_covariance(z, sigma, a, b))

    def _packed_moments(self, z: Tensor, sigma: Tensor) -> Tensor:
        m, second = self.moments(z, sigma)
        return torch.cat([m, second.unsqueeze(-1)], -1)

    def difference(self, z: Tensor, sigma: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior mean and its directional derivative by a central difference.

        Args:
            z: noisy points (..., D).
            sigma: noise standard deviations (...).
            v: directions (..., D), broadcast against ``z``.

        Returns:
            ``(m, J v)``, both (..., D), differentiable; m is the average of the two evaluations,
            which is off by the order of h^2.

        Cost: two evaluations per point.
        """
        z, v = torch.broadcast_tensors(self._points(z), v)
        sigma = torch.as_tensor(sigma, dtype=z.dtype, device=z.device)
        h = self._share(v, self.displacement(sigma.detach(), z.dtype))
        ahead, behind = self(torch.stack([z + h * v, z - h * v]), sigma)
        return (ahead + behind) / 2, (ahead - behind) / (2 * h)

    def second_difference(self, z: Tensor, sigma: Tensor, v: Tensor, w: Tensor) -> Tensor:
        """Second directional derivative ``D^2 m [v, w]`` by central differences.

        Args:
            z: noisy points (..., D).
            sigma: noise standard deviations (...).
            v: directions (..., D), broadcast against ``z``.
            w: directions (..., D), broadcast against ``z``.

        Returns:
            the derivative (..., D), differentiable.

        Cost: four evaluations per point.
        """
        z, v, w = torch.broadcast_tensors(self._points(z), v, w)
        sigma = torch.as_tensor(sigma, dtype=z.dtype, device=z.device)
        length = self.displacement(sigma, z.dtype, order=2)
        g, h = self._share(v, length), self._share(w, length)
        p, q = g * v, h * w
        value = self(torch.stack([z + p + q, z + p - q, z - p + q, z - p - q]), sigma)
        return (value[0] - value[1] - value[2] + value[3]) / (4 * g * h)

    def displacement(self, sigma: Tensor, dtype: torch.dtype, *, order: int = 1) -> Tensor:
        """Length of the step of a central difference at a noise level (...).

        Truncation, for an m that bends over a length sigma, is balanced against the rounding e of
        an output of size s sqrt(D), with the Jacobian J = s^2/(s^2 + sigma^2) of Gaussian data:
        ``(3 e s sqrt(D) sigma^2 / J)^(1/3)``, and for second differences
        ``(e s sqrt(D) sigma^3 / J)^(1/4)``.

        Args:
            sigma: noise standard deviations (...).
            dtype: dtype of the points.
            order: 1 or 2.

        Returns:
            lengths (...).
        """
        unit = self.rounding_unit(dtype) * math.sqrt(self.dim * self.variance)
        noise = unit * (1 + sigma**2 / self.variance)
        return (3 * noise * sigma**2) ** (1 / 3) if order == 1 else (noise * sigma**3) ** (1 / 4)

    def rounding_unit(self, dtype: torch.dtype) -> float:
        """Rounding unit of an evaluation on points of ``dtype``."""
        return torch.finfo(dtype).eps

    @staticmethod
    def _share(v: Tensor, length: Tensor) -> Tensor:
        """The h for which ``h v`` has the given length, as a constant for autograd."""
        size = torch.linalg.vector_norm(v.detach(), dim=-1)
        return (length / torch.where(size > 0, size, 1.0)).unsqueeze(-1)

    def score(self, z: Tensor, sigma: Tensor) -> Tensor:
        """Score of the noisy data.

        Args:
            z: noisy points (..., D).
            sigma: noise standard deviations (...).

        Returns:
            ``(m - z) / sigma^2``, (..., D), in the dtype of ``z``.

        Raises:
            TypeError: for complex numbers.
            ValueError: if the last axis of ``z`` is not D, values are not finite, or there is no
                noise, where a density need not have a score.

        Cost: one evaluation per point.
        """
        z = checks.finite(self._points(z), "z")
        sigma = torch.as_tensor(sigma, dtype=z.dtype, device=z.device)
        if not bool((sigma > 0).all()):
            raise ValueError("sigma must be above zero: without noise there is no score")
        return (self(z, sigma) - z) / sigma.unsqueeze(-1) ** 2

    def covariance(self, z: Tensor, sigma: Tensor, v: Tensor) -> Tensor:
        """Posterior covariance applied to a vector, ``sigma^2 (dm/dz) v``; cost of one JVP."""
        z = self._points(z)
        sigma = torch.as_tensor(sigma, dtype=z.dtype, device=z.device)
        return sigma.unsqueeze(-1) ** 2 * self.jvp(z, sigma, v)[1]

    def _points(self, z: Tensor, name: str = "z") -> Tensor:
        """``z`` (..., D) in floating point; no values are read, for solvers call this."""
        z = checks.floating(z, name)
        if z.ndim == 0 or z.shape[-1] != self.dim:
            raise ValueError(
                f"{name} has shape {tuple(z.shape)}; its last axis must be {self.dim}, "
                "the dimension of this denoiser"
            )
        return z

    def _flatten(self, z: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, torch.Size]:
        """``z`` as (N, D), ``sigma`` as (N,), and the shape of the batch."""
        z = self._points(z)
        sigma = torch.as_tensor(sigma, dtype=z.dtype, device=z.device)
        batch = torch.broadcast_shapes(z.shape[:-1], sigma.shape)
        flat = z.expand(*batch, self.dim).reshape(-1, self.dim)
        return flat, sigma.expand(batch).reshape(-1), batch

    def _counted(self, batch: torch.Size, *parts: Tensor) -> tuple[Tensor, ...]:
        """Parts (N, D) or (N,) of one evaluation in the shape of the batch, counted as one."""
        count = batch.numel()
        record(evaluations=count)
        columns = [part if part.ndim == 2 else part.unsqueeze(-1) for part in parts]
        # one tensor carries the count of a backward pass through any of the parts
        packed = columns[0] if len(columns) == 1 else torch.cat(columns, -1)
        pieces = derivatives.track_vjp(packed, count).split([c.shape[-1] for c in columns], -1)
        return tuple(
            piece.reshape((*batch, *part.shape[1:]))
            for piece, part in zip(pieces, parts, strict=True)
        )


class _CallableDenoiser(Denoiser):
    """A function as a denoiser; :meth:`Denoiser.from_callable` describes the arguments."""

    def __init__(
        self,
        f: Callable[[Tensor, Tensor], Tensor],
        dim: int,
        variance: float,
        mean: Tensor | float,
        log_snr_range: tuple[float, float],
    ) -> None:
        if not callable(f):
            raise TypeError(f"from_callable: f is a {type(f).__name__}; give a function")
        if dim < 1 or not 0 < variance < math.inf:
            raise ValueError(
                f"from_callable: dim = {dim} and variance = {variance}; give dim >= 1 and a "
                "positive, finite variance"
            )
        low, high = log_snr_range
        if not low < high:
            raise ValueError(f"from_callable: log_snr_range {log_snr_range} must increase")
        self.f, self.dim, self.variance, self.mean = f, dim, float(variance), mean
        self.log_snr_range = (float(low), float(high))
        centre = mean if isinstance(mean, Tensor) else torch.tensor(mean, dtype=torch.float64)
        if centre.shape not in ((), (dim,)):
            raise ValueError(f"from_callable: mean is {tuple(centre.shape)}; it must be ({dim},)")
        sigma = torch.full_like(centre, math.exp(-min(max(0.0, low), high) / 2)).flatten()[:1]
        points = 3 if dim == 2 else 2  # not D, so that a sigma broadcast over D is found out
        z, sigma = centre.expand(points, dim).contiguous(), sigma.repeat(points)
        try:
            with torch.no_grad():
                self.posterior_mean(z, sigma)
        except RuntimeError as error:  # what torch raises where shapes do not fit
            raise ValueError(
                f"from_callable: f fails on z {tuple(z.shape)} and sigma {tuple(sigma.shape)}: "
                f"{' '.join(str(error).split())}"
            ) from error

    def posterior_mean(self, z: Tensor, sigma: Tensor) -> Tensor:
        """``f(z, sigma)`` for ``z`` (N, D) and ``sigma`` (N,), with its shape and dtype checked."""
        out: object = self.f(z, sigma)
        if not isinstance(out, Tensor) or out.dtype != z.dtype:
            kind = out.dtype if isinstance(out, Tensor) else type(out).__name__
            raise TypeError(f"f returned {kind} for z in {z.dtype}; return a tensor in z's dtype")
        if out.shape != z.shape:
            raise ValueError(
                f"f returned shape {tuple(out.shape)} for z {tuple(z.shape)} and sigma "
                f"{tuple(sigma.shape)}; return E[x0 | z] in the shape of z"
            )
        return out


@runtime_checkable
class HasLogPartition(Protocol):
    """A denoiser with its log-partition in closed form: mixtures, laws on a grid."""

    def log_partition(self, h: Tensor, k: Tensor) -> Tensor:
        """``psi`` (...) for natural parameters h (..., D) and k (...)."""
        ...
