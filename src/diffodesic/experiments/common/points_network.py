r"""A small network that learns the denoiser of points in R^D within an experiment.

A residual perceptron with EDM's preconditioning (2206.00364), trained by Adam on denoising,

    E |m(x0 + sigma eps, sigma) - x0|^2 (sigma^2 + s^2)/(sigma s)^2,    log sigma uniform,

with the learning rate falling to zero.  Seconds on a core: enough to ask what a learned score makes
of a statement about exact ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from diffodesic.denoisers.network import NetworkDenoiser, from_network
from diffodesic.denoisers.schedules import EDM

__all__ = ["learn_points"]

WIDTH, LAYERS, BATCH, RATE = 128, 3, 512, 3e-3  # RATE is the largest learning rate


class _Perceptron(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.enter = nn.Linear(dim + 3, WIDTH)
        self.blocks = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS))
        self.leave = nn.Linear(WIDTH, dim)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        time = time.unsqueeze(-1)
        h = self.enter(torch.cat([x, time, torch.sin(4 * time), torch.cos(4 * time)], -1))
        for block in self.blocks:
            h = h + block(nn.functional.silu(h))
        return self.leave(nn.functional.silu(h))


def learn_points(
    data: Tensor,
    *,
    steps: int,
    sigma_range: tuple[float, float] = (0.01, 4.0),
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> NetworkDenoiser:
    """Train a denoiser of the distribution of ``data``.

    Args:
        data: samples (N, D) about the origin.
        steps: steps of Adam.
        sigma_range: smallest and largest noise.
        seed: of the weights, the batches and the noise.
        progress: called with a short line now and then.

    Returns:
        the denoiser, in float64 and frozen.
    """
    scale, (low, high) = float(data.std()), (math.log(sigma) for sigma in sigma_range)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _Perceptron(data.shape[-1])
    generator = torch.Generator().manual_seed(seed + 1)
    adam = torch.optim.Adam(network.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, RATE, total_steps=steps, pct_start=0.1)
    x = data.float()
    for step in range(steps):
        clean = x[torch.randint(len(x), (BATCH,), generator=generator)]
        sigma = torch.exp(low + (high - low) * torch.rand(BATCH, 1, generator=generator))
        z = clean + sigma * torch.randn(clean.shape, generator=generator)
        total = (sigma**2 + scale**2).sqrt()
        out = network(z / total, sigma[:, 0].log() / 4)
        target = (clean - scale**2 / total**2 * z) * total / (sigma * scale)
        loss = (out - target).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()
        if progress and step % 250 == 0:
            progress(f"training the network: step {step} of {steps}")
    return from_network(
        network.double().eval().requires_grad_(False),
        shape=(data.shape[-1],),
        schedule=EDM(*sigma_range),
        prediction="edm",
        sigma_data=scale,
    )
