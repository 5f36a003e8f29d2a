r"""Divergences between denoising posteriors, from the exponential family they form (2505.17517).

With eta = (k z, -k/2), mu = E[T], psi the log-partition and d = eta_b - eta_a, on the line from
eta_a to eta_b, where ``g(s) = (mu(eta_a + s d) - mu_a).d`` grows with s,

    KL(a || b)             = (eta_a - eta_b).mu_a - psi_a + psi_b       = int_0^1 g ds
    KL(b || a)             = d.(mu_b - mu_a) - KL(a || b)
    -log int sqrt(p_a p_b) = (psi_a + psi_b)/2 - psi((eta_a + eta_b)/2)
                           = (int_{1/2}^1 g ds - int_0^{1/2} g ds) / 2

so one adaptive quadrature of mu gives all of them; it steepens where the posterior changes modes,
and is refined there.  From eta = 0 the same integral is psi itself, and the density follows,
``log p(z; sigma) = psi - k |z|^2/2 - D/2 log(2 pi sigma^2)``.  Along a curve

    d KL(p* || p_s) = d_eta.(mu - mu*),        d KL(p_s || p*) = d_mu.(eta - eta*).

The Fisher-Rao distance lies between two of them (the first is the distance among all densities,
the second the length of the eta-line at most):

    2 arccos int sqrt(p_a p_b)  <=  distance  <=  sqrt(KL(a || b) + KL(b || a)).

All of it supposes a true posterior mean; of a network it is as good as its ``Spacetime.mu``.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from diffodesic.denoisers.denoiser import HasLogPartition
from diffodesic.metrics.spacetime.metric import Spacetime
from diffodesic.metrics.spacetime.points import from_natural, packed
from diffodesic.numerics import checks
from diffodesic.numerics.cost import counting
from diffodesic.numerics.curves import Spline
from diffodesic.numerics.quadrature import adaptive, legendre

__all__ = [
    "Divergences",
    "divergences",
    "jeffreys",
    "kl",
    "kl_along",
    "log_density",
    "log_partition",
    "sandwich",
]

Rule = Literal["trapezoid", "spline"]


@dataclass(frozen=True)
class Divergences:
    """Divergences between posteriors a and b, in nats; tensors have the batch shape.

    Attributes:
        forward: KL(a || b).
        backward: KL(b || a).
        bhattacharyya: ``-log int sqrt(p_a p_b)``.
        error: estimate of the absolute error of each; pessimistic.
        evaluations: network evaluations spent.
    """

    forward: Tensor
    backward: Tensor
    bhattacharyya: Tensor
    error: Tensor
    evaluations: int

    @property
    def jeffreys(self) -> Tensor:
        """KL both ways summed."""
        return self.forward + self.backward

    @property
    def lower(self) -> Tensor:
        """Lower bound of the distance, ``2 arccos exp(-bhattacharyya)``; at most pi.

        It holds where the denoiser is that of a law; a network's need not be.
        """
        b = self.bhattacharyya.clamp(min=0)  # a rounding below zero is zero
        # an arc cosine near 1 would lose half of the digits
        return 2 * torch.atan2((-torch.expm1(-2 * b)).sqrt(), (-b).exp())

    @property
    def upper(self) -> Tensor:
        """Upper bound of the distance, the length of one chord ``sqrt(jeffreys)``."""
        return self.jeffreys.sqrt()


def divergences(
    space: Spacetime, a: Tensor, b: Tensor, *, rtol: float = 1e-8, pieces: int = 1000
) -> Divergences:
    """KL both ways and the Bhattacharyya distance by adaptive quadrature on the eta-line.

    Args:
        space: spacetime of the model.
        a: packed points (..., D + 1).
        b: packed points (..., D + 1), broadcast against ``a``.
        rtol: relative error allowed in the smaller of the two KL.
        pieces: pieces of the eta-line at most, 15 evaluations of ``space.mu`` each.

    Returns:
        the divergences, differentiable in ``a`` and ``b`` where ``space.mu`` is. Where ``pieces``
        do not suffice a ``RuntimeWarning`` says so, and ``error`` how far it got.

    Raises:
        TypeError: for complex numbers.
        ValueError: for points of the wrong dimension, none, or not finite.

    Cost: 32 evaluations of ``space.mu`` per pair inside one mode, some hundreds across modes. A
    network answers in float32: ask for ``rtol`` of 1e-3 or so.
    """
    checks.of_kind(space, "space", Spacetime)
    a, b, batch = _pairs(space, a, b)
    with counting() as cost:
        eta, mu = space.eta(a), space.mu(a)
        delta = space.eta(b) - eta
        both = (delta * (space.mu(b) - mu)).sum(-1)

        def rise(index: Tensor, s: Tensor) -> Tensor:
            line = eta[index, None] + s.unsqueeze(-1) * delta[index, None]
            change = space.mu(from_natural(line)) - mu[index, None]
            return (change * delta[index, None]).sum(-1)

        def smaller(panels: Tensor) -> Tensor:
            forward = panels.sum(-1)
            return torch.minimum(forward.abs(), (both.detach() - forward).abs())

        found = adaptive(rise, both, (0.0, 0.5, 1.0), goal=smaller, rtol=rtol, pieces=pieces)
    if not bool(found.reached.all()):
        missed = int((~found.reached).sum())
        warnings.warn(
            f"the quadrature of {missed} divergences did not reach rtol = {rtol:g}; "
            "read `error`, or allow more pieces or a larger rtol",
            RuntimeWarning,
            stacklevel=2,
        )
    forward = found.panels.sum(-1)
    return Divergences(
        forward=forward.reshape(batch),
        backward=(both - forward).reshape(batch),
        bhattacharyya=(found.panels[:, 1] - found.panels[:, 0]).reshape(batch) / 2,
        error=found.error.reshape(batch),
        evaluations=cost.evaluations,
    )


def kl(space: Spacetime, a: Tensor, b: Tensor, *, rtol: float = 1e-8) -> Tensor:
    """``KL(a || b)``, (...), in nats; the other way, errors and cost: :func:`divergences`."""
    checks.of_kind(space, "space", Spacetime)
    return divergences(space, a, b, rtol=rtol).forward


def jeffreys(space: Spacetime, a: Tensor, b: Tensor) -> Tensor:
    """Relative entropy both ways, ``KL(a || b) + KL(b || a) = d_eta.d_mu``; exact.

    Args:
        space: spacetime of the model.
        a: packed points (..., D + 1).
        b: packed points (..., D + 1), broadcast against ``a``.

    Returns:
        nats (...); differentiable.

    Cost: two evaluations of ``space.mu`` per pair.
    """
    checks.of_kind(space, "space", Spacetime)
    a, b, batch = _pairs(space, a, b)
    rise = (space.eta(b) - space.eta(a)) * (space.mu(b) - space.mu(a))
    return rise.sum(-1).reshape(batch)


def sandwich(space: Spacetime, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Lower and upper bound of the distance, without a geodesic.

    The lower one is never above pi: it says something of close pairs only.

    Args:
        space: spacetime of the model.
        a: points (..., D + 1).
        b: points (..., D + 1).

    Returns:
        (...) and (...).

    Cost: two evaluations of ``mu`` where psi is in closed form, else :func:`divergences`.
    """
    checks.of_kind(space, "space", Spacetime)
    denoiser = space.denoiser
    if not isinstance(denoiser, HasLogPartition):
        found = divergences(space, a, b)
        return found.lower, found.upper
    a, b, batch = _pairs(space, a, b)
    both = jeffreys(space, a, b)
    ends, other = space.eta(a), space.eta(b)
    psi = [
        denoiser.log_partition(eta[..., :-1], -2 * eta[..., -1])
        for eta in (ends, other, (ends + other) / 2)
    ]
    gap = (psi[0] + psi[1]) / 2 - psi[2]
    lower = Divergences(both, 0 * both, gap, 0 * both, 0).lower
    return lower.reshape(batch), both.clamp(min=0).sqrt().reshape(batch)


