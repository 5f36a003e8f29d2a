r"""The local geometry of a denoiser at one noise level, at and near given points.

Of each point x and its noised z = x + sigma eps:

- the spectrum of J = dm/dz at z, near 1 along the data and near 0 across; d is the number of
  values above 1/2, where noise and data explain a direction equally well, and the vectors of these
  span the tangent space: by block Lanczos (:mod:`diffodesic.metrics.spacetime.dimension`), or by
  singular values (:mod:`diffodesic.denoisers.jacobian`), all of them for small D;
- J's asymmetry on the tangent space, across, and on the normal space;
- the angle between the score at z and the normal space: sin = |T s|/|s|;
- about x, the dimension by the denoising loss and by the normal bundle, and at x by FLIPD
  (:mod:`diffodesic.metrics.spacetime.dimension`); the angle between the two tangent spaces:
  cos^2 = |T T'|^2/d, the mean over directions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.denoisers.jacobian import Jacobian
from diffodesic.metrics.spacetime.dimension import (
    CUT,
    DIRECTIONS,
    STEPS,
    denoising_dimension,
    flipd,
    normal_bundle,
    spectral_dimension,
)
from diffodesic.metrics.spacetime.metric import Spacetime
from diffodesic.numerics.cost import stage
from diffodesic.output.options import Options, option

__all__ = ["DiagnoseOptions", "LocalGeometry", "local_geometry"]


@dataclass(frozen=True, kw_only=True)
class DiagnoseOptions(Options):
    """Options of :func:`diagnose`.

    Args:
        log_snr: noise levels, log SNR.
        rank: number of singular values of the Jacobian; D or more gives all, exactly; default the
            63 eigenvalues that block Lanczos finds on its way, or all for D up to 63.
        scores: scores behind a normal bundle, more than D; 0 leaves it out; default 4 D, or 0 for D
            above 256.
        probes: random directions behind FLIPD, which is exact where the spectrum is, and behind the
            asymmetry on the normal space.
        draws: draws of the noise behind the dimension by the denoising loss.
        flow_steps: steps of the trajectories.
        seed: point i has the seed plus i.
    """

    log_snr: tuple[float, ...] = (0.0, 2.0, 4.0)
    rank: int | None = option(None, least=1, most=10_000)
    scores: int | None = option(
        None,
        least=0,
    )
    probes: int = option(
        16,
        least=1,
    )
    draws: int = option(64, least=2, most=10_000)
    flow_steps: int = option(48, least=1, most=10_000)
    seed: int = option(0, least=0, most=2**62)


@dataclass(frozen=True)
class LocalGeometry:
    """What is measured at one noise level; tensors have one entry per point (N,).

    Attributes:
        log_snr: the level.
        spectrum: singular values of dm/dz, or the eigenvalues that block Lanczos found, falling,
            (N, r); NaN beyond the last that was found.
        dimension: number of values above 1/2; r where all singular values are, and then a lower
            bound; by block Lanczos an estimate where not all were found.
        dimension_error: standard error of the dimension; 0 where it was counted.
        loss_dimension: dimension by the denoising loss.
        loss_error: its standard error.
        bundle_dimension: dimension by the normal bundle, NaN where it was left out.
        flipd: dimension by FLIPD.
        asymmetry_tangent: skew over symmetric part of dm/dz on the tangent space.
        asymmetry_cross: skew part between tangent and normal space, in units of the same
            symmetric part.
        asymmetry_normal: skew over symmetric part on the normal space.
        basis_angle: between the tangent spaces by dm/dz and by the normal bundle, in degrees.
        score_angle: between the score and the normal space, in degrees.
    """

    log_snr: float
    spectrum: Tensor
    dimension: Tensor
    dimension_error: Tensor
    loss_dimension: Tensor
    loss_error: Tensor
    bundle_dimension: Tensor
    flipd: Tensor
    asymmetry_tangent: Tensor
    asymmetry_cross: Tensor
    asymmetry_normal: Tensor
    basis_angle: Tensor
    score_angle: Tensor


@stage("measuring")
def local_geometry(
    denoiser: Denoiser,
    points: Tensor,
    log_snr: float,
    asked: DiagnoseOptions,
    say: Callable[[str], None],
) -> LocalGeometry:
    """The local geometry at one noise level.

    Args:
        denoiser: the denoiser.
        points: clean points (N, D).
        log_snr: the level.
        asked: how thoroughly.
        say: called with a short line per point.

    Returns:
        the measurements.

    Cost: see :func:`diagnose`.
    """
    measured = []
    for i, point in enumerate(points):
        say(f"log SNR {log_snr:g}, point {i + 1} of {len(points)}")
        measured.append(_of_point(denoiser, point, log_snr, asked, asked.seed + i))
    columns = {
        name: torch.stack([torch.as_tensor(one[name], dtype=torch.float64) for one in measured])
        for name in measured[0]
    }
    of_all = _flipd(denoiser, points, log_snr, asked)
    return LocalGeometry(log_snr=log_snr, flipd=of_all, **columns)


def _of_point(
    denoiser: Denoiser, x: Tensor, log_snr: float, asked: DiagnoseOptions, seed: int
) -> dict[str, float | Tensor]:
    """Everything but FLIPD, of one point."""
    generator = torch.Generator().manual_seed(seed)
    sigma = math.exp(-log_snr / 2)
    noise = torch.randn(len(x), generator=generator, dtype=torch.float64)
    z = x + sigma * noise.to(x)
    jacobian = Jacobian(denoiser, z, sigma)
    values, tangent, d, error = _spectrum(jacobian, log_snr, asked.rank, generator)
    asymmetry = jacobian.asymmetry(tangent, probes=asked.probes, generator=generator)
    with torch.no_grad():
        score = denoiser.score(z, z.new_tensor(sigma))
    bundle, apart = math.nan, math.nan
    if asked.scores:
        normal = normal_bundle(denoiser, x, log_snr, scores=asked.scores, generator=generator)
        bundle, apart = float(normal.dimension), _apart(tangent, normal.tangent(len(tangent)))
    loss, loss_error = denoising_dimension(
        denoiser, x, log_snr, generator=generator, draws=asked.draws
    )
    return {
        "spectrum": values.double().cpu(),
        "dimension": d,
        "dimension_error": error,
        "loss_dimension": float(loss),
        "loss_error": float(loss_error),
        "bundle_dimension": bundle,
        "asymmetry_tangent": asymmetry.tangent,
        "asymmetry_cross": asymmetry.cross,
        "asymmetry_normal": asymmetry.normal,
        "basis_angle": apart,
        "score_angle": _degrees(float((tangent @ score).norm() / score.norm())),
    }


def _spectrum(
    jacobian: Jacobian, log_snr: float, rank: int | None, generator: torch.Generator
) -> tuple[Tensor, Tensor, float, float]:
    """Values, tangent vectors, number of values above the cut, and its standard error."""
    dim, most = len(jacobian.z), DIRECTIONS * STEPS
    if rank is None and dim > most:
        found = spectral_dimension(jacobian.denoiser, jacobian.z, log_snr, generator=generator)
        values = found.ritz.values
        filled = torch.nn.functional.pad(values, (0, most - len(values)), value=math.nan)
        return filled, found.tangent, found.dimension, found.error
    spectrum = jacobian.spectrum(rank or dim, generator=generator)
    d = int((spectrum.values > CUT).sum())
    # a tangent space is less than the whole: the normal space keeps a direction
    return spectrum.values, spectrum.left[: min(d, dim - 1)], float(d), 0.0


def _flipd(denoiser: Denoiser, points: Tensor, log_snr: float, asked: DiagnoseOptions) -> Tensor:
    """FLIPD at the points themselves, (N,)."""
    exact = denoiser.dim <= (asked.rank or DIRECTIONS * STEPS)
    space = Spacetime(
        denoiser,
        estimator="exact" if exact else "hutchinson",
        probes=asked.probes,
        seed=asked.seed,
    )
    with torch.no_grad():
        return flipd(space, space.point(points, log_snr)).double().cpu()


def _apart(first: Tensor, second: Tensor) -> float:
    """Angle between two spaces (d, D) of one dimension, in degrees; NaN for d = 0."""
    if not len(first):
        return math.nan
    share = float((first @ second.T).square().sum()) / len(first)
    return _degrees(math.sqrt(max(0.0, 1 - share)))


def _degrees(sine: float) -> float:
    return math.degrees(math.asin(min(sine, 1.0)))  # NaN stays NaN in this order
