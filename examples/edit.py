"""
Which edit turns one picture into another?
==========================================

Diffusion Edit Distance (arXiv 2505.17517) is the length of the shortest path of spacetime between
two pictures at one noise level. The path is an edit: noise is added until enough of the first
picture is forgotten, and removed towards the second.
"""

import matplotlib.pyplot as plt
import torch

import diffodesic as dd

model = dd.load("mnist")
digits, _ = dd.shipped_digits()
found = dd.edit(model, digits[33], digits[83], log_snr=2.0)
print(found)
for phase in found.phases():
    start, stop = phase.log_snr
    print(f"{phase.kind}: log SNR {start:.2f} to {stop:.2f}, {phase.share:.0%} of the length")

# %%
frames = found.frames(9)
figure, axes = plt.subplots(figsize=(9, 1.1), layout="constrained")
axes.imshow(torch.cat(list(frames), -1)[0], cmap="gray_r", vmin=0, vmax=1)
axes.axis("off")
plt.show()
