r"""A learned denoiser of a distribution over few coordinates, on the line or on circles.

Every coordinate has its own preconditioning.  On the line, with centre c and spread s, it is EDM's
(2206.00364); on a circle of length L, with a = 2 pi sigma/L, z stays on the line and

    line      m = c + c_skip (z - c) + c_out F,   c_skip = s^2/(sigma^2 + s^2),
    circle    m = z + c_out F,                    c_skip = 1,

so that m(z + L) = m(z) + L exactly: F sees cos and sin of 2 pi k z/L, k = 1..H, and log sigma.
c_out is the size of what F has to give.  Without forces that is how far x0 lies from the skip,

    T = sigma s/sqrt(sigma^2 + s^2)   or, on a circle,   T = sigma sqrt(1 + 2 a^2) e^{-a^2/2},

the latter because the kernel wraps: its mean shift, for all images of x0 together, is
-(2 pi sigma^2/L) 2 sin(2 pi (z - x0)/L) e^{-a^2/2} for much noise.  With forces
(:mod:`diffodesic.transitions.coordinate_training`) the shift is known up to sigma^2/l too, 1/l^2
the mean square of grad U/kT, and

    c_out = 1/sqrt(1/T^2 + l^2/sigma^4),   l = 0 without forces.

In every case m -> z for sigma -> 0, and with forces as sigma^2.
"""

from __future__ import annotations

import copy
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.models.folder import check_sizes, read_config, read_weights
from diffodesic.models.unet import MOST_BLOCKS, NoiseEmbedding
from diffodesic.transitions.potentials import Potential

__all__ = ["CoordinateNet", "Coordinates", "LearnedDenoiser", "load_denoiser"]

_FADED = 30.0  # T keeps e^-30 of sigma: less would not be a number in single precision
# what a configuration leads a constructor to that it does not fit
_UNUSABLE = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError)


