r"""``spacetime/toy``: Figure 1 of 2505.17517, a geodesic of a one-dimensional mixture.

Data: means -2.5, .5, 2.5, weights .275, .45, .275, standard deviation .75; variance-preserving
diffusion with log SNR 10 - 20 t.  From (x, t) = (-2.3, .35) to (2, .4).  The published recipe is
one cubic fitted by 1000 steps of Adam in the coordinates (x, t).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffodesic.denoisers.mixture import GaussianMixture
from diffodesic.experiments.experiment import Context, Number, Outcome
from diffodesic.geometry.boundary_value import search
from diffodesic.geometry.path import Geodesic
from diffodesic.geometry.solvers.reference.adam_spline import AdamSpline
from diffodesic.geometry.solvers.relax import Relax
from diffodesic.metrics.spacetime.metric import Spacetime
from diffodesic.metrics.spacetime.posterior_divergences import log_density
from diffodesic.metrics.spacetime.straight_lines import e_geodesic
from diffodesic.output.figures import canvas

__all__ = [
    "Settings",
    "draw_density",
    "from_native",
    "posterior_density",
    "run",
    "to_native",
    "toy_mixture",
]


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment."""

    start: tuple[float, float] = (-2.3, 0.35)  # (x, t) of the first end
    end: tuple[float, float] = (2.0, 0.4)  # (x, t) of the second
    # segments of the solved paths, coarse to fine; the last is shown
    nodes: tuple[int, ...] = (16, 32, 64, 128)
    rtol: float = 1e-8  # tolerance of the solver
    recipe_steps: int = 1000  # steps of Adam of the published recipe
    recipe_points: int = 128  # points of its energy


def toy_mixture() -> GaussianMixture:
    """The data of Figure 1: three Gaussians on the line, in float64."""
    means = torch.tensor([[-2.5], [0.5], [2.5]], dtype=torch.float64)
    return GaussianMixture(means, torch.tensor([0.275, 0.45, 0.275]), std=0.75)


def to_native(x: Tensor) -> Tensor:
    """From the core's (z, log SNR) to (x_t, t), (..., D + 1)."""
    lam = x[..., -1:]
    return torch.cat([torch.sigmoid(lam).sqrt() * x[..., :-1], (10 - lam) / 20], -1)


def from_native(y: Tensor) -> Tensor:
    """From (x_t, t) to the core's (z, log SNR), (..., D + 1)."""
    lam = 10 - 20 * y[..., -1:]
    return torch.cat([y[..., :-1] / torch.sigmoid(lam).sqrt(), lam], -1)


def run(context: Context) -> Outcome:
    """Solve at several resolutions, and by the recipe, which takes most of 10^5 node gradients."""
    settings = context.settings(Settings(), nodes=(16, 32), recipe_steps=60)
    space = Spacetime(toy_mixture())
    a, b = from_native(torch.tensor([settings.start, settings.end], dtype=torch.float64))
    paths = []
    begin = partial(context.part, of=len(settings.nodes) + 1)
    for nodes in settings.nodes:
        begin(f"geodesic with {nodes} segments")
        paths.append(search(space, a, b, nodes=nodes, solver=Relax(rtol=settings.rtol)))
    begin("the published recipe")
    schedule = ((settings.recipe_points, settings.recipe_steps),)
    solver = replace(AdamSpline.toy((to_native, from_native)), schedule=schedule)
    recipe = search(space, a, b, nodes=settings.recipe_points - 1, solver=solver)
    numbers = (*_length_numbers(paths), *_recipe_numbers(recipe), *_tensor_numbers(space, a))
    notes = (
        "Expected values are this project's own, computed before by an independent program; the "
        "paper prints no length.",
        "Discrete lengths bound the distance from above and fall as n^-2; the refined length is "
        "that of the spline through the nodes.",
        "The recipe ends above the geodesic because one cubic cannot bend like it: its factor "
        "2E/L^2 is 1 for a path of constant speed.",
    )
    arrays = {
        "geodesic (x, t)": to_native(paths[-1].nodes),
        "recipe (x, t)": to_native(recipe.nodes),
    }
    return Outcome(
        settings, numbers, notes, arrays, lambda path: _draw(path, space, paths[-1], recipe, a, b)
    )


