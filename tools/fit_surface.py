r"""A free-energy surface over two angles from samples, by penalised maximum likelihood.

With u = U/kT on the nodes of a periodic grid (cell area A) and N samples x_i,

    minimise   sum_i u(x_i) + N log sum_g A e^{-u_g} + (s/2) int |Lap u|^2,

where u(x) is the C2 spline through the nodes (Silverman 1982; Gu & Qiu 1993, with another basis).
It is convex: the likelihood has Hessian N (diag p - p p^T), the penalty is diagonal in Fourier
space, and Newton's method with step halving ends in some ten steps.  Where no sample was seen the
surface rises as steeply as its smoothness allows, and is an extrapolation: no more than
log N kT above the minimum is known from N samples.  The smoothness s is chosen by the likelihood of
samples left out (:func:`held_out`), run by run, because samples of one run are correlated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from diffodesic.transitions.potentials import positive
from diffodesic.transitions.surfaces import PeriodicSurface

__all__ = ["fit_surface", "held_out"]


def fit_surface(
    samples: Tensor,
    *,
    kT: float,
    smoothness: float,
    points: int = 48,
    unit: str = "kJ/mol",
    name: str = "surface",
) -> PeriodicSurface:
    """Free energy ``-kT log p`` of angles, lowest node at zero.

    Args:
        samples: angles (N, 2), (phi, psi) in radians; any image.
        kT: temperature times Boltzmann's constant, in ``unit``.
        smoothness: s > 0; see :func:`held_out`.
        points: grid nodes per angle.
        unit: unit of energy.
        name: a short name.

    Returns:
        the surface.

    Raises:
        ValueError: for samples of another shape, that are not finite, or in degrees.
        RuntimeError: if Newton's method does not end.

    Cost: about ten linear systems of size ``points^2``.
    """
    positive(smoothness, "smoothness")
    if samples.ndim != 2 or samples.shape[-1] != 2 or not bool(samples.isfinite().all()):
        raise ValueError(f"samples must be finite angles (N, 2), got {tuple(samples.shape)}")
    if float(samples.abs().max()) > 4 * math.pi:
        raise ValueError("samples reach beyond 4 pi: angles must be in radians, not in degrees")
    data = _hat(samples.double(), points)
    count, area = len(samples), (2 * math.pi / points) ** 2
    penalty = smoothness * _roughness(points)
    u = torch.zeros(points**2, dtype=torch.float64)

    def objective(u: Tensor) -> float:
        fit = data @ u + count * (area * torch.exp(-u)).sum().log() + u @ penalty @ u / 2
        return float(fit)

    value = objective(u)
    for _ in range(200):
        p = torch.softmax(-u, 0)
        slope = data - count * p + penalty @ u
        # the constant has no curvature: it is fixed by a term that does not move the minimum
        curvature = penalty + count * (torch.diag(p) - torch.outer(p, p)) + 1 / points**2
        move = -torch.linalg.solve(curvature, slope)
        decrease, share = -float(slope @ move), 1.0
        if decrease < 1e-9 * count:
            low = float(u.min())
            values = kT * (u - low).reshape(points, points)
            return PeriodicSurface(values, kT=kT, unit=unit, name=name)
        while objective(u + share * move) > value - 1e-4 * share * decrease and share > 1e-6:
            share /= 2
        u = u + share * move
        value = objective(u)
    raise RuntimeError("the fit did not end in 200 steps; raise the smoothness")


def held_out(
    runs: Sequence[Tensor], smoothness: Sequence[float], *, points: int = 48
) -> dict[float, float]:
    """Log likelihood per sample of each run under the fit to the others, averaged over runs.

    Args:
        runs: independent samples, (N_r, 2) each; at least two.
        smoothness: values to compare.
        points: grid nodes per angle.

    Returns:
        the score of each value, in nats; the largest is the one to take.

    Raises:
        ValueError: for fewer than two runs.

    Cost: a fit per value and run.
    """
    if len(runs) < 2:
        raise ValueError("leaving a run out needs at least 2 runs; split the samples in time")
    scores = {}
    for s in smoothness:
        total = 0.0
        for i, run in enumerate(runs):
            others = torch.cat([other for j, other in enumerate(runs) if j != i])
            surface = fit_surface(others, kT=1.0, smoothness=s, points=points)
            area = (2 * math.pi / points) ** 2
            log_z = float((area * torch.exp(-surface.values)).sum().log())
            total += float((-surface(run.double())).mean()) - log_z
        scores[float(s)] = total / len(runs)
    return scores


def _hat(samples: Tensor, points: int) -> Tensor:
    """The linear map from node values (points, points) to ``sum_i u(x_i)``, flat, (points^2,)."""
    nodes = torch.zeros(points, points, dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        surface = PeriodicSurface(nodes, kT=1.0)
        (weight,) = torch.autograd.grad(surface.energy(samples).sum(), nodes)
    return weight.reshape(-1)


def _roughness(points: int) -> Tensor:
    """Matrix of ``int |Lap u|^2`` on node values: a convolution, diagonal in Fourier space."""
    wave = torch.fft.fftfreq(points, 1 / points, dtype=torch.float64)
    symbol = (wave[:, None] ** 2 + wave**2) ** 2
    kernel = torch.fft.ifft2(symbol).real * (2 * math.pi / points) ** 2
    i = torch.arange(points)
    gap = (i[:, None] - i) % points
    return kernel[gap[:, None, :, None], gap[None, :, None, :]].reshape(points**2, points**2)
