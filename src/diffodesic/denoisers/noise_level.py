r"""The noise level of a metric that lives at one level: where the manifold shows, and still bends.

At noise sigma the Jacobian J = dm/dz of the posterior mean is Cov[x0|z]/sigma^2: near 1 along
directions in which the data vary by more than sigma, near 0 along those in which they vary by
less.  Where a manifold shows, nothing lies between, and J is a projector.  With probes p,

    gap  = median over z of  1 - E|J J p - J p|^2 / E|J p|^2     1: all eigenvalues are 0 or 1,
    turn = median of  E|(J_z - J_y) p|^2 / (E|J_z p|^2 + E|J_y p|^2),  z, y: points of the law.

Medians leave out points between two sheets, where the posterior has two modes and eigenvalues
far above 1.  A metric of the score has something to say where there is a projector, and it turns:
where gap times turn is large.

For Gaussian data of variances v_i the eigenvalues are e_i = v_i / (v_i + sigma^2), so that
``gap = 1 - sum e^2 (1 - e)^2 / sum e^2``, and turn = 0 at every level: one linear map serves all
points, the level sets of the density are ellipsoids, and a geodesic of the score knows nothing of
the data that their covariance does not.  Any law becomes such a Gaussian at high noise.

Both are ratios of directional quantities, which networks get right where traces fail.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffodesic.denoisers.denoiser import Denoiser

__all__ = ["NoiseLevel", "choose_noise_level"]

NEAR = 0.9  # of the best level: one this good is good enough, and noisier is smoother
GAUSSIAN = 0.1  # least turn of the Jacobian between two points of a law that is not Gaussian


@dataclass(frozen=True)
class NoiseLevel:
    """A noise level, and why.

    Attributes:
        log_snr: the level chosen.
        gaussian: True where no level passed the Gaussian-regime test: a score metric is then the
            metric of a Gaussian, whatever its level.
        levels: log SNR of the levels looked at, noisiest first, (S,).
        gap: spectral gap at each, at most 1; negative where eigenvalues exceed 2, (S,).
        turn: turn of the Jacobian between data at each, in [0, 2], (S,).
    """

    log_snr: float
    gaussian: bool
    levels: Tensor
    gap: Tensor
    turn: Tensor


def choose_noise_level(
    denoiser: Denoiser,
    data: Tensor,
    *,
    levels: Tensor | None = None,
    points: int = 16,
    probes: int = 4,
    seed: int = 0,
) -> NoiseLevel:
    """The noisiest level that shows a bending manifold nearly as well as any.

    Nearly: with at least 0.9 of the largest gap times turn, among levels that are not Gaussian,
    which have a turn of 0.1 or more; where all are, of the widest gap.

    Args:
        denoiser: posterior mean.
        data: clean points (N, D), N >= 2.
        levels: log SNR to choose from, (S,); default 16 values from twice the data's standard
            deviation down to a fiftieth of it, within the denoiser's range.
        points: use at most so many of the data.
        probes: directions per point.
        seed: of the choice of points, the noise and the probes.

    Returns:
        the level, and what was measured at all of them.

    Raises:
        ValueError: for fewer than two data, levels outside the denoiser's range, or a Jacobian
            that is not finite at any level.

    Cost: two JVPs per point, probe and level: 2048 by default.
    """
    if data.ndim != 2 or len(data) < 2 or data.shape[-1] != denoiser.dim:
        raise ValueError(f"data must be (N, {denoiser.dim}) with N >= 2, got {tuple(data.shape)}")
    if min(points - 1, probes) < 1:
        raise ValueError(f"give points >= 2 and probes >= 1, got {points} and {probes}")
    grid = _grid(denoiser, data) if levels is None else _checked(denoiser, levels, data)
    generator = torch.Generator().manual_seed(seed)
    x = data[torch.randperm(len(data), generator=generator)[:points].to(data.device)]
    noise, direction = (
        torch.randn(*shape, generator=generator, dtype=data.dtype).to(data.device)
        for shape in ((len(x), denoiser.dim), (probes, 1, denoiser.dim))
    )
    found = [_measure(denoiser, x, noise, direction, math.exp(-lam / 2)) for lam in grid.tolist()]
    gap, turn = torch.tensor(found, dtype=torch.float64).T
    usable = torch.isfinite(gap + turn)
    if not bool(usable.any()):
        raise ValueError("the denoiser's Jacobian is not finite at any of these levels")
    curved = usable & (turn >= GAUSSIAN)
    among, value = (curved, gap * turn) if bool(curved.any()) else (usable, gap)
    good = among & (value >= NEAR * value[among].max())
    best = float(grid[good].min())
    return NoiseLevel(best, not bool(curved.any()), grid, gap, turn)


def _grid(denoiser: Denoiser, data: Tensor) -> Tensor:
    spread = float(data.var(0, correction=0).mean())
    if not 0 < spread < math.inf:
        raise ValueError("the data do not vary, or are not finite: they have no noise level")
    low, high = denoiser.log_snr_range
    first = max(low, -math.log(4 * spread))
    last = min(high, -math.log(spread / 2500))
    if not first < last:
        raise ValueError(
            f"the denoiser's levels, {low:g} to {high:g}, do not reach the data's: give levels"
        )
    return torch.linspace(first, last, 16, dtype=torch.float64)


def _checked(denoiser: Denoiser, levels: Tensor, data: Tensor) -> Tensor:
    grid = torch.as_tensor(levels, dtype=torch.float64).flatten().sort().values
    low, high = denoiser.log_snr_range
    if not len(grid) or not bool(((grid >= low) & (grid <= high) & grid.isfinite()).all()):
        raise ValueError(
            f"levels must be finite log SNR between {low:g} and {high:g}, the noise levels of "
            f"the denoiser"
        )
    return grid.to(data.device)


def _measure(
    denoiser: Denoiser, x: Tensor, noise: Tensor, direction: Tensor, sigma: float
) -> tuple[float, float]:
    """Gap and turn at one level."""
    z, level = x + sigma * noise, x.new_tensor(sigma)
    with torch.no_grad():
        once = denoiser.jvp(z, level, direction)[1]  # (probes, N, D)
        twice = denoiser.jvp(z, level, once)[1]
        # the same directions at another point
        difference = once - once.roll(1, 1)
    size = once.square().sum((0, -1))  # (N,)
    if not bool((size > 0).all()):
        return math.nan, math.nan
    gap = 1 - (twice - once).square().sum((0, -1)) / size
    turn = difference.square().sum((0, -1)) / (size + size.roll(1))
    return float(gap.median()), float(turn.median())
