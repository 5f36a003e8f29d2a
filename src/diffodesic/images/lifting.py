"""From images to points at one noise level, and back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from diffodesic.denoisers.flow import clean_log_snr, drop, lift
from diffodesic.geometry.metric import Metric
from diffodesic.metrics.spacetime.metric import Spacetime
from diffodesic.models.model import Model

__all__ = ["Bridge", "Mode", "as_images"]


Mode = Literal["sound", "paper"]


def as_images(*images: Tensor) -> Tensor:
    """Images of one shape in one tensor, in float64: sums over pixels cancel.

    Args:
        images: each (C, H, W) or (H, W), floating point in [0, 1] or integers up to 255.

    Returns:
        (N, C, H, W).

    Raises:
        ValueError: for another number of axes, or images that differ in shape.
    """
    found = []
    for image in map(torch.as_tensor, images):
        if image.ndim not in (2, 3):
            raise ValueError(f"an image must be (C, H, W) or (H, W), got {tuple(image.shape)}")
        scaled = image.double() if image.is_floating_point() else image.double() / 255
        found.append(scaled if image.ndim == 3 else scaled.unsqueeze(0))
    if len({image.shape for image in found}) > 1:
        shapes = ", ".join(str(tuple(image.shape)) for image in found)
        raise ValueError(f"the images differ in shape: {shapes}; bring them to one")
    return torch.stack(found)


@dataclass(frozen=True)
class Bridge:
    """From images to points at one noise level, and from points at any level to images.

    Attributes:
        model: the model.
        log_snr: the level of the ends; see :func:`noise_level`.
        flow_steps: steps of the probability-flow ODE each way.
        seed: seed of the grain of noise, drawn on the CPU.
        mode: ``sound`` lifts by the probability flow, which :meth:`images` undoes; ``paper``
            (2505.11128) adds one noise to all images, which nothing undoes.
    """

    model: Model
    log_snr: float
    flow_steps: int = 24
    seed: int = 0
    mode: Mode = "sound"

    def lift(self, images: Tensor) -> Tensor:
        """Points (..., D) at the level, in float64, of images (..., C, H, W) in [0, 1].

        Args:
            images: what the codec takes.

        Returns:
            the points.

        Cost: ``2 flow_steps`` evaluations per image; none in paper mode.
        """
        denoiser, codes = self.model.denoiser, self.model.codec.encode(images).double()
        generator = torch.Generator().manual_seed(self.seed)
        grain = torch.randn(codes.shape[-1], generator=generator, dtype=codes.dtype)
        if self.mode == "paper":
            return codes + math.exp(-self.log_snr / 2) * grain.to(codes.device)
        sigma = math.exp(-clean_log_snr(denoiser) / 2)
        with torch.no_grad():
            noisy = codes + sigma * grain.to(codes.device)
            return lift(denoiser, noisy, self.log_snr, steps=self.flow_steps)

    def images(self, z: Tensor, log_snr: Tensor) -> Tensor:
        """Images (..., C, H, W) of points (..., D) at levels (...): the flow, and the last mean.

        Args:
            z: the points.
            log_snr: their levels.

        Returns:
            images in [0, 1].

        Cost: ``2 flow_steps + 1`` evaluations per point.
        """
        denoiser = self.model.denoiser
        sigma = z.new_tensor(math.exp(-clean_log_snr(denoiser) / 2))
        with torch.no_grad():
            lowest = drop(denoiser, z, log_snr, steps=self.flow_steps)
            return self.model.codec.decode(denoiser(lowest, sigma))

    def pack(self, space: Metric, z: Tensor) -> Tensor:
        """Points (..., D) at the level as points (..., d) of a metric."""
        return space.point(z, self.log_snr) if isinstance(space, Spacetime) else z

    def unpack(self, space: Metric, points: Tensor) -> tuple[Tensor, Tensor]:
        """Points (..., d) of a metric as ``z`` (..., D) and its log SNR (...)."""
        if isinstance(space, Spacetime):
            return space.split(points)
        return points, points.new_full(points.shape[:-1], self.log_snr)
