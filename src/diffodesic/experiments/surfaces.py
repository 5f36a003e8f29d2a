r"""``score/surfaces``: metrics of the score on surfaces whose normal turns, beside LERP and SLERP.

An ellipsoid, a torus and a swiss roll in R^3, turned into R^D: codimension D - 2.  The exact score
is that of a smoothed sample, the learned one a small network's.  Pairs of points are lifted to a
noise level by the probability flow, joined by each method, and brought back; their frames are
compared with the surface and with its own geodesic, solved in its parameters (u, v) as the
pullback of the embedding.  The level is that of ``choose_noise_level``, weights are relative;
nothing was chosen by its results.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.denoisers.flow import drop, lift
from diffodesic.denoisers.mixture import GaussianMixture
from diffodesic.denoisers.noise_level import choose_noise_level
from diffodesic.experiments.common.points_network import learn_points
from diffodesic.experiments.common.statistics import mean_of
from diffodesic.experiments.experiment import Context, Number, Outcome
from diffodesic.geometry.boundary_value import search
from diffodesic.geometry.metric import Metric
from diffodesic.geometry.solvers.relax import Relax
from diffodesic.images.baselines.latent import lerp, slerp
from diffodesic.images.baselines.likely import likely_path
from diffodesic.metrics.density import DensityMetric, ScoreSize
from diffodesic.metrics.elementary import Pullback
from diffodesic.metrics.one_level import weight_unit
from diffodesic.metrics.score import ScoreMetric
from diffodesic.metrics.score_jacobian import ScoreJacobian
from diffodesic.output.figures import canvas

__all__ = ["SURFACES", "Settings", "Surface", "run"]

MEASURES = ("distance to the geodesic", "to the surface")
Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Surface:
    """A surface of R^3."""

    embed: Map  # parameters (..., 2) to points (..., 3)
    low: tuple[float, float]  # smallest parameters
    high: tuple[float, float]  # largest parameters
    reach: tuple[float, float]  # largest difference of the parameters of a pair


def _ellipsoid(p: Tensor) -> Tensor:
    u, v = p.unbind(-1)
    return torch.stack([v.cos() * u.cos(), 0.75 * v.cos() * u.sin(), 0.5 * v.sin()], -1)


def _torus(p: Tensor) -> Tensor:
    u, v = p.unbind(-1)
    ring = 1 + 0.4 * v.cos()
    return torch.stack([ring * u.cos(), ring * u.sin(), 0.4 * v.sin()], -1)


def _roll(p: Tensor) -> Tensor:
    u, v = p.unbind(-1)
    return torch.stack([u / 10 * u.cos(), u / 10 * u.sin(), v], -1)


SURFACES: Mapping[str, Surface] = {
    "ellipsoid": Surface(_ellipsoid, (-math.pi, -1.2), (math.pi, 1.2), (1.5, 0.8)),
    "torus": Surface(_torus, (-math.pi, -math.pi), (math.pi, math.pi), (1.2, 1.5)),
    "swiss roll": Surface(_roll, (1.5 * math.pi, -0.6), (4.5 * math.pi, 0.6), (2.5, 0.6)),
}


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment."""

    dim: int = 8  # dimension D of the space
    samples: int = 2000  # points of the sample
    bandwidth: float = 0.04  # smoothing of the exact score
    pairs: int = 8  # pairs of points on each surface
    nodes: int = 32  # segments of a path
    frames: int = 9  # points of a path that are brought back
    weight: float = 10.0  # of the score metrics, in units of 1/E|s|^2 over the data at the level
    likely: float = 0.2  # weight of log-density of the likely path
    rank: int = 6  # number of scores of the rank-K metric; the codimension is D - 2
    rtol: float = 1e-4  # tolerance of the solver
    iterations: int = 200  # limit of the solver
    training: int = 3000  # steps of the learned score
    grid: int = 200  # points of a surface per parameter, for distances to it
    flow_steps: int = 24  # steps of the probability flow, each way


