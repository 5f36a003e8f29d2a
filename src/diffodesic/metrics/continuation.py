r"""Beyond the end of a path: the exponential map, a score-guided stepper, and when to stop.

**The exponential map** follows the geodesic itself: from the end b with the velocity v that the
path arrives with, exp_b(s v) for s up to ``amount``; Hamilton's equations as in
:mod:`diffodesic.geometry.exponential`.  It knows the metric and nothing else.

**The score-guided stepper** is extrapolation in the manner of 2505.11128, which moves on in the
last direction d and corrects by the score; no code of it is public, and this is our reading.  The
step to y = x + h d is led back, along the part n of the score across d, to the log-density of b:

    x' = y + gain (log p(b) - log p(y)) n / |n|^2,    n = s - (s.d) d,    d' = (x' - x)/|x' - x|,

by no more than h.  It is no geodesic of any metric here.

Neither knows where the data end.  A metric at one noise level can watch

    density      log p, by the trapezoidal rule on the scores: the path has left the data,
    dimension    E|J p|^2 = |J|_F^2, J = dm/dz, p a probe: the data have another local dimension,
    curvature    the turn of the path per unit of length: it is thrown off,

each against what it was on the path between the ends, where the model is believed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Literal, get_args

import torch
from torch import Tensor

from diffodesic.geometry.exponential import slope as slope_of
from diffodesic.geometry.path import Geodesic
from diffodesic.metrics.one_level import AtNoise
from diffodesic.numerics import checks
from diffodesic.numerics.cost import Cost, counting, stage
from diffodesic.numerics.ode import IntegrationError, rk45

__all__ = ["Alarm", "Continuation", "Method", "Stop", "continue_path"]

Method = Literal["exponential", "score-guided"]

# what ends a path, as opposed to what is wrong with a program (shapes, memory)
_ENDED: tuple[type[Exception], ...] = (
    IntegrationError,
    torch.linalg.LinAlgError,  # type: ignore[attr-defined]
    FloatingPointError,
)


class Stop(Enum):
    """Why a continuation ended; the value is a sentence."""

    COMPLETE = "the whole amount was reached"
    DENSITY = "log-density fell below that of the path between the ends: the data end here"
    DIMENSION = "the local dimension is not that of the path between the ends"
    CURVATURE = "the path turns much faster than between the ends: it is thrown off"
    LEFT_DOMAIN = "the path leaves the noise levels that the metric is made for"
    NON_FINITE = (
        "the path could not be followed further: it, or the metric on it, stops being finite or "
        "invertible, or it is too stiff"
    )


@dataclass(frozen=True)
class Alarm:
    """How far a continuation may leave what was seen on its path; None never stops.

    Attributes:
        density: fall of log-density below its least value on the path, in units of sqrt(D/2), the
            spread of the log-density of D-dimensional noise.
        dimension: factor by which the local dimension may leave its range on the path.
        curvature: factor by which the curvature may exceed its largest value on the path, or one
            radian per length of the path where that is more.
        probes: random directions for the local dimension.
    """

    density: float | None = 3.0
    dimension: float | None = 2.0
    curvature: float | None = 3.0
    probes: int = 4

    def __post_init__(self) -> None:
        given = {"density": 0.0, "dimension": 1.0, "curvature": 1.0}
        for name, least in given.items():
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise ValueError(f"{name} must be None or at least {least:g}, got {value}")
        if self.probes < 1:
            raise ValueError(f"probes must be at least 1, got {self.probes}")


@dataclass(frozen=True, repr=False)
class Continuation:
    """A path continued beyond its end.

    Attributes:
        path: the geodesic between the ends.
        method: how it was continued.
        s: parameters of the points, from 1 (the end b) to what was reached, (S,).
        points: the points, (S, d).
        stop: why it ended.
        watched: log-density relative to b, local dimension and curvature by name, one value per
            point and one more for the point that raised an alarm; empty where the metric has no
            noise level of its own.
        cost: work spent beyond b, watching included.
    """

    path: Geodesic
    method: Method
    s: Tensor
    points: Tensor
    stop: Stop
    watched: dict[str, Tensor]
    cost: Cost

    @property
    def reached(self) -> float:
        """How far beyond b it went, as a share of the path between the ends."""
        return float(self.s[-1]) - 1

    def __repr__(self) -> str:
        """One line: how far, by which method, and why it ended."""
        return f"Continuation({self.method}, {self.reached:.3g} beyond the end, {self.stop.name})"


@stage("continuing")
def continue_path(
    path: Geodesic,
    amount: float = 0.5,
    *,
    method: Method = "exponential",
    points: int = 16,
    gain: float = 1.0,
    alarm: Alarm | None = None,
    rtol: float = 1e-6,
    seed: int = 0,
) -> Continuation:
    """Continue a solved path beyond its second end.

    Args:
        path: the geodesic of one pair.
        amount: how far, as a share of the path, > 0; the parameter goes from 1 to 1 + amount.
        method: ``exponential``, the geodesic itself, or ``score-guided``, the stepper of
            2505.11128, for metrics at one noise level.
        points: number of points beyond the end; alarms are heard at each.
        gain: share of the stepper's correction that is made, in (0, 1].
        alarm: when to stop; default ``Alarm()``.
        rtol: tolerance of the integrator, relative to the size of the whole state: 1e-3 where the
            metric is that of a network.
        seed: of the probes of the local dimension.

    Returns:
        the points that raised no alarm, and why there are no more.

    Raises:
        ValueError: for several pairs, ends that are the same point, an amount that is not
            positive, or a stepper without a score.

    Cost: for ``exponential`` that of ``exp``; for the stepper two evaluations per point; watching
    takes one evaluation and ``probes`` JVPs per point, on the path too.
    """
    _check(path, amount, method, points, gain)
    alarm, metric, seed = alarm or Alarm(), path.metric, checks.seed(seed)
    with counting() as cost:
        watch = _Watch(path, alarm, points, amount, seed) if isinstance(metric, AtNoise) else None
        walk: _Walk
        if method == "exponential":
            walk = _Exponential(path, amount / points, rtol)
        else:
            walk = _ScoreGuided(path, amount / points, gain)
        found, stop = [path.nodes[-1]], Stop.COMPLETE
        for _ in range(points):
            try:
                after = walk.step()
            except _ENDED:
                stop = Stop.NON_FINITE
                break
            if not bool(torch.isfinite(after).all()):
                stop = Stop.NON_FINITE
                break
            if not torch.equal(path.objective.confine(after), after):
                stop = Stop.LEFT_DOMAIN
                break
            stop = watch.hear(after) if watch else stop
            if stop is not Stop.COMPLETE:
                break
            found.append(after)
    s = 1 + amount / points * torch.arange(len(found), dtype=path.nodes.dtype)
    seen = watch.seen() if watch else {}
    return Continuation(path, method, s, torch.stack(found), stop, seen, cost)


def _check(path: Geodesic, amount: float, method: str, points: int, gain: float) -> None:
    if method not in get_args(Method):
        raise ValueError(f"unknown method {method!r}; choose one of {', '.join(get_args(Method))}")
    if path.nodes.ndim != 2:
        raise ValueError("a continuation is of one pair; give ends of shape (d,)")
    if torch.equal(path.nodes[0], path.nodes[-1]):
        raise ValueError("the ends are the same point: there is no direction to continue in")
    if not 0 < amount < math.inf or points < 1:
        raise ValueError(f"amount must be positive and points >= 1, got {amount} and {points}")
    if not 0 < gain <= 1:
        raise ValueError(f"gain must be in (0, 1], got {gain}")
    if method == "score-guided" and not isinstance(path.metric, AtNoise):
        raise ValueError(
            "the score-guided stepper needs the score of a noise level, and "
            f"{type(path.metric).__name__} has none; use method='exponential' or a score metric"
        )


class _Exponential:
    """Hamilton's equations from the end of a path, ``h`` of its parameter at a time."""

    def __init__(self, path: Geodesic, h: float, rtol: float) -> None:
        self.metric, self.h, self.rtol = path.metric, h, rtol
        x = path.nodes[-1]
        self.state = torch.cat([x, self.metric.flat(x, path.velocity(1.0)).detach()])

    def step(self) -> Tensor:
        # components near zero must not set the pace
        atol = self.rtol * float(self.state.square().mean().sqrt())
        self.state = rk45(self._field, self.state, rtol=self.rtol, atol=atol, max_steps=100)
        return self.state.chunk(2)[0]

    def _field(self, _: float, state: Tensor) -> Tensor:
        x, p = state.chunk(2)
        u = self.metric.sharp(x, p).detach()
        return self.h * torch.cat([u, slope_of(self.metric, x, u, u) / 2])


