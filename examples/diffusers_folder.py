"""
A pipeline of diffusers
=======================

``diffusers:DIR`` reads a folder that a pipeline's ``save_pretrained`` has written, with the network
unplugged. To run anywhere this example writes an untrained pipeline first; with a folder of yours
only the two lines after it are needed.
"""

import tempfile

import matplotlib.pyplot as plt
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

import diffodesic as dd

torch.manual_seed(0)
network = UNet2DModel(
    sample_size=16,
    in_channels=3,
    out_channels=3,
    block_out_channels=(32, 32),
    norm_num_groups=8,
    down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
)
folder = tempfile.mkdtemp()
DDPMPipeline(network, DDPMScheduler()).save_pretrained(folder)

# %%
# The two lines:
model = dd.load(f"diffusers:{folder}")
print(model)

# %%
# Schedule and prediction type are those of the pipeline's scheduler:
alpha, sigma = model.denoiser.schedule.alpha_sigma(torch.arange(1000))
figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
axes.plot(2 * (alpha / sigma).log())
axes.set(xlabel="time of the scheduler", ylabel="log SNR")
plt.show()

# %%
# The posterior mean of noisy points z (N, D) at log SNR 0, and the path of the score metric between
# two of them:
z = torch.randn(2, model.denoiser.dim, dtype=torch.float64)
print(model.denoiser(z, torch.tensor(1.0, dtype=torch.float64)).shape)
path = dd.geodesic(dd.ScoreMetric(model.denoiser, log_snr=0.0, weight=0.01), *z, nodes=8)
print(path)
