r"""The likely path: short, and through likely places (Rygaard et al., 2510.26266).

Not a geodesic but the path of a particle in the potential -log p, the minimiser of

    n/2 sum_i |x_{i+1} - x_i|^2  -  (c/n) sum_i log p(x_i),        x'' = -c s(x),

the sum over inner nodes.  Its gradient takes one score per node, and no log-density is ever needed:
the second derivative of -log p is at most 1/sigma^2 at noise sigma, since Cov[x0|z] >= 0, so

    x <- x - (n T + c/(n sigma^2))^-1 gradient,        T the path Laplacian,

minimises a bound from above that touches at x: every step descends, without a line search
(majorisation, de Leeuw 1977).  For a network this is as true as its Jacobian is that of a posterior
mean.  A baseline curve, to compare geodesics with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.numerics import checks
from diffodesic.numerics.cost import Cost, counting
from diffodesic.numerics.hessians import bend, laplacian

__all__ = ["LikelyPath", "likely_path"]


@dataclass(frozen=True)
class LikelyPath:
    """What :func:`likely_path` returns.

    Attributes:
        nodes: (..., n+1, D), with exact ends.
        converged: whether the tolerance was met within the iterations, (...).
        iterations: steps taken.
        cost: work spent.
    """

    nodes: Tensor
    converged: Tensor
    iterations: int
    cost: Cost


def likely_path(
    denoiser: Denoiser,
    a: Tensor,
    b: Tensor,
    *,
    log_snr: float,
    weight: float,
    nodes: int = 64,
    rtol: float = 1e-8,
    iterations: int = 1000,
) -> LikelyPath:
    """Path of least kinetic energy minus ``weight`` times its mean log-density.

    Args:
        denoiser: posterior mean.
        a: starts (..., D) at the noise level.
        b: ends (..., D) at the noise level.
        log_snr: the noise level.
        weight: c >= 0; 0 is the chord.
        nodes: number n >= 2 of segments.
        rtol: stop when a step promises to lower the energy by less than this share of the kinetic
            energy.
        iterations: limit on steps.

    Returns:
        the path; one that did not converge says so.

    Raises:
        ValueError: for a level outside the denoiser's range, a negative weight, ``nodes < 2``,
            an ``init`` of another shape, or scores that are not finite on the first path.

    Cost: one evaluation per inner node and step.
    """
    checks.of_kind(denoiser, "denoiser", Denoiser)
    low, high = denoiser.log_snr_range
    if not (low <= log_snr <= high and math.isfinite(log_snr)):
        raise ValueError(f"log_snr must be finite and in {low:g} to {high:g}, got {log_snr}")
    if not 0 <= weight < math.inf or nodes < 2:
        raise ValueError(f"weight must be >= 0 and nodes >= 2, got {weight} and {nodes}")
    a, b = torch.broadcast_tensors(a, b)
    s = torch.linspace(0, 1, nodes + 1, dtype=a.dtype, device=a.device).unsqueeze(-1)
    x = torch.lerp(a.unsqueeze(-2), b.unsqueeze(-2), s)
    sigma = math.exp(-log_snr / 2)
    ones = torch.ones(nodes, dtype=torch.float64, device=a.device)
    stiff = nodes * laplacian(ones)
    stiff.diagonal().add_(weight / (nodes * sigma**2))
    inverse = torch.linalg.inv(stiff).to(a)
    with counting() as cost, torch.no_grad():
        for step in range(1, iterations + 1):
            u = x.diff(dim=-2)
            score = denoiser.score(x[..., 1:-1, :], x.new_tensor(sigma))
            if step == 1 and not bool(torch.isfinite(score).all()):
                raise ValueError("the score is not finite on the first path; check the ends")
            grad = nodes * bend(u)[..., 1:-1, :] - weight / nodes * score
            move = inverse @ grad
            x = torch.cat([x[..., :1, :], x[..., 1:-1, :] - move, x[..., -1:, :]], -2)
            kinetic = nodes / 2 * u.square().sum((-1, -2))
            converged = (grad * move).sum((-1, -2)) / 2 <= rtol * kinetic
            if bool(converged.all()):
                break
    return LikelyPath(x, converged, step, cost)
