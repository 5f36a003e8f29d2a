r"""Gaussian mixtures and empirical data: exact denoisers, against which all others are tested.

The data follow q = sum_j w_j N(a_j, diag v_j).  In natural parameters h = k z with precision
k = 1/sigma^2,

    psi_j = log int exp(h.x - k|x|^2/2) N(x; a_j, v_j) dx
          = sum_d [ (h a + v h^2/2 - k a^2/2) / (1 + k v) - log(1 + k v)/2 ]
    psi   = logsumexp_j (log w_j + psi_j),          r_j = softmax_j (log w_j + psi_j)

and the posterior is the mixture of N(m_j, c_j) with responsibilities r_j,

    m_j = (a_j + v_j h) / (1 + k v_j),    c_j = v_j / (1 + k v_j).

No formula divides by v, so std = 0 (discrete data) is exact, and none divides by k, so k = 0
(infinite noise) is exact too.  The log density follows (2505.17517, Sec. 3):

    log p(z; sigma) = psi - |z|^2/(2 sigma^2) - (D/2) log(2 pi sigma^2).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.numerics import checks
from diffodesic.numerics.linear import product

__all__ = ["GaussianMixture"]


class GaussianMixture(Denoiser):
    """Mixture of K Gaussians with diagonal covariances, an exact denoiser in any dimension.

    Args:
        means: centres a_j, (K, D).  Answers have the dtype of the points; give points and means
            in one dtype and on one device, or every call converts the means.
        weights: positive weights (K,), normalised here; default equal.
        std: standard deviations: one number, (K,) for isotropic components, or (K, D).
            Zero is allowed and gives discrete data.

    Raises:
        ValueError: on shapes that do not fit, non-finite values, weights that are not positive.

    Cost: one call on N points is O(N K D) (a matrix product when components are isotropic).
    """

    closed_form = True

    def __init__(
        self, means: Tensor, weights: Tensor | None = None, std: Tensor | float = 1.0
    ) -> None:
        means = torch.as_tensor(means)
        if means.ndim != 2 or not means.is_floating_point() or not means.numel():
            raise ValueError(
                f"means must be a floating (K, D) tensor with K, D >= 1, got {means.dtype} "
                f"{tuple(means.shape)}"
            )
        components, self.dim = means.shape
        # in this dtype at once: on the way through float32 a number would be rounded
        kind, home = means.dtype, means.device
        weights = torch.as_tensor(1.0 if weights is None else weights, dtype=kind, device=home)
        weights = weights.expand(components) if weights.ndim == 0 else weights
        if weights.shape != (components,) or not bool((weights > 0).all()):
            raise ValueError(f"weights must be {components} positive numbers, one per component")
        std = torch.as_tensor(std, dtype=kind, device=home)
        if std.shape in ((), (components,)):
            # isotropic: keep one column, so that D never enters the K-sized tensors
            std = std.expand(components).unsqueeze(-1)
        if std.shape not in ((components, 1), means.shape):
            raise ValueError(
                f"std must be a number, ({components},) or {tuple(means.shape)}, "
                f"got {tuple(std.shape)}"
            )
        if not bool(torch.isfinite(means).all() and torch.isfinite(std).all() and (std >= 0).all()):
            raise ValueError("means and std must be finite, and std non-negative")
        self.means, self.variances = means, std**2
        # one width for all: what depends on it alone has one column, not one for every component
        same = std.shape[-1] == 1 and bool((std == std[:1]).all())
        self._widths = 1 if same else components
        self.log_weights = torch.log(weights / weights.sum())
        share = self.log_weights.exp().unsqueeze(-1)
        self.mean = (share * means).sum(0)
        between = (share * (means - self.mean) ** 2).sum(0).mean()
        self.variance = float(between + (share * self.variances).sum(0).mean())

    @classmethod
    def from_data(cls, data: Tensor, bandwidth: float = 0.1) -> GaussianMixture:
        """Empirical distribution of ``data``, smoothed by a Gaussian kernel.

        Args:
            data: samples (N, ...), flattened to (N, D).
            bandwidth: standard deviation h of the kernel, in data units; 0 is the bare sample.

        Returns:
            the mixture, one component per sample.
        """
        return cls(data.reshape(data.shape[0], -1), std=bandwidth)

    def posterior_mean(self, z: Tensor, sigma: Tensor) -> Tensor:
        """E[x0 | z] for ``z`` (N, D), ``sigma`` (N,)."""
        k = sigma.unsqueeze(-1) ** -2
        return self._posterior(k * z, k)[2]

    def moments(self, z: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Exact E[x0 | z] (..., D) and E[|x0|^2 | z] (...); cost of one evaluation."""
        flat, level, batch = self._flatten(z, sigma)
        k = level.unsqueeze(-1) ** -2
        m, second = self._counted(batch, *self._moments(k * flat, k))
        return m, second

    def statistic_covariance(
        self, z: Tensor, sigma: Tensor, a: Tensor, b: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As :meth:`Denoiser.statistic_covariance`, in closed form; cost of one evaluation."""
        return self.moments_and_covariance(z, sigma, a, b)[2:]

    def moments_and_covariance(
        self, z: Tensor, sigma: Tensor, a: Tensor, b: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As :meth:`Denoiser.moments_and_covariance`, at the cost of one evaluation."""
        flat, level, batch = self._flatten(z, sigma)
        a, b = a.expand(*batch, self.dim).reshape(-1, self.dim), b.expand(batch).reshape(-1, 1)
        k = level.unsqueeze(-1) ** -2
        m, second, first, change = self._counted(batch, *self._both(k * flat, k, a, b))
        return m, second, first, change

    def log_partition(self, h: Tensor, k: Tensor) -> Tensor:
        """Log-partition ``psi = log E_q exp(h.x0 - k|x0|^2/2)``; grad in (h, -k/2) is ``mu``.

        Args:
            h: first natural parameter ``k z``, (..., D).
            k: precision of the noise ``1/sigma^2``, (...); 0 is allowed.

        Returns:
            psi, (...); NaN where ``h`` is not finite.

        Raises:
            TypeError: for complex numbers.
            ValueError: if the last axis of ``h`` is not D.
        """
        h = self._points(h, "h")
        flat = h.reshape(-1, self.dim)
        k = checks.expanded(k, h, "k").to(h.dtype)
        return self._log_joint(flat, k.reshape(-1, 1)).logsumexp(-1).reshape(h.shape[:-1])

    def log_density(self, z: Tensor, sigma: Tensor) -> Tensor:
        """Log density of noisy data.

        Args:
            z: noisy points (..., D).
            sigma: noise standard deviations, broadcast over the batch (...).

        Returns:
            nats (...), computed in the wider dtype of points and means and rounded to that of the
            points; differentiable.

        Raises:
            TypeError: for complex numbers.
            ValueError: if the last axis of ``z`` is not D, or values are not finite.
        """
        given = checks.finite(self._points(z, "z"), "z")
        z = given.to(torch.promote_types(given.dtype, self.means.dtype))
        sigma = torch.as_tensor(sigma, dtype=z.dtype, device=z.device)
        k = sigma**-2
        psi = self.log_partition(k.unsqueeze(-1) * z, k)
        size = k * z.square().sum(-1) / 2 + self.dim * torch.log(sigma * math.sqrt(2 * math.pi))
        return (psi - size).to(given.dtype)

    def sample(self, count: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw ``count`` points of the data, (count, D)."""
        index = torch.multinomial(
            self.log_weights.exp(), count, replacement=True, generator=generator
        )
        noise = torch.randn(
            count, self.dim, generator=generator, dtype=self.means.dtype, device=self.means.device
        )
        return self.means[index] + self.variances[index].sqrt() * noise

    def _parameters(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Means, variances ((1, 1) if all are one) and log weights in the dtype of ``h``."""
        return self.means.to(h), self.variances[: self._widths].to(h), self.log_weights.to(h)

    def _log_joint(self, h: Tensor, k: Tensor) -> Tensor:
        """Log w_j + psi_j for h (N, D), k (N, 1); (N, K)."""
        a, v, log_weights = self._parameters(h)
        gain = 1 / (1 + k.unsqueeze(-1) * v)  # (N, K, 1) or (N, K, D)
        if v.shape[-1] == 1:
            gain = gain[..., 0]
            quadratic = (
                product(h, a.T)
                + v[:, 0] * h.square().sum(-1, keepdim=True) / 2
                - k * a.square().sum(-1) / 2
            )
            return log_weights + gain * quadratic + self.dim * gain.log() / 2
        energy = h.unsqueeze(1) * a + v * h.unsqueeze(1) ** 2 / 2 - k.unsqueeze(-1) * a**2 / 2
        return log_weights + (gain * energy + gain.log() / 2).sum(-1)

    def _posterior(self, h: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Responsibilities (N, K), gains and E[x0] (N, D) for h (N, D), k (N, 1)."""
        a, v, _ = self._parameters(h)
        r = self._log_joint(h, k).softmax(-1)
        gain = 1 / (1 + k.unsqueeze(-1) * v)  # of one column, or (N, K, D)
        if v.shape[-1] == 1:
            gain, v = gain[..., 0], v[:, 0]
            return r, gain, product(r * gain, a) + (r * gain * v).sum(-1, keepdim=True) * h
        return r, gain, torch.einsum("nk,nkd->nd", r, gain * (a + v * h.unsqueeze(1)))

    def _moments(self, h: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior E[x0] (N, D) and E[|x0|^2] (N,) for h (N, D), k (N, 1)."""
        a, v, _ = self._parameters(h)
        r, gain, m = self._posterior(h, k)
        if v.shape[-1] == 1:
            v = v[:, 0]
            along = a.square().sum(-1) + 2 * v * product(h, a.T)
            square = gain**2 * (along + v**2 * h.square().sum(-1, keepdim=True))
            return m, (r * (square + self.dim * gain * v)).sum(-1)
        centres = gain * (a + v * h.unsqueeze(1))
        return m, (r * (centres**2 + gain * v).sum(-1)).sum(-1)

    def _both(self, h: Tensor, k: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
        """Moments, and Cov[T] (a, b) within components plus between them; k, b (N, 1)."""
        means, v, _ = self._parameters(h)
        r = self._log_joint(h, k).softmax(-1)
        gain = 1 / (1 + k.unsqueeze(-1) * v)
        c = gain * v
        if v.shape[-1] == 1:
            gain, c, v = gain[..., 0], c[..., 0], v[:, 0]
            along = gain * product(a, means.T) + c * (a * h).sum(-1, keepdim=True)  # a.m_j
            square = gain**2 * (means.square().sum(-1) + 2 * v * product(h, means.T))
            square = square + c**2 * h.square().sum(-1, keepdim=True)  # |m_j|^2
            total, spread = square + self.dim * c, self.dim * c**2
            within = 2 * c * along + b * (4 * c * square + 2 * spread)
        else:
            centres = gain * (means + v * h.unsqueeze(1))
            along = (centres * a.unsqueeze(1)).sum(-1)
            total, spread = (centres**2 + c).sum(-1), (c**2).sum(-1)
            within = 2 * (c * centres * a.unsqueeze(1)).sum(-1)
            within = within + b * (4 * (c * centres**2).sum(-1) + 2 * spread)
        value = along + b * total  # E_j[a.x0 + b|x0|^2]
        between = value - (r * value).sum(-1, keepdim=True)
        second, change = (r * total).sum(-1), (r * (within + between * total)).sum(-1)
        if v.ndim == 1:
            own = (r * c).sum(-1, keepdim=True)
            m = product(r * gain, means) + own * h
            q = r * (2 * b * c + between)
            first = product(q * gain, means) + (q * c).sum(-1, keepdim=True) * h
            return m, second, first + own * a, change
        pulled = 2 * b.unsqueeze(-1) * c * centres + c * a.unsqueeze(1)
        first = torch.einsum("nk,nkd->nd", r, pulled + between.unsqueeze(-1) * centres)
        return torch.einsum("nk,nkd->nd", r, centres), second, first, change
