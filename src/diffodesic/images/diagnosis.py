r"""Local geometry of a model: is there a manifold, of how many dimensions, is the score a gradient.

At each noise level, of each point x and its noised z = x + sigma eps:

- the spectrum of J = dm/dz at z, near 1 along the data and near 0 across (:mod:`jacobian`); d is
  the number of values above 1/2, where noise and data explain a direction equally well, and the
  first d singular vectors span the tangent space;
- J's asymmetry on the tangent space, across, and on the normal space;
- the angle between the score at z and the normal space: sin = |T s|/|s|;
- at x, the dimension by FLIPD and by the normal bundle (:mod:`dimension`), and the angle between
  the two tangent spaces: cos^2 = |T T'|^2/d, the mean over directions.

And once per point, of the probability flow from x + sigma eps at high noise down to clean data
(2305.19947, 2405.11326): the dimension of the smallest plane that holds it, its straightness
|chord|/length, and the angle it turns by.  Each of its steps goes from z towards m(z, sigma); for
data x_i without smoothing that is the mean shift of their kernel density (Fukunaga & Hostetler
1975), m = sum_i w_i x_i with w_i ~ exp(-|z - x_i|^2 / 2 sigma^2).
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.denoisers.flow import clean_log_snr, trajectory
from diffodesic.denoisers.jacobian import Jacobian
from diffodesic.images.diagnosis_picture import draw
from diffodesic.metrics.spacetime.dimension import flipd, normal_bundle
from diffodesic.metrics.spacetime.metric import Spacetime
from diffodesic.models.model import Model
from diffodesic.numerics.cost import Cost, counting
from diffodesic.output.folder import replace_files
from diffodesic.output.records import versions, write_json

__all__ = ["Diagnosis", "Level", "Trajectories", "diagnose"]


MOST_SCORES = 4096  # the normal bundle is left out by itself where it takes more

FAR = 20.0  # noise that trajectories start from, in standard deviations of the data

HELD = 0.99  # share of the deviation from the chord that counts for the plane of a trajectory


@dataclass(frozen=True)
class Level:
    """One noise level; tensors have one entry per point (N,).

    Attributes:
        log_snr: the level.
        spectrum: singular values of dm/dz, falling, (N, r).
        dimension: number of them above 1/2; r where all are, and then a lower bound.
        bundle_dimension: dimension by the normal bundle, NaN where it was left out.
        flipd: dimension by FLIPD.
        asymmetry_tangent: skew over symmetric part of dm/dz on the tangent space.
        asymmetry_cross: skew part between tangent and normal space, in units of the same
            symmetric part.
        asymmetry_normal: skew over symmetric part on the normal space.
        basis_angle: between the tangent spaces by dm/dz and by the normal bundle, in degrees.
        score_angle: between the score and the normal space, in degrees.
    """

    log_snr: float
    spectrum: Tensor
    dimension: Tensor
    bundle_dimension: Tensor
    flipd: Tensor
    asymmetry_tangent: Tensor
    asymmetry_cross: Tensor
    asymmetry_normal: Tensor
    basis_angle: Tensor
    score_angle: Tensor


@dataclass(frozen=True)
class Trajectories:
    """Shape of the probability flow from high noise to each point's sample; tensors (N,).

    Attributes:
        log_snr: level of the start.
        dimension: of the smallest plane that holds 99 % of the deviation from the chord.
        straightness: chord over length, 1 for a straight line.
        turning: sum of the angles between consecutive steps, in degrees.
    """

    log_snr: float
    dimension: Tensor
    straightness: Tensor
    turning: Tensor


@dataclass(frozen=True, repr=False)
class Diagnosis:
    """What :func:`diagnose` returns.

    Attributes:
        levels: what was found at each noise level.
        trajectories: shape of the probability flow.
        cost: work spent.
        seconds: wall-clock time.
        settings: what was asked for and what was chosen.
        notices: what was left out or is doubtful, one sentence each.
    """

    levels: tuple[Level, ...]
    trajectories: Trajectories
    cost: Cost
    seconds: float
    settings: dict[str, object]
    notices: tuple[str, ...]

    def __repr__(self) -> str:
        """One line: of what, and the dimension over the levels."""
        found = ", ".join(
            f"{level.dimension.mean():.3g} at log SNR {level.log_snr:g}" for level in self.levels
        )
        return f"Diagnosis({self.settings['model']}, {self.settings['points']} points: d = {found})"

    def table(self) -> str:
        """Means over points as a Markdown table, one row per noise level."""
        names = {
            "dimension": "d, values > 1/2",
            "bundle_dimension": "d, normal bundle",
            "flipd": "d, FLIPD",
            "asymmetry_tangent": "asymmetry, tangent",
            "asymmetry_cross": "across",
            "asymmetry_normal": "normal",
            "basis_angle": "tangent spaces apart",
            "score_angle": "score off normal",
        }
        lines = [
            "| log SNR | " + " | ".join(names.values()) + " |",
            "|---" * (len(names) + 1) + "|",
        ]
        for level in self.levels:
            cells = [f"{getattr(level, name).nanmean():.3g}" for name in names]
            lines.append(f"| {level.log_snr:g} | " + " | ".join(cells) + " |")
        return "\n".join(lines)

    def save(self, outdir: str | os.PathLike[str]) -> Path:
        """Write ``diagnosis.json`` and ``diagnosis.png`` into a folder.

        Args:
            outdir: the folder, made if needed.

        Returns:
            the folder.

        Raises:
            OSError: if it cannot be written; neither file is left half-written.
        """
        content = {
            **{field.name: getattr(self, field.name) for field in fields(self)},
            "seconds": round(self.seconds, 2),
            "versions": versions(),
        }
        with replace_files(outdir) as folder:
            draw(folder / "diagnosis.png", self)
            write_json(folder / "diagnosis.json", content)
        return Path(outdir)


def diagnose(
    source: Model | Denoiser,
    x: Tensor,
    *,
    log_snr: float | Sequence[float],
    rank: int = 96,
    scores: int | None = None,
    probes: int = 16,
    flow_steps: int = 48,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Diagnosis:
    """Manifold, dimension and symmetry of a model near given points.

    Args:
        source: a model (see ``load``) or a denoiser.
        x: images (N, C, H, W) or (C, H, W) in [0, 1] for a model, points (N, D) or (D,) for a
            denoiser.
        log_snr: noise levels, one or several.
        rank: number of singular values of dm/dz; D or more gives all, exactly.
        scores: behind a normal bundle, more than D; 0 leaves it out. Default 4 D, or 0 for D
            above 1024.
        probes: random directions behind FLIPD and the asymmetry on the normal space; FLIPD is
            exact for D up to ``rank``.
        flow_steps: steps of the trajectories.
        seed: point i has the seed ``seed + i``, whatever its company.
        progress: called with a short line.

    Returns:
        the findings; ``save(outdir)`` writes them.

    Raises:
        ValueError: for points of another shape or not finite, levels outside the model's range,
            a rank or probes below 1, or scores between 1 and D.

    Cost per point and level: D VJPs where ``rank + 8 >= D``, else 2 (rank + 8) JVPs and VJPs; d +
    probes JVPs and VJPs; ``scores`` evaluations; D or ``probes`` JVPs for FLIPD. Per point
    ``2 flow_steps`` evaluations.
    """
    began, say = time.monotonic(), progress or (lambda _: None)
    model = source if isinstance(source, Model) else None
    denoiser = model.denoiser if model else source
    assert isinstance(denoiser, Denoiser)
    points = _points(model, denoiser, x)
    levels = [float(v) for v in ([log_snr] if isinstance(log_snr, int | float) else log_snr)]
    low, high = denoiser.log_snr_range
    if not levels or not all(low <= v <= high and math.isfinite(v) for v in levels):
        raise ValueError(f"log_snr must be finite and within {low:g} to {high:g}, got {levels}")
    if min(rank, probes) < 1:
        raise ValueError(f"rank and probes must be at least 1, got {rank} and {probes}")
    wanted = 4 * denoiser.dim if scores is None else scores
    left_out = scores is None and wanted > MOST_SCORES
    if wanted != 0 and wanted <= denoiser.dim:
        raise ValueError(f"scores must be 0 or more than D = {denoiser.dim}, got {scores}")
    ask = _Ask(denoiser, rank, 0 if left_out else wanted, probes, seed)
    found = []
    with counting() as cost:
        for lam in levels:
            rows = []
            for i, point in enumerate(points):
                say(f"log SNR {lam:g}, point {i + 1} of {len(points)}")
                rows.append(ask.at(point, lam, i))
            found.append(_level(lam, rows, ask.flipd(points, lam)))
        say("sampling trajectories")
        paths = _trajectories(denoiser, points, flow_steps, seed)
    settings: dict[str, object] = {
        "model": model.name if model else type(denoiser).__name__,
        **(model.words if model else {}),
        "points": len(points),
        "log_snr": levels,
        "rank": rank,
        "scores": ask.scores,
        "probes": probes,
        "flow_steps": flow_steps,
        "seed": seed,
    }
    notices = (*(model.caveats() if model else ()), *_notices(found, ask, left_out))
    seconds = time.monotonic() - began
    return Diagnosis(tuple(found), paths, cost, seconds, settings, notices)


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


class _Ask:
    """The questions at one level, point by point."""

    def __init__(self, denoiser: Denoiser, rank: int, scores: int, probes: int, seed: int) -> None:
        self.denoiser, self.rank, self.scores = denoiser, rank, scores
        self.probes, self.seed = probes, seed

    def at(self, x: Tensor, lam: float, index: int) -> dict[str, float | Tensor]:
        """Everything but FLIPD, of one point."""
        generator = torch.Generator().manual_seed(self.seed + index)
        sigma = math.exp(-lam / 2)
        noise = torch.randn(len(x), generator=generator, dtype=torch.float64)
        z = x + sigma * noise.to(x)
        jacobian = Jacobian(self.denoiser, z, sigma)
        spectrum = jacobian.spectrum(self.rank, generator=generator)
        # a tangent space is less than the whole: the normal space keeps a direction
        d = int((spectrum.values > 0.5).sum())
        tangent = spectrum.left[: min(d, len(x) - 1)]
        asymmetry = jacobian.asymmetry(tangent, probes=self.probes, generator=generator)
        with torch.no_grad():
            score = self.denoiser.score(z, z.new_tensor(sigma))
        bundle, apart = math.nan, math.nan
        if self.scores:
            found = normal_bundle(self.denoiser, x, lam, scores=self.scores, generator=generator)
            bundle, apart = float(found.dimension), _apart(tangent, found.tangent(len(tangent)))
        return {
            "spectrum": spectrum.values.double().cpu(),
            "dimension": float(d),
            "bundle_dimension": bundle,
            "asymmetry_tangent": asymmetry.tangent,
            "asymmetry_cross": asymmetry.cross,
            "asymmetry_normal": asymmetry.normal,
            "basis_angle": apart,
            "score_angle": _degrees(float((tangent @ score).norm() / score.norm())),
        }

    def flipd(self, points: Tensor, lam: float) -> Tensor:
        """FLIPD at the points themselves, (N,)."""
        exact = self.denoiser.dim <= self.rank
        space = Spacetime(
            self.denoiser,
            estimator="exact" if exact else "hutchinson",
            probes=self.probes,
            seed=self.seed,
        )
        with torch.no_grad():
            return flipd(space, space.point(points, lam)).double().cpu()


def _level(lam: float, rows: list[dict[str, float | Tensor]], dimension: Tensor) -> Level:
    columns = {
        name: torch.stack([torch.as_tensor(row[name], dtype=torch.float64) for row in rows])
        for name in rows[0]
    }
    return Level(log_snr=lam, flipd=dimension, **columns)


def _apart(first: Tensor, second: Tensor) -> float:
    """Angle between two spaces (d, D) of one dimension, in degrees; NaN for d = 0."""
    if not len(first):
        return math.nan
    share = float((first @ second.T).square().sum()) / len(first)
    return _degrees(math.sqrt(max(0.0, 1 - share)))


def _degrees(sine: float) -> float:
    return math.degrees(math.asin(min(sine, 1.0)))  # NaN stays NaN in this order


def _trajectories(denoiser: Denoiser, points: Tensor, steps: int, seed: int) -> Trajectories:
    """Shapes of the flows that start at each point under much noise."""
    low = max(denoiser.log_snr_range[0], -math.log(FAR**2 * denoiser.variance))
    low = min(low, clean_log_snr(denoiser))
    noise = [
        torch.randn(
            points.shape[-1],
            generator=torch.Generator().manual_seed(seed + i),
            dtype=torch.float64,
        )
        for i in range(len(points))
    ]
    start = points + math.exp(-low / 2) * torch.stack(noise).to(points)
    with torch.no_grad():
        path = trajectory(denoiser, start, low, steps=steps).double().cpu()
    u = path.diff(dim=-2)
    length, chord = u.norm(dim=-1).sum(-1), path[:, -1] - path[:, 0]
    # half-angle formula: small angles are exact; a flow that stands still turns by nothing
    unit = u / u.norm(dim=-1, keepdim=True).clamp(min=1e-300)
    before, after = unit[:, :-1], unit[:, 1:]
    turn = 2 * torch.atan2((after - before).norm(dim=-1), (after + before).norm(dim=-1))
    along = chord / chord.norm(dim=-1, keepdim=True).clamp(min=1e-300)
    apart = path - path[:, :1]
    apart = apart - (apart * along.unsqueeze(1)).sum(-1, keepdim=True) * along.unsqueeze(1)
    held = torch.linalg.svdvals(apart).square().cumsum(-1)
    # a straight line deviates by rounding only
    bent = held[:, -1].sqrt() > 1e-6 * length
    planes = (held < HELD * held[:, -1:]).sum(-1) + 1
    return Trajectories(
        low,
        1 + torch.where(bent, planes, 0).double(),
        chord.norm(dim=-1) / length,
        torch.rad2deg(turn.sum(-1)),
    )


def _notices(found: list[Level], ask: _Ask, left_out: bool) -> list[str]:
    notices = []
    if left_out:
        notices.append(
            f"the normal bundle was left out: it takes {4 * ask.denoiser.dim} scores per point "
            "and level; give scores to have it"
        )
    for level in found:
        rank = level.spectrum.shape[-1]
        if rank < ask.denoiser.dim and bool((level.dimension == rank).any()):
            notices.append(
                f"at log SNR {level.log_snr:g} all {rank} singular values are above 1/2: the "
                "dimension is a lower bound; give a larger rank"
            )
    return notices