def run(context: Context) -> Outcome:
    """Every method on every surface, exact and learned score: some 10^6 evaluations, minutes."""
    small = {"samples": 200, "pairs": 2, "nodes": 16, "frames": 5, "training": 60, "grid": 40}
    settings = context.settings(Settings(), **small, iterations=5)
    seed = context.seed
    numbers: list[Number] = []
    for name, surface in SURFACES.items():
        generator = torch.Generator().manual_seed(seed)
        axes = torch.randn(settings.dim, settings.dim, generator=generator, dtype=torch.float64)
        problem = _Problem(surface, settings, torch.linalg.qr(axes).Q[:3], generator)
        say, steps = context.progress, settings.training
        learned = learn_points(problem.data, steps=steps, seed=seed, progress=say)
        exact = GaussianMixture.from_data(problem.data, settings.bandwidth)
        for kind, denoiser in (("exact", exact), ("learned", learned)):
            context.part(f"{name}, {kind} score", of=2 * len(SURFACES))
            numbers += problem.measure(denoiser, seed, f"{name}, {kind} score")
    return Outcome(settings, tuple(numbers), _notes(settings), {}, lambda to: _draw(to, numbers))


class _Problem:
    """A surface in R^D with its sample and its pairs."""

    def __init__(
        self, surface: Surface, settings: Settings, frame: Tensor, generator: torch.Generator
    ) -> None:
        self.settings, self.generator = settings, generator
        low, high = (torch.tensor(v, dtype=torch.float64) for v in (surface.low, surface.high))
        axes = [
            torch.linspace(float(p), float(q), settings.grid)
            for p, q in zip(low, high, strict=True)
        ]
        cells = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2).double()
        # points in proportion to the area of their cell
        area = _area(surface.embed, cells)
        chosen = torch.multinomial(area, settings.samples, replacement=True, generator=generator)
        jitter = torch.rand(settings.samples, 2, generator=generator, dtype=torch.float64) - 0.5
        place = cells[chosen] + jitter * (high - low) / (settings.grid - 1)
        centre = surface.embed(cells)[chosen].mean(0)

        def embed(p: Tensor) -> Tensor:
            return (surface.embed(p) - centre) @ frame

        self.embed, self.data, self.points = embed, embed(place), embed(cells)
        first, last = _pairs(surface, low, high, settings.pairs, generator)
        self.parameters, self.ends = (first, last), (embed(first), embed(last))
        path = search(Pullback(embed, 2), first, last, nodes=64)
        self.truth = embed(path(torch.linspace(0, 1, 401, dtype=torch.float64)))
        self.length = path.length

    def measure(self, denoiser: Denoiser, seed: int, title: str) -> list[Number]:
        """Errors of every method as shares of the true length."""
        settings = self.settings
        level = choose_noise_level(denoiser, self.data, seed=seed)
        lam, sigma = level.log_snr, math.exp(-level.log_snr / 2)
        a, b = (lift(denoiser, x, lam, steps=settings.flow_steps) for x in self.ends)
        noise = torch.randn(self.data.shape, generator=self.generator, dtype=torch.float64)
        unit = weight_unit(denoiser, self.data + sigma * noise, lam)
        numbers = [Number(f"{title}: noise level chosen, sigma", sigma)]
        errors: dict[str, dict[str, Tensor]] = {what: {} for what in MEASURES}
        for name, nodes in self._paths(denoiser, lam, unit, a, b).items():
            with torch.no_grad():
                inner = drop(denoiser, nodes, lam, steps=settings.flow_steps)[:, 1:-1]
            distances = (torch.cdist(inner, self.truth).amin(-1), self._to_surface(inner))
            for what, distance in zip(MEASURES, distances, strict=True):
                errors[what][name] = distance.mean(-1) / self.length
                numbers.append(mean_of(f"{title}: {name}, {what} / length", errors[what][name]))
        return numbers + self._differences(errors, title)

    def _differences(self, errors: dict[str, dict[str, Tensor]], title: str) -> list[Number]:
        """What decides between methods: their errors on the same pairs, subtracted."""
        rank = f"score metric, rank {self.settings.rank}"
        decided = [
            (name, other)
            for name in errors[MEASURES[0]]
            if name not in ("LERP", "SLERP")
            for other in ("LERP", "SLERP")
        ]
        return [
            mean_of(f"{title}: {name} minus {other}, {what} / length", e[name] - e[other])
            for name, other in [("SLERP", "LERP"), *decided, (rank, "score metric")]
            for what, e in errors.items()
        ]

    def _paths(
        self, denoiser: Denoiser, lam: float, unit: float, a: Tensor, b: Tensor
    ) -> dict[str, Tensor]:
        """Points (P, frames, D) at the noise level, by method."""
        settings = self.settings
        s = torch.linspace(0, 1, settings.frames, dtype=torch.float64)
        weight = settings.weight * unit
        metrics: dict[str, Metric] = {
            "score metric": ScoreMetric(denoiser, log_snr=lam, weight=weight),
            f"score metric, rank {settings.rank}": ScoreMetric(
                denoiser, log_snr=lam, weight=weight, rank=settings.rank
            ),
            "score Jacobian": ScoreJacobian(denoiser, log_snr=lam, eps=1e-2),
            "density, power 1/D": DensityMetric(denoiser, log_snr=lam),
            "score size": ScoreSize(denoiser, log_snr=lam, weight=weight),
        }
        solver = Relax(rtol=settings.rtol, iterations=settings.iterations)
        paths = {"LERP": lerp(a, b, s), "SLERP": slerp(a, b, s)}
        for name, metric in metrics.items():
            paths[name] = search(metric, a, b, nodes=settings.nodes, solver=solver)(s)
        likely = likely_path(
            denoiser, a, b, log_snr=lam, weight=settings.likely, nodes=settings.nodes, rtol=1e-6
        )
        share = torch.linspace(0, settings.nodes, settings.frames).round().long()
        return {**paths, "likely path": likely.nodes[:, share]}

    def _to_surface(self, x: Tensor) -> Tensor:
        return torch.cdist(x.reshape(-1, x.shape[-1]), self.points).amin(-1).reshape(x.shape[:-1])


