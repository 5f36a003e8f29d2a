"""
The score metric keeps a path among the data
============================================

Data lie on an arc. The score metric ``I + w s sᵀ`` (arXiv 2505.11128) charges each change of
log-density, so that a path along the arc is cheaper than one that leaves it and comes back; a
conformal metric charges for being at unlikely places at all.
"""

import matplotlib.pyplot as plt
import torch

import diffodesic as dd
from diffodesic.metrics import ScoreSize

angle = torch.linspace(0.8, 5.5, 40, dtype=torch.float64)
law = dd.GaussianMixture(torch.stack([angle.cos(), angle.sin()], -1), std=0.15)
data = law.sample(400, generator=torch.Generator().manual_seed(0))
a, b = law.means[8], law.means[-9]

# %%
# Weights are given in units of ``1 / E|s|²``, so that they do not depend on the scale of the data.
sigma = torch.tensor(-2.0, dtype=torch.float64).exp()  # log SNR 4
unit = float(1 / law.score(data, sigma).square().sum(-1).mean())
metrics = {
    "score, weight 1": dd.ScoreMetric(law, log_snr=4.0, weight=unit),
    "score, weight 100": dd.ScoreMetric(law, log_snr=4.0, weight=100 * unit),
    "conformal": ScoreSize(law, log_snr=4.0, weight=10 * unit),
}
figure, axes = plt.subplots(figsize=(5, 5))
axes.scatter(*data.T, s=4, color="lightgrey")
for name, metric in metrics.items():
    path = dd.geodesic(metric, a, b, nodes=64)
    print(f"{name:22} length {float(path.length):.3f} {path.status.name}")
    axes.plot(*path(torch.linspace(0, 1, 200, dtype=torch.float64)).T, label=name)
axes.plot(*torch.stack([a, b]).T, "k--", label="straight line")
axes.set_aspect("equal")
axes.legend(loc="center")
plt.show()
