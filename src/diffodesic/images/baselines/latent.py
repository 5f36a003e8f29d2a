r"""Paths that know no model: the baselines of image interpolation.

Points are ``z = x0 + sigma eps``. Two of the methods were published for latents of unit variance,

    x_t = alpha_t x0 + sigma_t eps = z / scale,    scale^2 = power + sigma^2,

``power`` the mean square of a coordinate of the data (1 for variance-preserving latents, where
this is z = x_t / alpha_t exactly).

**LERP, SLERP** (Shoemake 1985): the chord; the great circle, with the norm blended.  Between points
of a high-dimensional Gaussian SLERP keeps the norm that LERP loses.

**NAO**, norm-aware optimisation (Samuel et al., 2306.08687): norms of Gaussian vectors in R^D
follow the chi law K, so take the path that minimises

    - int log K(|x|) |dx|,    log K(r) = (D-1) log r - r^2/2 - (D/2 - 1) log 2 - log Gamma(D/2).

As K < 1 this is a length, with f = -log K > 0 the geodesic of f^2 I, and by symmetry it lies in the
plane of its ends.  Far from the shell of likely norms f is large: nodes at equal f-length would
leave the shell, most of the way, to a few long chords.  By Cauchy and Schwarz

    (int f |x'| ds)^2  <=  int f |x'|^2 ds  int f ds,       equal iff |x'| is constant,

so what is minimised is the right side: the same path, at constant Euclidean speed.

**NoiseDiffusion** (Zheng et al., 2403.08840) mixes clipped latents, adds the clean images again and
fresh noise, and clips the sum to +-bound:

    alpha clip(x_t) + beta clip(y_t) + (mu - alpha) x0 + (nu - beta) y0 + gamma eps,

images and noise scaled as in x_t.  The noise keeps its variance, alpha^2 + beta^2 + gamma^2 = 1,
and the images come with the weights mu + nu = signal, mu : nu = alpha : beta.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffodesic.numerics.curves import Spline, arc
from diffodesic.output.options import Options, option

__all__ = ["MixtureOptions", "chi_length", "lerp", "nao", "noise_diffusion", "slerp", "with_norm"]


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
    if bool(((a == 0).all(-1) | (b == 0).all(-1)).any()):
        raise ValueError("SLERP has no direction to turn: an end is the zero vector")
    points = arc(a.unsqueeze(-2), b.unsqueeze(-2), s)
    if bool(points.isnan().any()):
        raise ValueError("SLERP is not defined between opposite vectors")
    return points


def with_norm(points: Tensor, a: Tensor, b: Tensor, s: Tensor) -> Tensor:
    """Points of a path, scaled to the norm that SLERP has at the same parameters.

    In high dimension noisy data lie near a shell, and a short path cuts through it like a chord.
    Its points carry less noise than their level says, and come back with a grey haze.

    Args:
        points: (..., S, d), from ``a`` to ``b``.
        a: start (..., d).
        b: end (..., d).
        s: parameters (S,) in [0, 1].

    Returns:
        points (..., S, d) in the same directions.
    """
    wanted = torch.lerp(a.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True), s)
    size = points.norm(dim=-1).clamp(min=torch.finfo(points.dtype).tiny)
    return points * (wanted / size).unsqueeze(-1)


def nao(
    a: Tensor, b: Tensor, s: Tensor, *, sigma: float, power: float = 1.0, nodes: int = 64
) -> Tensor:
    """Norm-aware path: through norms that are likely for Gaussian noise (2306.08687).

    The paper moves points in R^D by Adam, from the chord with jitter, under the midpoint rule and
    a penalty on distances between neighbours that keeps the rule honest. Here the same integral
    is minimised in the plane of the ends, by L-BFGS from the better of LERP and SLERP, under
    Simpson's rule and at constant speed, which leaves nothing to penalise. Chosen, where the paper
    speaks of seeds only: at a finite noise level norms are those of x_t; frames are at equal
    Euclidean distance.

    Args:
        a: starts (..., d).
        b: ends (..., d).
        s: parameters (S,) in [0, 1].
        sigma: noise level of the points.
        power: mean square of a coordinate of the data.
        nodes: segments of the path.

    Returns:
        points (..., S, d).

    Raises:
        ValueError: for opposite or zero vectors, as for :func:`slerp`, or fewer than two
            coordinates.

    Cost: no network evaluation; some hundred gradients of the paths in their planes, all at once.
    """
    if a.shape[-1] < 2:
        raise ValueError("norms and directions are told apart in two coordinates or more")
    a, b = torch.broadcast_tensors(a.detach(), b.detach())
    scale, dim = _scale(sigma, power), a.shape[-1]
    size = a.norm(dim=-1)
    first = a / size.unsqueeze(-1)
    along = (b * first).sum(-1)
    rest = b - along.unsqueeze(-1) * first
    across = rest.norm(dim=-1)
    second = rest / across.clamp(min=torch.finfo(a.dtype).tiny).unsqueeze(-1)
    plane = torch.stack([size, torch.zeros_like(size), along, across], -1).double() / scale
    grid = torch.linspace(0, 1, nodes + 1, dtype=plane.dtype, device=plane.device)
    starts = torch.stack([way(plane[..., :2], plane[..., 2:], grid) for way in (lerp, slerp)], -3)
    path = _likeliest(starts.reshape(-1, 2, nodes + 1, 2), dim)
    path = path.reshape(*a.shape[:-1], nodes + 1, 2)
    # equal ends: all steps are zero, and any spacing is right
    steps = path.diff(dim=-2).norm(dim=-1) + torch.finfo(path.dtype).tiny
    walked = torch.nn.functional.pad(steps.cumsum(-1), (1, 0))
    x = scale * Spline(path, walked / walked[..., -1:])(s.to(grid)).to(a)
    return x[..., :1] * first.unsqueeze(-2) + x[..., 1:] * second.unsqueeze(-2)


def chi_length(points: Tensor, *, sigma: float, power: float = 1.0) -> Tensor:
    """What :func:`nao` minimises: ``- int log K(|x|) |dx|`` along a polyline (..., n+1, d), (...).

    Args:
        points: the path.
        sigma: noise level of the points.
        power: mean square of a coordinate of the data.

    Returns:
        lengths (...); by Simpson's rule on each segment.
    """
    return _chi_length(points / _scale(sigma, power), points.shape[-1])


@dataclass(frozen=True, kw_only=True)
class MixtureOptions(Options):
    """Weights of :func:`noise_diffusion`; the defaults are those of the published code.

    Args:
        signal: sum mu + nu of the weights of the images.
        gamma: share of fresh noise.
        bound: coordinates of x_t beyond this are clipped, before and after mixing.
    """

    signal: float = 1.2
    gamma: float = option(0.0, least=0, most=1)
    bound: float = option(2.0, above=0)


def noise_diffusion(
    a: Tensor,
    b: Tensor,
    s: Tensor,
    *,
    clean: tuple[Tensor, Tensor],
    sigma: float,
    power: float = 1.0,
    noise: Tensor | None = None,
    options: MixtureOptions | None = None,
) -> Tensor:
    """NoiseDiffusion (2403.08840): clipped latents, the images again, and fresh noise.

    ``alpha, beta = sqrt(1 - gamma^2) (cos, sin)(pi s/2)``. At s = 0 and 1 the points are the ends
    here, where the paper shows the images themselves. The formula tends to the ends where
    ``signal = 1``, ``gamma = 0`` and nothing is clipped.

    Args:
        a: starts (..., d) at the noise level.
        b: ends (..., d).
        s: parameters (S,) in [0, 1].
        clean: the images that a and b are the noised ones of, (..., d) each.
        sigma: noise level of the points.
        power: mean square of a coordinate of the data.
        noise: standard normal (..., S, d), needed where gamma > 0.
        options: the weights; default ``MixtureOptions()``.

    Returns:
        points (..., S, d).

    Raises:
        ValueError: for gamma > 0 without noise.

    Cost: none.
    """
    asked = options or MixtureOptions()
    gamma = asked.gamma
    if gamma > 0 and noise is None:
        raise ValueError("gamma > 0 mixes in fresh noise: give noise, standard normal (..., S, d)")
    limit = asked.bound * _scale(sigma, power)
    turn = (s * (math.pi / 2)).unsqueeze(-1)
    alpha, beta = (math.sqrt(1 - gamma**2) * part for part in (turn.cos(), turn.sin()))
    share = asked.signal / (turn.cos() + turn.sin())
    mu, nu = share * turn.cos(), share * turn.sin()
    x, y = (end.clamp(-limit, limit).unsqueeze(-2) for end in (a, b))
    x0, y0 = (image.unsqueeze(-2) for image in clean)
    z = alpha * x + beta * y + (mu - alpha) * x0 + (nu - beta) * y0
    if noise is not None:
        z = z + gamma * sigma * noise
    z = z.clamp(-limit, limit)
    at = s.unsqueeze(-1)
    return torch.where(at == 0, a.unsqueeze(-2), torch.where(at == 1, b.unsqueeze(-2), z))


def _segments(path: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Mean of ``-log K`` over each segment, and its length; (..., n) each."""
    # Simpson's rule, as -log K is nearly a parabola. By the middles alone, as published, a long
    # step that has its middle on the shell would pass for likely.
    constant = (dim / 2 - 1) * math.log(2) + math.lgamma(dim / 2)

    def unlikely(x: Tensor) -> Tensor:
        square = x.square().sum(-1).clamp(min=1e-12)
        return constant + square / 2 - (dim - 1) / 2 * square.log()

    left, right = path[..., :-1, :], path[..., 1:, :]
    nodes = unlikely(path)
    mean = (nodes[..., :-1] + 4 * unlikely((left + right) / 2) + nodes[..., 1:]) / 6
    return mean, (right - left).norm(dim=-1)


