r"""The exact denoiser of a Boltzmann distribution in at most three dimensions, on a grid.

The density p(x) ~ exp(-U(x)/kT) is represented by weights w at the nodes g of a grid.  The
posterior of z = x + sigma eps then has, with y = x - z and k = 1/sigma^2,

    E[y^p | z] = M_p / M_0,     M_p = sum_g w_g prod_d (g_d - z_d)^{p_d} e^{-k (g_d - z_d)^2/2},

and the kernel is a product over coordinates: M takes D matrix products with the weights, and no
table over points and nodes.  T = (x0, |x0|^2) needs p up to 2 for its mean and up to 4 for its
covariance.  The trapezoidal rule on smooth functions errs by e^{-2 (pi s/h)^2} at a posterior of
standard deviation s and grid spacing h, so noise down to sigma = h is exact for practical purposes.

A periodic coordinate is lifted to the line, where the density repeats in every cell.  It cannot be
normalised there, but every posterior at finite noise can, so psi, mu and Cov[T] exist.  Nothing
happens at the edge of the cell, shifting z by a period shifts the posterior by it, and the images
of an end point are the windings of a path.  (A density cut to one cell would have walls at its
ends.)  The sum over images is per coordinate,  e^{-k y^2/2} -> sum_n e^{-k (y + nL)^2/2}.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.numerics import checks
from diffodesic.transitions.potentials import Potential

__all__ = ["GridDenoiser"]

_POINTS = {1: 1024, 2: 192, 3: 64}


class GridDenoiser(Denoiser):
    """Posterior moments of ``exp(-U/kT)`` by quadrature; exact, D <= 3, periodic or not.

    Args:
        potential: the potential; its ``box`` bounds coordinates without period.
        points: grid nodes per coordinate; default 1024, 192, 64 for D = 1, 2, 3.

    Attributes:
        weights: probability of the nodes (n, ...); of a periodic coordinate those of one cell.

    Where U lies more than 700 kT above its minimum the weight is zero in float64, as for an
    infinite energy. A point z without weight within 38 sigma has no posterior: moments are NaN.

    Raises:
        ValueError: for D > 3, fewer than 8 nodes, or a lowest energy that is not finite.

    **Cost** N points take O(N n^D) multiplications in matrix products, and O(N n) exponentials.
    """

    closed_form = True

    def __init__(self, potential: Potential, *, points: int | None = None) -> None:
        checks.of_kind(potential, "potential", Potential)
        if potential.dim not in _POINTS:
            raise ValueError(
                f"a grid serves up to 3 coordinates, {potential.name} has {potential.dim}; "
                "train a denoiser instead"
            )
        points = _POINTS[potential.dim] if points is None else checks.whole(points, "points", 8)
        self.potential, self.dim, self.period = potential, potential.dim, potential.period
        # the last line of a periodic grid is the first
        self.axes = [
            torch.linspace(*side, points + 1, dtype=torch.float64)[: -1 if length else None]
            for side, length in zip(potential.box, self.period, strict=True)
        ]
        grid = torch.stack(torch.meshgrid(*self.axes, indexing="ij"), -1)
        energy = potential(grid) / potential.kT
        if not math.isfinite(float(energy.min())):
            raise ValueError(
                f"the lowest energy of {potential.name} on the grid is {float(energy.min())}; "
                "it must be finite: check the potential inside its box"
            )
        share = torch.exp(energy.min() - energy)
        for axis, length in enumerate(self.period):
            if length is None:  # the ends of a trapezoidal rule
                share.movedim(axis, 0)[[0, -1]] *= 0.5
        self.weights = share / share.sum()
        self._scale(grid)

    def _scale(self, grid: Tensor) -> None:
        """Mean, variance and range of noise, as solvers need them."""
        self.mean = torch.einsum("...,...d->d", self.weights, grid)
        spread = torch.einsum("...,...d->d", self.weights, (grid - self.mean) ** 2)
        lengths = [length for length in self.period if length]
        for axis, length in enumerate(self.period):
            if length:
                # on the line the density has no mean and no bound: the cell takes their place
                self.mean[axis], spread[axis] = sum(self.potential.box[axis]) / 2, length**2
        self.variance = float(spread.mean())
        spacing = max(float(node[1] - node[0]) for node in self.axes)
        lowest = -2 * math.log(max(lengths)) if lengths else -math.inf
        self.log_snr_range = (lowest, -2 * math.log(spacing))

    def posterior_mean(self, z: Tensor, sigma: Tensor) -> Tensor:
        """E[x0 | z] for ``z`` (N, D), ``sigma`` (N,)."""
        return z + self._first_two(z, sigma**-2)[0]

    def moments(self, z: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Exact E[x0 | z] (..., D) and E[|x0|^2 | z] (...); cost of one evaluation."""
        flat, level, batch = self._flatten(z, sigma)
        shift, square = self._first_two(flat, level**-2)
        second = square + (2 * shift + flat).mul(flat).sum(-1)
        m, second = self._counted(batch, flat + shift, second)
        return m, second

    def statistic_covariance(
        self, z: Tensor, sigma: Tensor, a: Tensor, b: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As :meth:`Denoiser.statistic_covariance`, by quadrature; cost of one evaluation."""
        flat, level, batch = self._flatten(z, sigma)
        a, b = a.expand(*batch, self.dim).reshape(-1, self.dim), b.expand(batch).reshape(-1)
        first, cross, fourth = self._central(flat, level**-2)
        # |x|^2 = |y|^2 + 2 z.y + |z|^2: in y the vector is (a + 2 b z, b)
        pulled = a + 2 * b.unsqueeze(-1) * flat
        along = (first @ pulled.unsqueeze(-1)).squeeze(-1) + cross * b.unsqueeze(-1)
        second = (cross * pulled).sum(-1) + fourth * b + 2 * (flat * along).sum(-1)
        first, change = self._counted(batch, along, second)
        return first, change

    def log_partition(self, h: Tensor, k: Tensor) -> Tensor:
        """Log-partition ``psi = log E exp(h.x0 - k|x0|^2/2)``; grad in (h, -k/2) is ``mu``.

        Args:
            h: first natural parameter ``k z``, (..., D).
            k: precision of the noise ``1/sigma^2``, (...), positive.

        Returns:
            psi, (...); along periodic coordinates the density is normalised to one per cell.
        """
        k = torch.as_tensor(k, dtype=h.dtype, device=h.device).expand(h.shape[:-1])
        z = (h / k.unsqueeze(-1)).reshape(-1, self.dim)
        table, offset = self._table(z, k.reshape(-1), 0)
        psi = table.reshape(-1).log() + offset + k.reshape(-1) * z.square().sum(-1) / 2
        return psi.reshape(h.shape[:-1])

    def _first_two(self, z: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """E[y] (N, D) and E[|y|^2] (N,) with y = x0 - z."""
        table, _ = self._table(z, k, 2)
        table = table / self._pick(table).reshape(-1, *[1] * self.dim)
        shift = torch.stack([self._pick(table, i) for i in range(self.dim)], -1)
        return shift, torch.stack([self._pick(table, i, i) for i in range(self.dim)]).sum(0)

    def _central(self, z: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Cov[y] (N, D, D), Cov[y, |y|^2] (N, D) and Var|y|^2 (N,)."""
        table, _ = self._table(z, k, 4)
        table = table / self._pick(table).reshape(-1, *[1] * self.dim)
        every = range(self.dim)
        y = torch.stack([self._pick(table, i) for i in every], -1)
        outer = torch.stack(
            [torch.stack([self._pick(table, i, j) for j in every], -1) for i in every], -1
        )
        square = outer.diagonal(dim1=-2, dim2=-1).sum(-1)
        third = sum(torch.stack([self._pick(table, i, j, j) for i in every], -1) for j in every)
        fourth = sum(self._pick(table, i, i, j, j) for i in every for j in every)
        first = outer - y.unsqueeze(-1) * y.unsqueeze(-2)
        return first, third - y * square.unsqueeze(-1), fourth - square**2

    def _pick(self, table: Tensor, *coordinates: int) -> Tensor:
        """The moment of the product of ``y`` at the given coordinates, (N,)."""
        for axis in range(self.dim):
            table = table.select(1, coordinates.count(axis))
        return table

    def _table(self, z: Tensor, k: Tensor, order: int) -> tuple[Tensor, Tensor]:
        """M_p for all p up to ``order`` per coordinate, (N, order+1, ...), times e^-offset (N,)."""
        table = self.weights.to(z).reshape(1, 1, -1)
        offset = torch.zeros_like(k)
        for axis in range(self.dim):
            kernel, depth = self._kernel(z[:, axis], k, axis, order)
            offset = offset + depth
            # (N, P, n) @ (N or 1, done, n, rest): one coordinate of the grid becomes a power of y
            done, count = (order + 1) ** axis, kernel.shape[-1]
            rest = table.shape[-1] // count
            table = kernel.unsqueeze(1) @ table.reshape(len(table), done, count, rest)
            table = table.reshape(len(z), done * (order + 1), rest)
        return table.reshape(len(z), *[order + 1] * self.dim), offset

    def _kernel(self, z: Tensor, k: Tensor, axis: int, order: int) -> tuple[Tensor, Tensor]:
        """``sum_n y^p e^{-k y^2/2}`` over images, (N, order+1, n), times e^-depth (N,)."""
        node, length = self.axes[axis].to(z), self.period[axis]
        y = node - z.unsqueeze(-1)
        if length:
            y = y - length * torch.round(y.detach() / length)
            # beyond 8.5 sigma a term is below the rounding of the first
            reach = math.ceil(8.5 / (length * float(k.detach().min()) ** 0.5) - 0.5)
            turns = length * torch.arange(-reach, reach + 1, dtype=z.dtype, device=z.device)
            y = y.unsqueeze(-2) + turns.unsqueeze(-1)
        else:
            y = y.unsqueeze(-2)
        exponent = -k[:, None, None] / 2 * y.square()
        depth = exponent.detach().amax((-2, -1))
        mass = (exponent - depth[:, None, None]).exp()
        terms = []
        for power in range(order + 1):
            terms.append(mass.sum(-2))
            if power < order:
                mass = mass * y
        return torch.stack(terms, -2), depth
