"""
A map of pictures
=================

The information-estimation metric (arXiv 2510.02514) asks how differently a model cleans two noisy
pictures. It needs no derivatives and shares its evaluations between pairs, so that a whole set is
cheap. Multidimensional scaling draws its distances in the plane.
"""

import matplotlib.pyplot as plt
import torch
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from sklearn.manifold import MDS

import diffodesic as dd

model = dd.load("mnist")
digits, labels = dd.shipped_digits()
some = torch.cat([digits[labels == k][:4] for k in range(10)])
found = dd.pairwise(model, some, metric="iem")
print(found)

# %%
place = MDS(metric="precomputed", n_init=4, init="random", random_state=0).fit_transform(
    found.matrix.numpy()
)
figure, axes = plt.subplots(figsize=(7, 7))
axes.scatter(*place.T, alpha=0)
for (x, y), image in zip(place, some, strict=True):
    axes.add_artist(AnnotationBbox(OffsetImage(image[0], zoom=1.0, cmap="gray_r"), (x, y), pad=0.1))
axes.set(xticks=[], yticks=[])
plt.show()
