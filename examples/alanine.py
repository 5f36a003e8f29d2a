"""
Transition paths of a molecule
==============================

Alanine dipeptide over its two torsion angles: from C7eq to C7ax, on the free energy that ships with
the package (molecular dynamics in implicit solvent, 300 K). The surface is periodic; the search for
the lowest pass decides which way round the paths go.
"""

import math

import matplotlib.pyplot as plt
import torch

import diffodesic as dd
from diffodesic.transitions import PathwayOptions, alanine

potential = alanine()
a, b = torch.tensor([[-1.4, 1.2], [1.0, -1.0]], dtype=torch.float64)
a, b = dd.transitions.relax(potential, a), dd.transitions.relax(potential, b)
found = dd.pathways(potential, a, b, PathwayOptions(paths=100, nodes=32))
print(found.paths)
for channel in found.channels:
    print(channel)

# %%
angle = torch.linspace(-math.pi, math.pi, 181, dtype=torch.float64)
mesh = torch.stack(torch.meshgrid(angle, angle, indexing="xy"), -1)
figure, axes = plt.subplots(figsize=(5.5, 5))
axes.contourf(angle, angle, potential(mesh), 30, cmap="viridis")
for path in found.paths.frames[:30]:
    points = potential.wrap(path)
    axes.scatter(*points.T, color="white", s=1)
axes.set(xlabel="phi", ylabel="psi")
plt.show()
