r"""Diffusion Edit Distance: how much noise it takes to turn one thing into another  (2505.17517).

Place two images (or points) in spacetime at one noise level, the anchor, and join them by a
geodesic.  Its length

    DiffED(a, b) = d((a, lam), (b, lam)),        lam = log SNR of the anchor,

is a distance for every lam, and its path is an edit: noise is added until enough of a is
forgotten, and removed again towards b.  One step of the path costs ``d_eta . d_mu``, the relative
entropies of its two posteriors both ways, summed; what is far apart needs a noisier middle.

The anchor is a scale.  For data of local dimension d,

    DiffED ~ sqrt(2 d) [lam + 2 log(|a - b| / sqrt(2 d))]        as lam grows,

so only distances of one anchor compare, and every result here carries its own.  A network knows
noisy images only: images are lifted to the anchor by the probability flow, with noise that all
images share; points of a denoiser are taken to be at the anchor already.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor

from diffodesic.denoisers.denoiser import Denoiser, HasLogPartition
from diffodesic.geometry.boundary_value import search
from diffodesic.geometry.path import Geodesic
from diffodesic.geometry.status import Status
from diffodesic.images.door import Data, as_data
from diffodesic.images.lifting import Lifting, as_floats
from diffodesic.images.own_kind import PICTURES, doubtful, strange
from diffodesic.images.placement import REFINE, JoinOptions, doubts, path_record, place
from diffodesic.images.spaces import SpacetimeSpace
from diffodesic.images.work import join_work
from diffodesic.metrics.spacetime.metric import Spacetime
from diffodesic.models.identity import identity, short
from diffodesic.models.model import Model
from diffodesic.numerics import checks
from diffodesic.numerics.cost import expect
from diffodesic.numerics.words import brief
from diffodesic.output.images import to_pil
from diffodesic.output.notebook import fragment
from diffodesic.output.options import option, suggests

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "Edit",
    "EditOptions",
    "EditStep",
    "Phase",
    "anchored",
    "distances_of",
    "edit",
    "edit_distance",
]

NETWORK_NODES = 32  # segments of a path, by default

Kind = Literal["noise", "denoise"]


@dataclass(frozen=True, kw_only=True)
class EditOptions(JoinOptions):
    """Options of :func:`edit` and :func:`edit_distance`.

    Args:
        log_snr: the anchor, log SNR of both ends: the scale of the distance.
        nodes: segments of the path; default 64 in closed form, 32 for networks.
    """

    log_snr: float = 2.0
    nodes: int | None = option(None, least=2, most=10_000)


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
        return at / (len(self.levels) - 1), float(self.levels[at])

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


def anchored(
    source: Model | Denoiser, data: Tensor, options: EditOptions | None = None
) -> tuple[Spacetime, Tensor]:
    """The spacetime of a model, and points of it at the anchor.

    Args:
        source: a model, or a denoiser.
        data: images (..., C, H, W) in [0, 1] for a model, lifted by the probability flow; for a
            denoiser points z (..., D), taken to be at the anchor as they are.
        options: the anchor, steps of the flow and seed; default ``EditOptions()``.

    Returns:
        the space, and packed points (..., D + 1), in float64 for a model.

    Raises:
        ValueError: for data that do not fit, or an anchor outside the noise levels known.

    Cost: ``2 flow_steps`` evaluations per image of a model; none for a denoiser.
    """
    asked = options or EditOptions()
    if isinstance(source, Denoiser):
        space = Spacetime(source, seed=asked.seed)
        return space, space.point(data, asked.log_snr)
    there = place(source, SpacetimeSpace(log_snr=asked.log_snr), as_floats(data), asked)
    return cast(Spacetime, there.metric), there.points


@suggests(options=(EditOptions,))
def edit(
    source: Model | Denoiser,
    x: Data,
    y: Data,
    *,
    log_snr: float | None = None,
    nodes: int | None = None,
    options: EditOptions | None = None,
    progress: Callable[[str], None] | None = None,
) -> Edit:
    """The cheapest edit that turns ``x`` into ``y``.

    Args:
        source: a model, or a denoiser.
        x: an image for a model (:func:`interpolate` says in which forms), a point z (D,) at the
            anchor for a denoiser.
        y: another.
        log_snr: the anchor, in place of ``options.log_snr``: a scale, to be named with every
            distance.
        nodes: segments of the path, in place of ``options.nodes``.
        options: everything else; default ``EditOptions()``.
        progress: called with a short line on every step.

    Returns:
        the edit, with its path and its distance.

    Raises:
        ValueError: for more than one pair, data that do not fit, or an anchor outside the noise
            levels known.

    Cost: as for ``geodesic``, and ``2 flow_steps + 12`` evaluations per image.
    """
    asked = (options or EditOptions()).but(log_snr=log_snr, nodes=nodes)
    x, y = as_data(source, x), as_data(source, y)
    wanted = 1 if isinstance(source, Denoiser) else 3
    if x.shape != y.shape or x.ndim != wanted:
        raise ValueError(
            f"x and y have shapes {tuple(x.shape)} and {tuple(y.shape)}; an edit takes one "
            "image (C, H, W) each, or one point (D,) each of a denoiser"
        )
    if isinstance(source, Model):
        expect(join_work(SpacetimeSpace(), asked, asked.nodes or NETWORK_NODES))
    path = _solve(source, x, y, asked, progress)
    model = source if isinstance(source, Model) else None
    settings = {
        **asked.settings(),
        "model": model.name if model else type(source).__name__,
        "fingerprint": short(identity(source)),
        "estimator": cast(Spacetime, path.metric).estimator,
        "nodes": path.nodes.shape[-2] - 1,
    }
    alarms = strange(model, as_floats(torch.stack([x, y])), PICTURES) if model else ()
    return Edit(path, asked.log_snr, model, settings, alarms)


@suggests(options=(EditOptions,))
def edit_distance(
    source: Model | Denoiser,
    x: Data,
    y: Data,
    *,
    log_snr: float | None = None,
    nodes: int | None = None,
    options: EditOptions | None = None,
) -> Tensor:
    """Diffusion Edit Distance between images, or points, pair by pair.

    Args:
        source: a model, or a denoiser.
        x: images (..., C, H, W) for a model, points (..., D) at the anchor for a denoiser.
        y: others, broadcast against ``x``.
        log_snr: the anchor, in place of ``options.log_snr``.
        nodes: segments of the path, in place of ``options.nodes``.
        options: everything else; default ``EditOptions()``.

    Returns:
        distances (...).

    Warns:
        SearchWarning: for a path that did not end well.
        RuntimeWarning: for pictures that are not of the model's kind, and a model that has learned
            nothing.

    Cost: as for :func:`edit`, per pair.
    """
    asked = (options or EditOptions()).but(log_snr=log_snr, nodes=nodes)
    first, second = checks.broadcast(as_data(source, x), as_data(source, y), ("x", "y"))
    path = _solve(source, first, second, asked, None)
    path.warn()
    if isinstance(source, Model):
        pictures = torch.stack([first, second]).reshape(-1, *first.shape[-3:])
        for sentence in doubtful(source, pictures):
            warnings.warn(sentence, RuntimeWarning, stacklevel=2)
    return distances_of(path)


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


def _solve(
    source: Model | Denoiser,
    x: Tensor,
    y: Tensor,
    asked: EditOptions,
    progress: Callable[[str], None] | None,
) -> Geodesic:
    space, (a, b) = anchored(source, torch.stack([x, y]), asked)
    exact = space.denoiser.closed_form and not space.denoiser.learned
    return search(
        space,
        a,
        b,
        nodes=asked.nodes or (64 if exact else NETWORK_NODES),
        solver=asked.search(space),
        refine=8 if exact else REFINE,
        progress=None if progress is None else lambda text, _: progress(text),
    )
