r"""Spacetime: the Fisher-Rao geometry of denoising posteriors over (z, log SNR)  (2505.17517).

The posteriors p(x0 | z, lam) form an exponential family with statistic T = (x0, |x0|^2),

    eta = (k z, -k/2),   mu = (m, E|x0|^2),   k = e^lam,   metric G = d mu / d eta,

so two points are at squared distance ``d_eta . d_mu`` = KL + reverse KL, exactly, and a polyline
in (z, lam) needs no simulation: its steps are ``(eta_{i+1}-eta_i).(mu_{i+1}-mu_i)``, which for an
exact posterior mean bound the energy from above for every number of nodes.

Estimators of the steps:
- ``exact``: E|x0|^2 in closed form (mixtures) or by the full divergence (small D);
- ``hutchinson``: the divergence by random probes, fixed once for the object (the paper's way);
- ``closure``: the posterior closed at second order, C = sigma^2 J with J = dm/dz.  With
  w = dz - (m - z) dlam:   ds^2 = k w.Jw + |J|_F^2 dlam^2 / 2.   Exact for Gaussian laws, positive
  where J is, and free of traces of J, which networks get wrong.  A covariance with no eigenvalue
  above 2 sigma^2 obeys w.Jw >= |Jw|^2 / 2; steps take that bound where a network's J falls below
  it, or a solver would move the posterior mean for nothing along directions where J is not
  positive.  Such steps are counted.

For Gaussian data N(m0, c I) the posterior is N(m, s^2 I), 1/s^2 = 1/c + k, and spacetime is
hyperbolic: ds^2 = (|dm|^2 + 2 D ds^2)/s^2 (:class:`Hyperbolic`).  It scales and starts the
solvers for every other law.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from diffodesic import calculus
from diffodesic.denoiser import Denoiser
from diffodesic.metric import Metric
from diffodesic.mixture import GaussianMixture

__all__ = ["Hyperbolic", "Spacetime"]

Estimator = Literal["exact", "hutchinson", "closure"]


def _pack(z: Tensor, lam: Tensor) -> Tensor:
    return torch.cat([z, lam.unsqueeze(-1)], -1)


class _OnSpacetime(Metric):
    """Points packed from (z, log SNR): ``x = (z, lam)`` of shape (..., D + 1)."""

    data_dim: int
    log_snr_range: tuple[float, float]

    @property
    def dim(self) -> int:  # type: ignore[override]
        """D + 1."""
        return self.data_dim + 1

    @property
    def blocks(self) -> tuple[int, ...]:
        """The D coordinates of z, and log SNR."""
        return (self.data_dim, 1)

    def point(self, z: Tensor, log_snr: Tensor | float) -> Tensor:
        """Pack points.

        Args:
            z: noisy data (..., D).
            log_snr: log SNR, a number or (...).

        Returns:
            (..., D + 1).

        Raises:
            ValueError: if D is wrong or log SNR is not finite or outside the range.
        """
        z = torch.as_tensor(z)
        if z.ndim == 0 or z.shape[-1] != self.data_dim:
            raise ValueError(
                f"z has shape {tuple(z.shape)}; its last axis must be "
                f"{self.data_dim}, the dimension of the data"
            )
        lam = torch.as_tensor(log_snr, dtype=z.dtype, device=z.device).expand(z.shape[:-1])
        low, high = self.log_snr_range
        if not bool(((lam >= low) & (lam <= high) & lam.isfinite()).all()):
            raise ValueError(
                f"log SNR must be finite and between {low:g} and {high:g}, the range of this space"
            )
        return _pack(z, lam)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Unpack points (..., D + 1) into ``z`` (..., D) and ``log_snr`` (...)."""
        return x[..., :-1], x[..., -1]