def _chi_length(path: Tensor, dim: int) -> Tensor:
    unlikely, length = _segments(path, dim)
    return (unlikely * length).sum(-1)


def _likeliest(starts: Tensor, dim: int) -> Tensor:
    """The paths (P, n+1, 2) of least length that descend from the better of (P, 2, n+1, 2)."""
    best = _chi_length(starts, dim).argmin(-1)
    start = starts[torch.arange(len(starts), device=starts.device), best]
    moving = (start[:, 0] != start[:, -1]).any(-1)
    path = start.clone()
    if bool(moving.any()):
        path[moving] = _search(start[moving], dim)
    better = _chi_length(path, dim) < _chi_length(start, dim)
    return torch.where(better[:, None, None], path, start)


@torch.enable_grad()  # the caller's no_grad does not reach the search
def _search(start: Tensor, dim: int) -> Tensor:
    """Minimise the bound of all paths (P, n+1, 2) at once: it is a sum over them."""
    inner = start[:, 1:-1].clone().requires_grad_()

    def path() -> Tensor:
        return torch.cat([start[:, :1], inner, start[:, -1:]], 1)

    def bound() -> Tensor:
        search.zero_grad()
        unlikely, length = _segments(path(), dim)
        value = ((unlikely * length.square()).sum(-1) * unlikely.sum(-1)).sqrt().sum()
        value.backward()
        return value

    search = torch.optim.LBFGS(
        [inner], max_iter=500, history_size=30, line_search_fn="strong_wolfe", tolerance_change=1e-9
    )
    search.step(bound)
    return path().detach()


def _scale(sigma: float, power: float) -> float:
    if not (sigma > 0 and power >= 0):
        raise ValueError(f"give sigma > 0 and power >= 0, got {sigma} and {power}")
    return math.sqrt(power + sigma**2)
