r"""From images to points at one noise level, and from points at any level to images.

    image --codec--> code --noise of the cleanest level, probability flow up--> z at one level
    z at any level --probability flow down, mean at the cleanest level--> code --codec--> image

A network knows noisy images only, and the flow multiplies the noise that is there: a code without
noise would stay outside what the network was trained on all the way up.  So every code gets noise
of the cleanest level first, the same for all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffodesic.denoisers.flow import clean_log_snr, drop, lift
from diffodesic.models.model import Model
from diffodesic.numerics import checks
from diffodesic.numerics.cost import stage

__all__ = ["Lifting", "as_floats", "as_images"]


def as_floats(images: Tensor) -> Tensor:
    """Images in float64, since sums over pixels cancel; integers are divided by 255."""
    images = torch.as_tensor(images)
    scale = 1 if images.is_floating_point() else 255
    return checks.floating(images, "images").double() / scale


def as_images(*images: Tensor) -> Tensor:
    """Images of one shape in one tensor, in float64.

    Args:
        images: each (C, H, W) or (H, W), floating point in [0, 1] or integers up to 255.

    Returns:
        (N, C, H, W).

    Raises:
        TypeError: for complex numbers.
        ValueError: for another number of axes, or images that differ in shape.
    """
    scaled = []
    for image in map(as_floats, images):
        if image.ndim not in (2, 3):
            raise ValueError(f"an image must be (C, H, W) or (H, W), got {tuple(image.shape)}")
        scaled.append(image if image.ndim == 3 else image.unsqueeze(0))
    if len({image.shape for image in scaled}) > 1:
        shapes = ", ".join(str(tuple(image.shape)) for image in scaled)
        raise ValueError(f"the images differ in shape: {shapes}; bring them to one")
    return torch.stack(scaled)


@dataclass(frozen=True)
class Lifting:
    """The way from images to points at one noise level, and back from any level.

    Attributes:
        model: the model.
        log_snr: the level that images are lifted to; see :meth:`Space.lifting`.
        flow_steps: steps of the probability-flow ODE each way.
        seed: seed of the noise that is added, drawn on the CPU.
        shared_noise: lift by one noise of the whole level for all images (2505.11128) in place of
            the probability flow; :meth:`images` does not undo it.
    """

    model: Model
    log_snr: float
    flow_steps: int = 24
    seed: int = 0
    shared_noise: bool = False

    @stage("lifting")
    def lift(self, images: Tensor) -> Tensor:
        """Points (..., D) at the level, in float64, of images (..., C, H, W) in [0, 1].

        Args:
            images: what the codec takes.

        Returns:
            the points.

        Cost: ``2 flow_steps`` evaluations per image; none with shared noise.
        """
        denoiser, codes = self.model.denoiser, self.model.codec.encode(images).double()
        generator = torch.Generator().manual_seed(self.seed)
        noise = torch.randn(codes.shape[-1], generator=generator, dtype=codes.dtype)
        noise = noise.to(codes.device)
        if self.shared_noise:
            return codes + math.exp(-self.log_snr / 2) * noise
        sigma = math.exp(-clean_log_snr(denoiser) / 2)
        with torch.no_grad():
            return lift(denoiser, codes + sigma * noise, self.log_snr, steps=self.flow_steps)

    @stage("frames")
    def images(self, z: Tensor, log_snr: Tensor | float) -> Tensor:
        """Images (..., C, H, W) of points (..., D) at levels (...): the flow, and the last mean.

        Args:
            z: the points.
            log_snr: their levels, or the level of all.

        Returns:
            images in [0, 1].

        Cost: ``2 flow_steps + 1`` evaluations per point.
        """
        denoiser = self.model.denoiser
        sigma = z.new_tensor(math.exp(-clean_log_snr(denoiser) / 2))
        with torch.no_grad():
            cleanest = drop(denoiser, z, log_snr, steps=self.flow_steps)
            return self.model.codec.decode(denoiser(cleanest, sigma))
