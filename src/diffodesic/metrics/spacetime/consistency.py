r"""Is the denoiser a posterior mean along this path?  Three identities that tell without the truth.

A true posterior mean m(z, sigma) = E[x0 | z] has

- a symmetric Jacobian J = dm/dz, since sigma^2 J is a covariance: the same probe v is pushed
  forward and pulled back, ``|Jv - J^T v| / |Jv + J^T v|``;
- mean parameters that are a gradient, ``mu = grad psi`` in ``eta = (h, -k/2)``, h = k z
  (2505.17517), hence Maxwell's identity: along v, at fixed noise and at fixed h,

      v . d mu_2/d h = (2 m.Jv + tr D^2 m[., v] / k) / k   =   v . dm/d eta_2 = -(2/k) v . dm/dlam,

  both the covariance of v.x0 and |x0|^2;
- positive steps ``d_eta . d_mu``, the sum of two relative entropies, and ``w.Jw >= 0``.

Guided denoisers break all three; badly trained ones the last two first, where noise is high.  v is
the path's own direction in h; traces are taken by random probes, whose scatter is stated.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.metrics.spacetime.metric import Spacetime
from diffodesic.metrics.spacetime.points import natural, packed
from diffodesic.numerics import checks

SHIFT = 1e-3  # of log SNR, in the central difference of the mean

__all__ = ["PathDiagnostics", "path_diagnostics"]


@dataclass(frozen=True)
class PathDiagnostics:
    """What :func:`path_diagnostics` found; all small or none for a true posterior mean.

    Attributes:
        log_snr: noise level of the nodes, (n+1,).
        asymmetry: ``|Jv - J^T v| / |Jv + J^T v|`` over the probes, (n+1,).
        maxwell: difference of the two sides of Maxwell's identity over the sum of their sizes,
            (n+1,); 0 where both vanish.
        maxwell_error: its standard error over the probes, (n+1,); nan for one probe.
        raw_steps: two-point steps ``d_eta . d_mu``, (n,).
        closure_wrong: where ``w.Jw < 0`` at one end of a segment, (n,).
    """

    log_snr: Tensor
    asymmetry: Tensor
    maxwell: Tensor
    maxwell_error: Tensor
    raw_steps: Tensor
    closure_wrong: Tensor

    @property
    def negative_fraction(self) -> float:
        """Share of two-point steps below zero."""
        return float((self.raw_steps < 0).double().mean())

    @property
    def closure_fraction(self) -> float:
        """Share of segments along which the Jacobian is not positive."""
        return float(self.closure_wrong.double().mean())


def path_diagnostics(
    space: Spacetime | Denoiser, nodes: Tensor, *, probes: int | Tensor = 4, seed: int = 0
) -> PathDiagnostics:
    """Measure how far a denoiser is from a posterior mean along a path through spacetime.

    Args:
        space: the spacetime, or its denoiser; it must be differentiable in reverse mode.
        nodes: packed points (n+1, D+1), n >= 1.
        probes: number P of random directions, or the directions themselves, (P, D) with unit
            second moment; ``sqrt(D)`` times a basis makes every trace exact.
        seed: seed of the probes.

    Returns:
        the diagnostics.

    Raises:
        TypeError: for complex numbers.
        ValueError: for nodes of another shape or not finite, or probes that are none.

    Cost per node: ``10 P + 8`` evaluations, P + 2 JVPs and P VJPs at most.
    """
    checks.of_kind(space, "space", Spacetime, Denoiser)
    denoiser = space.denoiser if isinstance(space, Spacetime) else space
    nodes = packed(nodes, "nodes", denoiser.dim)
    if nodes.ndim != 2 or len(nodes) < 2:
        raise ValueError(
            f"nodes have shape {tuple(nodes.shape)}; they must be (n+1, {denoiser.dim + 1}), n >= 1"
        )
    two_point = Spacetime(
        denoiser,
        estimator="exact" if denoiser.closed_form else "hutchinson",
        probes=probes,
        seed=seed,
    )
    closure = Spacetime(denoiser, estimator="closure", probes=two_point.probes)
    directions = two_point.probes.to(nodes)
    asymmetry = _asymmetry(denoiser, nodes, directions)
    with torch.no_grad():
        maxwell, error = _maxwell(denoiser, nodes, directions)
        raw = two_point.squared_steps(nodes)
        doubtful = closure.energy().evaluate(nodes, order=0).doubtful
    return PathDiagnostics(nodes[:, -1], asymmetry, maxwell, error, raw, doubtful)


def _asymmetry(denoiser: Denoiser, x: Tensor, probes: Tensor) -> Tensor:
    """Antisymmetric over symmetric part of J on probes (P, D), (n+1,)."""
    v = probes.expand(len(x), *probes.shape)
    sigma = (-x[:, -1:] / 2).exp()
    with torch.no_grad():
        _, pushed = denoiser.jvp(x[:, None, :-1], sigma, v)
    with torch.enable_grad():
        z = x[:, None, :-1].expand_as(v).detach().requires_grad_()
        (pulled,) = torch.autograd.grad(denoiser(z, sigma), z, v)
    odd, even = (t.square().sum((-2, -1)).sqrt() for t in (pushed - pulled, pushed + pulled))
    return odd / torch.where(even > 0, even, 1.0)


def _maxwell(denoiser: Denoiser, x: Tensor, probes: Tensor) -> tuple[Tensor, Tensor]:
    """Relative residual of Maxwell's identity along the path, and its standard error; (n+1,)."""
    h, k = natural(x)[:, :-1], x[:, -1:].exp()
    v = torch.cat([h[1:2] - h[:1], h[2:] - h[:-2], h[-1:] - h[-2:-1]])
    v = v / v.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(v.dtype).tiny)
    z, sigma = x[:, :-1], (-x[:, -1] / 2).exp()
    m, pushed = denoiser.jvp(z, sigma, v)
    bend = denoiser.second_difference(z[:, None], sigma[:, None], probes, v[:, None])
    traces = (probes * bend).sum(-1)  # (n+1, P)
    across = (2 * (m * pushed).sum(-1, keepdim=True) + traces / k) / k
    # at fixed h a change of log SNR moves z = h/k, too
    ahead, behind = (
        denoiser(z * torch.exp(z.new_tensor(-s)), (-(x[:, -1] + s) / 2).exp())
        for s in (SHIFT, -SHIFT)
    )
    up = -2 / k[:, 0] * (v * (ahead - behind)).sum(-1) / (2 * SHIFT)
    size = across.mean(-1).abs() + up.abs()
    size = torch.where(size > 0, size, 1.0)
    error = across.std(-1) if len(probes) > 1 else torch.full_like(size, torch.nan)
    return (across.mean(-1) - up).abs() / size, error / len(probes) ** 0.5 / size
