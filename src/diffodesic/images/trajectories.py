r"""The shape of the probability flow from high noise down to clean data  (2305.19947, 2405.11326).

Of each flow: the dimension of the smallest plane that holds it, its straightness |chord|/length,
and the angle it turns by.  Each of its steps goes from z towards m(z, sigma); for data x_i without
smoothing that is the mean shift of their kernel density (Fukunaga & Hostetler 1975),
m = sum_i w_i x_i with w_i ~ exp(-|z - x_i|^2 / 2 sigma^2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.denoisers.flow import clean_log_snr, trajectory
from diffodesic.numerics.cost import stage

__all__ = ["Trajectories", "trajectories"]

FAR = 20.0  # noise that trajectories start from, in standard deviations of the data

HELD = 0.99  # share of the deviation from the chord that counts for the plane of a trajectory


@dataclass(frozen=True)
class Trajectories:
    """Shape of the probability flow from high noise to each point's sample; tensors (N,).

    Attributes:
        log_snr: level of the start.
        dimension: of the smallest plane that holds 99 % of the deviation from the chord.
        straightness: chord over length, 1 for a straight line.
        turning: sum of the angles between consecutive steps, in degrees.
    """

    log_snr: float
    dimension: Tensor
    straightness: Tensor
    turning: Tensor


@stage("trajectories")
def trajectories(denoiser: Denoiser, points: Tensor, *, steps: int, seed: int) -> Trajectories:
    """Shapes of the flows that start at each point under much noise.

    Args:
        denoiser: posterior mean.
        points: clean points (N, D).
        steps: steps of each flow.
        seed: point i has the seed ``seed + i``.

    Returns:
        the shapes.

    Cost: ``2 steps`` evaluations per point.
    """
    low = max(denoiser.log_snr_range[0], -math.log(FAR**2 * denoiser.variance))
    low = min(low, clean_log_snr(denoiser))
    noise = [
        torch.randn(
            points.shape[-1],
            generator=torch.Generator().manual_seed(seed + i),
            dtype=torch.float64,
        )
        for i in range(len(points))
    ]
    start = points + math.exp(-low / 2) * torch.stack(noise).to(points)
    with torch.no_grad():
        path = trajectory(denoiser, start, low, steps=steps).double().cpu()
    u = path.diff(dim=-2)
    length, chord = u.norm(dim=-1).sum(-1), path[:, -1] - path[:, 0]
    # half-angle formula: small angles are exact; a flow that stands still turns by nothing
    unit = u / u.norm(dim=-1, keepdim=True).clamp(min=1e-300)
    before, after = unit[:, :-1], unit[:, 1:]
    turn = 2 * torch.atan2((after - before).norm(dim=-1), (after + before).norm(dim=-1))
    along = chord / chord.norm(dim=-1, keepdim=True).clamp(min=1e-300)
    apart = path - path[:, :1]
    apart = apart - (apart * along.unsqueeze(1)).sum(-1, keepdim=True) * along.unsqueeze(1)
    held = torch.linalg.svdvals(apart).square().cumsum(-1)
    # a straight line deviates by rounding only
    bent = held[:, -1].sqrt() > 1e-6 * length
    planes = (held < HELD * held[:, -1:]).sum(-1) + 1
    return Trajectories(
        low,
        1 + torch.where(bent, planes, 0).double(),
        chord.norm(dim=-1) / length,
        torch.rad2deg(turn.sum(-1)),
    )
