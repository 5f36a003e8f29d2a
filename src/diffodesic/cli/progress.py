"""What a reader who waits is told: the cost before a long run, share done and time left, the work.

On a terminal one line is rewritten; elsewhere, as in a log, a plain line comes every half minute.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import Context

import torch
from torch import Tensor

from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.numerics.cost import Cost, counting
from diffodesic.output.stages import NOTE

__all__ = ["Progress", "duration", "in_words", "progress"]

EVERY = 30.0  # seconds between two lines where there is no terminal
LONG = 10.0  # seconds from which on a run is announced
SMOOTH = 60.0  # seconds over which a change of pace is taken up
LITTLE = 0.01  # share below which the pace is that of the beginning
BATCH, SLOW = 16, 0.5  # evaluations that are timed together, unless one of them takes so long


class Progress:
    """What a command that runs says of itself; called with a short line on every step.

    Args:
        cost: counts the work of the run, and knows what is expected.
        denoiser: whose evaluations are timed for the announcement; None announces nothing.
        rewrite: shows a line in the place of the last one; None prints lines of their own.
        workers: number of processes that share the work.
        instead: what could be run instead, from the seconds that a pair will take; for the
            announcement.
    """

    def __init__(
        self,
        cost: Cost,
        denoiser: Denoiser | None,
        rewrite: Callable[[str], None] | None,
        workers: int = 1,
        instead: Callable[[float], str] | None = None,
    ) -> None:
        self.cost, self.denoiser, self.rewrite, self.workers = cost, denoiser, rewrite, workers
        self.instead = instead
        self.text, self.began = "", time.monotonic()
        self._whole = self._last = 0.0

    def __call__(self, text: str) -> None:
        """Say what is done now; a note keeps a line of its own."""
        if text.startswith(NOTE):
            print(text, file=sys.stderr, flush=True)
            return
        self.text = text
        if self.denoiser is not None and self.cost.expected:
            denoiser, self.denoiser = self.denoiser, None  # once
            self._announce(denoiser)
        if self.rewrite:
            self.rewrite(self.line())

    def line(self) -> str:
        """The last text, and how much of the run is done, as far as that is known."""
        passed, share = time.monotonic() - self.began, self.cost.share
        text = self.text or "beginning"
        if not share or share < LITTLE:
            return text if self.rewrite else f"{text}; {duration(passed)} so far"
        left = max(0.0, self._seconds(passed, share) - passed)
        told = f"{text}; about {share:.0%} done"
        return told if share == 1 else f"{told}, about {duration(left)} left"

    def _seconds(self, passed: float, share: float) -> float:
        """What the whole run takes at its pace so far, without leaps where the machine is busy."""
        weight = (passed - self._last) / max(min(passed, SMOOTH), 1e-9)
        self._whole += min(1.0, weight) * (passed / share - self._whole)
        self._last = passed
        return self._whole

    def watch(self, ended: threading.Event) -> None:
        """Show how the run stands, again and again, until it has ended."""
        while not ended.wait(1.0 if self.rewrite else EVERY):
            if self.rewrite:
                self.rewrite(self.line())
            else:
                print(f"diffodesic: {self.line()}", file=sys.stderr, flush=True)

    def _announce(self, denoiser: Denoiser) -> None:
        calls = sum(self.cost.expected.values())
        # outside the counted scopes: it is no work of the run
        seconds = calls * Context().run(seconds_per_evaluation, denoiser)
        if seconds >= LONG:
            told = f"about {_rounded(calls):,} evaluations, {duration(seconds / self.workers)}"
            told += f" by {self.workers} workers" if self.workers > 1 else ""
            told += " where nothing else runs"
            if pairs := self.cost.pairs:
                told = f"{pairs:,} pairs, {duration(seconds / pairs)} each: {told}"
                told += self.instead(seconds / pairs / self.workers) if self.instead else ""
            print(f"diffodesic: {told}", file=sys.stderr, flush=True)


@contextmanager
def progress(
    denoiser: Denoiser | None = None,
    workers: int = 1,
    instead: Callable[[float], str] | None = None,
) -> Iterator[Progress]:
    """Tell how the run inside the block stands.

    Args:
        denoiser: see :class:`Progress`.
        workers: see :class:`Progress`.
        instead: see :class:`Progress`.

    Yields:
        what is called with a short line on every step.
    """
    from tqdm.auto import tqdm

    ended = threading.Event()
    bar_format = "{desc} [{elapsed}]"
    with counting() as cost, tqdm(bar_format=bar_format, disable=None, leave=False) as bar:
        rewrite = None if bar.disable else bar.set_description_str
        shown = Progress(cost, denoiser, rewrite, workers, instead)
        watcher = threading.Thread(target=shown.watch, args=(ended,), daemon=True)
        watcher.start()
        try:
            yield shown
        finally:
            ended.set()
            watcher.join()


def seconds_per_evaluation(denoiser: Denoiser) -> float:
    """Time a denoiser on noise at log SNR 0, or near it.

    Args:
        denoiser: the denoiser.

    Returns:
        seconds per evaluation, in a batch where that is quick.

    Cost: 50 evaluations, 98 on a processor of several cores, two where one takes half a second.
    """
    low, high = denoiser.log_snr_range
    sigma = torch.tensor(-min(max(0.0, low), high) / 2, dtype=torch.float64).exp()
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(BATCH, denoiser.dim, generator=generator, dtype=torch.float64)
    z *= (denoiser.variance + float(sigma) ** 2) ** 0.5

    def timed(points: Tensor) -> float:
        began, worked = time.perf_counter(), time.process_time()
        with torch.no_grad():
            denoiser(points, sigma)
        if torch.cuda.is_initialized():
            return time.perf_counter() - began
        # a busy machine takes longer, but no more of its processors' time
        return (time.process_time() - worked) / torch.get_num_threads()

    # the least of several: the first takes longer, and other processes take time too
    single = min(timed(z[:1]) for _ in range(2))
    if single > SLOW:
        return single
    cores = torch.get_num_threads()
    found = min(timed(z) for _ in range(3))
    if cores > 1 and not torch.cuda.is_initialized():
        # threads that wait for each other on a busy machine spend time, too
        torch.set_num_threads(1)
        try:
            found = min(found, *(timed(z) for _ in range(3)))
        finally:
            torch.set_num_threads(cores)
    return found / BATCH


def in_words(stages: Mapping[str, int]) -> str:
    """Work by stage as a sentence without its full stop."""
    parts = ", ".join(f"{name or 'the rest'} {calls:,}" for name, calls in stages.items())
    return f"{sum(stages.values()):,} evaluations and derivatives of the network ({parts})"


def duration(seconds: float) -> str:
    """A time for reading: "40 s", "3 min", "2.5 h"."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5970 else f"{seconds / 3600:.1f} h"


def _rounded(count: int) -> int:
    """Two digits of a number."""
    unit = 10 ** max(0, len(str(count)) - 2)
    return round(count / unit) * unit
