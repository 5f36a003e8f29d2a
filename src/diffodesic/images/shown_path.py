"""One path between two images: its frames, their spacing, and its length.

Frames are at equal steps of the metric, or at equal steps of the distance under a named feature
extractor ("perceptual").  For the latter the distances of twice as many frames are summed, and the
parameters of the frames are those at equal shares of the sum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor

from diffodesic.images.features import Features
from diffodesic.images.placement import REFINE, Placement
from diffodesic.numerics.cost import stage

__all__ = ["Pace", "ShownPath", "equal_steps", "show_path"]


Pace = Literal["metric", "perceptual"]

Curve = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ShownPath:
    """One path between the two images.

    Attributes:
        frames: images (F, C, H, W) in [0, 1].
        length: refined length under the metric of the interpolation; that of the check where it
            is better, for a network (:meth:`PathEnergy.judge`).
        energy: refined energy under it.
        floor: for the score metric, the least energy that a path with the same ends and the same
            change of log-density can have, else None; see :meth:`ScoreMetric.energy_floor`.
        check: for spacetime, the length by :func:`mismatch_length`, which shares no formula with
            the metric's own, and its standard error; else None.
        s: parameters of the frames, (F,), from 0 to 1.
        log_snr: noise level at the frames, (F,).
        curve_s: parameters of the two curves below, (S,).
        curve_log_snr: noise level along the path, (S,).
        curve_speed: speed ``|c'(s)|`` under the metric, (S,).
    """

    frames: Tensor
    length: float
    energy: float
    floor: float | None
    check: tuple[float, float] | None
    s: Tensor
    log_snr: Tensor
    curve_s: Tensor
    curve_log_snr: Tensor
    curve_speed: Tensor

    def split(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Its tensors, and the rest."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
        return tensors, {name: values[name] for name in values.keys() - tensors.keys()}

    @classmethod
    def joined(cls, tensors: dict[str, Tensor], rest: dict[str, Any]) -> ShownPath:
        """What :meth:`split` took apart, after JSON."""
        check = None if rest["check"] is None else tuple(rest["check"])
        values: dict[str, Any] = {**tensors, **rest, "check": check}
        return cls(**values)


def show_path(
    there: Placement,
    curve: Curve,
    frames: int,
    nodes: int,
    features: Features | None = None,
    restore: Callable[[Tensor, Tensor], Tensor] | None = None,
    judged: tuple[float, float] | None = None,
) -> ShownPath:
    """Frames and lengths of a curve.

    Args:
        there: the space, and the way back to images.
        curve: points (S, d) of the metric by parameters (S,).
        frames: number of images.
        nodes: segments of the path; steps are taken on ``REFINE`` times as many, or on as many
            where the length is that of the check.
        features: the extractor of a perceptual pace; None paces by the parameter.
        restore: makes of points (S, D) and parameters (S,) what is brought back; lengths are those
            of the path itself.
        judged: length of the path by an independent estimate and its standard error, where known.

    Returns:
        the path.

    Cost: that of :meth:`Lifting.images` per frame, three times with a perceptual pace; the steps;
    and that of :meth:`PathEnergy.judge`.
    """
    space, metric = there.space, there.metric
    s = _grid(frames - 1, there.z)

    def shown(at: Tensor) -> tuple[Tensor, Tensor]:
        z, level = there.unpack(curve(at))
        return there.lifting.images(z if restore is None else restore(z, at), level), level

    if features is not None:
        s = _perceptual(shown, s, features)
    with torch.no_grad():
        images, level = shown(s)
    energy = metric.energy()
    with torch.no_grad(), stage("judging"):
        if judged is None:
            length, error = energy.judge(curve(_grid(nodes, s))[None], there.lifting.seed)
            judged = None if bool(length.isnan()) else (float(length), float(error))
        trusted = judged if energy.fitted else None
        fine = _grid(nodes if trusted else REFINE * nodes, s)
        on_fine = curve(fine)
        steps = metric.squared_steps(on_fine)
        speed = steps.clamp(min=0).sqrt() * steps.shape[-1]
        return ShownPath(
            frames=images,
            length=trusted[0] if trusted else float(speed.mean()),
            energy=float(steps.sum()) * len(steps) / 2,
            floor=space.energy_floor(metric, on_fine),
            check=judged,
            s=s,
            log_snr=level,
            curve_s=(fine[1:] + fine[:-1]) / 2,
            curve_log_snr=there.unpack((on_fine[1:] + on_fine[:-1]) / 2)[1],
            curve_speed=speed,
        )


def _grid(segments: int, like: Tensor) -> Tensor:
    """Evenly spaced parameters (segments + 1,) from 0 to 1."""
    return torch.linspace(0, 1, segments + 1, dtype=like.dtype, device=like.device)


def _perceptual(
    shown: Callable[[Tensor], tuple[Tensor, Tensor]], s: Tensor, features: Features
) -> Tensor:
    """Parameters (F,) between which the images change by the same distance."""
    dense = _grid(2 * len(s) - 2, s)
    with torch.no_grad():
        images, _ = shown(dense)
    return equal_steps(features.distance(images[:-1].float(), images[1:].float()), s)


def equal_steps(steps: Tensor, s: Tensor) -> Tensor:
    """Parameters at equal shares of a distance that is known between evenly spaced ones.

    Args:
        steps: distances (M,) between neighbours of M + 1 points, evenly spaced from 0 to 1.
        s: wanted shares of their sum (F,), increasing from 0 to 1.

    Returns:
        parameters (F,), those between the points by lines.
    """
    # a small constant keeps frames apart where nothing changes
    steps = steps.to(s) + 1e-3 * steps.mean() + torch.finfo(s.dtype).tiny
    reach = torch.nn.functional.pad(steps.cumsum(0), (1, 0))
    wanted = s * reach[-1]
    after = torch.searchsorted(reach, wanted).clamp(1, len(steps))
    share = (wanted - reach[after - 1]) / (reach[after] - reach[after - 1])
    spaced = (after - 1 + share) / len(steps)
    return torch.cat([s[:1], spaced[1:-1], s[-1:]])
