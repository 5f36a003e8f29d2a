r"""Paths that know no geometry: LERP and SLERP, the baselines of image interpolation.

SLERP (Shoemake 1985) turns the direction at constant angular speed and blends the norm; between
points of a high-dimensional Gaussian it keeps the norm that LERP loses.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["lerp", "slerp"]


def lerp(a: Tensor, b: Tensor, s: Tensor) -> Tensor:
    """Points ``(1-s) a + s b``: a, b (..., d), s (S,), result (..., S, d)."""
    return torch.lerp(a.unsqueeze(-2), b.unsqueeze(-2), s.unsqueeze(-1))


def slerp(a: Tensor, b: Tensor, s: Tensor) -> Tensor:
    """Spherical interpolation about the origin: a, b (..., d), s (S,), result (..., S, d).

    The direction turns along the great circle, the norm changes linearly; parallel directions
    give LERP.

    Args:
        a: start (..., d).
        b: end (..., d).
        s: parameters (S,) in [0, 1].

    Returns:
        points (..., S, d).

    Raises:
        ValueError: for opposite or zero vectors, between which no great circle is singled out.
    """
    norm_a, norm_b = (x.norm(dim=-1, keepdim=True) for x in (a, b))
    if bool(((norm_a == 0) | (norm_b == 0)).any()):
        raise ValueError("SLERP has no direction to turn: an end is the zero vector")
    u, v = a / norm_a, b / norm_b
    # half-angle formula: accurate for nearly parallel and nearly opposite vectors alike
    angle = 2 * torch.atan2((u - v).norm(dim=-1), (u + v).norm(dim=-1))[..., None, None]
    if bool((torch.pi - angle < 1e-6).any()):
        raise ValueError("SLERP is not defined between opposite vectors")
    s = s.unsqueeze(-1)
    near = angle < 1e-6
    sine = torch.where(near, 1.0, angle.sin())
    left = torch.where(near, 1 - s, ((1 - s) * angle).sin() / sine)
    right = torch.where(near, s.expand_as(left), (s * angle).sin() / sine)
    direction = left * u.unsqueeze(-2) + right * v.unsqueeze(-2)
    return direction * torch.lerp(norm_a.unsqueeze(-2), norm_b.unsqueeze(-2), s)
