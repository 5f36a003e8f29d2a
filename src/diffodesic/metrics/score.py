r"""Metrics made of the score s of one noise level, s = (m - x)/sigma^2.

The score metric ``g = I + w s s^T`` (Azeglio & Di Bernardo, 2505.11128; the same tensor is the
Monge metric of Hartmann, Girolami & Klami, 2202.10755) charges the change of log-density: where
s = grad phi it is the metric of the graph (x, sqrt(w) phi(x)).  With r the change of phi along a
segment, by the trapezoidal rule (s_i + s_{i+1})/2 . u_i,

    steps = |u|^2 + w r^2,    d(sum steps)/dx_i = 2 (bend of x)_i + 2 w (r_{i-1} - r_i) s_i,

a gradient from scores alone, exact for the change of phi itself, with the Gauss-Newton Hessian
of :class:`diffodesic.numerics.hessians.RankOneSum`.  Of rank K: the mean of s_k s_k^T over the
scores s_k at K displaced points, x + sigma c_k with c_k fixed; one score leaves all but one normal
direction free.

With S the K x D scores, c = w/K and M = I + c S S^T, everything is O(K D) (Woodbury):

    g^-1 p = p - c S^T M^-1 S p,    log vol = 1/2 log det M,
    g Gamma(u, v) = c sum_k [ s_k (u.J_k v + v.J_k u)/2
                              + (s_k.v) (J_k - J_k^T) u / 2 + (s_k.u) (J_k - J_k^T) v / 2 ],

the last line zero for a true score.  Curvatures: :mod:`diffodesic.metrics.score_curvature`.
"""

from __future__ import annotations

import math
from copy import copy
from typing import Literal

import torch
from torch import Tensor

from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.denoisers.noise_level import choose_noise_level
from diffodesic.geometry.energy import Evaluation, Order, PathEnergy
from diffodesic.geometry.status import Status
from diffodesic.metrics.one_level import AtNoise, OneLevelEnergy, weight_unit
from diffodesic.numerics import checks
from diffodesic.numerics.hessians import BlockDiagonal, PathHessian, RankOneSum, bend

__all__ = ["ScoreEnergy", "ScoreMetric"]


