r"""Curvature of the score metric in closed form, by the equation of Gauss.

Where the scores are gradients, s_k = grad phi_k, the metric ``I + c sum_k s_k s_k^T`` is that of
the graph ``x -> (x, sqrt(c) phi_1(x), ..., sqrt(c) phi_K(x))`` in flat R^(D+K).  With H_k the
Hessian of phi_k and M = I + c S S^T the Gram matrix of the graph's normals,

    <R(u, v) v, u> = c sum_kl (M^-1)_kl [ (u.H_k u)(v.H_l v) - (u.H_k v)(u.H_l v) ],
    scalar         = c sum_kl (M^-1)_kl [ tr A_k tr A_l - tr A_k A_l ],    A_k = g^-1 H_k.

For one score M = W = 1 + w|s|^2 (2505.11128; Hartmann, Girolami & Klami, 2202.10755).  H_k acts by
Jacobian products of the score; no D x D matrix is formed.  Where a network's Jacobian is not
symmetric there is no graph, and these are the curvatures of its symmetric part as far as it
enters the products above.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffodesic.metrics.score import ScoreMetric
from diffodesic.numerics import checks

__all__ = ["ricci_scalar", "sectional_curvature"]


def sectional_curvature(metric: ScoreMetric, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Sectional curvature of the plane of two vectors.

    Args:
        metric: a score metric of any rank.
        x: points (..., D).
        u: vectors (..., D).
        v: vectors (..., D), not parallel to ``u``.

    Returns:
        (...), in units of one over a squared length of the metric.

    Raises:
        ValueError: for parallel vectors, which span no plane.

    Cost: 4 K evaluations and 2 K JVPs per point.
    """
    checks.of_kind(metric, "metric", ScoreMetric)
    uu, uv, vv = metric.inner(x, u, u), metric.inner(x, u, v), metric.inner(x, v, v)
    area = uu * vv - uv.square()
    if not bool((area > 1e-12 * uu * vv).all()):
        raise ValueError("u and v are parallel, or zero: they span no plane; give two directions")
    hu, hv = metric.scores_jvp(x, u), metric.scores_jvp(x, v)
    a, b = u.unsqueeze(-2), v.unsqueeze(-2)
    first, last = (a * hu).sum(-1), (b * hv).sum(-1)
    mixed = ((a * hv).sum(-1) + (b * hu).sum(-1)) / 2
    normals = _Normals(metric, x)
    bent = normals.product(first, last) - normals.product(mixed, mixed)
    return metric.weight / metric.rank * bent / area


def ricci_scalar(metric: ScoreMetric, x: Tensor, *, probes: Tensor | None = None) -> Tensor:
    """Scalar curvature, the sum of the sectional curvatures of all ordered pairs of axes.

    Args:
        metric: a score metric of any rank.
        x: points (..., D).
        probes: directions (P, D) of unit covariance, P >= 2, such as random signs: an unbiased
            estimate; default the basis, which is exact.

    Returns:
        (...).

    Raises:
        ValueError: for probes of another shape.

    Cost: 2 K JVPs per point and probe, D probes by default; 2 K evaluations per point.
    """
    checks.of_kind(metric, "metric", ScoreMetric)
    p = torch.eye(metric.dim) if probes is None else torch.as_tensor(probes)
    if p.ndim != 2 or p.shape[-1] != metric.dim or (probes is not None and len(p) < 2):
        raise ValueError(f"probes must be (P, {metric.dim}) with P >= 2, got {tuple(p.shape)}")
    normals = _Normals(metric, x.unsqueeze(-2))
    p = p.to(x).expand(*x.shape[:-1], *p.shape)  # (..., P, D)
    point, q = x.unsqueeze(-2).expand_as(p), normals.sharp(p)
    hp, hq = metric.scores_jvp(point, p), metric.scores_jvp(point, q)  # (..., P, K, D)
    raised = _Normals(metric, x[..., None, None, :]).sharp(hp)
    one = (p.unsqueeze(-2) * raised).sum(-1)  # p.A_k p
    two = torch.einsum("...pkd,...pld->...kl", hq, raised)  # sum over p of p.A_k A_l p
    total = one.sum(-2)
    square = total.unsqueeze(-1) * total.unsqueeze(-2)
    if probes is not None:
        # the mean over products of two different probes is the product of the traces
        count = len(probes)
        square = (square - one.mT @ one) / (count * (count - 1))
        two = two / count
    inverse = normals.inverse.squeeze(-3)
    return metric.weight / metric.rank * (inverse * (square - two)).sum((-1, -2))


class _Normals:
    """The Gram matrix M of the graph's normals at points (..., D), ready to divide by."""

    def __init__(self, metric: ScoreMetric, x: Tensor) -> None:
        self.scores, self.weight = metric.scores(x), metric.weight / metric.rank
        factor = torch.linalg.cholesky(metric.gram(self.scores))
        self.inverse = torch.cholesky_inverse(factor)  # (..., K, K)

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        """``a.M^-1 b`` of (..., K)."""
        return torch.einsum("...k,...kl,...l->...", a, self.inverse, b)

    def sharp(self, p: Tensor) -> Tensor:
        """``g^-1 p`` of covectors (..., D)."""
        along = torch.einsum("...kd,...d->...k", self.scores, p)
        held = torch.einsum("...kl,...l->...k", self.inverse, along)
        return p - self.weight * torch.einsum("...k,...kd->...d", held, self.scores)
