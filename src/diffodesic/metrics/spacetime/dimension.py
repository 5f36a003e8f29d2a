r"""Local dimension of the data: of how many directions is noise taken for data?

**The spectrum** (LHSD, Osada 2026, 2605.01221).  J = dm/dz at z = x + sigma eps is 1 on the tangent
space and 0 across, up to the curvature of the data on the scale sigma, and d is the number of its
eigenvalues above 1/2: the trace of a cut-off of J, by stochastic Lanczos.  Errors of a network in
the D - d normal directions stay below the cut, where a trace of J itself adds them up.

**The denoising loss** (Yeats et al. 2025, 2510.12975).  For small sigma the error of a posterior
mean is the noise along the manifold,

    E |x - m(x + sigma eps)|^2 / sigma^2  ->  d,

the trace of J, from evaluations alone; of a law with weak directions it counts these in part.

**FLIPD** (Kamkari et al. 2024, 2406.03537): at noise sigma the data near x look flat if they curve
on larger scales only, and then d directions of the noise are taken for data:

    FLIPD(z, sigma) = D + sigma^2 (div score + |score|^2) = k E[|x0 - z|^2 | z]
                    = -2 eta.mu + |eta_1|^2 / (-2 eta_2),

a by-product of the mean parameters along any path.  It asks for the trace of J at x without noise,
an input that no network is trained on (docs/diagnose.md).

**The slope of distances.**  Between two different points of the data, both at log SNR lam, the
geodesic climbs out of two cusps of d-dimensional hyperbolic geometry,

    d(lam) ~ sqrt(2 d) (lam + 2 log(|x - y| / sqrt(2 d))),      so     d = slope^2 / 2,

the mean of the two ends' sqrt(d), squared.  The slope needs one geodesic: by the first variation
it is ``<velocity, d/dlam>/L`` at both ends.  Finite data have no dimension at the finest scale.

**The normal bundle** (Stanczuk et al. 2022, 2212.12611).  Near a manifold the score points to it:
scores at x + sigma eps_i, more of them than coordinates, span the normal space at x.  Their
singular values s_1 >= s_2 >= ... fall at its dimension, so

    d = D - argmax_i (s_i - s_{i+1}),

and the last d singular vectors span the tangent space.  Here scores are taken about their mean,
which is not published: what they share is the error of x itself, one direction so much larger
than all others for a network that the largest drop follows it, and d = D - 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.denoisers.jacobian import Jacobian
from diffodesic.geometry.path import Geodesic
from diffodesic.metrics.spacetime.metric import Spacetime
from diffodesic.metrics.spacetime.points import natural, packed
from diffodesic.numerics import checks
from diffodesic.numerics.lanczos import Ritz, block_lanczos

__all__ = [
    "DIRECTIONS",
    "STEPS",
    "NormalBundle",
    "SpectralDimension",
    "denoising_dimension",
    "dimension_from_slope",
    "flipd",
    "normal_bundle",
    "spectral_dimension",
]

CUT = 0.5  # eigenvalue of dm/dz at which noise and data explain a direction equally well
DIRECTIONS, STEPS = 21, 3  # of block Lanczos: up to 20 dimensions of a manifold are counted


@dataclass(frozen=True)
class SpectralDimension:
    """What :func:`spectral_dimension` returns.

    Attributes:
        dimension: number of eigenvalues of dm/dz above 1/2, counted or estimated.
        error: its standard error; 0 where it was counted.
        ritz: eigenpairs that were found, the largest first: the first ``tangent`` rows of its
            vectors lie along the data.
    """

    dimension: float
    error: float
    ritz: Ritz

    @property
    def tangent(self) -> Tensor:
        """Orthonormal directions along the data that were found, rows, fewer than D."""
        found = self.ritz.vectors[self.ritz.values > CUT]
        return found[: found.shape[-1] - 1]


def spectral_dimension(
    denoiser: Denoiser,
    z: Tensor,
    log_snr: float,
    *,
    generator: torch.Generator,
    directions: int | None = None,
    steps: int = STEPS,
) -> SpectralDimension:
    """Local dimension by the number of eigenvalues of dm/dz above 1/2, by block Lanczos.

    Where fewer eigenvalues than directions are above the cut, each by more than its residual, they
    are counted.  Else the random starts estimate the trace of a smooth cut,

        s(theta) = theta^3 (10 - 15 theta + 6 theta^2),    s(0) = 0, s(1/2) = 1/2, s(1) = 1,

    which three steps integrate without error, as a sharp one would not be: its error changes sign
    from step to step, by a third of d on digits.  The relative standard error is about
    ``sqrt(2/(d directions))``.

    Args:
        denoiser: posterior mean.
        z: a point (D,) of the data with its noise.
        log_snr: the noise level: small beside the curvature of the manifold.
        generator: of the random starts, on the CPU.
        directions: random starts, 2 to D; a manifold of fewer dimensions is found exactly; default
            21, or D if that is less.
        steps: of block Lanczos, >= 3.

    Returns:
        the dimension, its standard error, and the eigenpairs behind it.

    Raises:
        TypeError: for complex numbers.
        ValueError: for a point that is not (D,) or not finite, or directions or steps out of range.

    Cost: ``directions * steps`` JVPs.
    """
    checks.of_kind(denoiser, "denoiser", Denoiser)
    z = checks.points(z, "z", denoiser.dim, "the dimension of the data")
    if z.ndim != 1:
        raise ValueError(f"z has shape {tuple(z.shape)}; give one point ({denoiser.dim},)")
    directions = min(DIRECTIONS, denoiser.dim) if directions is None else directions
    if not min(2, denoiser.dim) <= directions <= denoiser.dim or steps < 3:
        raise ValueError(
            f"directions must be 2 to D = {denoiser.dim} and steps at least 3, got {directions} "
            f"and {steps}"
        )
    jacobian = Jacobian(denoiser, z, math.exp(-log_snr / 2))
    start = torch.randn(directions, denoiser.dim, generator=generator, dtype=torch.float64).to(z)
    ritz = block_lanczos(jacobian.push, start, steps=steps)
    above = ritz.values > CUT
    settled = (ritz.values - ritz.residuals)[above] > CUT
    whole = len(ritz.values) == denoiser.dim  # nothing is left to be found
    if whole or (int(above.sum()) < directions and bool(settled.all())):
        return SpectralDimension(float(above.sum()), 0.0, ritz)
    theta = ritz.values.clamp(0, 1)
    counts = (start @ ritz.vectors.T).square() @ (theta**3 * (10 - 15 * theta + 6 * theta**2))
    error = float(counts.std()) / math.sqrt(directions)
    return SpectralDimension(float(counts.mean()), error, ritz)


def denoising_dimension(
    denoiser: Denoiser,
    x: Tensor,
    log_snr: float,
    *,
    generator: torch.Generator,
    draws: int = 64,
) -> tuple[Tensor, Tensor]:
    """Local dimension by the denoising loss, ``E |x - m|^2 / sigma^2``.

    Args:
        denoiser: posterior mean.
        x: points (..., D) of the data.
        log_snr: the noise level: small beside the curvature of the manifold.
        generator: of the noise, on the CPU; all points share it.
        draws: draws n >= 2 of the noise.

    Returns:
        dimensions (...), not rounded, and their standard errors (...), about ``sqrt(2 d/n)``.

    Raises:
        TypeError: for complex numbers.
        ValueError: for points of another dimension or not finite, or fewer than 2 draws.

    Cost: ``draws`` evaluations per point.
    """
    checks.of_kind(denoiser, "denoiser", Denoiser)
    x = checks.points(x, "x", denoiser.dim, "the dimension of the data")
    if draws < 2:
        raise ValueError(f"draws must be at least 2 for a standard error, got {draws}")
    sigma = math.exp(-log_snr / 2)
    shape = (draws, *[1] * (x.ndim - 1), denoiser.dim)
    noise = torch.randn(shape, generator=generator, dtype=torch.float64).to(x)
    with torch.no_grad():
        off = denoiser(x + sigma * noise, x.new_tensor(sigma)) - x
    losses = off.square().sum(-1) / sigma**2
    return losses.mean(0), losses.std(0) / math.sqrt(draws)


def flipd(space: Spacetime, x: Tensor) -> Tensor:
    """Local dimension at packed points by FLIPD.

    Args:
        space: spacetime of the model.
        x: points (..., D + 1), for instance the nodes of a geodesic; at data points of the noise
            whose scale is asked about.

    Returns:
        dimensions (...), not rounded.

    Raises:
        TypeError: for complex numbers.
        ValueError: for points of the wrong dimension, none, or not finite.

    Cost: one ``space.mu`` per point.
    """
    checks.of_kind(space, "space", Spacetime)
    x = packed(x, "x", space.data_dim, detach=False)
    eta, mu = natural(x), space.mu(x)
    return -2 * (eta * mu).sum(-1) + eta[..., :-1].square().sum(-1) / (-2 * eta[..., -1])


def dimension_from_slope(path: Geodesic) -> Tensor:
    """Local dimension from how fast a geodesic grows as the log SNR of its two ends is raised.

    Args:
        path: a solved geodesic in a :class:`Spacetime`, between data points at a log SNR whose
            noise is far smaller than their distance.

    Returns:
        ``slope^2 / 2`` (...): the dimension, where both ends have the same.

    Raises:
        ValueError: for a path of another metric.

    Cost: two inner products per pair.
    """
    space = path.metric
    if not isinstance(space, Spacetime):
        raise ValueError("the local dimension is read off geodesics of a Spacetime")
    slope = torch.zeros_like(path.length)
    for s, sign in ((0.0, -1.0), (1.0, 1.0)):
        x, v = path(s), path.velocity(s)
        up = torch.zeros_like(v)
        up[..., -1] = 1
        slope = slope + sign * space.inner(x, v, up) / space.norm(x, v)
    return slope**2 / 2


@dataclass(frozen=True)
class NormalBundle:
    """What :func:`normal_bundle` returns.

    Attributes:
        values: singular values of the scores, falling, (D,).
        directions: their directions, rows (D, D); the normal ones first.
        dimension: of the manifold, where the values fall most.
    """

    values: Tensor
    directions: Tensor
    dimension: int

    def tangent(self, d: int) -> Tensor:
        """Orthonormal basis (d, D) of a tangent space of dimension d."""
        return self.directions[len(self.directions) - d :]


def normal_bundle(
    denoiser: Denoiser, x: Tensor, log_snr: float, *, scores: int, generator: torch.Generator
) -> NormalBundle:
    """Normal space at a point of the data, from scores around it.

    Args:
        denoiser: posterior mean.
        x: the point (D,).
        log_snr: noise level: small beside the curvature of the manifold, large beside its
            thickness and the errors of the score.
        scores: number of scores, more than D; the paper takes 4 D.
        generator: of the perturbations, on the CPU.

    Returns:
        the directions and the dimension.

    Raises:
        TypeError: for complex numbers.
        ValueError: for a point that is not (D,) or not finite, and for fewer scores than
            coordinates: what they span would be taken for the normal space.

    Cost: ``scores`` evaluations, and a singular value decomposition of scores x D.
    """
    checks.of_kind(denoiser, "denoiser", Denoiser)
    x = checks.points(x, "x", denoiser.dim, "the dimension of the data")
    if x.ndim != 1:
        raise ValueError(f"x has shape {tuple(x.shape)}; give one point ({denoiser.dim},)")
    if scores <= denoiser.dim:
        raise ValueError(
            f"the normal bundle takes more than {denoiser.dim} scores, the number of coordinates; "
            f"got {scores}"
        )
    sigma = math.exp(-log_snr / 2)
    noise = torch.randn(scores, denoiser.dim, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        found = denoiser.score(x + sigma * noise.to(x), x.new_tensor(sigma))
    _, values, directions = torch.linalg.svd(found - found.mean(0), full_matrices=False)
    drop = int((-values.diff()).argmax()) + 1
    return NormalBundle(values, directions, denoiser.dim - drop)
