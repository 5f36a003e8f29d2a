r"""All distances of a set; edit distances are geodesics, solved together  (2505.17517).

The upper triangle is cut into batches that fit in memory; a pair's result does not depend on its
batch.  A file is kept up to date after each batch, so that an interrupted run goes on.  The matrix
is symmetric with a zero diagonal, ready for scikit-learn's ``metric="precomputed"``.

Each length is that of a real path.  For an exact denoiser it is therefore an upper bound of the
distance: coarse nodes and loose tolerances make it larger, never smaller.  ``check`` pairs, spread
over the set, are solved again with twice the nodes, those of the search of a network too, and a
tenth of the tolerance; the accuracy that is recorded is what they gain.
"""

from __future__ import annotations

import os
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, overload

import torch
from torch import Tensor

from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.geometry.solvers.redraw import Redraw
from diffodesic.geometry.solvers.relax import Relax
from diffodesic.geometry.status import Status
from diffodesic.images.door import Data, as_data
from diffodesic.images.edit_result import distances_of
from diffodesic.images.information import NOISY, NoisyOptions
from diffodesic.images.matrix import DamagedError, DistanceMatrix, NoisyDistances
from diffodesic.images.own_kind import doubtful, tell
from diffodesic.images.pairs import PairSolver, PairwiseOptions, lifted
from diffodesic.images.spaces import SpacetimeSpace
from diffodesic.images.work import join_work
from diffodesic.images.workers import ORDER, batches
from diffodesic.models.identity import identity
from diffodesic.models.model import Model
from diffodesic.numerics import checks
from diffodesic.numerics.cost import counting, expect, scaled
from diffodesic.output.options import suggests
from diffodesic.output.stages import GOES_ON, differences, fingerprint, held_file

__all__ = ["PairwiseDistances", "pairwise"]

D = TypeVar("D", bound=DistanceMatrix)


@dataclass(frozen=True, kw_only=True, repr=False)
class PairwiseDistances(DistanceMatrix):
    """Diffusion Edit Distances of all pairs; ``log_snr`` is the anchor.

    Attributes:
        apexes: lowest log SNR of the path, per pair, (P,).
        statuses: how each pair ended, place in ``list(Status)``, (P,); -1 not solved yet.
        accuracy: relative length that the checked pairs lost with twice the nodes: mean and
            largest; None where none was checked.  ``seconds`` are without the check.
        checked: number of pairs that were asked for it.
    """

    PER_PAIR: ClassVar[tuple[str, ...]] = (*DistanceMatrix.PER_PAIR, "apexes")
    ARRAYS: ClassVar[tuple[str, ...]] = ("statuses",)

    apexes: Tensor
    statuses: Tensor
    accuracy: tuple[float, float] | None = None
    checked: int = 0

    def __post_init__(self) -> None:
        """Take accuracy and notices as a file gives them."""
        super().__post_init__()
        if self.accuracy is not None:
            object.__setattr__(self, "accuracy", tuple(self.accuracy))

    @property
    def solved(self) -> int:
        """Number of pairs solved."""
        return int((self.statuses >= 0).sum())

    def tally(self) -> dict[Status, int]:
        """How the solved pairs ended."""
        ended = Counter(ORDER[i] for i in self.statuses.tolist() if i >= 0)
        return {status: ended[status] for status in ORDER if status in ended}

    @property
    def unsound(self) -> int:
        """Number of solved pairs that did not end well; see :meth:`tally`."""
        return sum(n for status, n in self.tally().items() if not status.ok)

    def _plain(self) -> dict[str, Any]:
        named = [ORDER[i].name if i >= 0 else None for i in self.statuses.tolist()]
        return super()._plain() | {"statuses": named}


@overload
def pairwise(
    source: Model | Denoiser,
    data: Data,
    *,
    metric: Literal["diffed"] = "diffed",
    log_snr: float | None = None,
    nodes: int | None = None,
    check: int = 0,
    file: str | os.PathLike[str] | None = None,
    options: PairwiseOptions | None = None,
    progress: Callable[[str], None] | None = None,
) -> PairwiseDistances: ...


@overload
def pairwise(
    source: Model | Denoiser,
    data: Data,
    *,
    metric: Literal["iem", "mean"],
    file: str | os.PathLike[str] | None = None,
    options: NoisyOptions | None = None,
    progress: Callable[[str], None] | None = None,
) -> NoisyDistances: ...


