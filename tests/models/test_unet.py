"""The U-Net differentiates forward and backward, and each through the other."""

import pytest
import torch
from torch import Tensor
from torch.func import jvp, vjp

from diffodesic.models.unet import UNet


@pytest.fixture
def net() -> UNet:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        net = UNet(2, (8, 16, 16), (1, 2, 1), heads=2, width=16).double()
        for p in net.parameters():  # a fresh network is zero
            p.data += 0.1 * torch.randn_like(p)
    return net


def test_jvp_is_adjoint_to_vjp(net):
    g = torch.Generator().manual_seed(5)
    x, u, v = torch.randn(3, 2, 2, 8, 8, generator=g, dtype=torch.float64)
    t, dt = torch.randn(2, 2, generator=g, dtype=torch.float64)
    right = jvp(net, (x, t), (u, dt))[1]
    left, left_t = vjp(net, x, t)[1](v)
    torch.testing.assert_close((v * right).sum(), (left * u).sum() + (left_t * dt).sum())
    h = 1e-5
    difference = (net(x + h * u, t + h * dt) - net(x - h * u, t - h * dt)) / (2 * h)
    torch.testing.assert_close(right, difference, rtol=1e-5, atol=1e-7)


def test_reverse_over_forward(net):
    g = torch.Generator().manual_seed(6)
    x, u, w = torch.randn(3, 1, 2, 8, 8, generator=g, dtype=torch.float64)
    t = torch.zeros(1, dtype=torch.float64)

    def energy(x: Tensor) -> Tensor:
        return jvp(lambda y: net(y, t), (x,), (u,))[1].square().sum()

    gradient = torch.func.grad(energy)(x)
    h = 1e-5
    difference = (energy(x + h * w) - energy(x - h * w)) / (2 * h)
    torch.testing.assert_close((gradient * w).sum(), difference, rtol=1e-6, atol=1e-7)
