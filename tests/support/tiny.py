"""Small models for tests of the applications: a U-Net near a Gaussian law, and an exact mixture."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from diffodesic.denoisers.mixture import GaussianMixture
from diffodesic.denoisers.network import from_network
from diffodesic.denoisers.schedules import EDM
from diffodesic.models.codec import PixelCodec
from diffodesic.models.model import Model
from diffodesic.models.unet import UNet

SIDE = 8


def tiny_model(channels: int = 1, side: int = SIDE, bend: float = 0.02) -> Model:
    """An untrained U-Net on small pictures.

    Its closing layers, zero at first, would leave the exact denoiser of N(0, .25); small numbers in
    them (normal, ``bend`` their deviation) bend it a little.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        network = UNet(channels, (4, 8), (1, 1), 1, 16).eval().requires_grad_(False)
        for weight in network.parameters():
            if bend and not weight.any():
                torch.nn.init.normal_(weight, std=bend)
    shape = (channels, side, side)
    denoiser = from_network(
        network,
        shape=shape,
        schedule=EDM(0.01, 40.0),
        prediction="edm",
        sigma_data=0.5,
        jvp_mode="finite-difference",
    )
    return Model(denoiser, PixelCodec(shape), "tiny")


def exact_model(mixture: GaussianMixture, shape: tuple[int, int, int]) -> Model:
    """A mixture as the network of a model: what it returns is the posterior mean itself."""

    def network(x: Tensor, t: Tensor) -> Tensor:
        return mixture(x.flatten(1), t).reshape(x.shape)

    denoiser = from_network(
        network,
        shape=shape,
        schedule=EDM(0.002, 80.0),  # time is sigma itself
        prediction="x0",
        variance=mixture.variance,
    )
    return Model(denoiser, PixelCodec(shape), "exact")


def pictures(count: int, channels: int = 1) -> Tensor:
    """Soft spots, (count, channels, 8, 8) in [0, 1], in float64."""
    generator = torch.Generator().manual_seed(1)
    y, x = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    centre = 2 + 4 * torch.rand(count, channels, 2, 1, 1, generator=generator)
    distance = (y - centre[:, :, 0]) ** 2 + (x - centre[:, :, 1]) ** 2
    return (-distance / 4).exp().double()


def files(folder: Path) -> dict[str, bytes]:
    """Everything below a folder, by relative path; folders end in a slash."""
    return {
        str(path.relative_to(folder)) + ("/" if path.is_dir() else ""): (
            b"" if path.is_dir() else path.read_bytes()
        )
        for path in folder.rglob("*")
    }
