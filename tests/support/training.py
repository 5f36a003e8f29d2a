"""Training runs that stop before their end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from diffodesic.models.trainer import Training


@contextmanager
def interrupted(kind: type[Training], *, step: int) -> Iterator[None]:
    """Interrupt the runs of a kind, inside the block, before a step; see that one was."""
    advance = kind.advance

    def stop(run: Training) -> float:
        if run.step == step:
            raise KeyboardInterrupt
        return advance(run)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(kind, "advance", stop)
        yield