class _ScoreGuided:
    """The stepper of 2505.11128."""

    def __init__(self, path: Geodesic, h: float, gain: float) -> None:
        assert isinstance(path.metric, AtNoise)
        self.metric, self.gain, self.x = path.metric, gain, path.nodes[-1]
        velocity = path.velocity(1.0)
        self.direction = velocity / velocity.norm()
        self.h = h * float(path.nodes.diff(dim=0).norm(dim=-1).sum())

        self.level, self.score = 0.0, self._score(self.x)

    def step(self) -> Tensor:
        ahead = self.x + self.h * self.direction
        score = self._score(ahead)
        level = self.level + _rise(self.x, ahead, self.score, score)
        normal = score - (score @ self.direction) * self.direction
        size = float(normal.norm())
        move = max(-self.h, min(self.h, -self.gain * level / size)) if size > 0 else 0.0
        after = ahead + (move / max(size, 1e-300)) * normal
        self.direction = (after - self.x) / (after - self.x).norm()
        last = self._score(after)
        self.level += _rise(self.x, after, self.score, last)
        self.x, self.score = after, last
        return after

    def _score(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.metric.score(x)


_Walk = _Exponential | _ScoreGuided


class _Watch:
    """What is known of a path between its ends, and of each point beyond."""

    def __init__(self, path: Geodesic, alarm: Alarm, points: int, amount: float, seed: int) -> None:
        assert isinstance(path.metric, AtNoise)
        self.metric, self.alarm = path.metric, alarm
        generator = checks.generator(seed)
        shape = (alarm.probes, 1, path.metric.dim)
        signs = torch.randint(0, 2, shape, generator=generator) * 2.0 - 1.0
        self.probes = signs.to(path.nodes)
        # as densely as beyond the end, so that what is compared is measured alike
        count = max(4, math.ceil(points / amount))
        known = path(torch.linspace(0, 1, count + 1, dtype=signs.dtype).to(path.nodes))
        score, dimension = self._look(known)
        rise = ((score[1:] + score[:-1]) / 2 * known.diff(dim=0)).sum(-1)
        height = rise.flip(0).cumsum(0).neg()  # of all points but b, seen from b
        length = float(known.diff(dim=0).norm(dim=-1).sum())
        self.lowest = min(float(height.min()), 0.0)
        self.dimensions = (float(dimension.min()), float(dimension.max()))
        self.curvature = max(float(_curvature(known).max()), 1 / length)
        self.last, self.score = known[-2:], score[-1]
        self.heights, self.widths = [0.0], [float(dimension[-1])]
        self.turns = [float(_curvature(known)[-1])]

    def hear(self, x: Tensor) -> Stop:
        """Look at the next point."""
        score, dimension = self._look(x.unsqueeze(0))
        rise = _rise(self.last[-1], x, self.score, score[0])
        self.last, self.score = torch.cat([self.last, x.unsqueeze(0)])[-3:], score[0]
        self.heights.append(self.heights[-1] + rise)
        self.widths.append(float(dimension))
        self.turns.append(float(_curvature(self.last)[-1]))
        return self._judge()

    def _judge(self) -> Stop:
        alarm, low, high = self.alarm, *self.dimensions
        height, width, turn = self.heights[-1], self.widths[-1], self.turns[-1]
        if not math.isfinite(height + width + turn):
            return Stop.NON_FINITE
        fall = self.lowest - height
        if alarm.density is not None and fall > alarm.density * math.sqrt(self.metric.dim / 2):
            return Stop.DENSITY
        if alarm.dimension is not None and not (
            low / alarm.dimension <= width <= high * alarm.dimension
        ):
            return Stop.DIMENSION
        if alarm.curvature is not None and turn > alarm.curvature * self.curvature:
            return Stop.CURVATURE
        return Stop.COMPLETE

    def seen(self) -> dict[str, Tensor]:
        """What was watched, b first."""
        named = {"log_density": self.heights, "dimension": self.widths, "curvature": self.turns}
        return {name: torch.tensor(values, dtype=torch.float64) for name, values in named.items()}

    def _look(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Score (N, D) and local dimension (N,) at points (N, D)."""
        level = x.new_tensor(self.metric.sigma)
        with torch.no_grad():
            pushed = self.metric.denoiser.jvp(x, level, self.probes)[1]
            return self.metric.score(x), pushed.square().sum(-1).mean(0)


def _rise(x: Tensor, y: Tensor, first: Tensor, last: Tensor) -> float:
    """Change of log-density from ``x`` to ``y``, with the scores at both; all (D,)."""
    return float((first + last) @ (y - x) / 2)


def _curvature(x: Tensor) -> Tensor:
    """Turn per unit of length at the inner ones of points (N, D), (N-2,)."""
    u = x.diff(dim=0)
    length = u.norm(dim=-1)
    unit = u / length.clamp(min=1e-300).unsqueeze(-1)
    angle = 2 * torch.atan2(unit.diff(dim=0).norm(dim=-1), (unit[1:] + unit[:-1]).norm(dim=-1))
    return 2 * angle / (length[1:] + length[:-1]).clamp(min=1e-300)
