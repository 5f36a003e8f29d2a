r"""Problems on which solvers are compared, all in float64 but for the weights of networks.

Exact denoisers: ``toy`` and ``ode`` are the one-dimensional mixture of 2505.17517 (Figures 1 and
5) under the variance-preserving process with log SNR 10 - 20 t; ``gaussian-D`` and ``mixture-D``
are synthetic data; ``digits`` and ``mnist`` are real images as Gaussian mixtures with one component
per image; ``alanine`` is the Boltzmann distribution of the (phi, psi) table of that paper, by
quadrature.  ``c-D`` is data along a C-shaped curve, for the score metric ``I + s s^T``
(2505.11128).

Networks: ``network`` is the shipped digit model; ``unet`` is a U-Net of 30M parameters at 64x64
with random weights, through inference alone.

``load(name)`` builds one.  ``mnist`` and ``alanine`` read the folder of data that is given, or the
environment variable DIFFODESIC_DATA.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffodesic import GaussianMixture, Metric, ScoreMetric, Spacetime
from diffodesic.experiments.alanine.free import Settings, grid_of, states
from diffodesic.experiments.ode import sampling_path
from diffodesic.experiments.toy import from_native, to_native, toy_mixture
from diffodesic.geometry.energy import Solver
from diffodesic.geometry.solvers.reference.adam_spline import AdamSpline
from diffodesic.geometry.solvers.reference.first_order import AdamNodes
from diffodesic.transitions.grid_denoiser import GridDenoiser

__all__ = [
    "PROBLEMS",
    "Problem",
    "Rescaled",
    "digits",
    "eight_gaussians",
    "from_native",
    "load",
    "to_native",
    "toy",
    "toy_mixture",
    "toy_point",
]


@dataclass(frozen=True)
class Problem:
    """Pairs of points of a space, and the published recipe for it.

    Attributes:
        name: a short name.
        space: the geometry that solvers see.
        a: starts, (d,) or (B, d).
        b: ends, of the same shape.
        recipe: the published solver with its published settings; None if it cannot run.
        recipe_nodes: number of segments between the points at which the recipe ends.
        nodes: number of segments for every other solver.
        solver: what runs under the name "default"; None is the default of ``geodesic``.  Networks
            keep the search that their results were made with, ``NETWORK_SEARCH``, although
            ``geodesic`` takes ``Redraw`` on their spacetime now.
        judge: the same geometry with probes that no solver saw; None where there are no probes.
        grid: segments of the common grid on which energies are compared.
        fine: arc length along a path is measured on a grid so many times finer.
        history: whether energies are taken on the way (not where a look costs as much as a round).
        exact: whether the denoiser is exact, so that a best known length means something.
        refine: of the certificate.
    """

    name: str
    space: Metric
    a: Tensor
    b: Tensor
    recipe: Solver | None
    recipe_nodes: int = 63
    nodes: int = 64
    solver: Solver | None = None
    judge: Metric | None = None
    grid: int = 64
    fine: int = 4
    history: bool = True
    exact: bool = True
    refine: int = 8


def toy_point(x: float, t: float) -> Tensor:
    """A point of the toy's spacetime from its published coordinates (x_t, t), (2,)."""
    return from_native(torch.tensor([x, t], dtype=torch.float64))


def toy() -> Problem:
    """Figure 1: from (-2.3, t = 0.35) to (2, t = 0.4)."""
    recipe = AdamSpline.toy((to_native, from_native))
    space = Spacetime(toy_mixture())
    return Problem("toy", space, toy_point(-2.3, 0.35), toy_point(2.0, 0.4), recipe, 127)


def ode() -> Problem:
    """Figure 5, left: the ends of three probability-flow trajectories, x_T in {1, 0, -1} to t = .1.

    The ends come from Euler's rule with 512 steps, as published.
    """
    space = Spacetime(toy_mixture())
    ends = [sampling_path(space, x, 0.1, 512)[[0, -1]] for x in (1.0, 0.0, -1.0)]
    a, b = torch.stack(ends, 1)
    recipe = AdamSpline(1, ((512, 2000),), weight_decay=0.0, chart=(to_native, from_native))
    return Problem("ode", space, a, b, recipe, 511)


