"""Means over pairs as rows, and differences of two methods on the same pairs.

All methods of an experiment join the same pairs, so their errors rise and fall together: what
decides between two of them is the difference on each pair, whose standard error is far below that
of the two means.  With P pairs, Student's 95 % interval is t(P - 1) standard errors wide each way:
2.36 of them for 8 pairs, 2.13 for 16.
"""

from __future__ import annotations

import math

from torch import Tensor

from diffodesic.experiments import Row

__all__ = ["difference_row", "mean_row"]


def mean_row(title: str, errors: Tensor, expected: float | None = None) -> Row:
    """Mean of errors (P,) with its standard error."""
    spread = float(errors.std()) / math.sqrt(len(errors))
    return Row(title, float(errors.mean()), expected=expected, error=spread)


def difference_row(title: str, errors: Tensor, against: Tensor) -> Row:
    """Mean of ``errors - against`` (P,), pair by pair, with its standard error."""
    return mean_row(title, errors - against)