class ScoreMetric(AtNoise):
    """``g(x) = I + weight mean_k s_k(x) s_k(x)^T``, scores at one noise level (2505.11128, Eq. 4).

    Args:
        denoiser: posterior mean of the diffusion model.
        log_snr: noise level of the score, log SNR in data units; ``"auto"``: that of
            :func:`choose_noise_level` for ``data``.
        weight: weight of the score term, >= 0, in the core's coordinates (for a weight given in
            those of a network see :meth:`native`).
        relative: give ``weight`` in units of ``1 / E|s|^2`` over ``data``, noised to the level.
        rank: number K of scores; with K > 1 the points x + sigma c_k carry one more step of noise,
            c_k standard normal, all but the first, which is x itself.
        data: clean points (N, D), for ``"auto"`` and ``relative`` only.
        seed: seed of the displacements, and of the noise on ``data``.

    Raises:
        ValueError: for a weight that is negative or not finite, a rank outside 1 ... D, a level
            outside the denoiser's range, data that are missing, or a score without size on them.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        *,
        log_snr: float | Literal["auto"] = "auto",
        weight: float = 1.0,
        relative: bool = False,
        rank: int = 1,
        data: Tensor | None = None,
        seed: int = 0,
    ) -> None:
        weight = checks.number(weight, "weight")
        if not 0 <= weight < math.inf:
            raise ValueError(f"weight must be >= 0 and finite, got {weight}")
        checks.of_kind(denoiser, "denoiser", Denoiser)
        if checks.whole(rank, "rank", 1) > denoiser.dim:
            raise ValueError(f"rank must be between 1 and {denoiser.dim}, got {rank}")
        if data is None and (relative or log_snr == "auto"):
            wants = "a relative weight" if relative else 'log_snr="auto"'
            raise ValueError(f"{wants} is measured on data; give data (N, {denoiser.dim})")
        if data is not None and log_snr == "auto":
            log_snr = choose_noise_level(denoiser, data, seed=seed).log_snr
        super().__init__(denoiser, checks.number(log_snr, "log_snr"))
        if data is not None and relative:
            weight *= weight_unit(denoiser, self._noised(data, seed), self.log_snr)
        self.weight, self.rank = weight, rank
        generator = checks.generator(seed)
        noise = torch.randn(rank - 1, denoiser.dim, generator=generator, dtype=torch.float64)
        self.displacements = torch.cat([torch.zeros(1, denoiser.dim).double(), noise])

    @classmethod
    def native(
        cls,
        denoiser: Denoiser,
        alpha: float | Tensor,
        sigma: float | Tensor,
        *,
        weight: float = 1000.0,
        rank: int = 1,
        seed: int = 0,
    ) -> ScoreMetric:
        """The metric of a weight given for ``x = alpha z``, the coordinates of a network.

        There ``s_x = s_z / alpha``, so ``|dx|^2 + L (s_x.dx)^2 = alpha^2 (|dz|^2 + (L/alpha^2)
        (s_z.dz)^2)``: the weight is divided by alpha^2, and lengths in x are alpha times those
        in z.  The setting of 2505.11128 is ``native(denoiser, *schedule.alpha_sigma(400))`` for
        a table of 1000 times.

        Args:
            denoiser: posterior mean, of the core's z.
            alpha: scale of the signal, > 0.
            sigma: scale of the noise in x, > 0.
            weight: the weight L in x.
            rank: see the class.
            seed: see the class.

        Returns:
            the metric on z.

        Raises:
            ValueError: for scales that are not positive.
        """
        alpha, sigma = checks.number(alpha, "alpha"), checks.number(sigma, "sigma")
        if not (alpha > 0 and sigma > 0):
            raise ValueError(f"alpha and sigma must be positive, got {alpha:g} and {sigma:g}")
        level = 2 * math.log(alpha / sigma)
        return cls(denoiser, log_snr=level, weight=weight / alpha**2, rank=rank, seed=seed)

    def scores(self, x: Tensor) -> Tensor:
        """The K scores at points (..., D), (..., K, D); K evaluations per point."""
        return self.score(self._around(x))

    def scores_jvp(self, x: Tensor, u: Tensor) -> Tensor:
        """The derivatives ``J_k u`` of the K scores, (..., K, D); K JVPs per point."""
        return self.score_jvp(self._around(x), u.unsqueeze(-2))

    def _around(self, x: Tensor) -> Tensor:
        x = checks.floating(x, "x")
        return x.unsqueeze(-2) + self.sigma * self.displacements.to(x)

    def _noised(self, data: Tensor, seed: int) -> Tensor:
        generator = checks.generator(seed)
        noise = torch.randn(data.shape, generator=generator, dtype=data.dtype)
        return data + self.sigma * noise.to(data.device)

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """``u.v + weight mean_k (s_k.u)(s_k.v)``; K evaluations per point."""
        s = self.scores(x)
        along = (s * u.unsqueeze(-2)).sum(-1) * (s * v.unsqueeze(-2)).sum(-1)
        return (u * v).sum(-1) + self.weight * along.mean(-1)

    def squared_steps(self, x: Tensor) -> Tensor:
        """``|u|^2 + weight mean_k r_k^2`` by the trapezoidal rule; K evaluations per node."""
        return self.along(x, self.scores(x))[0]

    def energy(self) -> PathEnergy:
        """The energy of the graph of log-density, with a gradient from scores alone."""
        return ScoreEnergy(self)

    def energy_floor(self, x: Tensor) -> Tensor:
        """The least energy of a path with the ends of this one, and its change of log-density.

        It is ``1/2 (|dx|^2 + weight mean_k (d phi_k)^2)``, by Cauchy and Schwarz.  d phi is
        known along the path alone: a bound for a true score, a diagnostic for a network's.

        Args:
            x: nodes (..., n+1, D).

        Returns:
            energies (...).

        Cost: K evaluations per node.
        """
        _, change, _ = self.along(x, self.scores(x))
        across = (x[..., -1, :] - x[..., 0, :]).square().sum(-1)
        return (across + self.weight * change.sum(-2).square().mean(-1)) / 2

    def along(self, x: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Parts of the steps along paths, with the scores at their nodes.

        If the score along a segment changes evenly, log-density strays from its chord by at most
        |(s_{i+1} - s_i).u_i| / 8, there and back.

        Args:
            x: nodes (..., n+1, D).
            scores: at the nodes, (..., n+1, K, D).

        Returns:
            squared lengths (..., n); the changes r of log-density (..., n, K); and which segments
            could hide more length than they show, (..., n).
        """
        u = x.diff(dim=-2).unsqueeze(-2)
        first, last = scores[..., :-1, :, :], scores[..., 1:, :, :]
        change = ((first + last) / 2 * u).sum(-1)
        steps = u.square().sum((-1, -2)) + self.weight * change.square().mean(-1)
        stray = ((last - first) * u).sum(-1) / 8
        return steps, change, self.weight * (2 * stray).square().mean(-1) > steps

    def weighing(self, weight: float) -> ScoreMetric:
        """The same metric with another weight."""
        other = copy(self)
        other.weight = weight
        return other

    def sharp(self, x: Tensor, p: Tensor) -> Tensor:
        """``g^-1 p`` by Woodbury's identity; K evaluations per point."""
        return self._sharp(self.scores(x), p) if self.weight else p

    def _sharp(self, s: Tensor, p: Tensor) -> Tensor:
        kernel = torch.linalg.cholesky(self.gram(s))
        along = torch.cholesky_solve((s @ p.unsqueeze(-1)), kernel)
        return p - self.weight / self.rank * (s.mT @ along).squeeze(-1)

    def gram(self, s: Tensor) -> Tensor:
        """``M = I + (weight/K) S S^T`` of scores (..., K, D): (..., K, K), W for one score."""
        one = torch.eye(self.rank, dtype=s.dtype, device=s.device)
        return one + self.weight / self.rank * (s @ s.mT)

    def log_volume(self, x: Tensor) -> Tensor:
        """Log of the volume element, ``1/2 log det g``, (...); K evaluations per point."""
        factor = torch.linalg.cholesky(self.gram(self.scores(x)))
        return factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def christoffel(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Christoffel symbols on two vectors, ``Gamma(u, v)``; geodesics: ``x'' = -Gamma(x', x')``.

        For a true score this is ``weight s (u.Jv) / W``; the part of a network's Jacobian that is
        not symmetric is kept.

        Args:
            x: points (..., D).
            u: vectors (..., D).
            v: vectors (..., D).

        Returns:
            (..., D), without a graph.

        Cost: K evaluations, K VJPs and 2 K JVPs per point (K if ``v`` is ``u``).
        """
        x, a, b = torch.broadcast_tensors(x, u, v)
        with torch.enable_grad():
            leaf = self._around(x).detach().requires_grad_()
            score = self.score(leaf)
        s, a, b = score.detach(), a.unsqueeze(-2), b.unsqueeze(-2)
        with torch.no_grad():
            ja = self.score_jvp(leaf.detach(), a)
            jb = ja if v is u else self.score_jvp(leaf.detach(), b)
        sa, sb = (s * a).sum(-1, keepdim=True), (s * b).sum(-1, keepdim=True)
        (pulled,) = torch.autograd.grad(score, leaf, sb * a + sa * b)
        even = (b * ja + a * jb).sum(-1, keepdim=True) / 2
        lowered = s * even + (sb * ja + sa * jb - pulled) / 2
        return self._sharp(s, self.weight / self.rank * lowered.sum(-2))


class ScoreEnergy(OneLevelEnergy):
    """The energy of a score metric, with a gradient and a Hessian from scores alone.

    Doubtful segments are those in which log-density may rise and fall unseen: a search would hide
    its variation there.

    Cost per node: K evaluations, and K VJPs for ``order=1`` alone.
    """

    metric: ScoreMetric
    coarsest = 32  # fewer hide what log-density does between nodes
    cheap_hessian = True
    # that gradient belongs to the change of phi, the steps to its trapezoidal estimate
    tolerance = 1e-3
    doubt = Status.TOO_COARSE

    def steps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Squared lengths (..., n), and which segments could hide more than they show."""
        squared, _, hidden = self.metric.along(x, self.metric.scores(x))
        return squared, hidden

    def evaluate(self, x: Tensor, *, order: Order = 1) -> Evaluation:
        """In reverse mode, or with ``order=2`` the gradient and the Hessian of the graph."""
        if order < 2:
            return super().evaluate(x, order=order)
        metric = self.metric
        with torch.no_grad():
            scores = metric.scores(x)
            steps, change, hidden = metric.along(x, scores)
            weight = metric.weight / metric.rank
            pull = bend(x.diff(dim=-2)) + weight * (bend(change).unsqueeze(-1) * scores).sum(-2)
            hessian = self._graph_hessian(steps, scores, weight)
        return Evaluation(steps, hidden, steps.shape[-1] * pull, hessian)

    def _graph_hessian(self, steps: Tensor, scores: Tensor, weight: float) -> PathHessian:
        if weight:
            return RankOneSum.of(scores, weight)
        return BlockDiagonal.of(torch.ones_like(steps).unsqueeze(-1), self.blocks)

    def stages(self) -> tuple[PathEnergy, ...]:
        """The same at a tenth, a hundredth, ... of a weight above 1, lightest first."""
        weight = self.metric.weight
        count = math.ceil(math.log10(weight)) if weight > 1 else 0
        lighter = (self.metric.weighing(weight / 10**j) for j in range(count, 0, -1))
        return (*(metric.energy() for metric in lighter), self)
