"""What ``edit`` returns: a geodesic of spacetime read as noise that is added and removed."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor

from diffodesic.denoisers.denoiser import HasLogPartition
from diffodesic.geometry.path import Geodesic
from diffodesic.geometry.status import Status
from diffodesic.images.lifting import Lifting
from diffodesic.images.placement import doubts, path_record
from diffodesic.metrics.spacetime.metric import Spacetime
from diffodesic.models.model import Model
from diffodesic.numerics.words import brief
from diffodesic.output.images import to_pil
from diffodesic.output.notebook import fragment

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Edit", "EditStep", "Phase", "distances_of"]

Kind = Literal["noise", "denoise"]


@dataclass(frozen=True)
class EditStep:
    """One step of an edit.

    Attributes:
        kind: whether it adds noise or removes it.
        log_snr: levels at its two ends.
        length: its length.
        share: its part of the length of the edit, in [0, 1].
        jeffreys: relative entropies of its two posteriors, both ways summed, in nats; the
            squared length.
        kl: the two, of the first from the second and back; None where the log-partition is not
            known in closed form.
    """

    kind: Kind
    log_snr: tuple[float, float]
    length: float
    share: float
    jeffreys: float
    kl: tuple[float, float] | None


@dataclass(frozen=True)
class Phase:
    """Consecutive steps of one kind.

    Attributes:
        kind: whether they add noise or remove it.
        steps: how many.
        log_snr: levels at the two ends.
        share: their part of the length of the edit, in [0, 1].
    """

    kind: Kind
    steps: int
    log_snr: tuple[float, float]
    share: float


@dataclass(frozen=True, repr=False)
class Edit:
    """A geodesic of spacetime read as noise added and removed; what :func:`edit` returns.

    Attributes:
        geodesic: the path, with its certificate; one pair.
        log_snr: the anchor, log SNR of both ends.
        model: where the images come from; None for points of a denoiser.
        settings: what was asked for and what was chosen.
        alarms: what makes the edit mean little: an image is not of the model's kind.
    """

    geodesic: Geodesic
    log_snr: float
    model: Model | None
    settings: dict[str, Any]
    alarms: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """One line: the distance, how far the path climbs, and how the search ended."""
        known = {"distance": self.distance, "log SNR": self.log_snr, "apex": self.apex[1]}
        return f"Edit({brief(known)}, {self.geodesic.status.name})"

    @property
    def distance(self) -> float:
        """The Diffusion Edit Distance; see :func:`distances_of`."""
        return float(distances_of(self.geodesic))

    @property
    def notices(self) -> tuple[str, ...]:
        """What is doubtful, one sentence each."""
        return (*self.alarms, *doubts(self.geodesic), *(self.model.caveats() if self.model else ()))

    def _repr_html_(self) -> str:
        """The distance, the status and the phases, for a notebook; without frames, which cost."""
        status = self.geodesic.status
        s, level = self.apex
        phases = {
            f"{phase.kind}, log SNR {phase.log_snr[0]:.2f} to {phase.log_snr[1]:.2f}": (
                f"{phase.share:.0%} of the length"
            )
            for phase in self.phases()
        }
        return fragment(
            f"DiffED {self.distance:.4g} at log SNR {self.log_snr:g}",
            f"{status.name}: {status.value}",
            {**phases, "noisiest": f"log SNR {level:.2f} at s = {s:.2f}"},
            ok=status.ok,
            notices=self.notices,
        )

    @property
    def levels(self) -> Tensor:
        """Log SNR at the nodes, (n+1,)."""
        return self.geodesic.nodes[..., -1]

    @property
    def apex(self) -> tuple[float, float]:
        """The noisiest node: its parameter s and its log SNR."""
        at = int(self.levels.argmin())
        return float(self.geodesic.knots[at]), float(self.levels[at])

    def steps(self) -> tuple[EditStep, ...]:
        """The edit, step by step, between the nodes of the path.

        Returns:
            one entry per segment; none where the ends are the same point.

        Cost: one ``steps`` of the metric on n + 1 nodes.
        """
        if self.geodesic.status is Status.SAME_POINT:
            return ()
        nodes, levels = self.geodesic.nodes, self.levels.tolist()
        with torch.no_grad():
            square = self.geodesic.metric.squared_steps(nodes)
            both = _divergences(cast(Spacetime, self.geodesic.metric), nodes)
        length = square.clamp(min=0).sqrt()
        share = length / length.sum()
        return tuple(
            EditStep(
                kind="noise" if levels[i + 1] < levels[i] else "denoise",
                log_snr=(levels[i], levels[i + 1]),
                length=float(length[i]),
                share=float(share[i]),
                jeffreys=float(square[i]),
                kl=None if both is None else (float(both[0][i]), float(both[1][i])),
            )
            for i in range(len(square))
        )

    def phases(self) -> tuple[Phase, ...]:
        """The steps, consecutive ones of one kind taken together."""
        phases = []
        for kind, group in groupby(self.steps(), key=lambda step: step.kind):
            steps = list(group)
            ends = (steps[0].log_snr[0], steps[-1].log_snr[1])
            phases.append(Phase(kind, len(steps), ends, sum(step.share for step in steps)))
        return tuple(phases)

    def frames(self, count: int = 9, *, flow_steps: int = 24) -> Tensor:
        """What the edit looks like at equal steps of its length.

        Args:
            count: number F of frames, ends included.
            flow_steps: steps of the probability-flow ODE back to clean data.

        Returns:
            images (F, C, H, W) in [0, 1] brought back by the probability flow; for a denoiser
            without a model its posterior means (F, D).

        Raises:
            ValueError: for fewer than two frames.

        Cost: ``2 flow_steps + 1`` evaluations per frame; one without a model.
        """
        if count < 2:
            raise ValueError(f"frames must be at least 2, got {count}")
        nodes, space = self.geodesic.nodes, cast(Spacetime, self.geodesic.metric)
        s = torch.linspace(0, 1, count, dtype=nodes.dtype, device=nodes.device)
        z, level = space.split(self.geodesic(s))
        if self.model is not None:
            return Lifting(self.model, self.log_snr, flow_steps).images(z, level)
        with torch.no_grad():
            return space.denoiser(z, (-level / 2).exp())

    def pictures(self, count: int = 9, *, flow_steps: int = 24) -> list[Image]:
        """:meth:`frames` as PIL images; for an edit of a model."""
        if self.model is None:
            raise ValueError("this edit is one of points, which are no pictures; use frames()")
        return to_pil(self.frames(count, flow_steps=flow_steps))

    def as_dict(self) -> dict[str, Any]:
        """Everything but the tensors, for JSON."""
        s, level = self.apex
        return {
            "distance": self.distance,
            "log_snr": self.log_snr,
            **path_record(self.geodesic),
            "notices": list(self.notices),
            "apex": {"s": s, "log_snr": level},
            "phases": [vars(phase) for phase in self.phases()],
            "steps": [vars(step) for step in self.steps()],
            "settings": self.settings,
        }


def _divergences(space: Spacetime, nodes: Tensor) -> tuple[Tensor, Tensor] | None:
    """KL of every segment's first posterior from its second, and back; each (..., n)."""
    if not isinstance(space.denoiser, HasLogPartition):
        return None
    eta, mu = space.eta(nodes), space.mu(nodes)
    psi = space.denoiser.log_partition(eta[..., :-1], -2 * eta[..., -1])
    forward = psi.diff(dim=-1) - (eta.diff(dim=-2) * mu[..., :-1, :]).sum(-1)
    backward = (eta.diff(dim=-2) * mu[..., 1:, :]).sum(-1) - psi.diff(dim=-1)
    return forward, backward


def distances_of(path: Geodesic) -> Tensor:
    """Distances that geodesics stand for.

    Where steps are exact, the path of segments between the nodes is as real as the spline through
    them, and shorter where the path climbs so far into noise that the spline swings.

    Args:
        path: geodesics of a spacetime.

    Returns:
        the refined length, or the length on the nodes where that is a bound and below it; zero to
        the last digit between equal points, (...).
    """
    length = path.length
    if cast(Spacetime, path.metric).estimator == "exact":
        length = torch.minimum(length, path.certificate.discrete_length)
    same = torch.tensor([status is Status.SAME_POINT for status in path.statuses])
    return length.masked_fill(same.reshape(length.shape).to(length.device), 0)
