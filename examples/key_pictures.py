"""
Through several pictures
========================

Four digits are visited in turn, under the conformal metric of the score at one noise level, which
costs some hundred evaluations a pair.
"""

import matplotlib.pyplot as plt
import torch

import diffodesic as dd

model = dd.load("mnist")
digits, labels = dd.shipped_digits()
keys = [digits[labels == k][0] for k in (3, 8, 0, 6)]
result = dd.interpolate_through(model, keys, metric="conformal", frames=13)
print(result)

# %%
figure, axes = plt.subplots(figsize=(9, 0.8), layout="constrained")
axes.imshow(torch.cat(list(result.frames), -1)[0], cmap="gray_r", vmin=0, vmax=1)
axes.axis("off")
plt.show()
