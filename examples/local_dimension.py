"""
In how many ways can a picture vary?
====================================

The Jacobian of the posterior mean is close to a projector onto the directions in which data vary;
the number of its large singular values is the local dimension at a noise level. On a sphere the
answer is known.
"""

import matplotlib.pyplot as plt

import diffodesic as dd

law = dd.denoisers.SphereDenoiser(10)  # data uniform on S² in R¹⁰
found = dd.diagnose(law, law.sample(4), log_snr=[0.0, 4.0, 8.0])
print(found.table())

# %%
figure, axes = plt.subplots(figsize=(6, 3.5))
for level in found.levels:
    values = level.spectrum.mean(0)
    axes.plot(range(1, len(values) + 1), values, "o-", label=f"log SNR {level.log_snr:g}")
axes.set(xlabel="number", ylabel="singular value of dm/dz")
axes.legend()
plt.show()