def gaussian(dim: int) -> Problem:
    """Anisotropic Gaussian data, standard deviations .1 to 1; between two samples at log SNR 2."""
    generator = torch.Generator().manual_seed(dim)
    std = torch.logspace(-1, 0, dim, dtype=torch.float64)
    data = GaussianMixture(torch.zeros(1, dim, dtype=torch.float64), std=std[None])
    return _between_samples(f"gaussian-{dim}", data, generator)


def eight_gaussians(dim: int, generator: torch.Generator) -> GaussianMixture:
    """Eight Gaussians (.3 wide) at random."""
    return GaussianMixture(torch.randn(8, dim, generator=generator, dtype=torch.float64), std=0.3)


def mixture(dim: int) -> Problem:
    """Eight Gaussians at random; between two samples at log SNR 2."""
    generator = torch.Generator().manual_seed(dim)
    return _between_samples(f"mixture-{dim}", eight_gaussians(dim, generator), generator)


def _between_samples(name: str, data: GaussianMixture, generator: torch.Generator) -> Problem:
    space = Spacetime(data)
    a, b = space.point(data.sample(2, generator=generator), 2.0)
    return Problem(name, space, a, b, AdamSpline.images())


def _three_to_eight(name: str, images: Tensor, labels: Tensor) -> Problem:
    """From the first 3 to the first 8 of a set of images (N, D), both at log SNR 2."""
    space = Spacetime(GaussianMixture.from_data(images, bandwidth=0.15))
    first = {label: images[int((labels == label).int().argmax())] for label in (3, 8)}
    a, b = space.point(first[3], 2.0), space.point(first[8], 2.0)
    return Problem(name, space, a, b, AdamSpline.images())


def digits() -> Problem:
    """scikit-learn's 8 x 8 digits (D = 64) as an exact mixture."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    data = torch.tensor(images / 8 - 1, dtype=torch.float64)
    return _three_to_eight("digits", data, torch.tensor(labels))


def mnist(data: Path | None = None) -> Problem:
    """The first 2,000 training digits of MNIST (D = 784) as an exact mixture."""
    from diffodesic.models.datasets import load_mnist

    images, labels = load_mnist(data_folder(data) / "mnist")
    return _three_to_eight("mnist", images[:2000].flatten(1).double(), labels[:2000])


def alanine(data: Path | None = None) -> Problem:
    """Alanine dipeptide on its (phi, psi) table, kT = 1, between the two states of the paper.

    An exact denoiser by quadrature. The released code takes 512 points; 128 is the number of nodes
    in the text, and the cheaper one.
    """
    space = Spacetime(GridDenoiser(grid_of(data_folder(data))))
    a, b = states(space, Settings())

    def to(x: Tensor) -> Tensor:
        return torch.cat([torch.sigmoid(x[..., -1:]).sqrt() * x[..., :-1], x[..., -1:]], -1)

    def back(y: Tensor) -> Tensor:
        return torch.cat([y[..., :-1] / torch.sigmoid(y[..., -1:]).sqrt(), y[..., -1:]], -1)

    recipe = AdamSpline(9, ((128, 10_000),), weight_decay=0.0, chart=(to, back))
    return Problem("alanine", space, a, b, recipe, 127)


def c_shape(dim: int) -> Problem:
    """Score metric of weight 1 at log SNR 2 over a C of 170 degrees, radius 2, .3 wide.

    In more than two dimensions the C also winds through the others, .1 in each. It is open enough
    for every solver to end at the same path: a chord across a closed C does not come round it.
    """
    half = math.radians(85)
    angle = torch.linspace(math.pi - half, math.pi + half, 60, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    phase = 2 * math.pi * torch.rand(dim - 2, generator=generator, dtype=torch.float64)
    turns = torch.randint(1, 4, (dim - 2,), generator=generator)
    rest = 0.1 * torch.sin(angle[:, None] * turns + phase)
    means = torch.cat([2 * angle.cos()[:, None], 2 * angle.sin()[:, None], rest], -1)
    space = ScoreMetric(GaussianMixture(means, std=0.3), log_snr=2.0, weight=1.0)
    # the ends are not each other's mirror image
    a, b = means[2], means[-1]
    recipe = AdamNodes(learning_rate=C_ADAM[dim], steps=3000)
    return Problem(f"c-{dim}", space, a, b, recipe, 64, grid=512)


# Of learning rates from 1e-3 to .3, on nodes and on splines of 7 and 15 pieces, what first comes
# within 1 % of the best length (benchmarks/tune.py): after 26,325 and 52,650 evaluations.
C_ADAM = {2: 0.03, 64: 0.01}


def network(labels: tuple[int, int] = (3, 8)) -> Problem:
    """The shipped digit model: the first shipped 3 to the first 8, lifted to log SNR 2."""
    from diffodesic import lift, load, shipped_digits
    from diffodesic.denoisers.flow import clean_log_snr
    from diffodesic.metrics.one_level import NETWORK_SEARCH

    model = load("mnist")
    images, known = shipped_digits()
    first = torch.stack([images[int((known == label).int().argmax())] for label in labels])
    codes = model.codec.encode(first.double())
    clean = clean_log_snr(model.denoiser)
    noise = torch.randn(codes.shape[-1], generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        ends = lift(model.denoiser, codes + math.exp(-clean / 2) * noise, 2.0)
    low = max(model.denoiser.log_snr_range[0], -math.log(model.denoiser.variance) - 5)
    options: dict[str, Any] = {"log_snr_range": (low, clean)}
    space = Spacetime(model.denoiser, **options)
    judge = Spacetime(model.denoiser, probes=4, seed=1001, **options)
    a, b = space.point(ends, 2.0)
    return Problem(
        "network",
        space,
        a,
        b,
        AdamSpline.images(),
        nodes=32,
        solver=NETWORK_SEARCH,
        judge=judge,
        fine=1,
        exact=False,
        refine=4,
    )


class Rescaled(torch.nn.Module):
    """A U-Net of diffusers as ``fn(x, t)``, t in [0, 1]."""

    def __init__(self, unet: torch.nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Its output at the time that diffusers calls 1000 t."""
        return self.unet(x, 1000 * t).sample


