r"""``score/sphere``: the score metric on a sphere, where the truth is a great circle (2505.11128).

Data uniform on S^2 in R^D, its exact denoiser (:mod:`diffodesic.denoisers.sphere`), DDPM's linear
table of 1000 times, weight 1000 in the network's coordinates, as in the paper.  Four questions:
does the geodesic stay on the sphere, does the score point across it, what is left of that after
noising and denoising, and what lies past the end of the path.  The last two also with a learned
score.

SLERP is exact on a sphere: a metric can be better than LERP here, but not better than SLERP.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.denoisers.flow import drop, lift
from diffodesic.denoisers.schedules import Tabulated
from diffodesic.denoisers.sphere import SphereDenoiser, great_circle_angle
from diffodesic.experiments.common.points_network import learn_points
from diffodesic.experiments.common.statistics import mean_of
from diffodesic.experiments.experiment import Context, Number, Outcome
from diffodesic.geometry.boundary_value import search
from diffodesic.geometry.exponential import exp
from diffodesic.geometry.path import Geodesic
from diffodesic.images.baselines.latent import lerp, slerp
from diffodesic.metrics.continuation import Alarm, Method, continue_path
from diffodesic.metrics.score import ScoreMetric
from diffodesic.output.figures import canvas

__all__ = ["Settings", "run"]

# angle between score and outward radius: (D, t) -> of points perturbed by .05, of noised points
ANGLES = {
    (3, 10): (100, 98),
    (3, 50): (151, 115),
    (3, 100): (180, 140),
    (3, 200): (180, 180),
    (100, 10): (91, 90),
    (100, 50): (96, 92),
    (100, 100): (108, 94),
    (100, 200): (137, 97),
    (100, 400): (152, 99),
}
METHODS = ("LERP", "SLERP", "geodesic")
SHARED = {100: (2.89, 2.68, 2.79), 400: (18.45, 18.52, 18.45)}  # degrees, of METHODS, exact score
NEVER = Alarm(density=None, dimension=None, curvature=None)


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment."""

    weight: float = 1000.0  # of the score metric, in the network's coordinates
    time: int = 400  # noise level of the published experiments, of 1000 times
    segments: int = 40  # of a path
    samples: int = 20_000  # points behind every angle
    perturbed: float = 0.05  # size of the perturbation of the angles
    pairs: int = 16  # pairs of points behind every error, 60 degrees apart
    frames: int = 9  # points of a path that are brought back
    dim: int = 100  # dimension D of the whole pipeline
    radius: float = 10.0  # radius R of its sphere
    times: tuple[int, ...] = (100, 400)  # its noise levels
    flow_steps: int = 48  # steps of the probability flow, each way
    training: int = 3000  # steps of the learned score
    amount: float = 1.0  # how far paths are continued, as a share of the path


def run(context: Context) -> Outcome:
    """Measure all four: some 10^6 evaluations of a closed form, and a minute of training."""
    settings = context.settings(Settings(), samples=500, pairs=2, training=60)
    say, seed = context.progress, context.seed
    begin = partial(context.part, of=2 * len(settings.times) + 4)
    generator = torch.Generator().manual_seed(seed)
    begin("one geodesic on S^2 in R^3")
    single, path = _single(settings)
    begin("angles between score and radius")
    angles = [number for (dim, t) in ANGLES for number in _angles(settings, dim, t, generator)]
    exact = SphereDenoiser(settings.dim, settings.radius)
    ends = _pairs(exact, settings.pairs, generator)
    pipeline = []
    for t in settings.times:
        for shared in (True, False):
            begin(f"noise at t = {t}, interpolation, bringing back")
            pipeline += _pipeline(settings, exact, ends, t, shared, seed)
    begin("past the end")
    beyond = _beyond(settings, exact, ends, "exact score")
    begin("the same with a learned score")
    data = exact.sample(20_000, generator=generator)[:, :10]
    # learning the embedding takes most of a small network: ten dimensions, radius one
    learned = learn_points(data / settings.radius, steps=settings.training, seed=seed, progress=say)
    small = _pairs(SphereDenoiser(10), settings.pairs, generator)
    score = [_learned_error(settings, learned, generator)]
    score += _pipeline(settings, learned, small, 100, False, seed, "learned score, R = 1, D = 10")
    score += _beyond(settings, learned, small, "learned score, R = 1, D = 10")
    numbers = (*single, *angles, *pipeline, *beyond, *score)
    return Outcome(settings, numbers, _notes(settings), {}, lambda to: _draw(to, path, numbers))


def _noise(t: int) -> tuple[float, float, float]:
    """alpha, sigma and log SNR at one of DDPM's 1000 times."""
    alpha, sigma = (float(v) for v in Tabulated.ddpm_linear().alpha_sigma(t))
    return alpha, sigma, 2 * math.log(alpha / sigma)


