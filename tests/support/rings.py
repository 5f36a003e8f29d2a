"""Modes on a ring, and the metrics whose searches are tried on it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

import diffodesic as dd
from diffodesic.metrics import DensityMetric, ScoreSize


def ring(count: int, turn: float = 0.0) -> dd.GaussianMixture:
    """Modes at equal angles on the unit circle."""
    angle = torch.arange(count, dtype=torch.float64) * 2 * math.pi / count + turn
    return dd.GaussianMixture(torch.stack([angle.cos(), angle.sin()], -1), std=0.15)


def conformal(law: dd.GaussianMixture) -> dd.Conformal:
    def factor(x: Tensor) -> Tensor:
        return (-law.log_density(x, x.new_tensor(0.2))).exp()

    return dd.Conformal(factor, 2)


METRICS = {
    "score": lambda law: dd.ScoreMetric(law, log_snr=3.0, weight=1.0),
    "density": lambda law: DensityMetric(law, log_snr=3.0),
    "score size": lambda law: ScoreSize(law, log_snr=3.0, weight=0.5),
    "conformal": conformal,
    "score Jacobian": lambda law: dd.ScoreJacobian(law, log_snr=3.0, eps=0.5),
    "spacetime": dd.Spacetime,
}
