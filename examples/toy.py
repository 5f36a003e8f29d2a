"""
A shortest path climbs over noise
=================================

Data sit at three places on a line. Between two of them there is nothing. The shortest path of
spacetime (arXiv 2505.17517) does not cross that gap among clean points: it goes up to more noise,
where the two places can no longer be told apart, and down again on the other side.

Everything here is in closed form, so each number is exact.
"""

import matplotlib.pyplot as plt
import torch

import diffodesic as dd

law = dd.GaussianMixture(torch.tensor([[-2.5], [0.5], [2.5]]).double(), std=0.75)
space = dd.Spacetime(law)
ends = torch.tensor([[-1.5], [2.0]]).double()
a, b = space.point(ends, log_snr=2.0)
path = dd.geodesic(space, a, b, nodes=64)
print(path)

# %%
# The straight line at the level of the ends, as a path of the same metric, is far longer.
line = torch.lerp(a, b, torch.linspace(0, 1, 65, dtype=torch.float64)[:, None])
straight = space.squared_steps(line).sqrt().sum()
print(f"geodesic {path.length:.2f}, straight line {straight:.2f}")

# %%
# The density of noisy data is drawn in grey: three modes that merge as the noise grows.
z, level = torch.meshgrid(
    torch.linspace(-4, 4, 161, dtype=torch.float64),
    torch.linspace(-3, 4, 121, dtype=torch.float64),
    indexing="ij",
)
density = law.log_density(z[..., None], (-level / 2).exp()).exp()
curve = path(torch.linspace(0, 1, 200, dtype=torch.float64))

figure, axes = plt.subplots(figsize=(6, 4))
axes.pcolormesh(z, level, density.sqrt(), cmap="Greys", shading="gouraud")
axes.plot(*curve.T, color="tab:red", label="geodesic")
axes.plot(*line.T, color="tab:blue", label="straight line")
axes.set(xlabel="z", ylabel="log SNR (noise grows downwards)")
axes.legend()
plt.show()
