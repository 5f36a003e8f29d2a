r"""Samples to train on: of a Boltzmann distribution by annealed MALA, or read from a trajectory.

Langevin walkers at kT do not cross barriers of many kT, so their basins would be weighted by where
they started.  Here N walkers start uniformly in the box, at infinite temperature, and are cooled by
sequential Monte Carlo (Neal, physics/9803008; Del Moral et al. 2006): with b the inverse
temperature in units of 1/kT,

    weight    w_i ~ e^{-(b' - b) U(x_i)/kT},  b' such that their effective number is N/2,
    resample  N walkers in proportion to w (systematically, so with the least noise),
    move      Metropolis-corrected Langevin steps for exp(-b' U/kT),

until b = 1.  Averages converge to those of exp(-U/kT) as N grows, basin populations included;
coordinates without period are kept inside the box, as on a grid.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from diffodesic.numerics import checks
from diffodesic.output.files import UNREADABLE
from diffodesic.transitions.langevin import Langevin, Walkers
from diffodesic.transitions.potentials import Potential

__all__ = ["boltzmann", "check_samples", "load_trajectory"]

_ROUNDS, _STEPS = 6, 5  # of moves at each temperature; the step is tuned between rounds
_SMALLEST = 1e-6  # a smaller rise of b means that hardly a walker has a low energy


def boltzmann(
    potential: Potential,
    count: int,
    *,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Sample ``exp(-U/kT)`` over all basins of the box.

    Args:
        potential: U and kT; any number of coordinates.
        count: number N of samples.
        seed: of all random numbers.
        progress: called with a short line at every temperature.

    Returns:
        points (N, d), wrapped, and ``grad U / kT`` there (N, d).

    Raises:
        ValueError: for fewer than 100 samples, or a potential whose low energies fill so little
            of its box that hardly a walker finds them.

    **Cost** about 31 energies with gradient per sample and temperature, of which there are 5 to 30.
    """
    checks.of_kind(potential, "potential", Potential)
    if count < 100:
        raise ValueError(f"samples = {count}: give at least 100.")
    generator = checks.generator(seed)
    x = potential.scatter(count, generator)
    inverse, step = 0.0, (potential.size / 10) ** 2
    while inverse < 1:
        energy = potential(x) / potential.kT
        rise = _rise(energy, 1 - inverse, potential.name)
        x = x[_resample(torch.softmax(-rise * energy, 0), generator)]
        inverse = min(1.0, inverse + rise)
        if progress:
            progress(f"sampling, kT x {1 / inverse:.3g}")
        hot = _Inside(potential, potential.kT / inverse)
        walkers = Walkers.at(hot, x)
        for _ in range(_ROUNDS * (1 if inverse < 1 else 4)):
            walkers = Langevin(hot, step).run(walkers, _STEPS, generator)
            # MALA is near its best where between a half and three quarters are accepted
            step *= 1.5 if walkers.accepted > 0.75 else 0.6 if walkers.accepted < 0.5 else 1.0
        x = potential.wrap(walkers.x)
    return x, walkers.slope / potential.kT


def _rise(energy: Tensor, most: float, name: str) -> float:
    """The rise of b, at most ``most``, that leaves half of the walkers effective."""

    def effective(rise: float) -> float:
        weight = torch.softmax(-rise * energy, 0)
        return float(1 / weight.square().sum())

    half = len(energy) / 2
    if not bool(energy.isfinite().any()) or bool(energy.isnan().any()):
        raise ValueError(f"{name} is not finite inside its box; check the potential there")
    if effective(most) >= half:
        return most
    low, high = 0.0, most
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if effective(middle) >= half else (low, middle)
    if low < _SMALLEST:
        raise ValueError(f"low energies of {name} fill too little of its box; give a smaller one")
    return low


