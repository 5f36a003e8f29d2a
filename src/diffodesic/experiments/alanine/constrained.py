r"""Alanine dipeptide with constraints: low variance, and a region to keep away from (2505.17517).

- low variance: log SNR >= 3 everywhere along the path, on the papers' grid, as published.
- avoid a region: KL(z* || gamma_s) >= 20 nats, z* = (-.8, -.1) at log SNR 4.  The released code
  measures the relative entropy from the path's own start, so its threshold of -4350 means 691 nats
  for anchors at log SNR 7 and could never bind at 4, where an end lies 119 nats away.  Here the
  threshold is absolute, and the same for anchors at 4 and at 7.

Constraints are verified on a grid 8 times finer than the nodes.  On the line of angles z* is one
image of the region; the paths stay within the cell where its other images are far.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from diffodesic.experiments.alanine.free import QUICK, Settings, grid_of, paths_along, solve
from diffodesic.experiments.common.transition_paths import arrived, draw_surface, gap, max_energy
from diffodesic.experiments.experiment import Context, Number, Outcome
from diffodesic.geometry.constraints import ConstrainedGeodesic, constrained_geodesic, verify
from diffodesic.metrics.spacetime.constraints import AvoidRegion, MinLogSNR
from diffodesic.metrics.spacetime.metric import Spacetime
from diffodesic.output.figures import canvas
from diffodesic.transitions.grid_denoiser import GridDenoiser
from diffodesic.transitions.paths import TransitionPaths
from diffodesic.transitions.surfaces import PeriodicSurface

__all__ = ["avoid", "low_variance"]

RHO = 3.0
AWAY = 20.0
REGION, REGION_LOG_SNR = (-0.8, -0.1), 4.0


@dataclass(frozen=True)
class Case:
    """A path with its constraint and one without, by kind, and the transition paths of each."""

    name: str
    ways: dict[str, tuple[ConstrainedGeodesic, TransitionPaths]]

    @property
    def note(self) -> str:
        """How the constrained path ended."""
        return f"- {self.name}: {self.ways['constrained'][0].verdict.value}."

    def numbers(self, limit: str) -> list[Number]:
        """Margins of the limit, lengths and MaxEnergy, for the table."""
        columns = [
            (
                Number(f"{self.name}: {limit}, {kind}", float(way.margins[0])),
                Number(f"{self.name}: length, {kind}", float(way.length)),
                max_energy(f"{self.name}: MaxEnergy, {kind}", paths),
                Number(f"{self.name}: % that arrive, {kind}", arrived(paths, 0.5)),
            )
            for kind, (way, paths) in self.ways.items()
        ]
        held, free = (self.ways[kind][1] for kind in ("constrained", "free path"))
        name = f"{self.name}: MaxEnergy, constrained minus free, path by path"
        return [
            *(number for line in zip(*columns, strict=True) for number in line),
            gap(name, held, free),
        ]


def low_variance(context: Context) -> Outcome:
    """Keep log SNR at or above 3; minutes on two cores."""
    settings, surface = _settings(context), grid_of(context.data)
    space = Spacetime(GridDenoiser(surface, points=settings.grid))
    begin = partial(context.part, of=2)
    case = _solve("anchor 4", space, surface, MinLogSNR(RHO), settings, begin, context.seed)
    notes = (
        case.note,
        "- the margin is the smallest of log SNR - 3 on a grid 8 times finer than the nodes.",
    )
    numbers = tuple(case.numbers("log SNR above 3"))
    return Outcome(settings, numbers, notes, figure=lambda path: draw(surface, [case], path))


def avoid(context: Context) -> Outcome:
    """Keep 20 nats away from a posterior, with anchors at log SNR 4 and at 7; minutes."""
    settings, surface = _settings(context), grid_of(context.data)
    # noise of log SNR 7 needs nodes nearer than sigma = .03
    space = Spacetime(GridDenoiser(surface, points=240))
    star = space.point(torch.tensor(REGION, dtype=torch.float64), REGION_LOG_SNR)
    region = AvoidRegion(space, star, AWAY)
    cases, numbers = [], []
    begin = partial(context.part, of=4)
    for log_snr in (4.0, 7.0):
        # at sigma = .03 a step of variance 4e-4 is half the posterior's own
        step = settings.step if log_snr < 5 else settings.step / 4
        mine = replace(settings, log_snr=log_snr, step=step)
        case = _solve(f"anchor {log_snr:g}", space, surface, region, mine, begin, context.seed)
        cases.append(case)
        numbers += case.numbers(f"sqrt(2 KL) above sqrt({2 * AWAY:g})")
        for kind, (way, _) in case.ways.items():
            s = torch.linspace(0, 1, 8 * (len(way.nodes) - 1) + 1, dtype=torch.float64)
            least = float(region.kl(way.geodesic(s)).min())
            numbers.append(Number(f"{case.name}: least KL, {kind} (nats)", least))
    notes = tuple(case.note for case in cases)
    return Outcome(settings, tuple(numbers), notes, figure=lambda path: draw(surface, cases, path))


def _settings(context: Context) -> Settings:
    """The published protocol on fewer nodes: the finer grid is where constraints are held."""
    return context.settings(Settings(nodes=64), **{**QUICK, "nodes": 16})


def _solve(
    name: str,
    space: Spacetime,
    surface: PeriodicSurface,
    constraint: MinLogSNR | AvoidRegion,
    settings: Settings,
    begin: Callable[[str], None],
    seed: int,
) -> Case:
    """The two geodesics and their transition paths."""
    free = verify(solve(space, settings), [constraint])
    init = free.geodesic.even
    a, b = init[[0, -1]]
    held = constrained_geodesic(space, a, b, [constraint], nodes=settings.nodes, init=init)
    ways = {}
    for kind, way in {"free path": free, "constrained": held}.items():
        begin(f"{name}: {kind}")
        paths = paths_along(surface, way.geodesic, settings, seed, correct=True)
        ways[kind] = (way, paths)
    return Case(name, ways)


def draw(surface: PeriodicSurface, cases: list[Case], path: Path) -> None:
    """Free and constrained paths on the surface, and their noise, one row per anchor."""
    with canvas(path, rows=len(cases), columns=2, width=4.6) as axes:
        for case, (map_, noise) in zip(cases, zip(axes[::2], axes[1::2], strict=True), strict=True):
            draw_surface(map_, surface, low=-4.2)
            for colour, (kind, (way, paths)) in zip(("C0", "C1"), case.ways.items(), strict=True):
                for frames in paths.frames[:15]:
                    map_.plot(*frames.T, color=colour, lw=0.4, alpha=0.5)
                map_.plot(*way.nodes[:, :2].T, color=colour, lw=1.8, label=kind)
                noise.plot(way.geodesic.knots, way.nodes[:, -1], color=colour)
            if len(cases) > 1:
                map_.plot(*REGION, "rx", label="region")
            else:
                noise.axhline(RHO, color="k", lw=0.8, ls=":")
            map_.set(title=case.name)
            map_.legend(fontsize=7, frameon=True)
            noise.set(xlabel="s", ylabel="log SNR", title="noise profile")