@dataclass(frozen=True)
class Coordinates:
    """Scales of a distribution, known before anything is learned; one entry per coordinate.

    Attributes:
        period: period, None on the line.
        centre: mean; of a periodic coordinate the middle of a cell.
        spread: standard deviation; of a periodic coordinate the period.
        width: l, the scale over which the density changes; 0 where no forces are known.
        sigma_min: smallest noise trained on.
        sigma_max: largest noise trained on.
        potential: name of the potential, None for samples alone.
        kT: temperature times Boltzmann's constant, None for samples alone.
        unit: unit of energy of kT.
        energies: U/kT at the potential's probes, which tell it from others; None for samples
            alone, and in folders written before they were kept.
    """

    period: tuple[float | None, ...]
    centre: tuple[float, ...]
    spread: tuple[float, ...]
    width: tuple[float, ...]
    sigma_min: float
    sigma_max: float
    potential: str | None = None
    kT: float | None = None
    unit: str | None = None
    energies: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("period", "centre", "spread", "width"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.energies is not None:
            object.__setattr__(self, "energies", tuple(self.energies))
        if not len(self.period) == len(self.centre) == len(self.spread) == len(self.width) > 0:
            raise ValueError("period, centre, spread and width need one entry per coordinate")
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise ValueError(
                f"sigma_min = {self.sigma_min:g} and sigma_max = {self.sigma_max:g}: "
                "give 0 < sigma_min < sigma_max"
            )

    @property
    def dim(self) -> int:
        """Number D of coordinates."""
        return len(self.period)

    def same_energies(self, potential: Potential) -> bool:
        """Whether a potential has the energies kept here, to a thousandth of them or of kT."""
        if self.energies is None or self.dim != potential.dim:
            return False
        ours, theirs = torch.tensor([self.energies, energies_at_probes(potential)])
        return torch.allclose(ours, theirs, rtol=1e-3, atol=1e-3)

    def rates(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """``2 pi / L``, 0 on the line, and where a coordinate is periodic; (D,) each."""
        rate = like.new_tensor([2 * math.pi / length if length else 0.0 for length in self.period])
        return rate, rate > 0

    def shift(self, sigma: Tensor) -> Tensor:
        """T, how far x0 lies from the skip, (..., D) for ``sigma`` (...)."""
        sigma = sigma.unsqueeze(-1)
        rate, circle = self.rates(sigma)
        spread, turn = sigma.new_tensor(self.spread), (rate * sigma).square()
        wrapped = sigma * (1 + 2 * turn).sqrt() * (-turn / 2).clamp(min=-_FADED).exp()
        return torch.where(circle, wrapped, sigma * spread / (sigma**2 + spread**2).sqrt())

    def precondition(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return c_skip, c_out and c_in, (..., D) each, for ``sigma`` (...); c_in is for lines."""
        shift, sigma = self.shift(sigma), sigma.unsqueeze(-1)
        _, circle = self.rates(sigma)
        total = sigma**2 + sigma.new_tensor(self.spread) ** 2
        skip = torch.where(circle, torch.ones_like(total), 1 - sigma**2 / total)
        known = sigma.new_tensor(self.width) * shift / sigma**2
        return skip, shift / (1 + known**2).sqrt(), total.rsqrt()


class CoordinateNet(nn.Module):
    """F: a residual network on waves of each coordinate; the noise scales and shifts each block.

    Args:
        coordinates: their periods and scales.
        width: features of each layer.
        blocks: number of residual blocks.
        harmonics: number H of waves per coordinate.

    Raises:
        ValueError: for too many blocks.
    """

    order: Tensor

    def __init__(
        self, coordinates: Coordinates, width: int = 128, blocks: int = 3, harmonics: int = 4
    ) -> None:
        super().__init__()
        if blocks > MOST_BLOCKS:
            raise ValueError(f"blocks = {blocks}: give at most {MOST_BLOCKS}")
        self.coordinates = coordinates
        self.shape = {"width": width, "blocks": blocks, "harmonics": harmonics}
        # the geometric mean of the spreads makes the noise dimensionless
        self.scale = math.exp(sum(math.log(s) for s in coordinates.spread) / coordinates.dim)
        self.register_buffer("order", torch.arange(1.0, harmonics + 1), persistent=False)
        self.embedding = NoiseEmbedding(width)
        self.enter = nn.Linear((2 * harmonics + 1) * coordinates.dim, width)
        self.films = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(blocks))
        self.first = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.second = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.leave = nn.Linear(width, coordinates.dim)
        for layer in (*self.films, self.leave):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, z: Tensor, sigma: Tensor) -> Tensor:
        """F (N, D) at ``z`` (N, D) and ``sigma`` (N,)."""
        level = self.embedding((sigma / self.scale).log() / 4)
        h = self.enter(self._waves(z, sigma))
        for film, first, second in zip(self.films, self.first, self.second, strict=True):
            gain, shift = film(level).chunk(2, -1)
            h = h + second(F.silu(first(F.silu(h * (1 + gain) + shift))))
        return self.leave(F.silu(h))

    def _waves(self, z: Tensor, sigma: Tensor) -> Tensor:
        """What the network sees of ``z``: (N, (2 H + 1) D); periodic where they are."""
        rate, circle = self.coordinates.rates(z)
        centre = z.new_tensor(self.coordinates.centre)
        near = (z - centre) * self.coordinates.precondition(sigma)[2]
        phase = torch.where(circle, rate * (z - centre), near)
        angles = (phase.unsqueeze(-1) * self.order.to(z)).flatten(-2)
        return torch.cat([angles.sin(), angles.cos(), near * ~circle], -1)


class LearnedDenoiser(Denoiser):
    """Posterior mean by a network; serves like a ``GridDenoiser``, in any dimension.

    For few coordinates take ``Spacetime(learned, estimator="exact")``: D derivatives are cheap.

    Args:
        network: F, which knows its coordinates; a copy is kept, in double precision, on its device.

    **Cost** one call of the network per point; ``moments`` takes D derivatives besides.
    """

    learned = True

    def __init__(self, network: CoordinateNet) -> None:
        self.network = copy.deepcopy(network).double().eval().requires_grad_(False)
        self.coordinates = own = network.coordinates
        self.dim, self.period = own.dim, own.period
        self.mean = self.centre = torch.tensor(own.centre, dtype=torch.float64)
        self.variance = sum(s**2 for s in own.spread) / own.dim
        self.log_snr_range = (-2 * math.log(own.sigma_max), -2 * math.log(own.sigma_min))

    def posterior_mean(self, z: Tensor, sigma: Tensor) -> Tensor:
        """E[x0 | z] for ``z`` (N, D), ``sigma`` (N,); computed in double precision."""
        point, level = z.double(), sigma.double()
        skip, out, _ = self.coordinates.precondition(level)
        shift = (skip - 1) * (point - self.centre.to(z.device))
        place = next(self.network.parameters()).device
        given = self.network(point.to(place), level.to(place)).to(z.device)
        return (point + shift + out * given).to(z)

    def check(self, potential: Potential) -> None:
        """Refuse a potential that this is no denoiser of, as far as can be told.

        Args:
            potential: U, its kT and its periods.

        Raises:
            ValueError: if coordinates, periods, kT or energies differ; of a folder that keeps no
                energies, names.

        **Cost** 16 energies.
        """
        own, taught = self.coordinates, self.coordinates.potential or "samples"
        for name, ours, theirs in (
            ("coordinates", own.dim, potential.dim),
            ("periods", own.period, potential.period),
            ("kT", own.kT, potential.kT),
            ("name", own.potential if own.energies is None else None, potential.name),
        ):
            if ours is not None and ours != theirs and not _close(ours, theirs):
                raise ValueError(
                    f"the model was trained on {taught}, with {name} {ours}; {potential.name} has "
                    f"{name} {theirs}; train one for this potential"
                )
        if own.energies is not None and not own.same_energies(potential):
            raise ValueError(
                f"the model was trained on {taught}, with other energies, or in another box, than "
                f"{potential.name} has now; train one for this potential"
            )


def energies_at_probes(potential: Potential) -> tuple[float, ...]:
    """U/kT at the potential's probes: what a potential is, whatever its name."""
    return tuple((potential(potential.probes()) / potential.kT).tolist())


def _close(a: object, b: object) -> bool:
    """Equal numbers, or rows of numbers, up to the digits that people write."""
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(_close(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float | int) and isinstance(b, float | int):
        return math.isclose(a, b, rel_tol=1e-4)
    return a == b


def describe(network: CoordinateNet) -> dict[str, Any]:
    """Return the part of ``config.json`` that :func:`load_denoiser` reads."""
    return {
        "prediction": "coordinates",
        "law": asdict(network.coordinates),
        "network": network.shape,
    }


def load_denoiser(
    folder: str | os.PathLike[str], *, device: torch.device | str = "cpu"
) -> LearnedDenoiser:
    """Open what ``diffodesic train`` wrote for a potential or a trajectory.

    Args:
        folder: holds ``config.json`` and ``weights.safetensors``.
        device: where the network runs.

    Returns:
        the denoiser.

    Raises:
        ValueError: if the folder holds no such model.
    """
    place = Path(folder)
    try:
        config = read_config(place)
        if config.get("prediction") == "edm":
            raise ValueError("it holds a model of images; open it with diffodesic.load")
        law = Coordinates(**config["law"])
        with torch.device("meta"):  # before anything of the sizes in the file is allocated
            check_sizes(CoordinateNet(law, **config["network"]), place)
        network = CoordinateNet(law, **config["network"])
        read_weights(network, place, config)
    except _UNUSABLE as error:
        raise ValueError(
            f"{place} is no trained denoiser of coordinates ({error}); give a folder that "
            "`diffodesic train --potential` wrote"
        ) from error
    return LearnedDenoiser(network.to(device))
