r"""The two families of straight lines of spacetime (Amari; 2505.17517, Sec. 4).

An exponential family has two flat structures beside its metric:

    e-geodesic   straight in eta = (k z, -k/2): closed form, no network at all
    m-geodesic   straight in mu = E[T]: invert  mu = grad psi(eta)  by Newton's method

Between ends of equal noise the e-geodesic is the chord at constant log SNR.  The m-geodesic is the
projection of the mixture ``(1-s) p_a + s p_b`` back onto the family.  Both have the energy

    1/2 int eta'.mu' ds = Jeffreys(a, b) / 2,

so both are no shorter than the distance and no longer than one chord, sqrt(Jeffreys).  Neither is
a geodesic of the metric, but for two-point data, where there is only one way to go.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffodesic.denoisers.denoiser import HasLogPartition
from diffodesic.metrics.spacetime.metric import Spacetime
from diffodesic.metrics.spacetime.points import from_natural, natural, packed
from diffodesic.numerics import checks

__all__ = ["e_geodesic", "from_mu", "m_geodesic"]


def e_geodesic(space: Spacetime, a: Tensor, b: Tensor, s: Tensor | float) -> Tensor:
    """Points of the e-geodesic from ``a`` to ``b``.

    Args:
        space: the spacetime.
        a: packed points (..., D + 1).
        b: packed points (..., D + 1).
        s: parameters in [0, 1]: a number gives (..., D + 1), (S,) gives (..., S, D + 1).

    Returns:
        packed points; differentiable.

    Raises:
        TypeError: for complex numbers.
        ValueError: for points of the wrong dimension, none, or not finite, or ``s`` that is not.

    Cost: no network evaluation.
    """
    checks.of_kind(space, "space", Spacetime)
    a, b, s = _checked(space, a, b, s)
    points = from_natural(_line(space.eta(a), space.eta(b), s))
    return points[..., 0, :] if s.ndim == 0 else points


def m_geodesic(space: Spacetime, a: Tensor, b: Tensor, s: Tensor | float) -> Tensor:
    """Points of the m-geodesic from ``a`` to ``b``, for denoisers in closed form.

    Args:
        space: the spacetime of a denoiser that knows its psi, such as a ``GaussianMixture``.
        a: packed points (..., D + 1).
        b: packed points (..., D + 1).
        s: parameters in [0, 1]: a number gives (..., D + 1), (S,) gives (..., S, D + 1).

    Returns:
        packed points, without a graph.

    Raises:
        TypeError: for complex numbers.
        ValueError: as for :func:`e_geodesic`, for another denoiser, or where the line leaves
            spacetime (no noise is large enough for such a spread of posteriors).

    Cost: that of :func:`from_mu`.
    """
    checks.of_kind(space, "space", Spacetime)
    a, b, s = _checked(space, a, b, s)
    kind = a.dtype
    # Newton's method ends at the rounding of float64
    a, b, s = (given.detach().double() for given in (a, b, s))
    start = from_natural(_line(space.eta(a), space.eta(b), s))
    points = from_mu(space, _line(space.mu(a), space.mu(b), s), start).to(kind)
    return points[..., 0, :] if s.ndim == 0 else points


def from_mu(
    space: Spacetime, mu: Tensor, start: Tensor, *, tol: float = 1e-14, iterations: int = 200
) -> Tensor:
    """Packed points with given mean parameters, for denoisers in closed form.

    Newton's method on the convex function ``psi(eta) - eta.mu``, in (h, log k) so that k = 0 is
    never passed, with steps halved until it falls.

    Args:
        space: the spacetime of a denoiser that knows its psi, such as a ``GaussianMixture``.
        mu: mean parameters (..., D + 1).
        start: packed points (..., D + 1) to start from.
        tol: the last step is taken where twice the KL to the answer is about this, in nats.
        iterations: limit on Newton steps.

    Returns:
        packed points (..., D + 1).

    Raises:
        ValueError: for another denoiser, or where no point of spacetime has these parameters.

    Cost: D + 2 evaluations per point and step, in D <= some hundreds.
    """
    if not (isinstance(space.denoiser, HasLogPartition) and space.denoiser.closed_form):
        raise ValueError(
            "mean parameters are inverted by Newton's method on psi, which this denoiser does not "
            "know in closed form: use a GaussianMixture"
        )
    x = start.reshape(-1, space.dim).clone()
    target = mu.expand(start.shape).reshape(-1, space.dim)
    active = torch.arange(len(x), device=x.device)
    # far below this noise range nothing but the mean of the data is left to be found
    lowest = min(space.log_snr_range[0], float(x[:, -1].min())) - 20
    for _ in range(iterations):
        point, goal = x[active], target[active]
        slope, covariance = space.mu(point) - goal, _covariance(space, point)
        left = (slope * torch.linalg.solve(covariance, slope)).sum(-1)
        x[active] = _descend(space.denoiser, point, slope, covariance, goal)
        active = active[(left > tol) & (x[active, -1] > lowest)]
        if not len(active):
            break
    if len(active) or bool((x[:, -1] <= lowest).any()):
        raise ValueError(
            "some mean parameters belong to no finite noise (k would fall to zero or below): "
            "the line leaves spacetime; choose ends that are closer, or less noisy"
        )
    return x.reshape(start.shape)


def _checked(
    space: Spacetime, a: Tensor, b: Tensor, s: Tensor | float
) -> tuple[Tensor, Tensor, Tensor]:
    a, b = (packed(x, name, space.data_dim, detach=False) for name, x in (("a", a), ("b", b)))
    a, b = checks.pair(a, b)
    return a, b, checks.finite(torch.as_tensor(s, dtype=a.dtype, device=a.device), "s")


def _line(a: Tensor, b: Tensor, s: Tensor) -> Tensor:
    return torch.lerp(a.unsqueeze(-2), b.unsqueeze(-2), s.reshape(-1, 1))


def _potential(denoiser: HasLogPartition, x: Tensor, mu: Tensor) -> Tensor:
    eta = natural(x)
    return denoiser.log_partition(eta[:, :-1], -2 * eta[:, -1]) - (eta * mu).sum(-1)


def _covariance(space: Spacetime, x: Tensor) -> Tensor:
    """Cov[T], which is d mu / d eta, (N, D + 1, D + 1)."""
    z, lam = space.split(x)
    basis = torch.eye(space.dim, dtype=x.dtype, device=x.device).expand(len(x), -1, -1)
    first, second = space.denoiser.statistic_covariance(
        z[:, None].expand(-1, space.dim, -1),
        (-lam / 2).exp()[:, None].expand(-1, space.dim),
        basis[..., :-1],
        basis[..., -1],
    )
    return torch.cat([first, second.unsqueeze(-1)], -1)


def _descend(
    denoiser: HasLogPartition, x: Tensor, slope: Tensor, covariance: Tensor, target: Tensor
) -> Tensor:
    """Points after the largest of the steps 1, 1/2, 1/4 ... that lets the potential fall enough."""
    value, k = _potential(denoiser, x, target), x[:, -1:].exp()
    # to the coordinates (h, log k): d eta_2 = -k/2 dlog k, whose own bend keeps its size here
    scale = torch.cat([torch.ones_like(x[:, :-1]), -k / 2], -1)
    gradient, hessian = scale * slope, scale.unsqueeze(-1) * covariance * scale.unsqueeze(-2)
    hessian[:, -1, -1] += gradient[:, -1].abs()
    step = -torch.linalg.solve(hessian, gradient)
    promise = -(step * gradient).sum(-1)
    # potentials are compared up to what rounding leaves of their parts
    slack = 1e-14 * (1 + value.abs() + (natural(x) * target).abs().sum(-1))
    found = x
    for size in 0.5 ** torch.arange(40.0, dtype=x.dtype):
        level = x[:, -1:] + size * step[:, -1:]
        trial = torch.cat([(k * x[:, :-1] + size * step[:, :-1]) / level.exp(), level], -1)
        fall = value - _potential(denoiser, trial, target)
        good = (fall >= 1e-4 * size * promise - slack) & (found == x).all(-1)
        found = torch.where(good.unsqueeze(-1), trial, found)
        if not bool((found == x).all(-1).any()):
            break
    return found
