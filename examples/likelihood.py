"""
How likely is a picture?
========================

The log density of a picture under a model, with a standard error, from denoising errors alone. By
itself the number says little; its rank among other pictures of the same kind says more.
"""

import matplotlib.pyplot as plt
import torch

import diffodesic as dd

model = dd.load("mnist")
digits, labels = dd.shipped_digits()
generator = torch.Generator().manual_seed(0)
noise = torch.rand(1, 28, 28, generator=generator)
pictures = torch.stack([digits[1], digits[33], digits[33].flip(-1), noise])

# %%
# A zero, a three, the three as a mirror image, and noise, ranked among ten other digits.
found = dd.likelihood(model, pictures, among=digits[2:12])
print(found.about)
print(*found.lines(), sep="\n")

# %%
figure, row = plt.subplots(1, 4, figsize=(8, 2.4), layout="constrained")
for axes, picture, bits in zip(row, pictures, found.bits, strict=True):
    axes.imshow(picture[0], cmap="gray_r", vmin=0, vmax=1)
    axes.set_title(f"{bits:.2f} bits")
    axes.axis("off")
plt.show()
