"""Pixels of small pictures, which tests of readers share."""

from __future__ import annotations

import numpy as np
import pytest
import torch


@pytest.fixture
def grey(rng: torch.Generator) -> np.ndarray:
    """Random bytes, 6 rows of 8."""
    return torch.randint(0, 256, (6, 8), generator=rng, dtype=torch.uint8).numpy()


@pytest.fixture
def colour(rng: torch.Generator) -> np.ndarray:
    """Random bytes, 6 rows of 8, three channels."""
    return torch.randint(0, 256, (6, 8, 3), generator=rng, dtype=torch.uint8).numpy()
