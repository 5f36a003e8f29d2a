"""Signals that ask a command to end: Ctrl-C, SIGTERM of ``kill``, SIGHUP of a closed terminal.

Before the work begins the process ends at once, for an interruption of an import may be swallowed
by whoever imports.  Afterwards :class:`Stopped` is raised, so that every ``finally`` runs and no
half-written file is left.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType

__all__ = ["Signals", "Stopped"]

_ENDING = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]
_AGAIN = 1.0  # seconds in which a second signal is the first one, passed on by a wrapper


class Stopped(KeyboardInterrupt):
    """A signal asked the process to end.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Signals:
    """Handlers of the signals that end a process, inside a ``with`` block.

    A signal that is ignored, as under ``nohup``, stays ignored.  In a thread other than the main
    one Python handles no signals, and nothing is done.
    """

    def __init__(self) -> None:
        self.working, self._last = False, -_AGAIN
        self._before: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> Signals:
        """Put the handlers in place."""
        if threading.current_thread() is threading.main_thread():
            for number in _ENDING:
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._stop)
        return self

    def __exit__(self, *_: object) -> None:
        """Put the earlier handlers back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _stop(self, number: int, _: FrameType | None) -> None:
        if not self.working:
            os.write(2, b"diffodesic: stopped before it began\n")
            os._exit(128 + number)
        if time.monotonic() - self._last > _AGAIN:
            self._last = time.monotonic()
            raise Stopped(number)
