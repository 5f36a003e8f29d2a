r"""``spacetime/collapse``: Fisher-Rao geometry of the noise at the last time is empty (2505.17517).

On the toy the metric of x at one time t is  G_xx(t) = k^2 Var[x0 | x]/alpha^2.  At the last time
the posterior is nearly the distribution of the data, wherever x is, and every distance is nearly
zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from diffodesic.denoisers.mixture import GaussianMixture
from diffodesic.experiments.experiment import Context, Number, Outcome
from diffodesic.experiments.toy import from_native, posterior_density, toy_mixture
from diffodesic.metrics.counterexamples import FisherRao
from diffodesic.output.figures import canvas

__all__ = ["Settings", "at_time", "run"]

BEFORE = {0.1: 2981.0, 0.3: 54.9, 0.5: 1.51, 0.7: 0.065, 0.9: 0.0013, 1.0: 1.8e-4}


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment."""

    x: float = 1.0  # where the metric is printed
    times: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)  # when
    # the two latents whose posteriors are compared at t = 1
    apart: tuple[float, float] = (-3.0, 3.0)
    grid: int = 400  # points of x between the two, for the distance


def at_time(mixture: GaussianMixture, t: float) -> FisherRao:
    """The Fisher-Rao metric on x at time t of the toy's diffusion."""
    log_snr = 10 - 20 * t
    return FisherRao(mixture, log_snr=log_snr, alpha=math.sqrt(1 / (1 + math.exp(-log_snr))))


def run(context: Context) -> Outcome:
    """The metric and the distance between two latents, time by time, whatever the context."""
    del context
    settings, mixture = Settings(), toy_mixture()
    x, one = (torch.tensor([value], dtype=torch.float64) for value in (settings.x, 1.0))
    metrics = {t: at_time(mixture, t) for t in settings.times}
    numbers = [
        Number(
            f"G_xx at x = {settings.x:g}, t = {t:g}",
            float(metric.inner(x, one, one)),
            expected=BEFORE.get(t),
        )
        for t, metric in metrics.items()
    ]
    ends = torch.tensor([[end] for end in settings.apart], dtype=torch.float64)
    title = "Jeffreys between the posteriors of x = -3, 3 at t = 1"
    numbers.append(Number(title, float(metrics[1.0].squared_steps(ends)), expected=0.0066))
    line = torch.lerp(ends[0], ends[1], torch.linspace(0, 1, settings.grid + 1)[:, None].double())
    for t, metric in metrics.items():
        length = float(metric.squared_steps(line).sqrt().sum())
        numbers.append(Number(f"distance from x = -3 to 3 at t = {t:g}", length))
    notes = (
        "Expected values are this project's own, printed to two to four digits.",
        "On a line there is one way to go, so the distance is the length of the straight path. At "
        "t = 1 the two latents, six standard deviations of noise apart, denoise to nearly the "
        "same posterior.",
    )
    return Outcome(settings, tuple(numbers), notes, {}, lambda path: _draw(path, mixture, settings))


def _draw(path: Path, mixture: GaussianMixture, settings: Settings) -> None:
    """The metric over time, and the posteriors of two latents at three times."""
    with canvas(path, columns=2, width=5) as (left, right):
        times = torch.linspace(0.05, 1, 39).tolist()
        points = torch.tensor([[-2.0], [0.0], [settings.x], [3.0]], dtype=torch.float64)
        one = torch.ones_like(points)
        values = torch.stack([at_time(mixture, t).inner(points, one, one) for t in times], 1)
        for x, line in zip(points[:, 0].tolist(), values.tolist(), strict=True):
            left.semilogy(times, line, label=f"x = {x:g}")
        known = [t for t in settings.times if t in BEFORE]
        left.plot(known, [BEFORE[t] for t in known], "k.", label="expected, x = 1")
        left.set(xlabel="t", ylabel="G_xx", title="the metric of x at one time falls to nothing")
        left.legend(loc="lower left")
        grid = torch.linspace(-6, 6, 601, dtype=torch.float64)
        for base, t in zip((0.0, 1.2, 2.4), (1.0, 0.6, 0.4), strict=True):
            for end, color in zip(settings.apart, ("C0", "C3"), strict=True):
                density = _density(mixture, end, t, grid)
                right.fill_between(grid, base, base + density, color=color, alpha=0.45)
            right.text(-6, base + 0.5, f"t = {t:g}")
        low, high = settings.apart
        right.set(
            xlabel="x0", yticks=[], title=f"p(x0 | x) of x = {low:g} (blue) and x = {high:g} (red)"
        )


def _density(mixture: GaussianMixture, x: float, t: float, grid: Tensor) -> Tensor:
    return posterior_density(mixture, from_native(torch.tensor([x, t], dtype=torch.float64)), grid)