def _area(embed: Map, p: Tensor) -> Tensor:
    """Area of the surface per unit of its parameters, (N,)."""
    eye = torch.eye(2, dtype=p.dtype)
    first, second = (torch.func.jvp(embed, (p,), (e.expand_as(p).contiguous(),))[1] for e in eye)
    return torch.linalg.cross(first, second).norm(dim=-1)


def _pairs(
    surface: Surface, low: Tensor, high: Tensor, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Parameters of pairs, (P, 2) each, that differ by at least half the reach in u."""
    reach = torch.tensor(surface.reach, dtype=torch.float64)
    draws = torch.rand(2, count, 2, generator=generator, dtype=torch.float64)
    share = torch.stack([0.5 + draws[1, :, 0] / 2, 2 * draws[1, :, 1] - 1], -1)
    middle = low + reach / 2 + draws[0] * (high - low - reach)
    return middle - share * reach / 2, middle + share * reach / 2


def _notes(settings: Settings) -> tuple[str, ...]:
    return (
        f"Surfaces in R^{settings.dim}, codimension {settings.dim - 2}; means over "
        f"{settings.pairs} pairs, +- over pairs, of the inner frames after the probability flow; "
        "in shares of the length of the true geodesic. Distances to the surface are to a grid of "
        f"{settings.grid}^2 points.",
        "The exact score is that of the sample, smoothed: it knows no more of the surface than "
        "its points do.",
        "All methods join the same pairs: the differences are taken pair by pair, and decide where "
        "two means with their own errors cannot. 95 % is 2.36 standard errors for 8 pairs.",
        "No setting was chosen by these numbers.",
    )


def _draw(to: Path, numbers: list[Number]) -> None:
    """Distance to the true geodesic of every method, surface by surface."""
    end = f", {MEASURES[0]} / length"
    with canvas(to, columns=len(SURFACES), width=5) as axes:
        for panel, name in zip(axes, SURFACES, strict=True):
            for shift, kind in ((-0.2, "exact"), (0.2, "learned")):
                start = f"{name}, {kind} score: "
                bars = {
                    number.quantity.removeprefix(start).removesuffix(end): number
                    for number in numbers
                    if number.quantity.startswith(start) and number.quantity.endswith(end)
                }
                bars = {method: bar for method, bar in bars.items() if " minus " not in method}
                panel.barh(
                    [i + shift for i in range(len(bars))],
                    [bar.measured for bar in bars.values()],
                    height=0.35,
                    xerr=[bar.error for bar in bars.values()],
                    label=f"{kind} score",
                )
            panel.set(yticks=range(len(bars)), title=name, xlabel="distance / length")
            panel.set_yticklabels(list(bars))
            panel.invert_yaxis()
        axes[0].legend()