def kl_along(
    space: Spacetime, point: Tensor, path: Tensor, *, rule: Rule = "spline"
) -> tuple[Tensor, Tensor]:
    """KL between a fixed posterior and every node of a path, both ways, from one pass over it.

    Args:
        space: spacetime of the model.
        point: the fixed point (..., D + 1).
        path: nodes (..., n+1, D + 1).
        rule: ``"trapezoid"``, of order 2 in 1/n, whose two KL sum to the exact Jeffreys
            divergence at every node; or ``"spline"``, which integrates the C2 splines through the
            nodes' eta and mu exactly, of order 4 on a path with smoothly spaced nodes.

    Returns:
        ``KL(point || node)`` and ``KL(node || point)``, each (..., n+1).

    Raises:
        TypeError: as for :func:`divergences`.
        ValueError: for an unknown rule, or as for :func:`divergences`.

    Cost: one evaluation of ``space.mu`` per node, and :func:`divergences` for the first node.
    """
    checks.of_kind(space, "space", Spacetime)
    if rule not in ("trapezoid", "spline"):
        raise ValueError(f"unknown rule {rule!r}; choose trapezoid or spline")
    point = packed(point, "point", space.data_dim, detach=False)
    path = packed(path, "path", space.data_dim, detach=False)
    if path.ndim < 2 or path.shape[-2] < 2:
        raise ValueError(f"path has shape {tuple(path.shape)}; give nodes (..., n+1, D+1), n >= 1")
    first = divergences(space, point, path[..., 0, :])
    eta, mu = space.eta(path), space.mu(path)
    eta_0, mu_0 = (t.unsqueeze(-2) for t in (space.eta(point), space.mu(point)))
    if rule == "trapezoid":
        d_eta, d_mu = eta.diff(dim=-2), mu.diff(dim=-2)
        eta, mu = ((t[..., 1:, :] + t[..., :-1, :]) / 2 for t in (eta, mu))
        forward = (d_eta * (mu - mu_0)).sum(-1)
        backward = (d_mu * (eta - eta_0)).sum(-1)
    else:
        forward = _stieltjes(eta, mu - mu_0)
        backward = _stieltjes(mu, eta - eta_0)
    return (
        torch.cat([first.forward.unsqueeze(-1), forward], -1).cumsum(-1),
        torch.cat([first.backward.unsqueeze(-1), backward], -1).cumsum(-1),
    )


