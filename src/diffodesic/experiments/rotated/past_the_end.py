"""Past the end of a path between two angles of a digit: how far the angle goes on.

Between -gap/2 and gap/2 every method ends at the same picture.  Beyond it the true angle at
overshoot t is gap/2 + t gap; a frame's own angle is that of the nearest picture of the orbit.

    exponential     the geodesic of the recommended metric, continued
    score-guided    the stepper of 2505.11128 in the same metric
    LERP, SLERP     their formulas at s = 1 + t
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor

from diffodesic.experiments.common.statistics import draws, resampled_mean
from diffodesic.experiments.rotated.digits import ORBIT, angles_found, turned
from diffodesic.experiments.rotated.settings import Method, Settings
from diffodesic.geometry.energy import Solver
from diffodesic.images.baselines.between import baseline_curve
from diffodesic.images.lifting import Lifting
from diffodesic.images.placement import Placement
from diffodesic.metrics.continuation import Alarm, continue_path
from diffodesic.metrics.continuation import Method as Continuation
from diffodesic.models.model import Model
from diffodesic.output.stages import Stage, Store

__all__ = ["OVERSHOOT", "STEPPED", "past_the_end"]

GAP = 30.0
OVERSHOOT = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)
DEAF = Alarm(density=None, dimension=None, curvature=None)
STEPPED: tuple[Continuation, ...] = get_args(Continuation)


def past_the_end(
    model: Model,
    method: Method,
    digits: Tensor,
    settings: Settings,
    store: Store,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Angles beyond the end, by method.

    Args:
        model: the model.
        method: the recommended setting.
        digits: (N, 1, 28, 28) in [0, 1].
        settings: nodes, solver, seeds.
        store: keeps the points of every digit.
        say: is told of every path that begins.

    Returns:
        overshoot; and per method, per overshoot: angle error in degrees and RMSE to the orbit with
        intervals, and the share of digits whose path went so far: the exponential map until an
        alarm (without one it is followed for minutes, far from any digit), the others to the end.

    Cost: some thousand evaluations per digit, one digit after another, on the CPU: small batches.
    """
    ends = turned(digits, torch.tensor([-GAP / 2, GAP / 2])).double()
    assert method.log_snr is not None
    lifting = Lifting(model, method.log_snr, settings.flow_steps, settings.seed)
    points = lifting.lift(ends)
    s = 1 + torch.tensor(OVERSHOOT, dtype=points.dtype, device=points.device)
    images = ends[:, 0], ends[:, 1]
    orbit = turned(digits, ORBIT)
    weights = draws(len(digits), settings.resamples, settings.seed)
    results: dict[str, Any] = {"overshoot": OVERSHOOT, "gap": GAP}
    for name in ("LERP", "SLERP"):
        curve = baseline_curve(name, lifting, images, (points[:, 0], points[:, 1]))(s)
        results[name] = _judge(lifting, curve, orbit, weights, torch.ones(curve.shape[:2]))
    there = Placement(method.space(), lifting, points)
    relax = method.solver(settings)
    for name in STEPPED:
        walks = []
        for i, (a, b) in enumerate(points):
            say(f"past the end, {name}: {i} of {len(digits)}")
            walk = partial(_walked, there, a, b, name, settings.nodes, relax)
            walks.append(store.part(f"beyond {name}").stage(str(i), walk)[0]["points"])
        curve, reached = _padded(walks, points)
        results[name] = _judge(lifting, curve, orbit, weights, reached)
    return results


def _walked(
    there: Placement, a: Tensor, b: Tensor, name: Continuation, nodes: int, relax: Solver | None
) -> Stage:
    """Points past ``b`` of one digit, (S, D), as far as its path went."""
    path = there.geodesic(a, b, nodes=nodes, solver=relax)
    alarm = DEAF if name == "score-guided" else Alarm()
    walk = continue_path(path, 1.0, method=name, points=len(OVERSHOOT), alarm=alarm, rtol=1e-3)
    return {"points": walk.points[1:]}, {}


def _padded(walks: list[Tensor], like: Tensor) -> tuple[Tensor, Tensor]:
    """Walks in one tensor (N, S, D), the last point repeated; and where they reached, (N, S)."""
    count, dim = len(OVERSHOOT), like.shape[-1]
    curve = torch.zeros(len(walks), count, dim, dtype=like.dtype, device=like.device)
    reached = torch.zeros(len(walks), count)
    for i, walk in enumerate(walks):
        reached[i, : len(walk)] = 1
        if len(walk):
            curve[i] = walk[-1]
            curve[i, : len(walk)] = walk.to(like)
    return curve, reached


def _judge(
    lifting: Lifting, curve: Tensor, orbit: Tensor, weights: Tensor, reached: Tensor
) -> dict[str, Any]:
    """Errors of points (N, S, D) past the end, over the digits whose path reached them."""
    frames = lifting.images(curve, lifting.log_snr)
    index, rmse = angles_found(frames.float(), orbit)
    angle = ORBIT[index.cpu()]
    true = GAP / 2 + GAP * torch.tensor(OVERSHOOT)
    points = []
    for j in range(len(OVERSHOOT)):
        went = reached[:, j] > 0
        point: dict[str, Any] = {"reached": float(went.float().mean())}
        if int(went.sum()) > 1:
            for name, value in (
                ("angle error", (angle[:, j] - true[j]).abs()),
                ("angle past the end", angle[:, j] - GAP / 2),
                ("orbit RMSE", rmse[:, j].cpu()),
            ):
                estimate = resampled_mean(value[went].double(), weights[:, went] + 1e-12)
                point[name] = [estimate.value, estimate.low, estimate.high]
        points.append(point)
    return {"rows": points}
