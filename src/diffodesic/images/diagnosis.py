r"""Local geometry of a model: is there a manifold, of how many dimensions, is the score a gradient.

At each noise level what :mod:`diffodesic.images.local_geometry` measures of each point, and once
per point the shape of its probability flow (:mod:`diffodesic.images.trajectories`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.images.diagnosis_picture import draw
from diffodesic.images.door import Data, as_data
from diffodesic.images.local_geometry import DiagnoseOptions, LocalGeometry, local_geometry
from diffodesic.images.measured import Measured, made_of
from diffodesic.images.own_kind import doubtful
from diffodesic.images.trajectories import Trajectories, trajectories
from diffodesic.metrics.spacetime.dimension import CUT, DIRECTIONS, STEPS
from diffodesic.models.model import Model
from diffodesic.numerics.cost import counting, expect
from diffodesic.output.options import suggests

__all__ = ["DiagnoseOptions", "Diagnosis", "diagnose"]

MOST_SCORES = 1024  # the normal bundle is left out by itself where it takes more


@dataclass(frozen=True, repr=False, kw_only=True)
class Diagnosis(Measured):
    """What :func:`diagnose` returns.

    Attributes:
        levels: what was measured at each noise level.
        trajectories: shape of the probability flow.
    """

    command = "diagnose"
    file = "diagnosis.json"
    levels: tuple[LocalGeometry, ...]
    trajectories: Trajectories

    def __repr__(self) -> str:
        """One line: of what, and the dimension over the levels."""
        dimensions = ", ".join(
            f"{level.dimension.mean():.3g} at log SNR {level.log_snr:g}" for level in self.levels
        )
        model, points = self.settings["model"], self.settings["points"]
        return f"Diagnosis({model}, {points} points: d = {dimensions})"

    def table(self) -> str:
        """Means over points as a Markdown table, one row per level, without what was left out."""
        known = {
            "dimension": "d, values > 1/2",
            "loss_dimension": "d, denoising loss",
            "bundle_dimension": "d, normal bundle",
            "flipd": "d, FLIPD",
            "asymmetry_tangent": "asymmetry, tangent",
            "asymmetry_cross": "across",
            "asymmetry_normal": "normal",
            "basis_angle": "tangent spaces apart",
            "score_angle": "score off normal",
        }
        names = {
            name: title
            for name, title in known.items()
            if not all(bool(getattr(level, name).isnan().all()) for level in self.levels)
        }
        lines = [
            "| log SNR | " + " | ".join(names.values()) + " |",
            "|---" * (len(names) + 1) + "|",
        ]
        for level in self.levels:
            cells = [f"{getattr(level, name).nanmean():.3g}" for name in names]
            lines.append(f"| {level.log_snr:g} | " + " | ".join(cells) + " |")
        return "\n".join(lines)

    def _draw(self, folder: Path) -> None:
        draw(folder / "diagnosis.png", self)


@suggests(options=(DiagnoseOptions,))
def diagnose(
    source: Model | Denoiser,
    x: Data,
    *,
    log_snr: float | Sequence[float] | None = None,
    rank: int | None = None,
    options: DiagnoseOptions | None = None,
    progress: Callable[[str], None] | None = None,
) -> Diagnosis:
    """Manifold, dimension and symmetry of a model near given points.

    Args:
        source: a model (see ``load``) or a denoiser.
        x: images (N, C, H, W) or (C, H, W) in [0, 1] for a model, points (N, D) or (D,) for a
            denoiser.
        log_snr: noise levels, one or several, in place of ``options.log_snr``.
        rank: number of singular values of dm/dz, in place of ``options.rank``.
        options: everything else; default ``DiagnoseOptions()``.
        progress: called with a short line.

    Returns:
        the measurements; ``save(outdir)`` writes them.

    Raises:
        ValueError: for points of another shape or not finite, levels outside the model's range,
            or scores between 1 and D.

    Cost per point and level: 63 JVPs (D VJPs for D up to 63); with ``rank``, 2 (rank + 8) JVPs and
    VJPs (D VJPs where that is D or more); as many JVPs and VJPs as tangent directions were found
    and ``probes``; ``draws + scores`` evaluations; D or ``probes`` JVPs for FLIPD. Per point
    ``2 flow_steps`` evaluations, and 12 for a model.
    """
    began, say = time.monotonic(), progress or (lambda _: None)
    levels = (log_snr,) if isinstance(log_snr, int | float) else log_snr
    asked = (options or DiagnoseOptions()).but(log_snr=levels, rank=rank)
    model = source if isinstance(source, Model) else None
    denoiser = source.denoiser if isinstance(source, Model) else source
    given = as_data(source, x)
    points = _points(model, denoiser, given)
    low, high = denoiser.log_snr_range
    if not asked.log_snr or not all(low <= level <= high for level in asked.log_snr):
        raise ValueError(f"log_snr must be within {low:g} to {high:g}, got {list(asked.log_snr)}")
    left_out = asked.scores is None and 4 * denoiser.dim > MOST_SCORES
    asked = asked.but(scores=_scores(asked.scores, denoiser.dim))
    with counting() as cost:
        expect(_expected(asked, denoiser.dim, len(points)))
        measured = tuple(
            local_geometry(denoiser, points, float(level), asked, say) for level in asked.log_snr
        )
        say("sampling trajectories")
        paths = trajectories(denoiser, points, steps=asked.flow_steps, seed=asked.seed)
    alarms = doubtful(source, given.unsqueeze(0) if given.ndim == 3 else given)
    notices = (*alarms, *_notices(measured, denoiser.dim, left_out))
    return Diagnosis(
        levels=measured,
        trajectories=paths,
        cost=cost,
        seconds=time.monotonic() - began,
        settings={**made_of(source, points), **asked.settings()},
        notices=notices,
    )


def _expected(asked: DiagnoseOptions, dim: int, points: int) -> dict[str, int]:
    """Evaluations and derivatives, two to a product with the Jacobian; see :func:`diagnose`."""
    most = asked.rank or DIRECTIONS * STEPS
    oversampled = most if asked.rank is None else 4 * (most + 8)
    products = min(dim, oversampled) + 2 * (most + asked.probes) + min(dim, asked.probes)
    of_one = 2 * products + asked.draws + (asked.scores or 0)
    return {
        "measuring": of_one * points * len(asked.log_snr),
        "trajectories": 2 * asked.flow_steps * points,
    }


def _scores(asked: int | None, dim: int) -> int:
    """Scores behind a normal bundle; 0 where they would be too many."""
    if asked is not None and 0 < asked <= dim:
        raise ValueError(f"scores must be 0 or more than D = {dim}, got {asked}")
    if asked is not None:
        return asked
    return 4 * dim if 4 * dim <= MOST_SCORES else 0


def _points(model: Model | None, denoiser: Denoiser, x: Tensor) -> Tensor:
    """Vectors (N, D) of what was given."""
    axes = 3 if model else 1
    x = x.unsqueeze(0) if x.ndim == axes else x
    if x.ndim != axes + 1 or not len(x):
        kind = "images (N, C, H, W)" if model else f"points (N, {denoiser.dim})"
        raise ValueError(f"x must be {kind}, at least one, got shape {tuple(x.shape)}")
    points = model.codec.encode(x) if model else x
    if points.shape[-1] != denoiser.dim or not bool(torch.isfinite(points).all()):
        raise ValueError(f"x must be finite points (N, {denoiser.dim}), got {tuple(x.shape)}")
    return points


def _notices(measured: Sequence[LocalGeometry], dim: int, left_out: bool) -> list[str]:
    notices = []
    if left_out:
        notices.append(
            f"the normal bundle was left out: it takes {4 * dim} scores per point and level; give "
            "scores to have it"
        )
    for level in measured:
        if bool((level.dimension_error > 0).any()):
            found = (level.spectrum > CUT).sum(-1).tolist()
            notices.append(
                f"at log SNR {level.log_snr:g} the dimension is an estimate, +- "
                f"{float(level.dimension_error.max()):.2g}: asymmetry and angles are those of the "
                f"{min(found)} to {max(found)} tangent directions that were found; give rank for "
                "more"
            )
            continue
        rank = level.spectrum.shape[-1]
        if rank < dim and bool((level.dimension == rank).any()):
            notices.append(
                f"at log SNR {level.log_snr:g} all {rank} singular values are above 1/2: the "
                "dimension is a lower bound; give a larger rank"
            )
    return notices
