"""
Distances as scikit-learn takes them
====================================

All distances within a set of pictures are one matrix, which scikit-learn takes as
``metric="precomputed"``. Here the distances are exact: the data are small digits, and the
distribution is a mixture with a component at each of them.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

import diffodesic as dd

images, labels = load_digits(return_X_y=True)
points = torch.from_numpy(images) / 8 - 1
law = dd.GaussianMixture.from_data(points[200:700], bandwidth=0.3)
some, their = points[:24], labels[:24]

# %%
# Diffusion Edit Distance at log SNR 1; `check` solves two pairs again with twice the nodes.
found = dd.pairwise(law, some, log_snr=1.0, check=2)
print(found)
print("changes with twice the nodes, mean and largest:", found.accuracy)

# %%
train, test = range(16), range(16, 24)
knn = KNeighborsClassifier(1, metric="precomputed")
matrix = found.matrix.numpy()
knn.fit(matrix[:16, :16], their[:16])
print("labels   ", their[16:])
print("predicted", knn.predict(matrix[16:, :16]))

# %%
# Each of the eight above the nearest of the sixteen.
nearest = matrix[16:, :16].argmin(1)
figure, rows = plt.subplots(2, 8, figsize=(8, 2.1), layout="constrained")
for column, (own, near) in enumerate(zip(some[16:], some[nearest], strict=True)):
    for axes, digit in zip(rows[:, column], (own, near), strict=True):
        axes.imshow(digit.reshape(8, 8), cmap="gray_r")
        axes.axis("off")
plt.show()