def unet() -> Problem:
    """A diffusers UNet2DModel of 31M parameters at 64 x 64, random weights, inference alone.

    It is here for time and memory: eight segments and four rounds, whatever they reach.
    """
    from diffodesic import from_network
    from diffodesic.denoisers import NetworkOptions
    from diffodesic.denoisers.schedules import VP
    from diffodesic.metrics.one_level import NETWORK_SEARCH

    torch.manual_seed(0)
    blocks = ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "DownBlock2D")
    # by name: a type checker need not have it
    unet = import_module("diffusers").UNet2DModel(
        sample_size=64,
        layers_per_block=2,
        block_out_channels=(96, 160, 160, 352),
        down_block_types=blocks,
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    )
    denoiser = from_network(
        Rescaled(unet).eval().requires_grad_(False),
        shape=(3, 64, 64),
        schedule=VP(),
        prediction="eps",
        variance=0.25,
        jvp_mode="finite-difference",
        options=NetworkOptions(log_snr_range=(-4.0, 6.0), chunk=8, dtype=torch.float32),
    )
    space = Spacetime(denoiser, probes=1, gradient="forward")
    generator = torch.Generator().manual_seed(0)
    ends = torch.randn(2, denoiser.dim, generator=generator, dtype=torch.float64)
    a, b = space.point(0.5 * ends, 2.0)
    return Problem(
        "unet",
        space,
        a,
        b,
        None,
        nodes=8,
        solver=replace(NETWORK_SEARCH, iterations=4, splines=None),
        grid=8,
        fine=1,
        history=False,
        exact=False,
        refine=1,
    )


def data_folder(data: Path | None) -> Path:
    folder = data or Path(os.environ.get("DIFFODESIC_DATA", ""))
    if not folder.is_dir() or folder == Path():
        raise ValueError("the folder of data is not known: give --data or set DIFFODESIC_DATA")
    return folder


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "toy": toy,
    "ode": ode,
    **{f"gaussian-{dim}": partial(gaussian, dim) for dim in (8, 64, 1024)},
    **{f"mixture-{dim}": partial(mixture, dim) for dim in (16, 512)},
    "digits": digits,
    "mnist": mnist,
    "alanine": alanine,
    **{f"c-{dim}": partial(c_shape, dim) for dim in (2, 64)},
    "network": network,
    "unet": unet,
}


def load(name: str) -> Problem:
    """Build a problem by its name; ValueError if there is none of it."""
    if name not in PROBLEMS:
        raise ValueError(f"unknown problem {name!r}; choose one of {', '.join(PROBLEMS)}")
    return PROBLEMS[name]()
