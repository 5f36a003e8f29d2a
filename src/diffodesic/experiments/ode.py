r"""``spacetime/ode``: Figure 3 (left) of 2505.17517, the sampling ODE against the geodesic.

The toy's probability-flow ODE is run by Euler's rule from x_T in {1, 0, -1} at t = 1 to t = .1,
and compared with the geodesic between its two ends.  The paper prints the raw sums of steps, which
depend on how a path is parametrised; lengths do not.

For Gaussian data N(0, I) everything is in closed form: the ODE keeps x_t, and is a geodesic if and
only if |x|^2 = 2 D.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from diffodesic.experiments.experiment import Context, Number, Outcome
from diffodesic.experiments.toy import draw_density, from_native, to_native, toy_mixture
from diffodesic.geometry.boundary_value import search
from diffodesic.geometry.path import Geodesic
from diffodesic.geometry.solvers.relax import Relax
from diffodesic.metrics.spacetime.gaussian import Hyperbolic
from diffodesic.metrics.spacetime.metric import Spacetime
from diffodesic.output.figures import canvas

__all__ = ["Settings", "gaussian_excess", "run", "sampling_path"]

PUBLISHED = {1.0: (0.148, 0.099), 0.0: (0.140, 0.086), -1.0: (0.150, 0.102)}  # raw sums
BEFORE = {1.0: (7.0195, 0.99875), 0.0: (6.4774, 0.99935), -1.0: (7.1159, 0.99814)}


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment."""

    starts: tuple[float, ...] = (1.0, 0.0, -1.0)  # values of x_T
    last: float = 0.1  # time t at which sampling ends
    euler_steps: int = 512  # steps of the ODE
    nodes: int = 512  # segments of the geodesic
    rtol: float = 1e-8  # tolerance of the solver
    sphere: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)  # values of |x|^2/D for Gaussian data
    first_sigma: float = 0.1  # noise sigma_t at which the Gaussian paths start
    gaussian_dim: int = 8  # D of the Gaussian data; the excess does not depend on it


def run(context: Context) -> Outcome:
    """Compare sampling paths with geodesics: 10^5 node gradients of a mixture, seconds."""
    settings = context.settings(Settings(), euler_steps=64, nodes=32, rtol=1e-5)
    space = Spacetime(toy_mixture())
    pairs: dict[float, tuple[Tensor, Geodesic]] = {}
    for x_last in settings.starts:
        context.part(f"x_T = {x_last:g}", of=len(settings.starts))
        sampled = sampling_path(space, x_last, settings.last, settings.euler_steps)
        solver = Relax(rtol=settings.rtol)
        path = search(space, sampled[0], sampled[-1], nodes=settings.nodes, solver=solver)
        pairs[x_last] = (sampled, path)
    numbers = [number for x, pair in pairs.items() for number in _numbers(space, x, *pair)]
    numbers += [n for ratio in settings.sphere for n in _gaussian_numbers(settings, ratio)]
    ended = ", ".join(f"x_T = {x:g} {path.status.name}" for x, (_, path) in pairs.items())
    notes = (
        "Raw sums are the sum of squared steps: for a path of constant speed they are L^2/N. The "
        "ODE's are larger mostly because Euler's steps in t are not of equal length: compare the "
        "lengths.",
        "Lengths of the ODE and ratios geodesic/ODE: expected values are this project's own. The "
        "geodesic's length is that of its polyline, an upper bound of the distance. Above t = .7 "
        "the metric hardly sees x, and a geodesic may wander there at little cost.",
        "Gaussian data: the pair with x.x = 4 D escapes past sigma = infinity; its first excess "
        "is over the arc that would pass there.",
        f"How the solver ended: {ended}.",
    )
    arrays = {
        f"x_T = {x:g}": {"ode": to_native(ode), "geodesic": to_native(geo.nodes)}
        for x, (ode, geo) in pairs.items()
    }
    return Outcome(settings, tuple(numbers), notes, arrays, lambda path: _draw(path, space, pairs))


def sampling_path(space: Spacetime, x_last: float, last: float, steps: int) -> Tensor:
    """The toy's sampling ODE by Euler's rule, from ``x_last`` at t = 1 on: (steps + 1, 2)."""
    times = torch.linspace(1.0, last, steps + 1, dtype=torch.float64)
    x, points = torch.tensor([x_last], dtype=torch.float64), []
    for now, then in itertools.pairwise(times):
        points.append(from_native(torch.cat([x, now[None]])))
        z, lam = points[-1][:1], points[-1][1]
        alpha = torch.sigmoid(lam).sqrt()
        m = space.denoiser(z, (-lam / 2).exp())
        # x = alpha z, d log alpha/dt = -10 (1 - alpha^2), and dz/dt = 10 (z - m)
        slope = -10 * (1 - alpha**2) * x + 10 * alpha * (z - m)
        x = x + (then - now) * slope
    points.append(from_native(torch.cat([x, times[-1:]])))
    return torch.stack(points)


