"""What tests hold: equality up to rounding, and the type of the fixtures that draw numbers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

Draw = Callable[..., Tensor]

# for a test that looks at the status itself
status_is_looked_at = pytest.mark.filterwarnings("ignore::diffodesic.geometry.status.SearchWarning")


def same(actual: object, expected: object) -> None:
    """Hold what is equal in exact arithmetic.

    1e-10 is rounding, 1e-16, times what a mixture of a few components and two levels of
    differentiation amplify it by.
    """
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


def disagreement(found: Tensor, expected: Tensor) -> float:
    """The largest difference of two tensors, as a share of the largest number if it is above 1."""
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1))
