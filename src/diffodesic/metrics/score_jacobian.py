"""The metric of the score's Jacobian, ``J^T J + eps I`` (2510.05509)."""

from __future__ import annotations

import torch
from torch import Tensor

from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.metrics.one_level import AtNoise
from diffodesic.numerics.hessians import Curvature, Operator, Scalar

__all__ = ["ScoreJacobian"]


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
        if not eps > 0:
            raise ValueError(f"eps must be > 0, got {eps}")
        self.eps = float(eps)

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """``(Ju).(Jv) + eps u.v``; one JVP per point (two if ``u`` is not ``v``)."""
        ju = self.score_jvp(x, u)
        return (ju * (ju if v is u else self.score_jvp(x, v))).sum(-1) + self.eps * (u * v).sum(-1)

    def newton_steps(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Curvature]:
        """Steps and gradient, and the metric frozen at the midpoints, known by its action.

        Args:
            x: paths (B, n+1, D).

        Returns:
            see :meth:`Metric.newton_steps`.

        Cost per segment: that of ``steps_and_grad``; a solve with the curvature takes two JVPs
        per segment and iteration of conjugate gradients, at most twelve.
        """
        steps, grad, wrong = self.steps_and_grad(x)
        middle = (x[:, 1:] + x[:, :-1]) / 2
        scale = self.curvature(x, steps)
        assert isinstance(scale, Scalar)
        return steps, grad, wrong, Operator(middle, self._act, scale)

    def _act(self, x: Tensor, u: Tensor) -> Tensor:
        """``J (J u) + eps u``: the Jacobian of a score is symmetric."""
        with torch.no_grad():
            return self.score_jvp(x, self.score_jvp(x, u)) + self.eps * u
