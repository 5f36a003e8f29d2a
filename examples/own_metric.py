"""
A metric of your own
====================

A metric is a class with ``dim`` and ``inner``. All else follows: geodesics, distances, the
exponential map and its inverse, means, and paths between images.

This one makes walking uphill dear. The height is a single hill; the shortest path goes round it.
"""

import matplotlib.pyplot as plt
import torch

import diffodesic as dd


def height(x):
    """One hill at the origin, (..., 2) -> (...)."""
    return 3 * torch.exp(-x.square().sum(-1))


def slope(x):
    """Its gradient, (..., 2)."""
    return -2 * x * height(x)[..., None]


class Hill(dd.Metric):
    """The surface (x, height(x)): the Euclidean metric plus what is climbed."""

    dim = 2

    def inner(self, x, u, v):
        return (u * v).sum(-1) + (slope(x) * u).sum(-1) * (slope(x) * v).sum(-1)


hill = Hill()
a, b = torch.tensor([[-2.0, -0.1], [2.0, 0.1]]).double()
path = dd.geodesic(hill, a, b)
print(path)

# %%
# The certificate compares the length of the nodes with that of the smooth curve through them.
print(path.certificate)

# %%
# The inverse exponential map gives the direction in which the path leaves; following it arrives.
leaving = dd.log(hill, a, b)
print("leaves along", leaving, "and arrives at", dd.exp(hill, a, leaving))

# %%
grid = torch.linspace(-2.5, 2.5, 100, dtype=torch.float64)
mesh = torch.stack(torch.meshgrid(grid, grid, indexing="xy"), -1)
figure, axes = plt.subplots(figsize=(5, 5))
axes.contourf(grid, grid, height(mesh), 20, cmap="Greens")
axes.plot(*path(torch.linspace(0, 1, 100, dtype=torch.float64)).T, "tab:red", label="geodesic")
axes.plot(*torch.stack([a, b]).T, "k--", label="straight line")
axes.set_aspect("equal")
axes.legend()
plt.show()
