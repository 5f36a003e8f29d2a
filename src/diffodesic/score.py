r"""Metrics made of the score s of one noise level, s = (m - x)/sigma^2.

The score metric ``g = I + w s s^T`` (Azeglio & Di Bernardo, 2505.11128; the same tensor is the
Monge metric of Hartmann, Girolami & Klami, 2202.10755) charges the change of log-density: where
s = grad phi it is the metric of the graph (x, sqrt(w) phi(x)).  With r the change of phi along a
segment, by the trapezoidal rule (s_i + s_{i+1})/2 . u_i,

    steps = |u|^2 + w r^2,    d(sum steps)/dx_i = 2 (bend of x)_i + 2 w (r_{i-1} - r_i) s_i,

a gradient from scores alone, exact for the change of phi itself, with the Gauss-Newton Hessian
of :class:`diffodesic.curvature.Graph`.  Of rank K: the mean of s_k s_k^T over the scores s_k at K
displaced points, x + sigma c_k with c_k fixed; one score leaves all but one normal direction free.

The score Jacobian, ``J^T J + eps I`` with J = ds/dx: Saito & Matsubara, 2510.05509.
"""

from __future__ import annotations

import math
from copy import copy

import torch
from torch import Tensor

from diffodesic.curvature import Curvature, Graph, Operator, Scalar, bend
from diffodesic.denoiser import Denoiser
from diffodesic.metric import Metric

__all__ = ["ScoreJacobian", "ScoreMetric"]


class _AtNoise(Metric):
    """A metric on noisy points at one fixed noise level of a denoiser."""

    def __init__(self, denoiser: Denoiser, log_snr: float) -> None:
        low, high = denoiser.log_snr_range
        if not low <= log_snr <= high or not math.isfinite(log_snr):
            raise ValueError(
                f"log_snr = {log_snr} is outside the noise levels of the denoiser; "
                f"choose a finite value between {low:g} and {high:g}"
            )
        self.denoiser, self.log_snr, self.dim = denoiser, float(log_snr), denoiser.dim
        self.sigma = math.exp(-log_snr / 2)

    def score(self, x: Tensor) -> Tensor:
        """Score ``(m - x)/sigma^2`` at the fixed level, (..., d); one evaluation per point."""
        return self.denoiser.score(x, x.new_tensor(self.sigma))


