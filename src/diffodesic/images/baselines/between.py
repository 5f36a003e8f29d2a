"""Baseline curves between lifted images, by name: what a geodesic is compared with."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from diffodesic.images.baselines.latent import lerp, nao, noise_diffusion, slerp
from diffodesic.images.baselines.likely import likely_path
from diffodesic.images.lifting import Lifting
from diffodesic.numerics.curves import Spline

__all__ = ["Baseline", "baseline_curve"]

Baseline = Literal["LERP", "SLERP", "NAO", "NoiseDiffusion", "likely path"]


def baseline_curve(
    name: str, lifting: Lifting, images: tuple[Tensor, Tensor], ends: tuple[Tensor, Tensor]
) -> Callable[[Tensor], Tensor]:
    """A baseline at the noise level that images were lifted to.

    Args:
        name: one of :data:`Baseline`.
        lifting: model and level.
        images: the two images (..., C, H, W), for NoiseDiffusion, which mixes them in again.
        ends: their points (..., D) at the level.

    Returns:
        a function of parameters (S,) in [0, 1] that gives points (..., S, D); it raises
        ``ValueError`` where the baseline does not exist between these ends.

    Raises:
        ValueError: for an unknown name.

    Cost: none but for the likely path: up to 200 evaluations per node, 32 nodes.
    """
    a, b = ends
    denoiser, sigma = lifting.model.denoiser, math.exp(-lifting.log_snr / 2)
    if name == "LERP":
        return lambda s: lerp(a, b, s)
    if name == "SLERP":
        return lambda s: slerp(a, b, s)
    power = denoiser.variance + float(torch.as_tensor(denoiser.mean).square().mean())
    if name == "NAO":
        return lambda s: nao(a, b, s, sigma=sigma, power=power)
    if name == "NoiseDiffusion":
        first, second = (lifting.model.codec.encode(image).to(a) for image in images)
        return lambda s: noise_diffusion(a, b, s, clean=(first, second), sigma=sigma, power=power)
    if name == "likely path":
        # by this weight kinetic energy, D v, and log-density, D/2, are of one size
        likely = likely_path(
            denoiser,
            a,
            b,
            log_snr=lifting.log_snr,
            weight=2 * denoiser.variance,
            nodes=32,
            rtol=1e-4,
            iterations=200,
        )
        return Spline(likely.nodes)
    raise ValueError(f"unknown baseline {name!r}; choose one of {', '.join(get_args(Baseline))}")
