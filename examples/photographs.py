"""
Two photographs
===============

An apple becomes a lemon, in the shipped model of photographs. More is on
`the start page <../start.html>`_; this is the shortest program.
"""

import matplotlib.pyplot as plt
import torch

import diffodesic as dd

model = dd.load("fruits")
(apple, lemon), _ = dd.shipped_photographs()
result = dd.interpolate(model, apple, lemon, frames=8)
print(result)

# %%
# Each row is one way to join the pictures. All lengths are by the same estimate, with noise that no
# search has seen, so that they compare.
figure, rows = plt.subplots(len(result.paths), figsize=(9, 1.5 * len(result.paths)))
for axes, (name, shown) in zip(rows, result.paths.items(), strict=True):
    axes.imshow(torch.cat(list(shown.frames), -1).permute(1, 2, 0).clip(0, 1))
    axes.set_title(f"{name}, length {shown.length:.1f}", loc="left", fontsize=9)
    axes.axis("off")
figure.tight_layout()
plt.show()

# %%
# How good the path is, and what to mind:
print(result.geodesic.certificate)
for notice in result.notices:
    print(notice)