class Hyperbolic(_OnSpacetime):
    """Spacetime of Gaussian data N(mean, variance I) in closed form: a hyperbolic space.

    Args:
        dim: number D of data coordinates.
        variance: variance c of the data, per coordinate.
        mean: mean of the data, a number or (D,).
    """

    log_snr_range = (-math.inf, math.inf)

    def __init__(self, dim: int, variance: float = 1.0, mean: Tensor | float = 0.0) -> None:
        self.data_dim, self.variance, self.mean = dim, float(variance), mean

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior mean (..., D) and standard deviation (...) at packed points."""
        z, lam = self.split(x)
        k = lam.exp()
        s2 = 1 / (1 / self.variance + k)
        return s2[..., None] * (k[..., None] * z + self.mean / self.variance), s2.sqrt()

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """``k^2 c w_u.w_v + D/2 k^2 c^2 u_lam v_lam`` with c the posterior variance."""
        z, lam = self.split(x)
        k = lam.exp()
        m, s = self.posterior(x)
        rate = m - z
        wu = u[..., :-1] - rate * u[..., -1:]
        wv = v[..., :-1] - rate * v[..., -1:]
        cross = k**2 * s**2 * (wu * wv).sum(-1)
        return cross + self.data_dim / 2 * (k * s**2) ** 2 * u[..., -1] * v[..., -1]

    def weights(self, x: Tensor) -> Tensor:
        """Diagonal of the metric: ``k^2 c`` on z and ``D/2 k^2 c^2`` on log SNR."""
        k = x[..., -1].exp()
        c = 1 / (1 / self.variance + k)
        return torch.stack([k**2 * c, self.data_dim / 2 * (k * c) ** 2], -1)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """Distance between packed points, exact.

        Where the arc would rise past sigma = infinity the value is an infimum that no path
        attains (:meth:`escapes`).

        Args:
            a: points (..., D + 1).
            b: points (..., D + 1).

        Returns:
            distances (...).
        """
        y, s1, s2 = self._half_space(a, b)
        apart, top1, top2 = y.square().sum(-1), *(self._top(s) for s in (s1, s2))
        inside = torch.acosh(1 + (apart + (s1 - s2) ** 2) / (2 * s1 * s2))
        c = math.sqrt(self.variance)
        outside = (
            torch.acosh((c / s1).clamp(min=1))
            + torch.acosh((c / s2).clamp(min=1))
            + (apart.sqrt() - top1 - top2) / c
        )
        return math.sqrt(2 * self.data_dim) * torch.where(self.escapes(a, b), outside, inside)

    def escapes(self, a: Tensor, b: Tensor) -> Tensor:
        """Tell where no minimising path exists at finite noise, (...) boolean."""
        y, s1, s2 = self._half_space(a, b)
        return y.norm(dim=-1) > self._top(s1) + self._top(s2)

    def path(self, a: Tensor, b: Tensor, nodes: int, *, lowest: float = -math.inf) -> Tensor:
        """Geodesic at constant speed, (..., nodes + 1, D + 1), with exact ends.

        Args:
            a: start (..., D + 1).
            b: end (..., D + 1).
            nodes: number n of segments.
            lowest: log SNR below which the path is cut flat (needed where it escapes).

        Returns:
            packed points.
        """
        (ma, s1), (mb, s2) = self.posterior(a), self.posterior(b)
        gap = (mb - ma).norm(dim=-1) / math.sqrt(2 * self.data_dim)
        width = torch.maximum(gap, 1e-6 * (s1 + s2))  # a vertical line is a very large circle
        centre = (width**2 + s2**2 - s1**2) / (2 * width)
        radius = (s1**2 + centre**2).sqrt()
        first, last = torch.asinh(-centre / s1), torch.asinh((width - centre) / s2)
        s = torch.linspace(0, 1, nodes + 1, dtype=a.dtype, device=a.device)
        tau = first[..., None] + s * (last - first)[..., None]
        along = ((centre[..., None] + radius[..., None] * tau.tanh()) / width[..., None])[..., None]
        m = torch.lerp(ma[..., None, :], mb[..., None, :], along)
        precision = (tau.cosh() / radius[..., None]) ** 2 - 1 / self.variance
        k = precision.clamp(min=math.exp(lowest) if lowest > -math.inf else 1e-300)
        z = m + (m - self.mean) / (self.variance * k[..., None])
        inside = _pack(z, k.log())[..., 1:-1, :]
        return torch.cat([a[..., None, :], inside, b[..., None, :]], -2)

    def _half_space(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (ma, s1), (mb, s2) = self.posterior(a), self.posterior(b)
        return (mb - ma) / math.sqrt(2 * self.data_dim), s1, s2

    def _top(self, s: Tensor) -> Tensor:
        return (self.variance - s**2).clamp(min=0).sqrt()


class Spacetime(_OnSpacetime):
    """Fisher-Rao metric of the denoising posteriors of a model, on points (z, log SNR).

    Args:
        denoiser: posterior mean of the model.
        estimator: one of those above; default ``"exact"`` for denoisers in closed form and
            ``"closure"`` for networks.
        probes: number P of random directions for ``hutchinson`` and ``closure``, or the probes
            themselves, (P, D) with unit second moment; fixed for the life of the object, so that
            the energy is a deterministic function.
        seed: seed of the probes.
        log_snr_range: noise levels that a path may use; default the denoiser's own range, and not
            below an SNR of e^-14 per coordinate.

    Raises:
        ValueError: for an unknown estimator, probes of the wrong shape, or an empty range.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        *,
        estimator: Estimator | None = None,
        probes: int | Tensor = 2,
        seed: int = 0,
        log_snr_range: tuple[float, float] | None = None,
    ) -> None:
        if not denoiser.variance > 0:
            raise ValueError("the data law is a single point: its spacetime has no lengths")
        self.denoiser, self.data_dim = denoiser, denoiser.dim
        self.estimator = estimator or ("exact" if denoiser.closed_form else "closure")
        if self.estimator not in get_args(Estimator):
            raise ValueError(
                f"unknown estimator {estimator!r}; choose one of {', '.join(get_args(Estimator))}"
            )
        if isinstance(probes, int):
            generator = torch.Generator().manual_seed(seed)
            probes = torch.randint(0, 2, (probes, self.data_dim), generator=generator) * 2.0 - 1.0
        if probes.ndim != 2 or probes.shape[-1] != self.data_dim or not len(probes):
            raise ValueError(
                f"probes have shape {tuple(probes.shape)}; they must be "
                f"(P, {self.data_dim}) with P >= 1"
            )
        self.probes = probes
        self.log_snr_range = log_snr_range or self._known_range(denoiser)
        low, high = self.log_snr_range
        if not low < high:
            raise ValueError(f"log_snr_range is empty: {low:g} to {high:g}")
        free = torch.full((self.data_dim,), math.inf, dtype=torch.float64)
        self.bounds = (
            torch.cat([-free, free.new_tensor([low])]),
            torch.cat([free, free.new_tensor([high])]),
        )
        self.gaussian = Hyperbolic(self.data_dim, denoiser.variance, denoiser.mean)

    @staticmethod
    def _known_range(denoiser: Denoiser) -> tuple[float, float]:
        """The denoiser's own range, cut where nothing is left of the data (SNR of e^-14)."""
        low, high = denoiser.log_snr_range
        return max(low, -math.log(denoiser.variance) - 14), high

    def eta(self, x: Tensor) -> Tensor:
        """Natural parameters ``(k z, -k/2)`` of packed points (..., D + 1); no network call."""
        z, lam = self.split(x)
        k = lam.exp()
        return _pack(k.unsqueeze(-1) * z, -k / 2)

    def mu(self, x: Tensor) -> Tensor:
        """Mean parameters ``(m, E|x0|^2)``.

        Args:
            x: packed points (..., D + 1).

        Returns:
            (..., D + 1).

        Cost per point: one evaluation in closed form; D + 1 evaluations and D derivatives for
        ``exact`` on a network; P + 1 and P for ``hutchinson`` and ``closure``.
        """
        z, lam = self.split(x)
        sigma = (-lam / 2).exp()
        if self.estimator == "exact":
            m, second = self.denoiser.moments(z, sigma)
            return _pack(m, second)
        m = self.denoiser(z, sigma)
        probes = self.probes.to(z)
        _, pushed = self.denoiser.jvp(z.unsqueeze(-2), sigma.unsqueeze(-1), probes)
        divergence = (probes * pushed).sum(-1).mean(-1)
        return _pack(m, m.square().sum(-1) + sigma**2 * divergence)

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """``d_eta(u) . d_mu(v)``, or the closure form.

        Args:
            x: packed points (..., D + 1).
            u: tangent vectors (..., D + 1).
            v: tangent vectors (..., D + 1).

        Returns:
            inner products (...).

        Cost per point: one evaluation for mixtures; one JVP of ``mu`` (two if ``u`` is not ``v``)
        for other denoisers; for ``closure`` an evaluation and P + 2 JVPs.
        """
        if self.estimator == "closure":
            return self._closure_inner(x, u, v)
        eta_v = self._d_eta(x, v)
        if self.estimator == "exact" and isinstance(self.denoiser, GaussianMixture):
            z, lam = self.split(x)
            first, second = self.denoiser.statistic_covariance(
                z, (-lam / 2).exp(), eta_v[..., :-1], eta_v[..., -1]
            )
            return (self._d_eta(x, u) * _pack(first, second)).sum(-1)
        if v is u:
            return (eta_v * self._d_mu(x, v)).sum(-1)
        # an estimated mu need not have a symmetric derivative; its symmetric part is the metric
        return ((self._d_eta(x, u) * self._d_mu(x, v)) + (eta_v * self._d_mu(x, u))).sum(-1) / 2

    def _d_eta(self, x: Tensor, u: Tensor) -> Tensor:
        z, lam = self.split(x)
        k = lam.exp().unsqueeze(-1)
        return torch.cat([k * (u[..., :-1] + z * u[..., -1:]), -k / 2 * u[..., -1:]], -1)

    def _d_mu(self, x: Tensor, u: Tensor) -> Tensor:
        point, direction = (t.contiguous() for t in torch.broadcast_tensors(x, u))
        calculus.record(derivatives=point[..., 0].numel())
        return calculus.jvp(self.mu, (point,), (direction,))[1]

    def steps(self, x: Tensor) -> Tensor:
        """``(eta_{i+1} - eta_i).(mu_{i+1} - mu_i)``; for ``closure`` the trapezoidal rule.

        The closure metric falls steeply with noise. The midpoint rule would let one long segment
        jump over its steep part for nothing; the trapezoidal rule charges both ends.

        Args:
            x: packed points (..., n+1, D + 1).

        Returns:
            squared lengths (..., n).

        Cost per node: one ``mu``, or for ``closure`` an evaluation and P + 2 JVPs.
        """
        if self.estimator == "closure":
            return self.judged_steps(x)[0]
        return (self.eta(x).diff(dim=-2) * self.mu(x).diff(dim=-2)).sum(-1)

    def resolves(self, x: Tensor) -> Tensor:
        """For ``closure``: no segment changes log SNR by more than 1, a factor e in its metric."""
        if self.estimator != "closure":
            return super().resolves(x)
        return (x[..., -1].diff(dim=-1).abs() <= 1).all(-1)

    def weights(self, x: Tensor) -> Tensor:
        """Diagonal of the metric of Gaussian data with this variance; no network call."""
        return self.gaussian.weights(x)

    def starts(self, a: Tensor, b: Tensor, nodes: int) -> dict[str, Tensor]:
        """The chord, arches over it that rise into noise, and two hyperbolic geodesics.

        Those are of Gaussian data with the data's variance v and with v/4: data of low dimension
        look like less variance.

        Args:
            a: starts (..., D + 1).
            b: ends (..., D + 1).
            nodes: number of segments.

        Returns:
            paths (..., nodes + 1, D + 1) by name.
        """
        low = self.log_snr_range[0]
        found = super().starts(a, b, nodes)
        s = torch.linspace(0, 1, nodes + 1, dtype=a.dtype, device=a.device)
        for depth in (0.5, 1.0, 2.0, 4.0):
            arch = found["chord"].clone()
            arch[..., -1] = arch[..., -1] - depth * 4 * s * (1 - s)
            found[f"arch {depth:g}"] = arch
        for name, share in (("hyperbolic", 1.0), ("hyperbolic/4", 0.25)):
            variance = share * self.denoiser.variance
            space = Hyperbolic(self.data_dim, variance, self.denoiser.mean)
            # six e-folds below the data's own precision nothing is left of the data
            floor = max(low, -math.log(variance) - 6)
            found[name] = space.path(a, b, nodes, lowest=floor)
        return {name: self.confine(path) for name, path in found.items()}

    def _closure_push(self, x: Tensor, directions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Parts of the closure metric at ``x`` for M directions (..., M, D + 1).

        Returns:
            w (..., M, D), J w (..., M, D) and |J|_F^2 (...).
        """
        z, lam = self.split(x)
        sigma = (-lam / 2).exp()
        rate = (self.denoiser(z, sigma) - z).unsqueeze(-2)
        w = directions[..., :-1] - rate * directions[..., -1:]
        probes = self.probes.to(z).expand(*z.shape[:-1], *self.probes.shape)
        _, pushed = self.denoiser.jvp(
            z.unsqueeze(-2), sigma.unsqueeze(-1), torch.cat([w, probes], -2)
        )
        count = w.shape[-2]
        frobenius = pushed[..., count:, :].square().sum(-1).mean(-1)
        return w, pushed[..., :count, :], frobenius

    def _closure_inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        x, u, v = torch.broadcast_tensors(x, u, v)
        w, jw, frobenius = self._closure_push(x, torch.stack([u, v], -2))
        # the symmetric part of J is the one that belongs to a metric
        along = (w[..., 0, :] * jw[..., 1, :] + w[..., 1, :] * jw[..., 0, :]).sum(-1) / 2
        return x[..., -1].exp() * along + frobenius / 2 * u[..., -1] * v[..., -1]

    def judged_steps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Steps, and where the denoiser's Jacobian is not positive along the path.

        Args:
            x: packed points (..., n+1, D + 1).

        Returns:
            squared lengths (..., n) and a boolean (..., n): ``steps < 0``, or for ``closure``,
            whose steps are bounded from below, ``w.Jw < 0`` at one end of the segment.
        """
        if self.estimator != "closure":
            return super().judged_steps(x)
        delta = x.diff(dim=-2)
        none = torch.zeros_like(delta[..., :1, :])
        before, after = torch.cat([none, delta], -2), torch.cat([delta, none], -2)
        directions = torch.stack([before, after], -2)  # (..., n+1, 2, D+1)
        w, jw, frobenius = self._closure_push(x, directions)
        closure = (w * jw).sum(-1)
        along = torch.maximum(closure, jw.square().sum(-1) / 2)
        k = x[..., -1].exp().unsqueeze(-1)
        square = k * along + frobenius.unsqueeze(-1) / 2 * directions[..., -1] ** 2
        steps = (square[..., :-1, 1] + square[..., 1:, 0]) / 2
        wrong = (closure[..., :-1, 1] < 0) | (closure[..., 1:, 0] < 0)
        return steps, wrong