def log_partition(space: Spacetime, x: Tensor, *, rtol: float = 1e-8) -> Tensor:
    """Log-partition ``psi = log E_q exp(eta.T)`` at packed points.

    A denoiser whose noise levels end at a finite log SNR is integrated from there; the rest of
    the line, where little is left of the data, is that of Gaussian data of its mean and variance.

    Args:
        space: spacetime of the model.
        x: points (..., D + 1).
        rtol: relative error allowed, of the integral.

    Returns:
        psi (...), in nats.

    Raises:
        TypeError: for complex numbers.
        ValueError: for points of the wrong dimension, none, or not finite.

    Cost: none in closed form, else some tens to hundreds of evaluations of ``space.mu`` per point:
    with ``estimator="exact"`` D + 1 each, and else by probes, whose error is not in ``rtol`` (half
    a nat to two for mixtures of 2 dimensions and 16 probes); of a network,
    :func:`~diffodesic.denoisers.likelihood.denoising_likelihood` knows its error.
    """
    checks.of_kind(space, "space", Spacetime)
    x = packed(x, "x", space.data_dim, detach=False)
    eta = space.eta(x)
    if isinstance(space.denoiser, HasLogPartition):
        return space.denoiser.log_partition(eta[..., :-1], -2 * eta[..., -1])
    flat = eta.reshape(-1, eta.shape[-1])
    # along this line z stays where it is, and k falls to that of the lowest log SNR
    lowest = math.exp(space.denoiser.log_snr_range[0])
    share = (lowest / (-2 * flat[:, -1])).clamp(max=1)
    start = share.unsqueeze(-1) * flat
    # what happens there happens at k near 1/variance: equal steps are equal in log (1 + k variance)
    reach = -2 * (flat - start)[:, -1] * space.denoiser.variance
    folds = reach.log1p()

    def slope(index: Tensor, u: Tensor) -> Tensor:
        far, fold = reach[index, None], folds[index, None]
        # a point on the last level has no line
        some = far > 0
        s = torch.where(some, (u * fold).expm1() / torch.where(some, far, 1.0), u)
        rate = torch.where(some, fold * (u * fold).exp() / torch.where(some, far, 1.0), 1.0)
        line = torch.lerp(start[index, None], flat[index, None], s.unsqueeze(-1))
        return rate * (space.mu(from_natural(line)) * (flat - start)[index, None]).sum(-1)

    found = adaptive(slope, flat[:, 0], (0.0, 1.0), goal=lambda panels: panels.sum(-1), rtol=rtol)
    psi = found.panels.sum(-1) + _gaussian_psi(space, start)
    return psi.reshape(x.shape[:-1])


def log_density(space: Spacetime, x: Tensor, *, rtol: float = 1e-8) -> Tensor:
    """``log p(z; sigma)`` at packed points, (...), in nats; else as :func:`log_partition`."""
    checks.of_kind(space, "space", Spacetime)
    z, lam = space.split(packed(x, "x", space.data_dim, detach=False))
    scale = space.data_dim / 2 * (math.log(2 * math.pi) - lam)
    return log_partition(space, x, rtol=rtol) - lam.exp() * z.square().sum(-1) / 2 - scale


def _stieltjes(of: Tensor, weight: Tensor) -> Tensor:
    """Integrals of ``weight . d of`` over the segments of their splines, (..., n)."""
    n = of.shape[-2] - 1
    # a cubic times the slope of another has degree 5: three Gauss nodes are exact
    nodes, weights = legendre(3, of)
    s = ((torch.arange(n, device=of.device).unsqueeze(-1) + nodes) / n).reshape(-1)
    rate = (Spline(of).velocity(s) * Spline(weight)(s)).sum(-1)
    return (rate.unflatten(-1, (n, 3)) * weights).sum(-1) / n


def _gaussian_psi(space: Spacetime, eta: Tensor) -> Tensor:
    """Psi of Gaussian data with the model's mean and variance, for eta (N, D + 1)."""
    h, k = eta[:, :-1], -2 * eta[:, -1]
    c, mean = space.denoiser.variance, torch.as_tensor(space.denoiser.mean).to(eta)
    inside = (h * mean + c * h**2 / 2 - k[:, None] * mean**2 / 2).sum(-1)
    gain = 1 / (1 + k * c)
    return gain * inside + space.data_dim / 2 * gain.log()


def _pairs(space: Spacetime, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, torch.Size]:
    a, b = (packed(x, name, space.data_dim, detach=False) for name, x in (("a", a), ("b", b)))
    a, b = checks.pair(a, b)
    return a.reshape(-1, space.dim), b.reshape(-1, space.dim), a.shape[:-1]