class ScoreMetric(_AtNoise):
    """``g(x) = I + weight mean_k s_k(x) s_k(x)^T``, scores at one noise level (2505.11128, Eq. 4).

    Args:
        denoiser: posterior mean of the diffusion model.
        log_snr: noise level of the score, log SNR in data units.
        weight: weight of the score term, >= 0, in the core's coordinates (a weight given for
            ``x = alpha z`` is divided by ``alpha^2``).
        rank: number K of scores; with K > 1 the points x + sigma c_k carry one more step of noise,
            c_k standard normal, all but the first, which is x itself.
        seed: seed of the displacements.

    Raises:
        ValueError: for a negative weight, a rank outside 1 ... D, or a level outside the
            denoiser's range.
    """

    coarsest = 32  # fewer hide what log-density does between nodes
    newton = True
    # the score-only gradient belongs to the change of phi, the steps to its trapezoidal estimate
    slack = 1e-3

    def __init__(
        self,
        denoiser: Denoiser,
        *,
        log_snr: float,
        weight: float = 1.0,
        rank: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(denoiser, log_snr)
        if not weight >= 0:
            raise ValueError(f"weight must be >= 0, got {weight}")
        if not 1 <= rank <= denoiser.dim:
            raise ValueError(f"rank must be between 1 and {denoiser.dim}, got {rank}")
        self.weight, self.rank = float(weight), rank
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(rank - 1, denoiser.dim, generator=generator, dtype=torch.float64)
        self.displacements = torch.cat([torch.zeros(1, denoiser.dim).double(), noise])

    def scores(self, x: Tensor) -> Tensor:
        """The K scores at points (..., D), (..., K, D); K evaluations per point."""
        return self.score(x.unsqueeze(-2) + self.sigma * self.displacements.to(x))

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """``u.v + weight mean_k (s_k.u)(s_k.v)``; K evaluations per point."""
        s = self.scores(x)
        along = (s * u.unsqueeze(-2)).sum(-1) * (s * v.unsqueeze(-2)).sum(-1)
        return (u * v).sum(-1) + self.weight * along.mean(-1)

    def steps(self, x: Tensor) -> Tensor:
        """``|u|^2 + weight mean_k r_k^2`` by the trapezoidal rule; K evaluations per node.

        Args:
            x: nodes (..., n+1, D).

        Returns:
            squared lengths (..., n).
        """
        return self.judged_steps(x)[0]

    def judged_steps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Steps, and where log-density may rise and fall unseen between two nodes.

        If the score along a segment changes evenly, log-density strays from its chord by at most
        |(s_{i+1} - s_i).u_i| / 8, there and back. A segment that could hide more length than it
        shows is not to be believed: a solver would put the variation of log-density there.

        Args:
            x: nodes (..., n+1, D).

        Returns:
            squared lengths (..., n) and a boolean (..., n).
        """
        steps, _, hidden = self._steps(x, self.scores(x))
        return steps, hidden

    def newton_steps(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Curvature]:
        """Judged steps, their score-only gradient, and the curvature of the graph.

        Args:
            x: paths (B, n+1, D).

        Returns:
            see :meth:`Metric.newton_steps`.

        Cost per node: K evaluations, no derivative.
        """
        with torch.no_grad():
            scores = self.scores(x)
            steps, change, hidden = self._steps(x, scores)
            weight = self.weight / self.rank
            pull = bend(x.diff(dim=-2)) + weight * (bend(change).unsqueeze(-1) * scores).sum(-2)
            if weight:
                return steps, 2 * pull, hidden, Graph.of(scores, weight)
            flat = Scalar.of(torch.ones_like(steps).unsqueeze(-1), self.blocks)
            return steps, 2 * pull, hidden, flat

    def _steps(self, x: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Steps (..., n), the changes r of log-density (..., n, K), and what may hide (..., n)."""
        u = x.diff(dim=-2).unsqueeze(-2)
        first, last = scores[..., :-1, :, :], scores[..., 1:, :, :]
        change = ((first + last) / 2 * u).sum(-1)
        steps = u.square().sum((-1, -2)) + self.weight * change.square().mean(-1)
        stray = ((last - first) * u).sum(-1) / 8
        return steps, change, self.weight * (2 * stray).square().mean(-1) > steps

    def easier(self) -> tuple[Metric, ...]:
        """The same metric at a tenth, a hundredth, ... of a weight above 1, lightest first."""
        count = math.ceil(math.log10(self.weight)) if self.weight > 1 else 0
        weights = [self.weight / 10**j for j in range(count, 0, -1)]
        return tuple(self._weighing(weight) for weight in weights)

    def _weighing(self, weight: float) -> ScoreMetric:
        other = copy(self)
        other.weight = weight
        return other

    def sharp(self, x: Tensor, p: Tensor) -> Tensor:
        """``g^-1 p`` by Woodbury's identity; K evaluations per point.

        Args:
            x: points (..., D).
            p: covectors (..., D).

        Returns:
            vectors (..., D).
        """
        if not self.weight:
            return p
        s = self.scores(x)
        one = torch.eye(self.rank, dtype=x.dtype, device=x.device)
        kernel = torch.linalg.cholesky(s @ s.mT + one * (self.rank / self.weight))
        along = torch.cholesky_solve((s @ p.unsqueeze(-1)), kernel)
        return p - (s.mT @ along).squeeze(-1)


class ScoreJacobian(_AtNoise):
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
        ju = self._push(x, u)
        return (ju * (ju if v is u else self._push(x, v))).sum(-1) + self.eps * (u * v).sum(-1)

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
            return self._push(x, self._push(x, u)) + self.eps * u

    def _push(self, x: Tensor, u: Tensor) -> Tensor:
        sigma = x.new_tensor(self.sigma)
        return (self.denoiser.jvp(x, sigma, u)[1] - u) / self.sigma**2
