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
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffodesic.geodesic import Geodesic
from diffodesic.hyperbolic import natural
from diffodesic.spacetime import Spacetime

__all__ = ["dimension_from_slope", "flipd"]


def flipd(space: Spacetime, x: Tensor) -> Tensor:
    """Local dimension at packed points by FLIPD.

    Args:
        space: spacetime of the model.
        x: points (..., D + 1), for instance the nodes of a geodesic; at data points of the noise
            whose scale is asked about.

    Returns:
        dimensions (...), not rounded.

    Cost: one ``space.mu`` per point.
    """
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
    ends, out = (0.0, 1.0), torch.tensor([-1.0, 1.0])
    slope = torch.zeros_like(path.length)
    for s, sign in zip(ends, out.tolist(), strict=True):
        x, v = path(s), path.velocity(s)
        up = torch.zeros_like(v)
        up[..., -1] = 1
        slope = slope + sign * space.inner(x, v, up) / space.norm(x, v)
    return slope**2 / 2
