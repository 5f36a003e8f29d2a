r"""Choose the noise level of a score metric: where the data look like a curved manifold.

At noise sigma the eigenvalues of J = dm/dz = Cov[x0|z]/sigma^2 are near 1 along directions in which
the data vary by more than sigma, and near 0 along those in which they vary by less.  Data near a
manifold have no eigenvalues between, and J is a projector.  With random directions p,

    gap  = median over z of  1 - E|J J p - J p|^2 / E|J p|^2     1: all eigenvalues are 0 or 1,
    turn = median of  E|(J_z - J_y) p|^2 / (E|J_z p|^2 + E|J_y p|^2),  z, y: noisy data points.

The median leaves out points between two sheets of a manifold, where the posterior has two modes and
eigenvalues far above 1.  A score metric is informative where J is a projector that turns from point
to point, that is, where gap times turn is large.

For Gaussian data of variances v_i the eigenvalues are e_i = v_i / (v_i + sigma^2), so that
``gap = 1 - sum e^2 (1 - e)^2 / sum e^2`` and turn = 0 at every level: J is the same at all points,
and a geodesic of the score depends on the covariance of the data alone.  At high noise any data
become Gaussian in this sense.

Both are ratios of products J p, in which networks are accurate where traces of J are not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.numerics import checks

__all__ = ["NoiseLevel", "choose_noise_level"]

NEAR = 0.9  # share of the best gap times turn that is good enough: noisier levels are smoother
GAUSSIAN = 0.1  # data whose Jacobian turns less between two points count as Gaussian


@dataclass(frozen=True)
class NoiseLevel:
    """A noise level, and the measurements that it was chosen by.

    Attributes:
        log_snr: the level chosen.
        gaussian: True if the data look Gaussian at every level: a score metric is then that of a
            Gaussian, whatever its level.
        levels: log SNR of the levels measured, noisiest first, (S,).
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
    """The noisiest level with at least 0.9 of the largest gap times turn.

    Levels at which the data look Gaussian (a turn below 0.1) are left out; where all levels are,
    the gap alone decides.

    Args:
        denoiser: posterior mean.
        data: clean points (N, D), N >= 2.
        levels: log SNR to choose from, (S,); default 16 values from twice the data's standard
            deviation down to a fiftieth of it, within the denoiser's range.
        points: use at most so many of the data.
        probes: directions per point.
        seed: of the choice of points, the noise and the probes.

    Returns:
        the level, and the measurements at all levels.

    Raises:
        TypeError: for complex numbers, or levels that are none.
        ValueError: for fewer than two data or points, no probes, data that are not finite, levels
            outside the denoiser's range, or a Jacobian that is not finite at any level.

    Cost: two JVPs per point, probe and level: 2048 by default.
    """
    checks.of_kind(denoiser, "denoiser", Denoiser)
    data = checks.points(data, "data", denoiser.dim, "the dimension of the denoiser")
    if data.ndim != 2 or len(data) < 2:
        raise ValueError(f"data must be (N, {denoiser.dim}) with N >= 2, got {tuple(data.shape)}")
    points, probes = checks.whole(points, "points", 2), checks.whole(probes, "probes", 1)
    grid = _grid(denoiser, data) if levels is None else _checked(denoiser, levels, data)
    generator = checks.generator(seed)
    x = data[torch.randperm(len(data), generator=generator)[:points].to(data.device)]
    noise, direction = (
        torch.randn(*shape, generator=generator, dtype=data.dtype).to(data.device)
        for shape in ((len(x), denoiser.dim), (probes, 1, denoiser.dim))
    )
    rows = [_measure(denoiser, x, noise, direction, math.exp(-lam / 2)) for lam in grid.tolist()]
    gap, turn = torch.tensor(rows, dtype=torch.float64).T
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
    grid = checks.floating(levels, "levels").double().flatten().sort().values
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
        difference = once - once.roll(1, 1)  # from the next point
    size = once.square().sum((0, -1))  # (N,)
    if not bool((size > 0).all()):
        return math.nan, math.nan
    gap = 1 - (twice - once).square().sum((0, -1)) / size
    turn = difference.square().sum((0, -1)) / (size + size.roll(1))
    return float(gap.median()), float(turn.median())