def _single(settings: Settings) -> tuple[list[Number], Geodesic]:
    """Arcs of a great circle in R^3 of 60 and 90 degrees, in the network's coordinates."""
    alpha, sigma, _ = _noise(settings.time)
    denoiser, (a, across) = SphereDenoiser(3), torch.eye(3, dtype=torch.float64)[:2]
    metric, flat = (
        ScoreMetric.native(denoiser, alpha, sigma, weight=weight)
        for weight in (settings.weight, 0.0)
    )
    s = torch.linspace(0, 1, 401, dtype=torch.float64)
    numbers = []
    for degrees in (60, 90):
        turn = math.radians(degrees)
        b = math.cos(turn) * a + math.sin(turn) * across
        path = search(metric, a, b, nodes=settings.segments)
        points = alpha * path(s)
        radius, angle = points.norm(dim=-1), great_circle_angle(points, a, b)
        off = torch.hypot(radius * angle.cos() - alpha, radius * angle.sin())
        missed = alpha * (exp(metric, a, path.velocity(0.0)) - b).norm()
        chord = search(flat, a, b, nodes=settings.segments)(s) - lerp(a, b, s)
        name = f"S^2 in R^3, {degrees} degrees"
        numbers += [
            Number(f"{name}: largest deviation of the radius", float((radius - alpha).abs().max())),
            Number(f"{name}: largest distance to the great circle", float(off.max())),
            Number(f"{name}: geodesic equation against the boundary solver", float(missed)),
            Number(f"{name}: weight 0 against LERP", float(chord.norm(dim=-1).max()), expected=0.0),
        ]
    return numbers, path


def _angles(settings: Settings, dim: int, t: int, generator: torch.Generator) -> list[Number]:
    """Mean angle between the score and the outward radius, of two kinds of points."""
    alpha, sigma, _ = _noise(t)
    denoiser = SphereDenoiser(dim)
    x0 = denoiser.sample(settings.samples, generator=generator)
    noise = torch.randn(x0.shape, generator=generator, dtype=torch.float64)
    numbers = []
    for kind, x, expected in (
        (f"perturbed by {settings.perturbed:g}", x0 + settings.perturbed * noise, 0),
        ("noised", alpha * x0 + sigma * noise, 1),
    ):
        z = x / alpha
        score = denoiser.score(z, z.new_tensor(sigma / alpha))
        cosine = (score * z)[:, :3].sum(-1) / score.norm(dim=-1) / z[:, :3].norm(dim=-1)
        angle = torch.rad2deg(torch.arccos(cosine.clamp(-1, 1)))
        name = f"angle of score and radius in degrees, D = {dim}, t = {t}, {kind}"
        numbers.append(mean_of(name, angle, ANGLES[dim, t][expected]))
    return numbers