def _resample(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Indices (N,) in proportion to ``weight`` (N,), by one uniform number."""
    first = torch.rand((), generator=generator, dtype=torch.float64)
    places = (torch.arange(len(weight), dtype=torch.float64) + first) / len(weight)
    return torch.searchsorted(weight.cumsum(0), places).clamp(max=len(weight) - 1)


class _Inside(Potential):
    """The same potential at another kT, infinite outside the box where there is no period."""

    def __init__(self, inner: Potential, kT: float) -> None:
        self.inner, self.dim, self.kT, self.unit = inner, inner.dim, kT, inner.unit
        self.period, self.box, self.name = inner.period, inner.box, inner.name

    def energy(self, x: Tensor) -> Tensor:
        """U at ``x`` (..., d), (...)."""
        return self._cut(x, self.inner.energy(x))

    def _gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        energy, slope = self.inner._gradient(x)
        return self._cut(x, energy), slope

    def _cut(self, x: Tensor, energy: Tensor) -> Tensor:
        low, high = x.new_tensor(self.box).T
        free = torch.tensor([length is not None for length in self.period], device=x.device)
        inside = (free | ((x >= low) & (x <= high))).all(-1)
        return torch.where(inside, energy, math.inf)


def load_trajectory(source: str | os.PathLike[str]) -> Tensor:
    """Read points of a trajectory.

    Args:
        source: a .npy file, or a .npz file; of several arrays in it one, ``FILE.npz:NAME``.
            Shape (N, d), or (chains, N, d).

    Returns:
        points (N, d), float64.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds no such array, or several.
    """
    import numpy as np

    text = os.fspath(source)
    name, _, key = text.rpartition(":") if ".npz:" in text else (text, "", "")
    path = Path(name)
    if not path.is_file():
        raise FileNotFoundError(f"no trajectory at {path}: give a .npy or .npz file.")
    with path.open("rb") as stream:  # numpy would leave a broken archive open
        try:
            content = np.load(stream, allow_pickle=False)
            names = [] if isinstance(content, np.ndarray) else content.files
            key = names[0] if len(names) == 1 and not key else key
            array = content[key] if key in names else content
        except UNREADABLE as error:
            raise ValueError(f"{text} is no array of numbers: save it with numpy.save.") from error
    if not isinstance(array, np.ndarray):
        which = f"the arrays {', '.join(names)}: say which one, {path}:{names[0]}" if names else ""
        raise ValueError(f"{path} holds {which or 'no array: save one with numpy.savez'}.")
    if array.ndim not in (2, 3) or array.dtype.kind not in "fiu":
        raise ValueError(
            f"{text} has shape {array.shape} of {array.dtype}: a trajectory is (N, d) or "
            "(chains, N, d) numbers."
        )
    return torch.from_numpy(array.astype("float64")).flatten(0, -2)


def check_samples(x: Tensor, period: tuple[float | None, ...]) -> None:
    """Refuse samples that nothing can be learned from.

    Args:
        x: points (N, d).
        period: of each coordinate, None on the line.

    Raises:
        ValueError: for another shape, too few points, values that are not finite, a coordinate
            that never changes, or angles in degrees where the period is one of radians.
    """
    if x.ndim != 2 or x.shape[-1] != len(period):
        raise ValueError(
            f"samples have shape {tuple(x.shape)}: with {len(period)} periods they must be "
            f"(N, {len(period)})."
        )
    if len(x) < 100:
        raise ValueError(f"{len(x)} samples are too few to learn from: give at least 100.")
    if not bool(x.isfinite().all()):
        row = int((~x.isfinite().all(-1)).nonzero()[0])
        raise ValueError(f"the samples hold NaN or infinity, first in row {row}: remove them.")
    for axis, length in enumerate(period):
        if length is not None and not 0 < length < math.inf:
            raise ValueError(f"period of coordinate {axis} is {length}: give a positive number.")
        column = x[:, axis]
        if float(column.max() - column.min()) == 0:
            raise ValueError(f"coordinate {axis} never changes: leave it out.")
        turns = float(column.abs().max()) / length if length else 0.0
        if length and abs(length - 2 * math.pi) < 0.1 and turns > 2:
            raise ValueError(
                f"coordinate {axis} reaches {float(column.abs().max()):.3g} with a period of "
                f"{length:.4g}: this looks like degrees; give radians, or the period 360."
            )
