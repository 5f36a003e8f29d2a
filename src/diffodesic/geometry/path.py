"""The path that a search returns, and what is known of its quality.

The discrete path is judged on a finer grid, along the smooth curve through its nodes: a path that
hides length between its nodes is found out there.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from diffodesic.geometry.energy import PathEnergy, even_knots
from diffodesic.geometry.metric import Metric
from diffodesic.geometry.status import SearchWarning, Status
from diffodesic.numerics.cost import Cost
from diffodesic.numerics.curves import Polyline
from diffodesic.numerics.words import brief

__all__ = ["Certificate", "Geodesic"]


@dataclass(frozen=True, repr=False)
class Certificate:
    """What is known about the quality of a path; tensors have the batch shape.

    Attributes:
        length: refined length, of the C2 spline through the nodes on a grid ``refine`` times finer.
        energy: refined energy on the same grid.
        discrete_length: ``sum sqrt(squared_steps)`` over the points that the search has seen: the
            nodes, and points between them where it had to look closer.
        discrete_energy: ``n/2 sum squared_steps`` over these, the solver's objective.
        speed_spread: standard deviation over mean of the speeds at the nodes; 0 is constant speed.
        negative_fraction: share of refined segments that are doubtful (:class:`Evaluation`): the
            metric was not positive there, which cannot be for a true posterior mean. A squared
            length that is itself negative counts as zero, and the status is NEGATIVE_STEPS.
        gradient_norm: preconditioned gradient of the discrete energy, relative to the length.
        lower: what the distance is at least (``PathEnergy.lower_bound``); 0 where nothing is known.
        upper: length of the one segment between the ends, where it is a bound (two-point steps of
            an exact denoiser); else infinite.
        judged: length by an estimate that shares no formula with the energy and no random number
            with the search (``PathEnergy.judge``); NaN where there is none.
        judged_error: its standard error.
        least_noise: the noise that the nodes carry, relative to what their level says
            (``PathEnergy.noise_ratio``), where it is least; NaN where points are not noisy data of
            a network.
        most_noise: the same where it is most.
    """

    length: Tensor
    energy: Tensor
    discrete_length: Tensor
    discrete_energy: Tensor
    speed_spread: Tensor
    negative_fraction: Tensor
    gradient_norm: Tensor
    lower: Tensor
    upper: Tensor
    judged: Tensor
    judged_error: Tensor
    least_noise: Tensor
    most_noise: Tensor

    def __repr__(self) -> str:
        """One line of what is known."""
        return f"Certificate({brief(self._known())})"

    def as_dict(self) -> dict[str, object]:
        """Plain numbers and lists, for JSON; bounds that are not known are left out."""
        return {name: value.tolist() for name, value in self._known().items()}

    def _known(self) -> dict[str, Tensor]:
        found = asdict(self)
        unknown = {"lower": found["lower"] == 0, "upper": found["upper"] == math.inf}
        for name in ("judged", "judged_error", "least_noise", "most_noise"):
            unknown[name] = found[name].isnan()
        for name, nothing in unknown.items():
            if bool(nothing.all()):
                del found[name]
        return found


@dataclass(frozen=True, repr=False)
class Geodesic:
    """A solved path; call it with ``s`` in [0, 1] for points at constant speed.

    Attributes:
        metric: the geometry it was solved in.
        objective: the energy that was minimised, with everything decided that depends on the ends.
        nodes: (..., n+1, d) with exact ends.
        knots: share of the length before every node, (..., n+1): 0, 1/n, ... 1 but where a path of
            long straight stretches has more of its nodes in the corners.
        certificate: quality of the path.
        statuses: how each pair of the batch ended, in row-major order.
        cost: work spent, certificate included.
        iterations: accepted solver steps, (...).
        start: name of the first path, per pair.
        smooth: whether the path is the smooth curve through its nodes, (...); else, where few
            nodes make that one longer than the energy's own segments, it is these.
        doubts: what makes the path or its length wrong whatever its status, one sentence each.
    """

    metric: Metric
    objective: PathEnergy
    nodes: Tensor
    knots: Tensor
    certificate: Certificate
    statuses: tuple[Status, ...]
    cost: Cost
    iterations: Tensor
    start: tuple[str, ...]
    smooth: Tensor
    doubts: tuple[str, ...]

    def __call__(self, s: Tensor | float) -> Tensor:
        """Points of the path: ``s`` a number gives (..., d), (S,) gives (..., S, d)."""
        # between nodes on the boundary of the metric's domain a spline may overshoot it
        return self.objective.confine(self._either(lambda curve: curve(s)))

    def velocity(self, s: Tensor | float) -> Tensor:
        """Derivative of the path by ``s``; shapes as for a call."""
        return self._either(lambda curve: curve.velocity(s))

    def __repr__(self) -> str:
        """One line: the metric, the shape, the length and how it ended."""
        length = self.length.flatten()
        text = f"{float(length[0]):.6g}" if len(length) == 1 else f"{len(length)} lengths"
        return (
            f"Geodesic({type(self.metric).__name__}, {self.nodes.shape[-2] - 1} segments, {text}, "
            f"{self.status.name})"
        )

    def warn(self, *, status: bool = True, stacklevel: int = 3) -> None:
        """Emit what the caller of a function should know.

        Args:
            status: say a status that is not ok, beside every doubt.
            stacklevel: of the warnings; 3 is the line that called the function.
        """
        if status and not self.ok:
            warnings.warn(self.status.value, SearchWarning, stacklevel=stacklevel)
        for doubt in self.doubts:
            warnings.warn(doubt, RuntimeWarning, stacklevel=stacklevel)

    def split(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Its tensors, and the rest but the metric as JSON takes it."""
        own = ("nodes", "knots", "iterations", "smooth")
        tensors = {name: getattr(self, name) for name in own} | asdict(self.certificate)
        statuses = [status.name for status in self.statuses]
        return tensors, {
            "statuses": statuses,
            "start": list(self.start),
            "cost": asdict(self.cost),
            "doubts": list(self.doubts),
        }

    @classmethod
    def joined(cls, metric: Metric, tensors: dict[str, Tensor], rest: dict[str, Any]) -> Geodesic:
        """What :meth:`split` took apart, in the same metric."""
        rated = {name: tensors[name] for name in Certificate.__dataclass_fields__}
        return cls(
            metric,
            metric.energy(),
            tensors["nodes"],
            tensors.get("knots", even_knots(tensors["nodes"])),  # earlier versions had these alone
            Certificate(**rated),
            tuple(Status[name] for name in rest["statuses"]),
            Cost(**rest["cost"]),
            tensors["iterations"],
            tuple(rest["start"]),
            tensors["smooth"],
            tuple(rest.get("doubts", ())),  # stages of earlier versions have none
        )

    def _either(self, ask: Callable[[Polyline], Tensor]) -> Tensor:
        smooth = ask(self.curve)
        if bool(self.smooth.all()):
            return smooth
        mask = self.smooth.reshape(*self.smooth.shape, *[1] * (smooth.ndim - self.smooth.ndim))
        segments = self.objective.segments(self.nodes).with_knots(self.knots)
        return torch.where(mask, smooth, ask(segments))

    @property
    def even(self) -> Tensor:
        """As many points as nodes, at equal steps of the length: the nodes, where these lie so."""
        s = even_knots(self.nodes)
        if torch.equal(self.knots, s):
            return self.nodes
        inner = self(s.reshape(-1, s.shape[-1])[0])[..., 1:-1, :]
        return torch.cat([self.nodes[..., :1, :], inner, self.nodes[..., -1:, :]], -2)

    @property
    def curve(self) -> Polyline:
        """The smooth curve through the nodes, whether or not the path is this one."""
        return self.objective.curve(self.nodes).with_knots(self.knots)

    @property
    def length(self) -> Tensor:
        """The judged length where there is one, else the refined one, (...)."""
        rated = self.certificate
        return torch.where(rated.judged.isnan(), rated.length, rated.judged)

    @property
    def energy(self) -> Tensor:
        """Discrete energy on what the search has seen, (...)."""
        return self.certificate.discrete_energy

    @property
    def status(self) -> Status:
        """The worst status of the batch."""
        return max(self.statuses, key=list(Status).index)

    @property
    def ok(self) -> bool:
        """Whether the search of every pair ended as it was meant to; see :attr:`Status.ok`."""
        return self.status.ok

    @property
    def evaluations(self) -> int:
        """Network evaluations spent (a batch of n points counts n)."""
        return self.cost.evaluations

    @property
    def derivatives(self) -> int:
        """Jacobian products of the network spent, forward or backward."""
        return self.cost.derivatives

    @property
    def node_gradients(self) -> float:
        """Gradients of the energy at a node spent; an energy alone counts a third."""
        return self.cost.node_gradients
