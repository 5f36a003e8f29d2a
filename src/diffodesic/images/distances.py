r"""All distances of a set: N (N - 1) / 2 geodesics of spacetime, solved together  (2505.17517).

The upper triangle is cut into batches that fit in memory; a pair's result does not depend on its
batch.  A file is kept up to date after each batch, so that an interrupted run goes on.  The matrix
is symmetric with a zero diagonal, ready for scikit-learn's ``metric="precomputed"``.

Each length is that of a real path.  For an exact denoiser it is therefore an upper bound of the
distance: coarse nodes and loose tolerances make it larger, never smaller.  ``check`` pairs, spread
over the set, are solved again with twice the nodes and a tenth of the tolerance; the accuracy that
is recorded is what they gain.
"""

from __future__ import annotations

import io
import json
import os
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.denoisers.mixture import GaussianMixture
from diffodesic.geometry.boundary_value import search
from diffodesic.geometry.path import Geodesic
from diffodesic.geometry.solvers.redraw import Redraw
from diffodesic.geometry.solvers.relax import Relax
from diffodesic.geometry.status import Status
from diffodesic.images.editing import EditOptions, anchored, distances_of
from diffodesic.images.spaces import SpacetimeSpace
from diffodesic.images.work import join_work
from diffodesic.metrics.spacetime.metric import Spacetime
from diffodesic.models.identity import identity
from diffodesic.models.model import Model
from diffodesic.numerics.cost import counting, expect, scaled
from diffodesic.output.claims import claimed
from diffodesic.output.files import UNREADABLE, write_atomically
from diffodesic.output.options import option, suggests
from diffodesic.output.records import write_json
from diffodesic.output.stages import GOES_ON, differences, fingerprint

__all__ = ["DamagedError", "PairSolver", "PairwiseDistances", "PairwiseOptions", "pairwise"]

NODES, EXACT = 16, Relax(rtol=1e-3)  # in closed form: about 1 %
MEMORY = 2**22  # numbers in the largest tensor of a batch of a mixture: 32 MB in float64
ORDER = list(Status)


class DamagedError(ValueError):
    """A file of distances cannot be read, or holds other bytes than were written."""


@dataclass(frozen=True, kw_only=True)
class PairwiseOptions(EditOptions):
    """Options of :func:`pairwise`.

    Args:
        nodes: segments of a path; default 16.
        solver: default that of the metric's energy for a network, else one looser than for a
            single pair.
        batch: pairs solved together; default what fits in some hundred MB.
    """

    nodes: int | None = option(None, least=2, most=10_000)
    solver: Relax | Redraw | None = option(None, flag=False)
    batch: int | None = option(None, least=1)


_ARRAYS = ("matrix", "apexes", "statuses")  # of a file


