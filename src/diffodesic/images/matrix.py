"""Distances of all pairs of a set as a matrix, and the file that holds them."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from diffodesic.numerics.words import brief
from diffodesic.output.files import UNREADABLE, write_atomically
from diffodesic.output.records import write_json
from diffodesic.output.stages import fingerprint

D = TypeVar("D", bound="DistanceMatrix")

__all__ = ["DamagedError", "DistanceMatrix", "NoisyDistances"]


class DamagedError(ValueError):
    """A file of distances cannot be read, or holds other bytes than were written."""


@dataclass(frozen=True, kw_only=True, repr=False)
class DistanceMatrix:
    """Distances of all pairs of N points, in the order of ``torch.triu_indices(N, N, 1)``.

    Attributes:
        count: number N of points.
        log_snr: the scale; distances of other scales do not compare.
        lengths: distance per pair, (P,), P = N (N - 1) / 2; NaN for pairs not solved yet.
        errors: standard error of each distance, (P,); NaN where no random numbers are in it.
        seconds: time spent on the pairs that are solved.
        settings: what was asked for and what was chosen, with fingerprints of model and points.
        notices: what is doubtful about pictures, model or paths, one sentence each.
    """

    PER_PAIR: ClassVar[tuple[str, ...]] = ("lengths", "errors")
    """Attributes that are kept as arrays (N, N) in a file, the distances as ``matrix``."""
    ARRAYS: ClassVar[tuple[str, ...]] = ()
    """Attributes that are kept as they are."""

    count: int
    log_snr: float
    lengths: Tensor
    errors: Tensor
    seconds: float
    settings: dict[str, Any]
    notices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Take the notices as a file gives them."""
        object.__setattr__(self, "notices", tuple(self.notices))

    def noting(self: D, sentences: Iterable[str]) -> D:
        """The same with further notices, each once."""
        return replace(self, notices=tuple(dict.fromkeys((*self.notices, *sentences))))

    def __repr__(self) -> str:
        """One line: how many points, and their distances."""
        known = {"log SNR": self.log_snr, "distance": self.lengths, "seconds": self.seconds}
        return f"{type(self).__name__}({self.count} points, {brief(known)})"

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
        return int(self.lengths.isfinite().sum())

    @property
    def complete(self) -> bool:
        """Whether all pairs are solved."""
        return self.solved == len(self.lengths)

    def seconds_for(self, count: int) -> float:
        """Time that ``count`` points would take, in seconds, at the time measured."""
        return self.seconds / max(self.solved, 1) * (count * (count - 1) / 2)

    def triangles(self) -> tuple[Tensor, Tensor]:
        """By how much distances exceed the detours by third points.

        Returns:
            ``d(i, j) - d(i, k) - d(k, j)`` of every triple and side, (N (N - 1) (N - 2) / 2,),
            above zero where the triangle inequality does not hold, and standard errors of these,
            NaN as :attr:`errors`.
        """
        one = torch.arange(self.count)
        i, j, k = torch.meshgrid(one, one, one, indexing="ij")
        sides = (i < j) & (k != i) & (k != j)
        i, j, k = i[sides], j[sides], k[sides]
        d, e = self.matrix, self.square(self.errors.square())
        return d[i, j] - d[i, k] - d[k, j], (e[i, j] + e[i, k] + e[k, j]).sqrt()

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

    def _head(self) -> dict[str, Any]:
        """What a file holds beside its arrays."""
        arrays = {"count", *self.PER_PAIR, *self.ARRAYS}
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in arrays}

    def _npz(self) -> bytes:
        import numpy as np

        buffer = io.BytesIO()
        text = json.dumps(self._head())
        named = {name: self.square(getattr(self, name)) for name in self.PER_PAIR}
        named |= {name: getattr(self, name) for name in self.ARRAYS}
        checksum = fingerprint(text, *named.values())
        arrays = {_IN_FILE.get(name, name): x.numpy() for name, x in named.items()}
        words = {"head": np.array(text), "checksum": np.array(checksum)}
        np.savez(buffer, **arrays, **words)  # type: ignore[arg-type]
        return buffer.getvalue()

    def _plain(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)} | {
            "pairs": self.pairs
        }

    @classmethod
    def load(cls: type[D], path: str | os.PathLike[str]) -> D:
        """Read a ``.npz`` file written by :meth:`save`.

        Args:
            path: the file.

        Returns:
            the distances.

        Raises:
            ValueError: for a file of another kind, or of other distances.
            DamagedError: for one that is damaged, a ValueError too.
        """
        import numpy as np

        names = (*cls.PER_PAIR, *cls.ARRAYS)
        try:
            # numpy would leave a damaged archive open
            with Path(path).open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                arrays = {name: torch.from_numpy(file[_IN_FILE.get(name, name)]) for name in names}
                text, checksum = str(file["head"]), str(file["checksum"])
        except UNREADABLE as error:
            # a whole archive of other arrays is no damage: it may be somebody's data
            kind = ValueError if isinstance(error, KeyError) else DamagedError
            raise kind(
                f"{path} is no file of distances of this kind ({error}); give one that "
                f"{cls.__name__}.save wrote"
            ) from error
        if checksum != fingerprint(text, *arrays.values()):
            raise DamagedError(f"{path} is damaged: its checksum differs")
        count = len(arrays["lengths"])
        i, j = torch.triu_indices(count, count, 1)
        values: dict[str, Any] = {**json.loads(text), **arrays, "count": count}
        values |= {name: arrays[name][i, j] for name in cls.PER_PAIR}
        return cls(**values)


_IN_FILE = {"lengths": "matrix"}  # as other programs look for it


@dataclass(frozen=True, kw_only=True, repr=False)
class NoisyDistances(DistanceMatrix):
    """Distances under shared noise (IEM, posterior means) of all pairs."""

    def seconds_for(self, count: int) -> float:
        """Time that ``count`` points would take, in seconds: it grows with their number."""
        return self.seconds * count / self.count