@suggests(options=(PairwiseOptions, *NOISY.values()))
def pairwise(
    source: Model | Denoiser,
    data: Data,
    *,
    metric: Literal["diffed", "iem", "mean"] = "diffed",
    log_snr: float | None = None,
    nodes: int | None = None,
    check: int = 0,
    file: str | os.PathLike[str] | None = None,
    options: PairwiseOptions | NoisyOptions | None = None,
    progress: Callable[[str], None] | None = None,
) -> PairwiseDistances | NoisyDistances:
    """Distances of all pairs: edit distances, or distances under shared noise.

    Args:
        source: a model, or a denoiser.
        data: images (N, C, H, W) in [0, 1] for a model, or a sequence of them in any form that
            :func:`interpolate` takes; points (N, D) for a denoiser, at the anchor for edit
            distances, else clean.
        metric: ``diffed``, Diffusion Edit Distance; ``iem`` or ``mean``, those of
            :mod:`diffodesic.images.information`.
        log_snr: the anchor, in place of ``options.log_snr``; see ``edit``.
        nodes: segments of every path, in place of ``options.nodes``.
        check: number of pairs solved again, finer, for the accuracy; a file that has that of as
            many pairs, or more, keeps it.
        file: a ``.npz`` that is taken up if it exists; written after every batch of geodesics, or
            at the end of what takes none.
        options: everything else: ``PairwiseOptions``, ``IemOptions`` or ``MeanOptions``.
        progress: called with a short line now and then.

    Returns:
        the distances, how every pair ended or its standard error, and the time spent.

    Raises:
        ValueError: for fewer than two points, data that do not fit, a ``check`` that is no whole
            number from 0 on, options of another metric, or a file of other data or other settings.

    Cost: that of ``geodesic`` per pair; a pair's result does not depend on its batch.  Of ``iem``
    68 evaluations a point with 17 levels, of ``mean`` 4; for a model 12 more of each image.
    """
    known: dict[str, type[PairwiseOptions | NoisyOptions]] = {"diffed": PairwiseOptions, **NOISY}
    kind = known.get(metric)
    if kind is None:
        raise ValueError(f"unknown metric {metric!r}; choose diffed, {' or '.join(NOISY)}")
    options = kind() if options is None else options
    if not isinstance(options, kind):
        raise ValueError(
            f"options are {type(options).__name__}; the metric {metric} takes {kind.__name__}"
        )
    if file is not None and Path(file).suffix != ".npz":
        raise ValueError(f"file is {str(file)!r}; give it the ending .npz")
    check = checks.whole(check, "check", 0)
    points = as_data(source, data)
    if len(points) < 2:
        raise ValueError(f"pairwise needs at least 2 points; got {len(points)}")
    say = progress or _silent
    if isinstance(options, PairwiseOptions):
        asked = options.but(log_snr=log_snr, nodes=nodes)
        return _edits(source, points, asked, check, file, say)
    if check or nodes is not None or log_snr is not None:
        raise ValueError(f"check, nodes and log_snr are no arguments of the metric {metric}")
    return _under_noise(source, points, options, file, say)


def _silent(_: str) -> None:
    pass


def _edits(
    source: Model | Denoiser,
    data: Tensor,
    asked: PairwiseOptions,
    check: int,
    file: str | os.PathLike[str] | None,
    say: Callable[[str], None],
) -> PairwiseDistances:
    """Edit distances of all pairs."""
    with held_file(file, say):
        space, points = lifted(source, data, asked, say)
        solve = PairSolver.of(space, points, asked)
        settings = {
            "estimator": space.estimator,
            "nodes": solve.nodes,
            "solver": repr(solve.solver),
            "order": [status.name for status in ORDER],  # a file holds places in it
            "flow_steps": asked.flow_steps,
            "seed": asked.seed,
            "points": fingerprint(points),
            "model": identity(source),
        }
        distances = _begin(len(data), asked.log_snr, settings, file)
        distances = distances.noting(tell(doubtful(source, data), say))
        if isinstance(source, Model):
            of_one = join_work(SpacetimeSpace(), asked, solve.nodes, ("ends",))
            left = len(distances.lengths) - distances.solved
            expect(scaled(of_one, left), pairs=left)
        distances = _run(solve, distances, file, asked, say)
        check = min(check, len(distances.lengths))
        if check > distances.checked:
            accuracy = _check(solve, distances, check)
            distances = replace(distances, accuracy=accuracy, checked=check)
            if file is not None:
                distances.save(file)
    return distances