def _pairs(sphere: SphereDenoiser, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Points 60 degrees apart, (P, D) each."""
    a, c = sphere.sample(2 * count, generator=generator).chunk(2)
    across = c - (c * a).sum(-1, keepdim=True) / sphere.radius**2 * a
    across = sphere.radius * across / across.norm(dim=-1, keepdim=True)
    return a, a / 2 + math.sqrt(3) / 2 * across


def _pipeline(
    settings: Settings,
    denoiser: Denoiser,
    ends: tuple[Tensor, Tensor],
    t: int,
    shared: bool,
    seed: int,
    name: str = "exact score",
) -> list[Number]:
    """Noise the ends, join them, bring the frames back: their angle to the true frames."""
    a, b = ends
    alpha, sigma, level = _noise(t)
    if shared:
        noise = torch.randn(
            a.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
        )
        first, last = (x + sigma / alpha * noise for x in ends)
    else:
        first, last = (lift(denoiser, x, level, steps=settings.flow_steps) for x in ends)
    metric = ScoreMetric.native(denoiser, alpha, sigma, weight=settings.weight)
    path = search(metric, first, last, nodes=settings.segments)
    s = torch.linspace(0, 1, settings.frames, dtype=torch.float64)
    numbers = []
    known = SHARED[t] if shared and name == "exact score" else (None,) * 3
    for method, points, before in zip(
        METHODS, (lerp(first, last, s), slerp(first, last, s), path(s)), known, strict=True
    ):
        clean = drop(denoiser, points, level, steps=settings.flow_steps)
        error = _degrees(clean, slerp(a, b, s))[:, 1:-1].mean(-1)
        kind = "shared noise" if shared else "inversion"
        title = f"{name}, {kind}, t = {t}: {method}, degrees off the true frame"
        numbers.append(mean_of(title, error, before))
    return numbers


def _beyond(
    settings: Settings, denoiser: Denoiser, ends: tuple[Tensor, Tensor], name: str, t: int = 100
) -> list[Number]:
    """Continue the path by its own length: angle to the continued great circle, frame by frame."""
    a, b = ends
    alpha, sigma, level = _noise(t)
    first, last = (lift(denoiser, x, level, steps=settings.flow_steps) for x in ends)
    metric = ScoreMetric.native(denoiser, alpha, sigma, weight=settings.weight)
    paths = [
        search(metric, x, y, nodes=settings.segments) for x, y in zip(first, last, strict=True)
    ]
    s = 1 + settings.amount * torch.arange(1, 9, dtype=torch.float64) / 8
    numbers = []
    for way in (None, *get_args(Method)):
        errors, reached = [], []
        for i, path in enumerate(paths):
            if way is None:
                points = lerp(first[i], last[i], s)
            else:
                points = continue_path(
                    path, settings.amount, method=way, points=8, alarm=NEVER, rtol=1e-5
                ).points[1:]
            clean = drop(denoiser, points, level, steps=settings.flow_steps)
            reached.append(len(clean))
            # what was never reached counts as not having moved
            clean = torch.cat([clean, b[i].expand(len(s) - len(clean), -1)])
            errors.append(_degrees(clean, _turned(a[i], b[i], s)))
        title = f"{name}, t = {t}, {way or 'straight on'}"
        for share, column in ((0.5, 3), (1.0, 7)):
            error = torch.stack(errors)[:, column]
            what = f"{title}: degrees off the true point {share:g} past the end"
            numbers.append(mean_of(what, error))
        whole = sum(count == len(s) for count in reached) / len(reached)
        numbers.append(Number(f"{title}: share of paths that reached the end", whole))
    return numbers


def _learned_error(settings: Settings, learned: Denoiser, generator: torch.Generator) -> Number:
    alpha, sigma, _ = _noise(100)
    denoiser = SphereDenoiser(learned.dim)
    z = denoiser.sample(min(settings.samples, 2000), generator=generator)
    z = z + sigma / alpha * torch.randn(z.shape, generator=generator, dtype=z.dtype)
    level = z.new_tensor(sigma / alpha)
    angle = _degrees(learned.score(z, level), denoiser.score(z, level))
    name = "learned score, R = 1, D = 10, t = 100: degrees off the exact score"
    return mean_of(name, angle)


def _turned(a: Tensor, b: Tensor, s: Tensor) -> Tensor:
    """Points of the great circle from ``a`` through ``b``, 60 degrees per unit of s; (S, D)."""
    across = (b - a / 2) * 2 / math.sqrt(3)
    angle = (s * math.pi / 3).unsqueeze(-1)
    return angle.cos() * a + angle.sin() * across


def _degrees(x: Tensor, y: Tensor) -> Tensor:
    """Angles between vectors (..., D) about the origin, by half-angles: exact near zero."""
    u, v = (p / p.norm(dim=-1, keepdim=True) for p in (x, y))
    return torch.rad2deg(2 * torch.atan2((u - v).norm(dim=-1), (u + v).norm(dim=-1)))


def _notes(settings: Settings) -> tuple[str, ...]:
    return (
        "Lengths are in the network's coordinates, where the sphere of S^2 in R^3 has radius "
        "alpha = .44 at t = 400. Expected values are this project's own, measured before with "
        "other draws: angles to a degree or two, errors after shared noise for other pairs.",
        f"Pairs are 60 degrees apart, R = {settings.radius:g}, D = {settings.dim}; errors are "
        "means over the inner frames, +- over pairs. Frames are compared at equal parameter, so "
        "LERP is late and early on its way even where it stays in the plane of the circle.",
        "Shared noise at both ends moves them off the sphere by the same vector, and no path "
        "between them undoes that. After inversion SLERP keeps to the sphere, which is round about "
        "the origin.",
        "Past the end, the exponential map is the geodesic of the metric. Lifted points lie where "
        "the score nearly vanishes and the metric is nearly flat: the geodesic runs straight until "
        "it has left that ridge. A path that cannot be followed to the end (the equation is too "
        "stiff) counts as staying where it stood at the end of the path between the points. The "
        "score-guided stepper keeps log-density and is no geodesic.",
    )


def _draw(to: Path, path: Geodesic, numbers: tuple[Number, ...]) -> None:
    """The single geodesic beside LERP, and the angles over time."""
    with canvas(to, columns=2, width=5) as (left, right):
        s = torch.linspace(0, 1, 201, dtype=torch.float64)
        points = path(s)
        chord = lerp(path.nodes[0], path.nodes[-1], s)
        turn = s * math.pi / 2
        left.plot(turn.cos(), turn.sin(), "k", lw=4, alpha=0.2, label="great circle")
        left.plot(points[:, 0], points[:, 1], "C0", label="geodesic")
        left.plot(chord[:, 0], chord[:, 1], "C3--", label="LERP")
        left.set(aspect="equal", title="S^2 in R^3, t = 400, weight 1000")
        left.legend()
        measured = {number.quantity: number.measured for number in numbers}
        for dim, color in ((3, "C0"), (100, "C3")):
            for kind, style in (("perturbed by 0.05", "o-"), ("noised", "s--")):
                title = "angle of score and radius in degrees, D = {}, t = {}, {}"
                times = [t for d, t in ANGLES if d == dim]
                values = [measured[title.format(dim, t, kind)] for t in times]
                right.plot(times, values, style, color=color, label=f"D = {dim}, {kind}")
        right.set(xlabel="t", ylabel="degrees", title="score and outward radius")
        right.legend()
