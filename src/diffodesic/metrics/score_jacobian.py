"""The metric of the score's Jacobian, ``J^T J + eps I`` (2510.05509)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.geometry.energy import PathEnergy
from diffodesic.metrics.one_level import AtNoise, OneLevelEnergy
from diffodesic.numerics import checks
from diffodesic.numerics.hessians import BlockDiagonal, MatrixFree, PathHessian

__all__ = ["JacobianEnergy", "ScoreJacobian"]


class ScoreJacobian(AtNoise):
    """``g = J^T J + eps I`` with J the Jacobian of the score at one noise level (2510.05509).

    Args:
        denoiser: posterior mean of the diffusion model.
        log_snr: noise level of the score.
        eps: weight of the identity, > 0; without it the metric is flat wherever J is regular.

    Raises:
        ValueError: for ``eps <= 0`` or a level outside the denoiser's range.
    """

    def __init__(self, denoiser: Denoiser, *, log_snr: float, eps: float = 1e-2) -> None:
        super().__init__(denoiser, log_snr)
        self.eps = checks.number(eps, "eps")
        if not 0 < self.eps < math.inf:
            raise ValueError(f"eps must be > 0 and finite, got {eps}")

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """``(Ju).(Jv) + eps u.v``; one JVP per point (two if ``u`` is not ``v``)."""
        ju = self.score_jvp(x, u)
        return (ju * (ju if v is u else self.score_jvp(x, v))).sum(-1) + self.eps * (u * v).sum(-1)

    def energy(self) -> PathEnergy:
        """The energy of the midpoint rule; its Hessian is the metric frozen along the path."""
        return JacobianEnergy(self)

    def act(self, x: Tensor, u: Tensor) -> Tensor:
        """``J (J u) + eps u``: the Jacobian of a score is symmetric."""
        with torch.no_grad():
            return self.score_jvp(x, self.score_jvp(x, u)) + self.eps * u


class JacobianEnergy(OneLevelEnergy):
    """The energy of a score Jacobian metric.

    Cost of a Hessian: two JVPs per segment and iteration of conjugate gradients, at most twelve,
    whenever it is solved with.
    """

    metric: ScoreJacobian
    coarsest = 16  # fewer jump over the steep flanks of a Jacobian

    def hessian(self, x: Tensor, squared_steps: Tensor) -> PathHessian:
        """The metric frozen at the midpoints of paths (B, n+1, D), known by its action."""
        scale = self.preconditioner(x, squared_steps)
        assert isinstance(scale, BlockDiagonal)
        return MatrixFree((x[:, 1:] + x[:, :-1]) / 2, self.metric.act, scale)
