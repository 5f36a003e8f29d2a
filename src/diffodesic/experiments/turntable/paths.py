"""Frames of every method between pairs of photographs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import get_args

import torch
from torch import Tensor

from diffodesic.denoisers.flow import clean_log_snr, drop, sample_posterior
from diffodesic.experiments.turntable.graph import chain
from diffodesic.experiments.turntable.settings import Method, Settings
from diffodesic.images.baselines.between import Baseline, baseline_curve
from diffodesic.images.baselines.latent import with_norm
from diffodesic.images.lifting import Lifting
from diffodesic.images.placement import Placement
from diffodesic.images.shown_path import equal_steps
from diffodesic.images.spaces import SPACES
from diffodesic.metrics.spacetime.flow_arches import even_means, flow_arches
from diffodesic.models.model import Model
from diffodesic.numerics.curves import Spline

__all__ = ["frames_of"]

_NODES = 32  # of an arch, as in ``interpolate``


def frames_of(
    model: Model,
    method: Method,
    ends: Tensor,
    settings: Settings,
    between: Sequence[Tensor] = (),
) -> Tensor:
    """Frames of a method between photographs.

    Args:
        model: of photographs.
        method: which curve, and how it is brought back.
        ends: the pairs (N, 2, 3, H, W) in [0, 1], of the model's shape.
        settings: how many frames and steps.
        between: for a graph, the photographs (K, 3, H, W) that each pair's way leads through.

    Returns:
        images (N, F, 3, H, W) in [0, 1].

    Cost: ``2 flow_steps`` evaluations per end and photograph between, ``2 flow_steps + 1`` per
    frame, and the curve.
    """
    s = torch.linspace(0, 1, settings.frames, dtype=ends.dtype)
    if method.curve == "pixels":
        at = s[:, None, None, None]
        return torch.lerp(ends[:, :1], ends[:, 1:], at)
    if method.curve == "ends":
        with torch.no_grad():
            back = model.codec.decode(model.codec.encode(ends))
        return back[:, (s >= 0.5).long()]
    lifting = Lifting(model, method.log_snr, settings.flow_steps, settings.seed)
    a, b = lifting.lift(ends[:, 0]), lifting.lift(ends[:, 1])
    if method.curve in get_args(Baseline):
        images = ends[:, 0], ends[:, 1]
        points = baseline_curve(method.curve, lifting, images, (a, b))(s)
        return lifting.images(points, method.log_snr)
    if method.curve == "arch":
        return _arch_frames(lifting, method, a, b, s)
    if method.curve == "graph":
        return lifting.images(_through(lifting, a, b, between, s), method.log_snr)
    space = SPACES[method.curve]()
    there = Placement(space, lifting, torch.stack([a, b]))
    init = None
    if method.graph:
        grid = torch.linspace(0, 1, settings.nodes + 1, dtype=a.dtype)
        init = there.pack(_through(lifting, a, b, between, grid))
    path = there.geodesic(*there.points, nodes=settings.nodes, init=init)
    z, levels = there.unpack(path(s))
    return lifting.images(with_norm(z, a, b, s) if space.keeps_norm else z, levels)


def _through(
    lifting: Lifting, a: Tensor, b: Tensor, between: Sequence[Tensor], s: Tensor
) -> Tensor:
    """Points (N, S, D) on the ways from a to b (N, D) through photographs."""
    lifted = (lifting.lift(shown) if len(shown) else a[:0] for shown in between)
    ways = zip(a[:, None], lifted, b[:, None], strict=True)
    return torch.stack([chain(torch.cat(way), s) for way in ways])


def _arch_frames(lifting: Lifting, method: Method, a: Tensor, b: Tensor, s: Tensor) -> Tensor:
    denoiser = lifting.model.denoiser
    top = torch.full((len(a), 1), method.log_snr, dtype=a.dtype)
    packed = torch.cat([a, top], -1), torch.cat([b, top], -1)
    lowest = denoiser.log_snr_range[0]
    still = {"": method.still}
    arches = flow_arches(denoiser, *packed, _NODES, lowest, (method.depth,), still)
    nodes = arches[f"flow arch {method.depth:g}"]
    curve = Spline(even_means(denoiser, nodes) if method.pace == "means" else nodes)
    if method.pace == "codes":
        s = _paced(lifting, curve, s)
    points = curve(s)
    z, levels = points[..., :-1], points[..., -1]
    if method.fresh:
        z = _refreshed(lifting, z, levels, method.fresh * (math.pi * s).sin())
    if not method.posterior:
        return lifting.images(z, levels)
    steps = lifting.flow_steps
    with torch.no_grad():
        codes = sample_posterior(denoiser, z, levels, steps=steps, seed=lifting.seed, shared=True)
        return lifting.model.codec.decode(codes[0])


def _refreshed(lifting: Lifting, z: Tensor, levels: Tensor, share: Tensor) -> Tensor:
    """Points whose noise is replaced, to a share (F,), by one noise for all, at equal size."""
    generator = torch.Generator().manual_seed(lifting.seed + 1)
    noise = torch.randn(z.shape[-1], generator=generator, dtype=z.dtype)
    sigma, w = (-levels / 2).exp(), share.unsqueeze(-1)
    with torch.no_grad():
        mean = lifting.model.denoiser(z, sigma)
    return mean + (1 - w**2).sqrt() * (z - mean) + w * sigma.unsqueeze(-1) * noise


def _paced(lifting: Lifting, curve: Callable[[Tensor], Tensor], s: Tensor) -> Tensor:
    """Parameters (N, F) between which clean codes move by equal steps."""
    denoiser = lifting.model.denoiser
    points = curve(torch.linspace(0, 1, 4 * len(s) - 3, dtype=s.dtype))
    z, levels = points[..., :-1], points[..., -1]
    with torch.no_grad():
        sigma = z.new_tensor(math.exp(-clean_log_snr(denoiser) / 2))
        codes = denoiser(drop(denoiser, z, levels, steps=lifting.flow_steps), sigma)
    return torch.stack([equal_steps(own, s) for own in codes.diff(dim=-2).norm(dim=-1)])
