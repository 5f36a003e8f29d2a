r"""Local dimension of the data, read off spacetime.

**FLIPD** (Kamkari et al. 2024, 2406.03537): at noise sigma the data near x look flat if they curve
on larger scales only, and then d directions of the noise are taken for data:

    FLIPD(z, sigma) = D + sigma^2 (div score + |score|^2) = k E[|x0 - z|^2 | z]
                    = -2 eta.mu + |eta_1|^2 / (-2 eta_2),

a by-product of the mean parameters along any path.

**The slope of distances.**  Between two different points of the data, both at log SNR lam, the
geodesic climbs out of two cusps of d-dimensional hyperbolic geometry,

    d(lam) ~ sqrt(2 d) (lam + 2 log(|x - y| / sqrt(2 d))),      so     d = slope^2 / 2,

the mean of the two ends' sqrt(d), squared.  The slope needs one geodesic: by the first variation
it is ``<velocity, d/dlam>/L`` at both ends.  Finite data have no dimension at the finest scale.

**The normal bundle** (Stanczuk et al. 2022, 2212.12611).  Near a manifold the score points to it:
scores at x + sigma eps_i, more of them than coordinates, span the normal space at x.  Their
singular values s_1 >= s_2 >= ... fall at its dimension, so

    d = D - argmax_i (s_i - s_{i+1}),

and the last d singular vectors span the tangent space.  Here scores are taken about their mean,
which is not published: what they share is the error of x itself, one direction so much larger
than all others for a network that the largest drop follows it, and d = D - 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.geometry.path import Geodesic
from diffodesic.metrics.spacetime.metric import Spacetime
from diffodesic.metrics.spacetime.points import natural, packed
from diffodesic.numerics import checks

__all__ = ["NormalBundle", "dimension_from_slope", "flipd", "normal_bundle"]


def flipd(space: Spacetime, x: Tensor) -> Tensor:
    """Local dimension at packed points by FLIPD.

    Args:
        space: spacetime of the model.
        x: points (..., D + 1), for instance the nodes of a geodesic; at data points of the noise
            whose scale is asked about.

    Returns:
        dimensions (...), not rounded.

    Raises:
        TypeError: for complex numbers.
        ValueError: for points of the wrong dimension, none, or not finite.

    Cost: one ``space.mu`` per point.
    """
    x = packed(x, "x", space.data_dim, detach=False)
    eta, mu = natural(x), space.mu(x)
    return -2 * (eta * mu).sum(-1) + eta[..., :-1].square().sum(-1) / (-2 * eta[..., -1])


def dimension_from_slope(path: Geodesic) -> Tensor:
    """Local dimension from how fast a geodesic grows as the log SNR of its two ends is raised.

    Args:
        path: a solved geodesic in a :class:`Spacetime`, between data points at a log SNR whose
            noise is far smaller than their distance.

    Returns:
        ``slope^2 / 2`` (...): the dimension, where both ends have the same.

    Raises:
        ValueError: for a path of another metric.

    Cost: two inner products per pair.
    """
    space = path.metric
    if not isinstance(space, Spacetime):
        raise ValueError("the local dimension is read off geodesics of a Spacetime")
    slope = torch.zeros_like(path.length)
    for s, sign in ((0.0, -1.0), (1.0, 1.0)):
        x, v = path(s), path.velocity(s)
        up = torch.zeros_like(v)
        up[..., -1] = 1
        slope = slope + sign * space.inner(x, v, up) / space.norm(x, v)
    return slope**2 / 2


@dataclass(frozen=True)
class NormalBundle:
    """What :func:`normal_bundle` returns.

    Attributes:
        values: singular values of the scores, falling, (D,).
        directions: their directions, rows (D, D); the normal ones first.
        dimension: of the manifold, where the values fall most.
    """

    values: Tensor
    directions: Tensor
    dimension: int

    def tangent(self, d: int) -> Tensor:
        """Orthonormal basis (d, D) of a tangent space of dimension d."""
        return self.directions[len(self.directions) - d :]


def normal_bundle(
    denoiser: Denoiser, x: Tensor, log_snr: float, *, scores: int, generator: torch.Generator
) -> NormalBundle:
    """Normal space at a point of the data, from scores around it.

    Args:
        denoiser: posterior mean.
        x: the point (D,).
        log_snr: noise level: small beside the curvature of the manifold, large beside its
            thickness and the errors of the score.
        scores: number of scores, more than D; the paper takes 4 D.
        generator: of the perturbations, on the CPU.

    Returns:
        the directions and the dimension.

    Raises:
        TypeError: for complex numbers.
        ValueError: for a point that is not (D,) or not finite, and for fewer scores than
            coordinates: what they span would be taken for the normal space.

    Cost: ``scores`` evaluations, and a singular value decomposition of scores x D.
    """
    x = checks.points(x, "x", denoiser.dim, "the dimension of the data")
    if x.ndim != 1:
        raise ValueError(f"x has shape {tuple(x.shape)}; give one point ({denoiser.dim},)")
    if scores <= denoiser.dim:
        raise ValueError(
            f"the normal bundle takes more than {denoiser.dim} scores, the number of coordinates; "
            f"got {scores}"
        )
    sigma = math.exp(-log_snr / 2)
    noise = torch.randn(scores, denoiser.dim, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        found = denoiser.score(x + sigma * noise.to(x), x.new_tensor(sigma))
    _, values, directions = torch.linalg.svd(found - found.mean(0), full_matrices=False)
    drop = int((-values.diff()).argmax()) + 1
    return NormalBundle(values, directions, denoiser.dim - drop)
