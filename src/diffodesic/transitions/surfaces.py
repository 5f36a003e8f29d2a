r"""Energy surfaces over two angles: periodic C2 splines, read from a table or shipped.

The bicubic spline with continuous second derivatives through values u on a periodic grid is

    U(phi, psi) = sum_ij c_ij b(phi/h - j) b(psi/h - i),     c = F^-1[ F[u] / F[b] ] per axis,

b the cubic B-spline, whose samples are (1, 4, 1)/6 (Unser 1999).  Grids are stored with psi in
rows and phi in columns; points are (phi, psi).  The 16 polynomial coefficients of every cell are
tabulated, so an energy with its gradient takes one look-up and two Horner schemes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor

from diffodesic.transitions.potentials import (
    DoubleWell,
    DualChannel,
    MuellerBrown,
    Potential,
    Ring,
    positive,
)
from diffodesic.transitions.tables import energies_on_torus, read_table

__all__ = ["SHIPPED", "PeriodicSurface", "alanine", "read_grid"]


class PeriodicSurface(Potential):
    """The C2 bicubic spline through energies on a periodic grid, with gradients in closed form.

    Args:
        values: energies (n_psi, n_phi): **rows are psi**, the second coordinate of a point, and
            columns phi, the first.
        kT: temperature times Boltzmann's constant, in ``unit``.
        unit: unit of energy.
        low: phi and psi at ``values[0, 0]``, or the value of both.
        name: a short name.

    Raises:
        ValueError: for fewer than 4 rows or columns, or values that are not finite.

    **Cost** a point reads its cell's 16 coefficients; no graph is built by ``gradient``.
    """

    dim = 2
    period = (2 * math.pi, 2 * math.pi)

    def __init__(
        self,
        values: Tensor,
        *,
        kT: float,
        unit: str = "kJ/mol",
        low: float | tuple[float, float] = -math.pi,
        name: str = "surface",
    ) -> None:
        values = torch.as_tensor(values, dtype=torch.float64)
        if values.ndim != 2 or min(values.shape) < 4 or not bool(values.isfinite().all()):
            raise ValueError(
                f"values must be a finite grid (n_psi, n_phi) of at least 4 x 4, got "
                f"{tuple(values.shape)}"
            )
        self.values, self.kT, self.unit, self.name = values, positive(kT, "kT"), unit, name
        lows = low if isinstance(low, tuple) else (low, low)
        self.box = tuple((start, start + 2 * math.pi) for start in lows)
        self._cells = _cell_polynomials(values)

    def energy(self, x: Tensor) -> Tensor:
        """U at ``x`` = (phi, psi), (..., 2), (...); any image of a point will do."""
        return self._evaluate(x, slopes=False)[0]

    def _gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            energy, *slopes = self._evaluate(x, slopes=True)
            return energy, torch.stack(slopes, -1)

    def _evaluate(self, x: Tensor, *, slopes: bool) -> tuple[Tensor, ...]:
        """Value, and if asked for the two slopes, from the cell's polynomial."""
        rows, columns = self.values.shape
        count = x.new_tensor([columns, rows])
        place = (x - x.new_tensor([side[0] for side in self.box])) * (count / (2 * math.pi))
        corner = place.detach().floor()
        t = place - corner
        index = torch.remainder(corner, count).long()
        cell = self._cells.to(x)[(index[..., 1] * columns + index[..., 0])]  # (..., 4, 4)
        u, v = t[..., 0, None], t[..., 1, None]
        across = ((cell[..., 3] * u + cell[..., 2]) * u + cell[..., 1]) * u + cell[..., 0]
        powers = torch.cat([torch.ones_like(v), v, v**2, v**3], -1)
        energy = (across * powers).sum(-1)
        if not slopes:
            return (energy,)
        along = (3 * cell[..., 3] * u + 2 * cell[..., 2]) * u + cell[..., 1]
        rates = torch.cat([torch.zeros_like(v), torch.ones_like(v), 2 * v, 3 * v**2], -1)
        scale = count / (2 * math.pi)
        return energy, (along * powers).sum(-1) * scale[0], (across * rates).sum(-1) * scale[1]


def _cell_polynomials(values: Tensor) -> Tensor:
    """Coefficients (cells, power of v, power of u) of the interpolating cubic spline."""
    coefficients = values
    for axis, n in enumerate(values.shape):
        # samples of the cubic B-spline at the knots are (1, 4, 1)/6
        gain = (4 + 2 * torch.cos(2 * math.pi * torch.arange(n, dtype=values.dtype) / n)) / 6
        shape = (-1, 1) if axis == 0 else (1, -1)
        spectrum = torch.fft.fft(coefficients, dim=axis) / gain.reshape(shape)
        coefficients = torch.fft.ifft(spectrum, dim=axis).real
    # powers of t (rows) of the four B-splines that overlap a cell
    basis = values.new_tensor([[1, 4, 1, 0], [-3, 0, 3, 0], [3, -6, 3, 0], [-1, 3, -3, 1]]) / 6
    near = torch.stack(
        [
            torch.stack([coefficients.roll((-i, -j), (0, 1)) for j in range(-1, 3)], -1)
            for i in range(-1, 3)
        ],
        -2,
    )
    return (basis @ near @ basis.T).reshape(-1, 4, 4)


def read_grid(
    path: str | PathLike[str], *, kT: float, unit: str = "kJ/mol", name: str = "surface"
) -> PeriodicSurface:
    """Periodic surface from a text table of ``phi psi energy``.

    The grid covers one turn of both angles in equal steps, in radians or in degrees, from any
    angle, with or without the closing line.  PLUMED's tables with their derivatives are read, too.
    Columns are told apart by their names (``# psi phi energy``), else phi runs fastest.

    Args:
        path: the table; ``#`` begins a comment.
        kT: temperature times Boltzmann's constant, in ``unit``.
        unit: unit of energy.
        name: a short name.

    Returns:
        the surface.

    Raises:
        OSError: if the file cannot be read.
        ValueError: naming the line, if the table is not one finite energy for every point.
    """
    values, low = energies_on_torus(read_table(path), positive(kT, "kT"))
    return PeriodicSurface(values, kT=kT, unit=unit, low=low, name=name)


def alanine() -> PeriodicSurface:
    """Free energy of alanine dipeptide over (phi, psi), in kJ/mol at 300 K (kT = 2.494)."""
    # fitted by tools/fit_surface.py to 60 ns of molecular dynamics in implicit solvent
    source = Path(__file__).parent / "assets" / "alanine.txt"
    return read_grid(source, kT=2.494, name="alanine")


SHIPPED: dict[str, Callable[[], Potential]] = {
    kind.name: kind for kind in (DoubleWell, MuellerBrown, DualChannel, Ring)
}
"""The potentials that ship, by name."""
SHIPPED["alanine"] = alanine