def gaussian_excess(settings: Settings, ratio: float) -> tuple[float, float, bool]:
    """Length of the ODE's path over the distance, minus 1, for N(0, I) data and |x|^2 = ratio D.

    Returns:
        the excess over the distance, that over the arc of hyperbolic space whether or not it
        stays at finite noise, and whether it does not.
    """
    dim = settings.gaussian_dim
    space = Hyperbolic(dim)
    # posterior N(alpha x, sigma_t^2): sigma_t = sin(angle), alpha = cos(angle)
    angle = torch.linspace(math.asin(settings.first_sigma), math.pi / 2 - 1e-6, 200_001).double()
    x = torch.full((dim,), math.sqrt(ratio), dtype=torch.float64)
    path = space.point(x / torch.cos(angle)[:, None], -2 * torch.log(torch.tan(angle)))
    # ds^2 = (|dm|^2 + 2 D ds^2)/s^2 along m = x cos, s = sin
    rate = (ratio * dim * torch.sin(angle) ** 2 + 2 * dim * torch.cos(angle) ** 2).sqrt()
    length = torch.trapezoid(rate / torch.sin(angle), angle)
    (m, s), (m2, s2) = space.posterior(path[0]), space.posterior(path[-1])
    apart = (m - m2).square().sum() / (2 * dim)
    arc = math.sqrt(2 * dim) * torch.acosh(1 + (apart + (s - s2) ** 2) / (2 * s * s2))
    distance = space.distance(path[0], path[-1])
    escapes = bool(space.escapes(path[0], path[-1]))
    return float(length / distance) - 1, float(length / arc) - 1, escapes


def _numbers(space: Spacetime, x_last: float, sampled: Tensor, path: Geodesic) -> list[Number]:
    steps, own = space.squared_steps(sampled), space.squared_steps(path.nodes)
    length, geodesic = float(steps.sqrt().sum()), float(path.certificate.discrete_length)
    raw, before = PUBLISHED.get(x_last, (None, None)), BEFORE.get(x_last, (None, None))
    name = f"x_T = {x_last:g}: "
    return [
        Number(name + "length of the ODE's path", length, expected=before[0]),
        Number(name + "geodesic / ODE", geodesic / length, expected=before[1]),
        Number(name + "raw sum, ODE", float(steps.sum()), published=raw[0]),
        Number(name + "raw sum, geodesic", float(own.sum()), published=raw[1]),
    ]


def _gaussian_numbers(settings: Settings, ratio: float) -> list[Number]:
    excess, over_arc, escapes = gaussian_excess(settings, ratio)
    name = f"Gaussian data, x.x = {ratio:g} D: excess of the ODE, %"
    before = {0.5: 0.89, 1.0: 0.40, 2.0: 0.0, 4.0: 0.97}.get(ratio)
    numbers = [Number(name, 100 * over_arc, expected=before)]
    if escapes:
        numbers.append(Number(name + " (over the infimum at finite noise)", 100 * excess))
    return numbers


def _draw(path: Path, space: Spacetime, pairs: dict[float, tuple[Tensor, Geodesic]]) -> None:
    """Both kinds of path over the noisy densities, and what makes the raw sums differ."""
    with canvas(path, columns=2, width=5) as (left, right):
        draw_density(left, space, "Greys")
        for i, (x_last, (sampled, geo)) in enumerate(pairs.items()):
            for points, style, label in ((sampled, "-", "ODE"), (geo.nodes, "--", "geodesic")):
                look = {"ls": style, "color": f"C{i}"}
                left.plot(*to_native(points).T.flip(0), **look, label=label if i == 0 else None)
                speed = space.squared_steps(points).sqrt() * (len(points) - 1)
                s = torch.linspace(0, 1, len(speed))
                right.plot(s, speed, **look, label=f"{label}, x_T = {x_last:g}")
        left.set(title="the sampling ODE and the geodesic of its ends")
        left.legend(loc="upper right")
        right.set(
            xlabel="share of the steps",
            ylabel="speed",
            ylim=(0, None),
            title="Euler's steps are of unequal length: hence the larger raw sums",
        )
        right.legend(loc="upper left")
