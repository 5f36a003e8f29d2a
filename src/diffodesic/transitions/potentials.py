r"""Potentials U(x): energies, forces, periods and the temperature at which they are read.

A potential stands for its Boltzmann distribution p(x) ~ exp(-U(x)/kT).  Its kT, in its own unit
of energy, and the period of each coordinate are attributes of the potential alone.  Closed forms:

- double well     U = h (x^2 - 1)^2 + s/2 |y|^2: minima (+-1, 0) at 0, barrier h;
- Mueller-Brown   four anisotropic Gaussians (Mueller & Brown 1979), at kT = 15;
- dual channel    two basins at (+-1.5, 0) and a wall on x = 0 with two unequal gaps;
- ring            U = c (|x|^2 - 1)^2 + b y^2 + t y + l x: minima near (+-1, 0), two unequal arcs.

Surfaces over two angles, alanine dipeptide's among them, are in
:mod:`diffodesic.transitions.surfaces`, functions of one's own in
:mod:`diffodesic.transitions.own_potentials`.

Energies are counted: ``with diffodesic.counting() as cost: ...; cost.energies``.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from diffodesic.numerics import checks
from diffodesic.numerics.cost import record

__all__ = [
    "DoubleWell",
    "DualChannel",
    "MuellerBrown",
    "Potential",
    "Ring",
]

Box = tuple[tuple[float, float], ...]


class Potential(ABC):
    """A potential energy on points of shape (..., d).

    A subclass writes :meth:`energy` and sets every attribute but ``name``, which have no defaults:
    what takes a potential refuses one without them (TypeError).

    Energies and gradients are in the dtype of the points (integers: torch's default).  They raise
    TypeError for complex numbers, and ValueError for points of another dimension or not finite.

    Attributes:
        dim: number d of coordinates.
        kT: temperature times Boltzmann's constant, in ``unit``.
        unit: unit of energy.
        period: period of each coordinate, None where it has none.
        box: lowest and highest value of each coordinate, for grids, scales and pictures; of a
            periodic coordinate one period.
        name: a short name.

    **Cost** of a call or a gradient: one energy per point.
    """

    dim: int
    kT: float
    unit: str
    period: tuple[float | None, ...]
    box: Box
    name: str = "potential"

    @abstractmethod
    def energy(self, x: Tensor) -> Tensor:
        """U at ``x`` (..., d), in ``unit``, (...); differentiable.  Call the object: it counts."""

    def __call__(self, x: Tensor) -> Tensor:
        """Energies (...) at points ``x`` (..., d), in ``unit``; differentiable."""
        return self.energy(self._counted(x))

    def gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Energies (...) and gradients (..., d) at points ``x`` (..., d), without a graph."""
        return self._gradient(self._counted(x))

    def _gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What :meth:`gradient` returns; a subclass with a faster way writes it here."""
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            energy = self.energy(leaf)
            if not energy.requires_grad:
                raise ValueError(
                    f"the energies of {self.name} have no derivative; write them in torch "
                    "functions of the points, without detach() or numpy"
                )
            (slope,) = torch.autograd.grad(energy.sum(), leaf)
        return energy.detach(), slope

    def force(self, x: Tensor) -> Tensor:
        """Force ``-grad U`` at points (..., d); cost as for :meth:`gradient`."""
        return -self.gradient(x)[1]

    def hessian(self, x: Tensor) -> Tensor:
        """Second derivatives (..., d, d) of U at points ``x`` (..., d), by central differences.

        Returns:
            symmetric matrices, to 1e-8 of the box squared times the fourth derivative.

        **Cost** ``2 d`` energies with gradient per point.
        """
        x = self._checked(x)
        h = 1e-4 * self.size
        move = h * torch.eye(self.dim, dtype=x.dtype, device=x.device)
        ahead, behind = (self.gradient(x.unsqueeze(-2) + sign * move)[1] for sign in (1, -1))
        rows = (ahead - behind) / (2 * h)
        return (rows + rows.mT) / 2

    def at(self, kT: float) -> Potential:
        """The same potential at another temperature ``kT``, positive and in ``unit``."""
        other = copy.copy(self)
        other.kT = positive(kT, "kT")
        return other

    @property
    def size(self) -> float:
        """Length of the shortest side of the box."""
        return min(high - low for low, high in self.box)

    def wrap(self, x: Tensor) -> Tensor:
        """Bring the periodic coordinates of ``x`` (..., d) into the box."""
        x = checks.floating(x, "x")
        low, period = self._lattice(x)
        return torch.where(period > 0, low + torch.remainder(x - low, _never_zero(period)), x)

    def difference(self, a: Tensor, b: Tensor) -> Tensor:
        """``a - b`` by the nearest image, (..., d)."""
        gap = checks.floating(a - b, "a - b")
        _, period = self._lattice(gap)
        turns = torch.round(gap / _never_zero(period))
        return torch.where(period > 0, gap - period * turns, gap)

    def scatter(self, count: int, generator: torch.Generator) -> Tensor:
        """Points (count, d), uniform in the box."""
        low, high = torch.tensor(self.box, dtype=torch.float64).T
        share = torch.rand(count, self.dim, generator=generator, dtype=torch.float64)
        return low + (high - low) * share

    def probes(self) -> Tensor:
        """Fixed points (16, d) of the box, whose energies tell a potential from others."""
        return self.scatter(16, torch.Generator().manual_seed(0))

    def _lattice(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Lower corner of the box and the periods, 0 where there is none; (d,) each."""
        low = x.new_tensor([side[0] for side in self.box])
        return low, x.new_tensor([period or 0.0 for period in self.period])

    def _counted(self, x: Tensor) -> Tensor:
        """Points (..., d), checked and counted."""
        x = self._checked(x)
        record(energies=x[..., 0].numel())
        return x

    def _checked(self, x: Tensor) -> Tensor:
        what = f"the dimension of {self.name}"
        return checks.points(x, "x", self.dim, what, empty=True, detach=False)


def _never_zero(period: Tensor) -> Tensor:
    return torch.where(period > 0, period, torch.ones_like(period))


def positive(value: float, name: str) -> float:
    """``value``, or an error that names it."""
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be a positive number, got {value}")
    return float(value)


class DoubleWell(Potential):
    """``barrier (x^2 - 1)^2 + stiffness/2 |y|^2`` in d dimensions, reduced units, kT = 1.

    Args:
        dim: number d of coordinates; all but the first are harmonic.
        barrier: energy of the saddle at the origin; the minima (+-1, 0) are at 0.
        stiffness: of the other coordinates.
    """

    kT, unit, name = 1.0, "reduced", "double-well"

    def __init__(self, dim: int = 2, barrier: float = 10.0, stiffness: float = 20.0) -> None:
        self.dim, self.barrier, self.stiffness = dim, barrier, stiffness
        self.period = (None,) * dim
        self.box = ((-2.0, 2.0), *((-1.5, 1.5),) * (dim - 1))

    def energy(self, x: Tensor) -> Tensor:
        """U at ``x`` (..., d), (...)."""
        well = self.barrier * (x[..., 0].square() - 1).square()
        return well + self.stiffness / 2 * x[..., 1:].square().sum(-1)


class MuellerBrown(Potential):
    """The surface of Mueller and Brown (1979) with its own numbers, at kT = 15 (reduced units).

    Minima (-.5582, 1.4417), (.6235, .0280), (-.0500, .4667); saddles (-.8220, .6243),
    (.2125, .2930). At kT = 15 the barrier from the deepest minimum is 7 kT.
    """

    dim, kT, unit, name = 2, 15.0, "reduced", "mueller-brown"
    period = (None, None)
    box = ((-1.8, 1.4), (-0.6, 2.4))
    _height = (-200.0, -100.0, -170.0, 15.0)
    _centre = ((1.0, 0.0), (0.0, 0.5), (-0.5, 1.5), (-1.0, 1.0))
    _curve = ((-1.0, 0.0, -10.0), (-1.0, 0.0, -10.0), (-6.5, 11.0, -6.5), (0.7, 0.6, 0.7))

    def energy(self, x: Tensor) -> Tensor:
        """U at ``x`` (..., 2), (...)."""
        return self._terms(x)[0].sum(-1)

    def _gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            terms, *rates = self._terms(x)
            return terms.sum(-1), torch.stack([(terms * rate).sum(-1) for rate in rates], -1)

    def _terms(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The four Gaussians, and the derivatives of their exponents by x and y, (..., 4) each."""
        a, b, c = x.new_tensor(self._curve).unbind(-1)
        dx, dy = (x.unsqueeze(-2) - x.new_tensor(self._centre)).unbind(-1)
        terms = x.new_tensor(self._height) * (a * dx**2 + b * dx * dy + c * dy**2).exp()
        return terms, 2 * a * dx + b * dy, b * dx + 2 * c * dy


class DualChannel(Potential):
    """Two basins and a wall with two unequal gaps, off the line between the basins; kT = 1.

    ``2 (x^2/2.25 - 1)^2 + y^2/2 + 30 e^{-x^2/.18} (1 - .95 e^{-(y - 1.2)^2/.18} - .85 e^{-(y +
    1.2)^2/.18})``: the straight line meets the wall at its full height of 30.
    """

    dim, kT, unit, name = 2, 1.0, "reduced", "dual-channel"
    period = (None, None)
    box = ((-2.6, 2.6), (-2.6, 2.6))
    wall, width, gaps = 30.0, 0.3, ((1.2, 0.95), (-1.2, 0.85))

    def energy(self, x: Tensor) -> Tensor:
        """U at ``x`` (..., 2), (...)."""
        u, v = x[..., 0], x[..., 1]
        scale = 2 * self.width**2
        solid = torch.ones_like(v)
        for centre, depth in self.gaps:
            solid = solid - depth * torch.exp(-((v - centre) ** 2) / scale)
        basins = 2 * (u**2 / 2.25 - 1) ** 2 + v**2 / 2
        return basins + self.wall * torch.exp(-(u**2) / scale) * solid


class Ring(Potential):
    """``crest (|x|^2 - 1)^2 + barrier y^2 + tilt y + lean x``: a valley round a peak; kT = 1.

    Args:
        crest: height of the peak at the origin.
        barrier: energy of the passes near (0, +-1) over the minima near (+-1, 0).
        tilt: makes the lower arc the easier one, by twice its value.
        lean: makes the left basin the deeper one, by twice its value.
    """

    dim, kT, unit, name = 2, 1.0, "reduced", "ring"
    period = (None, None)
    box = ((-1.8, 1.8), (-1.8, 1.8))

    def __init__(
        self, crest: float = 40.0, barrier: float = 6.0, tilt: float = 1.0, lean: float = 0.0
    ) -> None:
        self.crest, self.barrier, self.tilt, self.lean = crest, barrier, tilt, lean
        if lean:
            self.name = "leaning ring"

    def energy(self, x: Tensor) -> Tensor:
        """U at ``x`` (..., 2), (...)."""
        y = x[..., 1]
        rim = (x.square().sum(-1) - 1).square()
        return self.crest * rim + self.barrier * y**2 + self.tilt * y + self.lean * x[..., 0]
