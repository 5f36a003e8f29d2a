"""Batches of pairs, one after the other or in several processes with a model each.

A batch is the same wherever it is solved, so that results do not depend on the number of processes
(if torch has one thread in each, to the last digit).  A process that dies takes its batch with it:
a warning says so, and the batch is solved again.  What is yielded is kept by the caller.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import torch
from torch import Tensor

from diffodesic.geometry.path import Geodesic
from diffodesic.geometry.status import Status
from diffodesic.numerics.cost import counting, record, stage

__all__ = ["ORDER", "Batch", "Solver", "batches"]

ORDER = list(Status)
Solver = Callable[[Tensor], Geodesic]
"""Gives the geodesics of pairs (B, 2) of places of points."""


@dataclass(frozen=True)
class Batch:
    """What is kept of solved pairs.

    Attributes:
        lengths: (B,).
        errors: standard errors, (B,).
        apexes: lowest log SNR, (B,).
        statuses: places in ``ORDER``, (B,).
        doubts: what is doubtful, one sentence each.
        work: evaluations and derivatives by stage.
    """

    lengths: Tensor
    errors: Tensor
    apexes: Tensor
    statuses: Tensor
    doubts: tuple[str, ...]
    work: dict[str, int]


def batches(
    solver: Solver, parts: Mapping[int, Tensor], workers: int, ray: str | None = None
) -> Iterator[tuple[int, Batch]]:
    """Solve batches of pairs.

    Args:
        solver: solves pairs.
        parts: pairs (B, 2) by number of the batch.
        workers: number of processes; with 1 this one alone, and batches in their order.
        ray: address of a Ray cluster that solves them instead.

    Yields:
        the number of a batch and what it gave, as soon as it is solved.

    Raises:
        ValueError: if the model cannot be given to another process, or is not understood there, or
            no cluster answers.
        RuntimeError: if processes die again and again before one batch is solved.
    """
    if not parts:
        return
    if ray is None and (workers == 1 or len(parts) < 2):
        for place, part in parts.items():
            yield place, _solved(solver, part)
        return
    sent = _packed(solver)
    if ray is None:
        elsewhere = _until_solved(sent, parts, workers)
    else:
        from diffodesic.images.ray_cluster import on_ray

        lists = {place: part.tolist() for place, part in parts.items()}
        elsewhere = on_ray(_work_once, sent, lists, ray)
    for place, batch in elsewhere:
        for name, calls in batch.work.items():
            with stage(name):
                record(evaluations=calls)
        yield place, batch


def _until_solved(
    sent: bytes, parts: Mapping[int, Tensor], workers: int
) -> Iterator[tuple[int, Batch]]:
    """Solve batches by processes, with new ones where some die."""
    left = dict(parts)
    while left:
        before = len(left)
        for place, batch in _in_processes(sent, left, min(workers, len(left))):
            del left[place]
            yield place, batch
        if len(left) == before:
            raise RuntimeError(
                "worker processes end before they have solved a batch (killed, or out of memory); "
                "take fewer workers, and see that your program is a file and runs nothing on import"
            )
        if left:
            warnings.warn(
                f"a worker process died (killed, or out of memory); the {len(left)} batches that "
                "are left are solved by new ones",
                RuntimeWarning,
                stacklevel=4,
            )


def _solved(solver: Solver, part: Tensor) -> Batch:
    from diffodesic.images.edit_result import distances_of

    with counting() as cost:
        path = solver(part)
        lengths = distances_of(path).double().cpu()
    return Batch(
        lengths,
        path.certificate.judged_error.double().cpu(),
        path.nodes[..., -1].amin(-1).double().cpu(),
        torch.tensor([ORDER.index(status) for status in path.statuses]),
        tuple(path.doubts),
        cost.stages,
    )


def _packed(solver: Solver) -> bytes:
    try:
        return pickle.dumps(solver)
    except Exception as error:  # whatever the parts of a foreign model raise
        raise ValueError(
            f"the model cannot be given to another process ({error}); leave workers at 1"
        ) from error


def _in_processes(
    sent: bytes, parts: Mapping[int, Tensor], workers: int
) -> Iterator[tuple[int, Batch]]:
    """Solve what can be solved until a process dies."""
    threads = max(1, torch.get_num_threads() // workers)
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), _begin, (sent, threads)
    )
    # bytes, not tensors: torch would share their memory, and a killed process leaves that behind
    places: dict[Future[bytes], int] = {}
    try:
        try:
            for place, part in parts.items():
                places[pool.submit(_work, part.tolist())] = place
        except BrokenProcessPool:
            pass  # what was submitted before says it too
        for future in as_completed(places):
            if not isinstance(future.exception(), BrokenProcessPool):
                yield places[future], pickle.loads(future.result())
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


_solver: Solver | ValueError | None = None
"""That of a worker process, or why it has none."""


def _begin(sent: bytes, threads: int) -> None:
    """Make a process ready, and see that it does not outlive the one that began it."""
    global _solver
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    try:
        _solver = _unpacked(sent)
    except ValueError as error:  # raised here it would only end the process: the parent asks
        _solver = error


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(pairs: list[list[int]]) -> bytes:
    if isinstance(_solver, ValueError):
        raise _solver
    assert _solver is not None
    return pickle.dumps(_solved(_solver, torch.tensor(pairs)))


def _work_once(sent: bytes, pairs: list[list[int]]) -> Batch:
    """What a worker of a cluster does, which may do it again."""
    return _solved(_unpacked_once(sent), torch.tensor(pairs))


@lru_cache(1)
def _unpacked_once(sent: bytes) -> Solver:
    torch.set_num_threads(1)
    return _unpacked(sent)


def _unpacked(sent: bytes) -> Solver:
    try:
        return cast(Solver, pickle.loads(sent))
    except Exception as error:  # whatever the parts of a foreign model raise
        elsewhere = isinstance(error, (AttributeError, ImportError))
        cure = "put its classes in a module that it can import, or " if elsewhere else ""
        raise ValueError(
            f"a worker process cannot make the model again ({type(error).__name__}: {error}); "
            f"{cure}leave workers at 1"
        ) from error
