r"""What a network predicts, and how E[x0 | z] is made of it.

A network sees ``x_t = alpha x0 + sigma_t eps`` and its own time t; the core sees
``z = x_t / alpha`` and ``sigma = sigma_t / alpha``.  Its output f becomes ``m = skip z + gain f``:

             skip              gain                       f
    x0       0                 1                          E[x0 | x_t]
    eps      1                 -sigma                     E[eps | x_t]                (2006.11239)
    v        1/(1 + sigma^2)   -sigma/alpha/(1 + sigma^2) E[alpha eps - sigma_t x0 | x_t]
                                                                                      (2202.00512)
    score    1                 alpha sigma^2              grad log p(x_t)             (2011.13456)
    flow     1/(1 + sigma)     -sigma/(1 + sigma)         E[eps - x0 | x_t]           (2403.03206)
    edm      s^2/r^2           sigma s/r                  F(z/r, log(sigma)/4)        (2206.00364)

with r^2 = sigma^2 + s^2 and s = sigma_data.  v and flow hold for any (alpha, sigma_t); flow has
its noise at t = 1.  Time is a differentiable function of sigma, so dm/dsigma is the network's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

from diffodesic.denoisers.schedules import Schedule

__all__ = ["Prediction", "edm_preconditioning", "inputs_of"]

Prediction = Literal["x0", "eps", "v", "score", "flow", "edm"]
# skip and gain by (sigma, alpha); "edm" knows no alpha
_COEFFICIENTS: Mapping[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "x0": lambda sigma, alpha: (torch.zeros_like(sigma), torch.ones_like(sigma)),
    "eps": lambda sigma, alpha: (torch.ones_like(sigma), -sigma),
    "v": lambda sigma, alpha: (1 / (1 + sigma**2), -sigma / alpha / (1 + sigma**2)),
    "score": lambda sigma, alpha: (torch.ones_like(sigma), alpha * sigma**2),
    "flow": lambda sigma, alpha: (1 / (1 + sigma), -sigma / (1 + sigma)),
}


def edm_preconditioning(sigma: Tensor, sigma_data: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """EDM's preconditioning, ``m = skip z + gain F(z / scale, noise)`` (2206.00364).

    Args:
        sigma: noise levels (...).
        sigma_data: standard deviation of the data.

    Returns:
        skip, gain, scale and noise, (...) each.
    """
    total = sigma**2 + sigma_data**2
    scale = total.sqrt()
    return sigma_data**2 / total, sigma * sigma_data / scale, scale, sigma.log() / 4


def inputs_of(
    prediction: Prediction, schedule: Schedule, sigma_data: float, z: Tensor, sigma: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What a network is called with, and what becomes of its output f, ``m = skip z + gain f``.

    Args:
        prediction: what it predicts.
        schedule: the process of its training.
        sigma_data: standard deviation s of EDM's preconditioning.
        z: noisy points (N, D).
        sigma: noise standard deviations (N,).

    Returns:
        skip (N, 1), gain (N, 1), and the network's own x (N, D) and t (N,).

    Raises:
        ValueError: for levels outside the schedule's range.
    """
    log_snr = -2 * torch.log(sigma)
    # the schedule refuses levels outside its range, for "edm" too
    t, level = schedule.time(log_snr), sigma.unsqueeze(-1)
    if prediction == "edm":
        skip, gain, scale, noise = edm_preconditioning(level, sigma_data)
        return skip, gain, z / scale, noise.squeeze(-1)
    alpha = schedule.alpha(log_snr).unsqueeze(-1)
    return *_COEFFICIENTS[prediction](level, alpha), alpha * z, t