def _length_numbers(paths: list[Geodesic]) -> list[Number]:
    before = {16: 6.4951, 32: 6.4302, 64: 6.4136, 128: 6.4095}
    numbers = []
    for path in paths:
        n = path.nodes.shape[-2] - 1
        length = float(path.certificate.discrete_length)
        numbers.append(Number(f"discrete length, {n} segments", length, expected=before.get(n)))
    coarse, fine = (float(path.certificate.discrete_length) for path in paths[-2:])
    top = to_native(paths[-1](torch.linspace(0, 1, 801, dtype=torch.float64)))[:, 1].max()
    return [
        Number("length (refined)", float(paths[-1].length), expected=6.408),
        Number("length (Richardson)", (4 * fine - coarse) / 3, expected=6.408),
        *numbers,
        Number("highest t on the path", float(top), expected=0.617),
    ]


def _recipe_numbers(recipe: Geodesic) -> list[Number]:
    length, energy = recipe.certificate.discrete_length, recipe.certificate.discrete_energy
    return [
        Number("length of the recipe", float(length), expected=6.504),
        Number("2E/L^2 of the recipe", float(2 * energy / length**2), expected=1.038),
    ]


def _tensor_numbers(space: Spacetime, x: Tensor) -> list[Number]:
    """The metric tensor at the first end, in the coordinates (x, t)."""
    jacobian = torch.autograd.functional.jacobian(from_native, to_native(x))
    tensor = jacobian.T @ space.matrix(x) @ jacobian
    return [
        Number("G_xx at the first end", float(tensor[0, 0]), expected=19.42),
        Number("G_xt at the first end", float(tensor[0, 1]), expected=-25.29),
        Number("G_tt at the first end", float(tensor[1, 1]), expected=202.95),
    ]


def _draw(
    path: Path, space: Spacetime, geo: Geodesic, recipe: Geodesic, a: Tensor, b: Tensor
) -> None:
    """The noisy densities with three paths over them, and the posteriors along the geodesic."""
    s = torch.linspace(0, 1, 201, dtype=torch.float64)
    curves = {
        f"geodesic, length {float(geo.length):.3f}": (geo(s), "-"),
        f"published recipe, {float(recipe.certificate.discrete_length):.3f}": (recipe(s), "--"),
        "straight in eta": (e_geodesic(space, a, b, s), ":"),
    }
    with canvas(path, columns=2, width=5) as (left, right):
        draw_density(left, space, "viridis")
        for name, (points, style) in curves.items():
            left.plot(*to_native(points).T.flip(0), style, color="w", lw=1.6, label=name)
        left.plot(*to_native(torch.stack([a, b])).T.flip(0), "o", color="w", ms=4)
        left.set(title="density of x at time t, and paths between two points")
        left.legend(labelcolor="w", loc="lower right")
        assert isinstance(space.denoiser, GaussianMixture)
        x = torch.linspace(-4.5, 4.5, 301, dtype=torch.float64)
        for i, point in enumerate(geo(torch.linspace(0, 1, 9, dtype=torch.float64))):
            density = posterior_density(space.denoiser, point, x)
            right.fill_between(x, 2 * i + 0 * x, 2 * i + density, color=f"C{i % 10}", alpha=0.6)
            right.text(4.6, 2 * i, f"s = {i / 8:.3g}", va="bottom")
        right.set(
            xlabel="x0", yticks=[], title="p(x0 | x, t) along the geodesic, with responsibilities"
        )


def draw_density(axes: Any, space: Spacetime, colors: str) -> None:
    """Draw the density of x at every time t."""
    t = torch.linspace(0, 1, 241, dtype=torch.float64)
    x = torch.linspace(-4.5, 4.5, 301, dtype=torch.float64)
    grid = from_native(torch.stack(torch.meshgrid(x, t, indexing="ij"), -1))
    # a density of x = alpha z
    log_p = log_density(space, grid) - torch.nn.functional.logsigmoid(grid[..., -1]) / 2
    image = log_p.exp().numpy()
    axes.pcolormesh(t.numpy(), x.numpy(), image, cmap=colors, shading="auto", rasterized=True)
    axes.set(xlabel="t", ylabel="x")


def posterior_density(mixture: GaussianMixture, point: Tensor, grid: Tensor) -> Tensor:
    """Density of p(x0 | z) at (S,) values of x0."""
    spread = torch.distributions.Normal(mixture.means[:, 0], mixture.variances[:, 0].sqrt())
    prior = (mixture.log_weights + spread.log_prob(grid[:, None])).logsumexp(-1)
    log_p = prior - point[1].exp() * (grid - point[0]) ** 2 / 2
    return log_p.softmax(0) / (grid[1] - grid[0])