@dataclass(frozen=True)
class PairwiseDistances:
    """Distances of all pairs of N points, in the order of ``torch.triu_indices(N, N, 1)``.

    Attributes:
        count: number N of points.
        log_snr: the anchor; distances of other anchors do not compare.
        lengths: distance per pair, (P,), P = N (N - 1) / 2; NaN for pairs not solved yet.
        apexes: lowest log SNR of the path, per pair, (P,).
        statuses: how each pair ended, place in ``list(Status)``, (P,); -1 not solved yet.
        accuracy: relative length that the checked pairs lost with twice the nodes: mean and
            largest; None where none was checked.
        seconds: time spent on the pairs that are solved, the check apart.
        settings: what was asked for and what was chosen, with fingerprints of model and points.
    """

    count: int
    log_snr: float
    lengths: Tensor
    apexes: Tensor
    statuses: Tensor
    accuracy: tuple[float, float] | None
    seconds: float
    settings: dict[str, Any]

    @property
    def pairs(self) -> Tensor:
        """Places of the two points of every pair, (P, 2)."""
        return torch.triu_indices(self.count, self.count, 1).T

    @property
    def matrix(self) -> Tensor:
        """Distances (N, N), symmetric, zero on the diagonal."""
        return self.square(self.lengths)

    def square(self, values: Tensor) -> Tensor:
        """Values per pair (P,) as a symmetric matrix (N, N) with a zero diagonal."""
        i, j = self.pairs.T
        out = values.new_zeros(self.count, self.count)
        out[i, j] = out[j, i] = values
        return out

    @property
    def solved(self) -> int:
        """Number of pairs solved."""
        return int((self.statuses >= 0).sum())

    @property
    def complete(self) -> bool:
        """Whether all pairs are solved."""
        return self.solved == len(self.lengths)

    def tally(self) -> dict[Status, int]:
        """How the solved pairs ended."""
        ended = Counter(ORDER[i] for i in self.statuses.tolist() if i >= 0)
        return {status: ended[status] for status in ORDER if status in ended}

    @property
    def unsound(self) -> int:
        """Number of solved pairs that did not end well; see :meth:`tally`."""
        return sum(n for status, n in self.tally().items() if not status.ok)

    def seconds_for(self, count: int) -> float:
        """Time that ``count`` points would take at the measured time per pair, in seconds."""
        return self.seconds / max(self.solved, 1) * (count * (count - 1) / 2)

    def neighbours(self, k: int = 5) -> Tensor:
        """The k nearest points of every point, nearest first, (N, k).

        Args:
            k: from 1 to N - 1.

        Returns:
            indices.

        Raises:
            ValueError: for another k, or distances that are not complete.
        """
        if not 1 <= k < self.count or not self.complete:
            raise ValueError(
                f"neighbours needs all pairs solved and k between 1 and {self.count - 1}; "
                f"{self.solved} of {len(self.lengths)} are solved and k is {k}"
            )
        away = self.matrix.fill_diagonal_(torch.inf)
        return away.topk(k, largest=False).indices

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a ``.npz`` (which :func:`pairwise` can take up again) or a ``.json`` file.

        Args:
            path: the file; replaced whole or not at all.

        Returns:
            the path.

        Raises:
            ValueError: for another kind of file.
        """
        target = Path(path)
        if target.suffix not in {".npz", ".json"}:
            raise ValueError(f"{target} is neither .npz nor .json; choose one of these")
        if target.suffix == ".json":
            return write_json(target, self._plain(), indent=None)
        return write_atomically(target, self._npz())

    def _npz(self) -> bytes:
        import numpy as np

        buffer = io.BytesIO()
        head = {"log_snr": self.log_snr, "seconds": self.seconds, "accuracy": self.accuracy}
        text = json.dumps({**head, "settings": self.settings})
        arrays = (self.matrix, self.square(self.apexes), self.statuses)
        named = {name: x.numpy() for name, x in zip(_ARRAYS, arrays, strict=True)}
        words = {"head": text, "checksum": fingerprint(text, *arrays)}
        named |= {name: np.array(word) for name, word in words.items()}
        np.savez(buffer, **named)  # type: ignore[arg-type]
        return buffer.getvalue()

    def _plain(self) -> dict[str, Any]:
        return {
            **{field.name: getattr(self, field.name) for field in fields(self)},
            "pairs": self.pairs,
            "statuses": [ORDER[i].name if i >= 0 else None for i in self.statuses.tolist()],
        }

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PairwiseDistances:
        """Read a ``.npz`` file written by :meth:`save`.

        Args:
            path: the file.

        Returns:
            the distances.

        Raises:
            ValueError: for a file of another kind.
            DamagedError: for one that is damaged, a ValueError too.
        """
        import numpy as np

        try:
            # numpy would leave a damaged archive open
            with Path(path).open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                arrays = [torch.from_numpy(file[name]) for name in _ARRAYS]
                text, checksum = str(file["head"]), str(file["checksum"])
        except UNREADABLE as error:
            # a whole archive of other arrays is no damage: it may be somebody's data
            kind = ValueError if isinstance(error, KeyError) else DamagedError
            raise kind(
                f"{path} is no file of distances ({error}); give one that PairwiseDistances.save "
                "wrote"
            ) from error
        if checksum != fingerprint(text, *arrays):
            raise DamagedError(f"{path} is damaged: its checksum differs")
        head, (matrix, apexes, statuses) = json.loads(text), arrays
        i, j = torch.triu_indices(len(matrix), len(matrix), 1)
        accuracy = head["accuracy"] and tuple(head["accuracy"])
        return cls(
            len(matrix),
            head["log_snr"],
            matrix[i, j],
            apexes[i, j],
            statuses,
            accuracy,
            head["seconds"],
            head["settings"],
        )


@suggests(options=(PairwiseOptions,))
def pairwise(
    source: Model | Denoiser,
    data: Tensor,
    *,
    log_snr: float | None = None,
    nodes: int | None = None,
    check: int = 0,
    file: str | os.PathLike[str] | None = None,
    options: PairwiseOptions | None = None,
    progress: Callable[[str], None] | None = None,
) -> PairwiseDistances:
    """Diffusion Edit Distances of all pairs.

    Args:
        source: a model, or a denoiser.
        data: images (N, C, H, W) in [0, 1] for a model; points (N, D) at the anchor for a
            denoiser.
        log_snr: the anchor, in place of ``options.log_snr``; see ``edit``.
        nodes: segments of every path, in place of ``options.nodes``.
        check: number of pairs solved again, finer, for the accuracy.
        file: a ``.npz`` that is written after every batch, and taken up if it exists.
        options: everything else; default ``PairwiseOptions()``.
        progress: called with a short line after every batch.

    Returns:
        the distances, how every pair ended, and the time spent.

    Raises:
        ValueError: for fewer than two points, data that do not fit, or a file of other data or
            other settings.

    Cost: that of ``geodesic`` per pair; a pair's result does not depend on its batch.
    """
    asked = (options or PairwiseOptions()).but(log_snr=log_snr, nodes=nodes)
    if len(data) < 2 or check < 0:
        raise ValueError(
            f"pairwise needs at least 2 points and check >= 0; got {len(data)} and {check}"
        )
    if file is not None and Path(file).suffix != ".npz":
        raise ValueError(f"file is {str(file)!r}; give it the ending .npz")
    space, points = anchored(source, data, asked)
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
    with claimed(None if file is None else Path(file)):
        distances = _begin(len(data), asked.log_snr, settings, file)
        if isinstance(source, Model):
            of_one = join_work(SpacetimeSpace(), asked, solve.nodes, ("ends",))
            expect(scaled(of_one, len(distances.lengths) - distances.solved))
        distances = _run(solve, distances, file, progress or _silent)
        if check and distances.accuracy is None:
            distances = replace(distances, accuracy=_check(solve, distances, check))
            if file is not None:
                distances.save(file)
    return distances


def _silent(_: str) -> None:
    pass


@dataclass(frozen=True)
class PairSolver:
    """Geodesics between pairs of points, in batches.

    Attributes:
        space: the spacetime.
        points: packed points (N, D + 1).
        nodes: segments of every path.
        solver: the solver.
        batch: pairs solved together.
    """

    space: Spacetime
    points: Tensor
    nodes: int
    solver: Relax | Redraw
    batch: int

    @classmethod
    def of(cls, space: Spacetime, points: Tensor, asked: PairwiseOptions) -> PairSolver:
        """The solver that the options ask for, its defaults those of the denoiser."""
        denoiser = space.denoiser
        own = cast(Relax | Redraw | None, space.energy().default_solver)
        nodes, batch = asked.nodes or NODES, asked.batch or 4
        if asked.batch is None and isinstance(denoiser, GaussianMixture):
            # a network cuts its own batches, and keeps a graph per point; a mixture holds N x K
            batch = max(1, MEMORY // (max(len(denoiser.means), denoiser.dim) * (nodes + 1)))
        return cls(space, points, nodes, asked.solver or own or EXACT, batch)

    def __call__(self, pairs: Tensor) -> Geodesic:
        """The geodesics of pairs (B, 2) of places of points."""
        a, b = self.points[pairs.T]
        return search(self.space, a, b, nodes=self.nodes, solver=self.solver)


def _begin(
    count: int, log_snr: float, settings: dict[str, Any], file: str | os.PathLike[str] | None
) -> PairwiseDistances:
    """Nothing solved yet, or what an earlier run left."""
    distances = None if file is None or not Path(file).exists() else _left(Path(file))
    if distances is not None:
        before = {"log_snr": distances.log_snr, **distances.settings}
        if differ := differences(before, {"log_snr": log_snr, **settings}):
            raise ValueError(
                f"{file} holds distances of other data or settings ({differ}); "
                "remove it to start afresh, or give another file"
            )
        return distances
    pairs = count * (count - 1) // 2
    unknown = torch.full((pairs,), torch.nan, dtype=torch.float64)
    none = torch.full((pairs,), -1, dtype=torch.long)
    return PairwiseDistances(count, log_snr, unknown, unknown.clone(), none, None, 0.0, settings)


def _left(file: Path) -> PairwiseDistances | None:
    """What an earlier run left; None where its file is damaged, which is then put aside."""
    try:
        return PairwiseDistances.load(file)
    except DamagedError as error:
        aside = file.replace(f"{file}.damaged")
        warnings.warn(
            f"{error}; it is kept as {aside}, and all pairs are solved again",
            RuntimeWarning,
            stacklevel=4,
        )
        return None


def _run(
    solve: PairSolver,
    distances: PairwiseDistances,
    file: str | os.PathLike[str] | None,
    say: Callable[[str], None],
) -> PairwiseDistances:
    """Solve what is left, and keep the file up to date."""
    left = torch.nonzero(distances.statuses < 0).flatten()
    earlier, of_all = distances.solved, len(distances.lengths)
    if earlier:
        say(f"{GOES_ON}, which has solved {earlier} of {of_all} pairs")
    if len(left):
        say(f"{earlier} of {of_all} pairs")
    with counting() as cost:
        for which in left.split(solve.batch) if len(left) else ():
            began = time.monotonic()
            path = solve(distances.pairs[which])
            distances.lengths[which] = distances_of(path).double().cpu()
            distances.apexes[which] = path.nodes[..., -1].amin(-1).double().cpu()
            ended = [ORDER.index(status) for status in path.statuses]
            distances.statuses[which] = torch.tensor(ended)
            distances = replace(distances, seconds=distances.seconds + time.monotonic() - began)
            if file is not None:
                distances.save(file)
            expect(scaled(cost.stages, len(left) / (distances.solved - earlier)))
            say(f"{distances.solved} of {of_all} pairs")
    return distances


def _check(solve: PairSolver, distances: PairwiseDistances, count: int) -> tuple[float, float]:
    """Mean and largest relative length lost by ``count`` pairs with finer settings."""
    total = len(distances.lengths)
    which = torch.linspace(0, total - 1, min(count, total)).round().long()
    which = which[distances.lengths[which] > 0]
    if not len(which):
        return 0.0, 0.0
    closer = replace(solve.solver, rtol=solve.solver.rtol / 10)
    finer = replace(solve, nodes=2 * solve.nodes, solver=closer)
    lengths = [distances_of(finer(distances.pairs[part])) for part in which.split(solve.batch)]
    lost = 1 - torch.cat(lengths).double().cpu() / distances.lengths[which]
    return float(lost.mean()), float(lost.abs().max())
