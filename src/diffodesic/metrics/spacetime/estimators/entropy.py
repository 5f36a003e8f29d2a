r"""The path estimator of spacetime: relative entropies along reverse trajectories, as a metric.

The noise of :mod:`diffodesic.metrics.spacetime.reverse_paths` is drawn once for the object: the
energy of a path is a deterministic and smooth function of its nodes, a sum of squares of the
features

    sqrt(dk'_j) (m_i(Y_j) - m_{i+1}(Y_j)),      Y simulated from node i (and from node i + 1),

hence never negative and fit for Gauss-Newton.  Its gradient goes through the simulation of Y, one
level of the network in memory at a time.  Holding Y fixed in the gradient, cheaper, would leave
out how the law of Y moves with the node, a share of the metric's derivative that does not vanish
with the segments: the paths so found are not geodesics.

The metric is the limit of short steps, the Gram form ``int E (J_i u).(J_i v) dk'`` with J_i the
derivative of m_i at fixed Y.  Differences stand for J, so that evaluations are all it needs.

A search fits frozen noise as it fits probes: that of networks draws it anew (:class:`Redraw`).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.geometry.energy import Solver
from diffodesic.geometry.solvers.redraw import Redraw
from diffodesic.metrics.spacetime.estimators.base import SpacetimeEnergy, reverse
from diffodesic.metrics.spacetime.lines import natural_curve, natural_segments
from diffodesic.metrics.spacetime.mismatched_estimation import Hubs, neighbours, symmetrised
from diffodesic.metrics.spacetime.points import pack
from diffodesic.metrics.spacetime.reverse_paths import entropies, frozen_noise, walk
from diffodesic.numerics.curves import Polyline

SHORT = 1e-3  # length of a difference, in the metric of Gaussian data with this variance

__all__ = ["Mismatch"]


class Mismatch(SpacetimeEnergy):
    """Steps, inner products and mean parameters by mismatched estimation with frozen noise.

    Nodes must keep well below the model's last level, up to which the data are observed.

    Args:
        denoiser: posterior mean.
        samples: number S of antithetic pairs of trajectories.
        levels: steps in k', >= 5.
        seed: seed of the noise, drawn on the CPU.
        hubs: see :func:`diffodesic.metrics.spacetime.mismatch_steps`.
        chunk: at most so many hubs at a time; default all.
        log_snr_range: see :class:`SpacetimeEnergy`.

    Raises:
        ValueError: for samples or levels too few.
    """

    name = "path"
    exact_segments = True

    def __init__(
        self,
        denoiser: Denoiser,
        *,
        samples: int = 4,
        levels: int = 16,
        seed: int = 0,
        hubs: Hubs = "all",
        chunk: int | None = None,
        log_snr_range: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(denoiser, log_snr_range=log_snr_range)
        self.samples, self.hubs, self.chunk = samples, hubs, chunk
        self.levels = levels
        self.noise = frozen_noise(denoiser.dim, samples=samples, levels=levels, seed=seed)

    def redrawn(self, seed: int) -> Mismatch:
        """The same with other noise."""
        other = copy.copy(self)
        other.noise = frozen_noise(
            self.denoiser.dim, samples=self.samples, levels=self.levels, seed=seed
        )
        return other

    @property
    def default_solver(self) -> Solver | None:  # type: ignore[override]
        """For a network that can be judged :class:`Redraw`: a search fits frozen noise, too."""
        return Redraw() if self.fitted else super().default_solver

    def rows(self, x: Tensor) -> Tensor:
        """Steps of each antithetic pair.

        Args:
            x: packed points (..., n+1, D+1).

        Returns:
            squared lengths (S, ..., n), none negative; differentiable.

        Cost: ``8 S levels + 14`` evaluations per hub; a gradient, as many again and a backward
        pass through each.
        """
        hub, others = neighbours(x, self.hubs)
        square = entropies(
            self.denoiser,
            hub.reshape(-1, x.shape[-1]),
            others.reshape(-1, 2, x.shape[-1]),
            self.noise,
            chunk=self.chunk,
        )
        return symmetrised(
            square.reshape(self.samples, *others.shape[:-1]), x.shape[-2] - 1, self.hubs
        )

    def steps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean of :meth:`rows`; none is doubtful: they are sums of squares."""
        steps = self.rows(x).mean(0)
        return steps, torch.zeros_like(steps, dtype=torch.bool)

    def steps_and_slope(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """:meth:`steps` and the gradient of their sum, in reverse mode."""
        return reverse(self.steps, x)

    def curve(self, nodes: Tensor) -> Polyline:
        """See :func:`natural_curve`."""
        return natural_curve(self.gaussian, nodes)

    def segments(self, nodes: Tensor) -> Polyline:
        """See :func:`natural_segments`."""
        return natural_segments(nodes)

    def residuals(self, x: Tensor) -> Tensor:
        """Features whose squares add up to the steps.

        Args:
            x: packed points of one path, (n+1, D+1).

        Returns:
            (n, R) with R = 4 S (levels + 1) D for all hubs, half of it for alternate ones;
            differentiable.

        Cost: as for :meth:`rows`.
        """
        hub, others = neighbours(x, self.hubs)
        parts = [
            weight.sqrt()[:, None, None] * (means[..., 1:, :] - means[..., :1, :])
            for weight, means in walk(self.denoiser, hub, others, self.noise)
        ]
        # (levels + 1, T, H, 2, D) -> (H, 2, R'); a step is a mean over 2 S trajectories
        found = torch.stack(parts).movedim((2, 3), (0, 1)).flatten(2) / (2 * self.samples) ** 0.5
        if self.hubs == "alternate":
            return found.flatten(0, 1)[: len(x) - 1]
        return torch.cat([found[:-1, 1], found[1:, 0]], -1) / 2**0.5

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """``int E (J u).(J v) dk'`` under the posterior of ``x``, symmetric and not negative.

        Args:
            x: packed points (..., D+1).
            u: tangent vectors (..., D+1).
            v: tangent vectors (..., D+1).

        Returns:
            inner products (...).

        Cost per point: ``12 S levels + 26`` evaluations, ``8 S levels + 14`` if ``u`` is ``v``.
        """
        vectors = (u,) if v is u else (u, v)
        x, *vectors = torch.broadcast_tensors(x, *vectors)
        reach = [SHORT / self._length(x, w) for w in vectors]
        around = [x + s * r * w for r, w in zip(reach, vectors, strict=True) for s in (1, -1)]
        hub, others = x.reshape(-1, x.shape[-1]), torch.stack(around, -2)
        total = hub.new_zeros(())
        others = others.reshape(len(hub), -1, x.shape[-1])
        for weight, means in walk(self.denoiser, hub, others, self.noise):
            push = means[..., 1::2, :] - means[..., 2::2, :]
            total = total + weight * (push[..., 0, :] * push[..., -1, :]).sum(-1).mean(0)
        scale = 4 * (reach[0] * reach[-1]).squeeze(-1)
        return total.reshape(x.shape[:-1]) / scale

    def mu(self, x: Tensor) -> Tensor:
        """Mean parameters: the mean m, and the mean of |x0|^2 over the ends of the trajectories.

        Args:
            x: packed points (..., D+1).

        Returns:
            (..., D+1); the second has the scatter of 2 S samples of the posterior.

        Cost per point: ``6 S levels + 8`` evaluations.
        """
        hub = x.reshape(-1, x.shape[-1])
        means = [m for _, m in walk(self.denoiser, hub, hub.unsqueeze(1), self.noise)]
        first, last = means[0][0, :, 0], means[-1][:, :, 0]
        second = last.square().sum(-1).mean(0)
        return pack(first, second).reshape(x.shape)

    def _length(self, x: Tensor, u: Tensor) -> Tensor:
        """Length of ``u`` in the metric of Gaussian data, (..., 1); 1 where ``u`` is zero."""
        square = self.gaussian.inner(x, u, u).unsqueeze(-1)
        return torch.where(square > 0, square, 1.0).sqrt()
