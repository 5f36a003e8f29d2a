"""
Transition paths of a potential
===============================

Two states of the Mueller-Brown surface, and the paths between them: a geodesic of spacetime for the
Boltzmann distribution, and Metropolis-corrected Langevin dynamics along it.
"""

import matplotlib.pyplot as plt
import torch

import diffodesic as dd
from diffodesic.transitions import MuellerBrown, PathwayOptions

potential = MuellerBrown()
a, b = torch.tensor([[-0.558, 1.442], [0.623, 0.028]], dtype=torch.float64)
found = dd.pathways(potential, a, b, PathwayOptions(paths=100, nodes=32))
print(found.paths)
print(
    f"lowest pass {found.lowest.energy:.1f}, highest energy of a path, on average "
    f"{found.paths.mean_max_energy:.1f}, 95 % interval {found.paths.interval()}"
)

# %%
x, y = torch.linspace(-1.6, 1.2, 200).double(), torch.linspace(-0.5, 2.1, 200).double()
mesh = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)
figure, axes = plt.subplots(figsize=(5.5, 5))
axes.contourf(x, y, potential(mesh).clamp(max=120), 30, cmap="viridis")
for path in found.paths.frames[:30]:
    axes.plot(*path.T, color="white", linewidth=0.5, alpha=0.6)
axes.plot(*found.mean.T, color="tab:red", label="posterior means of the geodesic")
axes.legend()
plt.show()
