"""
Past the end of a path
======================

A geodesic goes on beyond its end: the exponential map continues it. The continuation stops, and
says why, where the model no longer knows the way: where the density falls below that of the path,
where the local dimension changes, or where the path turns much faster than before.
"""

import matplotlib.pyplot as plt
import torch

import diffodesic as dd

model = dd.load("mnist")
digits, _ = dd.shipped_digits()
result = dd.extrapolate(model, digits[33], digits[83], amount=0.5, metric="score")
print(result)

# %%
# The red line marks the second picture; what follows it lies past the end.
figure, axes = plt.subplots(figsize=(9, 0.8), layout="constrained")
axes.imshow(torch.cat(list(result.frames), -1)[0], cmap="gray_r", vmin=0, vmax=1)
axes.axvline(28 * len(result.between), color="tab:red")
axes.axis("off")
plt.show()
