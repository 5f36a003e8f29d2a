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
from typing import cast

import torch
from torch import Tensor

from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.geometry.boundary_value import search
from diffodesic.geometry.path import Geodesic
from diffodesic.images.door import Data, as_data
from diffodesic.images.edit_result import Edit, distances_of
from diffodesic.images.lifting import as_floats
from diffodesic.images.own_kind import PICTURES, doubtful, strange, tell
from diffodesic.images.placement import REFINE, JoinOptions, place
from diffodesic.images.spaces import SpacetimeSpace
from diffodesic.images.work import join_work
from diffodesic.metrics.spacetime.metric import Spacetime
from diffodesic.models.identity import identity, short
from diffodesic.models.model import Model
from diffodesic.numerics import checks
from diffodesic.numerics.cost import expect
from diffodesic.output.options import option, suggests

__all__ = ["EditOptions", "anchored", "edit", "edit_distance"]

NETWORK_NODES = 32  # segments of a path, by default


@dataclass(frozen=True, kw_only=True)
class EditOptions(JoinOptions):
    """Options of :func:`edit` and :func:`edit_distance`.

    Args:
        log_snr: the anchor, log SNR of both ends: the scale of the distance.
        nodes: segments of the path; default 64 in closed form, 32 for networks.
    """

    log_snr: float = 2.0
    nodes: int | None = option(None, least=2, most=10_000)


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
    model = source if isinstance(source, Model) else None
    alarms = strange(model, as_floats(torch.stack([x, y])), PICTURES) if model else ()
    tell(alarms, progress or (lambda _: None))
    path = _solve(source, x, y, asked, progress)
    settings = {
        **asked.settings(),
        "model": model.name if model else type(source).__name__,
        "fingerprint": short(identity(source)),
        "estimator": cast(Spacetime, path.metric).estimator,
        "nodes": path.nodes.shape[-2] - 1,
    }
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
