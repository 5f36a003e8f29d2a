"""Two processes over one: pairs of 8 x 8 digits, wall and processor time  (docs/edit-distance.md).

    python -m benchmarks.workers [COUNT]

All pairs of COUNT (48) digits under the exact mixture around 100 others, in 12 batches.  The wall
ratio says something on a machine with two idle cores alone; the processor time says what processes
cost elsewhere too: ``begin`` is that of one process before its first pair.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
import time

import torch

from benchmarks.neighbours import law_and_digits
from benchmarks.record import RESULTS, write
from diffodesic.images.distances import pairwise
from diffodesic.images.pairs import PairwiseOptions


def main(count: int = 48) -> None:
    """Measure, print and keep."""
    law, digits = law_and_digits()
    pairs = count * (count - 1) // 2
    found = {"pairs": pairs, "load": os.getloadavg()[0]}
    for workers in (1, 2):
        torch.set_num_threads(workers)  # two processes have one thread each
        options = PairwiseOptions(workers=workers, batch=-(-pairs // 12))
        began, own, spent = time.perf_counter(), time.process_time(), _children()
        pairwise(law, digits[:count], options=options)
        found[f"wall_{workers}"] = round(time.perf_counter() - began, 1)
        found[f"cpu_{workers}"] = round(
            time.process_time() - own if workers == 1 else _children() - spent, 1
        )
    spent = _children()
    pairwise(law, digits[:3], options=PairwiseOptions(workers=2, batch=2))
    found["begin"] = round((_children() - spent) / 2, 1)
    found["ratio"] = round(found["wall_1"] / found["wall_2"], 2)
    print(found)
    write(RESULTS / "workers.json", found, indent=1)


def _children() -> float:
    for process in multiprocessing.active_children():
        process.join()  # time counts once a process is waited for
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
