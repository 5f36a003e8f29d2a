"""``score/rotated-lengths``: is the true rotation a short way?

Validation digits at every angle of a gap are lifted one by one; the length of the path through
them, under each metric, is divided by the shorter of LERP and SLERP on as many points.  Above 1 no
solver can be expected to find the rotation: it is not the geodesic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from diffodesic.experiments.common.statistics import mean_of
from diffodesic.experiments.experiment import Context, Number, Outcome
from diffodesic.experiments.rotated.digits import choose, turned
from diffodesic.images.baselines.latent import lerp, slerp
from diffodesic.images.lifting import Lifting
from diffodesic.images.placement import Placement
from diffodesic.images.spaces import (
    ConformalSpace,
    EuclideanSpace,
    JacobianSpace,
    ScoreSpace,
    Space,
    SpacetimeSpace,
)
from diffodesic.models.loading import load

__all__ = ["Settings", "run"]

ASKED: Mapping[str, Space] = {
    "Euclid": EuclideanSpace(),
    "score, weight 10": ScoreSpace(weight=10.0),
    "score, weight 1000": ScoreSpace(weight=1000.0),
    "conformal, weight 10": ConformalSpace(weight=10.0),
    "score Jacobian": JacobianSpace(),
    "spacetime": SpacetimeSpace(),
}


@dataclass(frozen=True)
class Settings:
    """What the numbers depend on."""

    model: str = "mnist"  # name or folder
    digits: int = 8  # how many validation digits
    gaps: tuple[float, ...] = (30.0, 90.0)  # angles between the ends, in degrees
    levels: tuple[float, ...] = (0.0, 2.0, 4.0, 6.0)  # log SNR of the points
    frames: int = 33  # points of a path
    flow_steps: int = 12  # steps of the probability flow
    seed: int = 0  # of the noise


def run(context: Context) -> Outcome:
    """Ratios of lengths, means over digits: some 10^5 evaluations, minutes on a core."""
    data = context.need("data", "a folder that holds mnist")
    settings = context.settings(
        Settings(context.model, seed=context.seed), digits=2, gaps=(30.0,), levels=(2.0,), frames=5
    )
    source = load(settings.model)
    digits, _ = choose(data, settings.digits, "validation")
    numbers: list[Number] = []
    begin = partial(context.part, of=len(settings.gaps) * len(settings.levels))
    for gap in settings.gaps:
        truth = turned(digits, torch.linspace(-gap / 2, gap / 2, settings.frames)).double()
        for level in settings.levels:
            begin(f"{gap:g} degrees, log SNR {level:g}")
            lifting = Lifting(source, level, settings.flow_steps, settings.seed)
            for name, ratio in _ratios(lifting, lifting.lift(truth)).items():
                numbers.append(mean_of(f"{gap:g} degrees, log SNR {level:g}: {name}", ratio))
    note = (
        f"Length of the path of true rotations over that of the shorter of LERP and SLERP, "
        f"{settings.frames} points each; means over {settings.digits} validation digits."
    )
    return Outcome(settings, tuple(numbers), (note,))


def _ratios(lifting: Lifting, z: Tensor) -> dict[str, Tensor]:
    """By metric, one ratio per digit of points (N, F, D)."""
    a, b = z[:, 0], z[:, -1]
    s = torch.linspace(0, 1, z.shape[1], dtype=z.dtype)
    ratios = {}
    for name, space in ASKED.items():
        there = Placement(space, lifting, torch.stack([a, b]))
        with torch.no_grad():
            true, *straight = (
                there.metric.squared_steps(there.pack(path)).clamp(min=0).sqrt().sum(-1)
                for path in (z, lerp(a, b, s), slerp(a, b, s))
            )
        ratios[name] = true / torch.minimum(*straight)
    return ratios
