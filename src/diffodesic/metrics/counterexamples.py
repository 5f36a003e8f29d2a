r"""Two geometries of latent noise that say nothing, as metrics (2505.17517, Sec. 3).

**The pullback of the deterministic decoder.**  The probability-flow ODE is a diffeomorphism F from
noise to data.  The length of a curve in the metric it pulls back is the Euclidean length of the
decoded curve, so every geodesic decodes to the straight line between the decoded ends:

    gamma(s) = F^-1((1 - s) F(a) + s F(b)),        d(a, b) = |F(b) - F(a)|.

**Fisher-Rao geometry at one noise level.**  On x at fixed k it is  G = k^2 Cov[x0 | z]/alpha^2,
with steps  d_eta.d_mu = k dz.dm  exact for two points of any distance.  At the last time of a
diffusion the posterior forgets x: Cov[x0 | z] tends to that of the data and k to zero, and every
distance with it.

Spacetime, which keeps log SNR as a coordinate, is the way out of both.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.denoisers.flow import drop, lift
from diffodesic.geometry.metric import Metric
from diffodesic.metrics.elementary import Pullback
from diffodesic.metrics.one_level import check_level
from diffodesic.numerics import checks

__all__ = ["FisherRao", "decoded_chord", "decoder_pullback"]


class FisherRao(Metric):
    """Fisher-Rao metric of the posteriors p(x0 | x) on points x of one noise level.

    Args:
        denoiser: posterior mean of the model.
        log_snr: the noise level, log SNR in data units.
        alpha: scale of the points, ``x = alpha z``; 1 is the core's own coordinates.

    Raises:
        ValueError: for a level outside the denoiser's range, or a scale that is not positive.
    """

    def __init__(self, denoiser: Denoiser, *, log_snr: float, alpha: float = 1.0) -> None:
        checks.of_kind(denoiser, "denoiser", Denoiser)
        check_level(denoiser, log_snr)
        if not 0 < alpha < math.inf:
            raise ValueError(f"alpha must be a positive number, got {alpha}")
        self.denoiser, self.dim, self.alpha = denoiser, denoiser.dim, float(alpha)
        self.precision, self.sigma = math.exp(log_snr), math.exp(-log_snr / 2)

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """``k u.Jv / alpha^2``, symmetric; one JVP per point (two if ``u`` is not ``v``)."""
        scale = self.precision / self.alpha**2
        along = (u * self._push(x, v)).sum(-1)
        return scale * (along if v is u else (along + (v * self._push(x, u)).sum(-1)) / 2)

    def squared_steps(self, x: Tensor) -> Tensor:
        """``k dz.dm``, the Jeffreys divergence of neighbours, exactly; one evaluation per node."""
        z = x / self.alpha
        m = self.denoiser(z, z.new_tensor(self.sigma))
        return self.precision * (z.diff(dim=-2) * m.diff(dim=-2)).sum(-1)

    def _push(self, x: Tensor, v: Tensor) -> Tensor:
        x, v = torch.broadcast_tensors(x, v)
        return self.denoiser.jvp(x / self.alpha, x.new_tensor(self.sigma), v)[1]


def decoder_pullback(denoiser: Denoiser, *, log_snr: float, steps: int = 24) -> Pullback:
    """Pullback of the Euclidean metric by the probability-flow decoder, on z at one noise level.

    Args:
        denoiser: posterior mean of the model.
        log_snr: noise level of the points.
        steps: steps of the ODE.

    Returns:
        the metric; its ``f`` is the decoder.

    Cost: ``2 steps`` evaluations per node of a path.
    """
    checks.of_kind(denoiser, "denoiser", Denoiser)
    return Pullback(lambda z: drop(denoiser, z, log_snr, steps=steps), denoiser.dim)


def decoded_chord(
    denoiser: Denoiser, a: Tensor, b: Tensor, *, log_snr: float, nodes: int, steps: int = 24
) -> Tensor:
    """The geodesic of :func:`decoder_pullback` without a solver: the preimage of a chord.

    Args:
        denoiser: posterior mean of the model.
        a: start z (..., D).
        b: end z (..., D).
        log_snr: noise level of the ends.
        nodes: number n of segments.
        steps: steps of the ODE, each way.

    Returns:
        nodes z (..., n+1, D); exact as far as the ODE is solved both ways.

    Cost: ``2 steps`` evaluations per node.
    """
    first, last = (drop(denoiser, z, log_snr, steps=steps).unsqueeze(-2) for z in (a, b))
    s = torch.linspace(0, 1, nodes + 1, dtype=a.dtype, device=a.device).unsqueeze(-1)
    path = lift(denoiser, torch.lerp(first, last, s), log_snr, steps=steps)
    return torch.cat([a.unsqueeze(-2), path[..., 1:-1, :], b.unsqueeze(-2)], -2)