def _under_noise(
    source: Model | Denoiser,
    data: Tensor,
    asked: NoisyOptions,
    file: str | os.PathLike[str] | None,
    say: Callable[[str], None],
) -> NoisyDistances:
    """Distances under shared noise of all pairs."""
    settings = {
        "metric": asked.name,
        **asked.settings(),
        "points": fingerprint(data),
        "model": identity(source),
    }
    with held_file(file, say):
        if (before := _left(NoisyDistances, file, settings)) is not None:
            return before
        alarms = tell(doubtful(source, data), say)
        began = time.monotonic()
        found = asked.among(source, data, progress=say)
        distances = NoisyDistances(
            count=len(data),
            log_snr=found.log_snr,
            lengths=found.distance.cpu(),
            errors=found.error.cpu(),
            seconds=time.monotonic() - began,
            settings=settings,
            notices=alarms,
        )
        if file is not None:
            distances.save(file)
    return distances


def _begin(
    count: int, log_snr: float, settings: dict[str, Any], file: str | os.PathLike[str] | None
) -> PairwiseDistances:
    """Nothing solved yet, or what an earlier run left."""
    settings = {"log_snr": log_snr, **settings}
    if (before := _left(PairwiseDistances, file, settings)) is not None:
        return before
    pairs = count * (count - 1) // 2
    unknown = torch.full((pairs,), torch.nan, dtype=torch.float64)
    none = torch.full((pairs,), -1, dtype=torch.long)
    return PairwiseDistances(
        count=count,
        log_snr=log_snr,
        lengths=unknown,
        errors=unknown.clone(),
        apexes=unknown.clone(),
        statuses=none,
        seconds=0.0,
        settings=settings,
    )


def _left(kind: type[D], file: str | os.PathLike[str] | None, settings: dict[str, Any]) -> D | None:
    """What an earlier run left; None where its file is damaged, which is then put aside."""
    if file is None or not Path(file).exists():
        return None
    try:
        found = kind.load(file)
    except DamagedError as error:
        aside = Path(file).replace(f"{file}.damaged")
        warnings.warn(
            f"{error}; it is kept as {aside}, and all pairs are solved again",
            RuntimeWarning,
            stacklevel=5,
        )
        return None
    if differ := differences(found.settings, settings):
        raise ValueError(
            f"{file} holds distances of other data or settings ({differ}); "
            "remove it to start afresh, or give another file"
        )
    return found


def _run(
    solve: PairSolver,
    distances: PairwiseDistances,
    file: str | os.PathLike[str] | None,
    asked: PairwiseOptions,
    say: Callable[[str], None],
) -> PairwiseDistances:
    """Solve what is left, and keep the file up to date."""
    left = torch.nonzero(distances.statuses < 0).flatten()
    earlier, of_all = distances.solved, len(distances.lengths)
    if earlier:
        say(f"{GOES_ON}, which has solved {earlier} of {of_all} pairs")
    if len(left):
        say(f"{earlier} of {of_all} pairs")
    parts = dict(enumerate(left.split(solve.batch))) if len(left) else {}
    began = time.monotonic()
    with counting() as cost:
        pairs = {place: distances.pairs[which] for place, which in parts.items()}
        for place, batch in batches(solve, pairs, asked.workers, asked.ray):
            which = parts[place]
            distances.lengths[which], distances.errors[which] = batch.lengths, batch.errors
            distances.apexes[which], distances.statuses[which] = batch.apexes, batch.statuses
            passed, began = time.monotonic() - began, time.monotonic()
            distances = replace(distances, seconds=distances.seconds + passed)
            distances = distances.noting(batch.doubts)
            if file is not None:
                distances.save(file)
            expect(scaled(cost.stages, len(left) / (distances.solved - earlier)))
            say(f"{distances.solved} of {of_all} pairs")
    return distances


def _check(solve: PairSolver, distances: PairwiseDistances, count: int) -> tuple[float, float]:
    """Mean and largest relative length lost by ``count`` pairs with finer settings."""
    which = torch.linspace(0, len(distances.lengths) - 1, count).round().long()
    which = which[distances.lengths[which] > 0]
    if not len(which):
        return 0.0, 0.0
    finer = replace(solve, nodes=2 * solve.nodes, solver=_closer(solve.solver))
    lengths = [distances_of(finer(distances.pairs[part])) for part in which.split(solve.batch)]
    lost = 1 - torch.cat(lengths).double().cpu() / distances.lengths[which]
    return float(lost.mean()), float(lost.abs().max())


def _closer(solver: Relax | Redraw) -> Relax | Redraw:
    """A tenth of the tolerance, and twice the nodes where the search has a number of its own."""
    rtol = solver.rtol / 10
    if isinstance(solver, Redraw):
        return replace(solver, rtol=rtol, nodes=2 * solver.nodes)
    if solver.splines is None:
        return replace(solver, rtol=rtol)
    few, pieces, iterations = solver.splines
    return replace(solver, rtol=rtol, splines=(2 * few, pieces, iterations))
