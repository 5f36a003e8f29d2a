"""
A network of your own
=====================

The library knows one process, ``z = x0 + sigma eps``. Say what your network predicts and which
schedule it was trained with, and it becomes a posterior mean of that process.

Here a small network is trained in a few seconds to predict the noise of two half moons, with the
cosine schedule.
"""

import matplotlib.pyplot as plt
import torch
from torch import nn

import diffodesic as dd


def moons(n, generator):
    """Two half moons, (n, 2)."""
    angle = torch.rand(n, generator=generator) * torch.pi
    which = torch.randint(2, (n,), generator=generator)
    side = 1.0 - 2.0 * which
    x = torch.stack([angle.cos() * side + 0.5 * (1 - side), angle.sin() * side - 0.25 * side], -1)
    return (x - torch.tensor([0.5, 0.0])) + 0.05 * torch.randn(n, 2, generator=generator)


class Net(nn.Module):
    """Predicts the noise in x_t, t in [0, 1]."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2 + 16, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 2)
        )

    def forward(self, x, t):
        waves = t[:, None] * torch.pi * torch.arange(1, 9, device=t.device)
        return self.layers(torch.cat([x, waves.sin().to(x), waves.cos().to(x)], -1))


generator = torch.Generator().manual_seed(0)
torch.manual_seed(0)
net, schedule = Net(), dd.schedules.Cosine()
optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
for _ in range(1500):
    x0, t = moons(512, generator), 0.02 + 0.97 * torch.rand(512, generator=generator)
    alpha, sigma = (part[:, None].float() for part in schedule.alpha_sigma(t))
    eps = torch.randn(512, 2, generator=generator)
    loss = (net(alpha * x0 + sigma * eps, t) - eps).square().mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
print(f"noise is predicted with a mean squared error of {float(loss):.3f}")

# %%
# From here on it is a denoiser like any other.
data = moons(2000, generator)
denoiser = dd.from_network(
    net.eval().requires_grad_(False),
    shape=(2,),
    schedule=schedule,
    prediction="eps",
    variance=float(data.var(0).mean()),
)
metric = dd.ScoreMetric(denoiser, log_snr=3.0, weight=3.0, relative=True, data=data.double())
a, b = torch.tensor([[-1.4, -0.1], [1.4, 0.1]]).double()
path = dd.geodesic(metric, a, b, nodes=48)
print(path.status, path.length)

# %%
figure, axes = plt.subplots(figsize=(6, 4))
axes.scatter(*data.T, s=3, color="lightgrey")
axes.plot(*path(torch.linspace(0, 1, 200, dtype=torch.float64)).T, "tab:red", label="geodesic")
axes.plot(*torch.stack([a, b]).T, "k--", label="straight line")
axes.set_aspect("equal")
axes.legend()
plt.show()
