"""Exact posterior means as the networks of others: any prediction, any process."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from diffodesic.denoisers.mixture import GaussianMixture
from diffodesic.denoisers.network import Prediction
from diffodesic.denoisers.schedules import Schedule


def disguised(
    law: GaussianMixture, prediction: Prediction, schedule: Schedule, sigma_data: float
) -> Callable[..., Tensor]:
    """The exact posterior mean as a network with this prediction, written in (x_t, t)."""

    def edm(x: Tensor, noise: Tensor) -> Tensor:
        sigma = torch.exp(4 * noise)
        level, s = sigma.unsqueeze(-1), sigma_data
        total = level**2 + s**2
        z = x.flatten(1) * total.sqrt()
        m = law.posterior_mean(z, sigma)
        return ((m - s**2 / total * z) * total.sqrt() / (level * s)).reshape(x.shape)

    def network(x: Tensor, t: Tensor) -> Tensor:
        alpha, scale = schedule.alpha_sigma(t)
        a, s, flat = alpha.unsqueeze(-1), scale.unsqueeze(-1), x.flatten(1)
        m = law.posterior_mean(flat / a, scale / alpha)
        eps = (flat - a * m) / s
        out = {"x0": m, "eps": eps, "v": a * eps - s * m, "score": -eps / s, "flow": eps - m}
        return out[prediction].reshape(x.shape)

    return edm if prediction == "edm" else network
